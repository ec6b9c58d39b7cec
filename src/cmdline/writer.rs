//! The writer of `module.sig_unenforce`: the smallest change that switches it on or off, and the way back.
//!
//! Only what we wrote ourselves is ever changed or removed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::obstacle::{gather, hindrances, holds_only_the_parameter, is_now, setters, switch_of};
use super::ours::fragment_bytes;
use super::sources::{Fragment, LOCAL, Mask, Sources};
use super::{PARAMETER, Switch};
use crate::sys::{FileError, Root};

pub use super::obstacle::{Clear, Obstacle};
pub use super::ours::{Ours, STATE};

/// Our own fragment, where no bundle ships one. Should a vendor file have this name, which ours would mask, another one
/// is taken.
pub const OWN_FRAGMENT: &str = "clr-dkms.conf";
/// The other ones.
const OTHER_NAMES: [&str; 2] = ["clr-dkms-sig-unenforce.conf", "zz-clr-dkms.conf"];

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The parameter is in the line: an admin's order, stronger than an earlier one to mask it.
    Enable,
    /// The same, as a program wants it by itself: a mask stays, whoever wrote it.
    Ensure,
    /// It is not.
    Disable,
    /// As the vendor and the admin have it: every change of ours is taken back.
    Default,
}

impl Wish {
    /// The verb of `clr-dkms-cmdline` for it.
    pub fn verb(self) -> &'static str {
        match self {
            Wish::Enable | Wish::Ensure => "enable",
            Wish::Disable => "disable",
            Wish::Default => "default",
        }
    }
}

/// One change of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "step", content = "path")]
pub enum Step {
    /// Write our own fragment.
    WriteFragment(PathBuf),
    /// Remove our own fragment.
    RemoveFragment(PathBuf),
    /// Mask a vendor's fragment with a link to `/dev/null`.
    WriteMask(PathBuf),
    /// Remove our own mask.
    RemoveMask(PathBuf),
}

impl Step {
    /// The file inside the root.
    pub fn path(&self) -> &Path {
        match self {
            Step::WriteFragment(p) | Step::RemoveFragment(p) | Step::WriteMask(p) | Step::RemoveMask(p) => p,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path().display();
        match self {
            Step::WriteFragment(_) => write!(f, "write {path} with {PARAMETER}"),
            Step::RemoveFragment(_) => write!(f, "remove {path}, which we wrote"),
            Step::WriteMask(_) => write!(f, "mask the vendor's fragment with {path} -> /dev/null"),
            Step::RemoveMask(_) => write!(f, "remove the mask {path}, which we wrote"),
        }
    }
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The changes, in order.
    pub steps: Vec<Step>,
    /// Why the wish is not met even so.
    pub obstacles: Vec<Obstacle>,
}

/// What is to be done. `sources` are those of every kernel that matters; they differ in the kernel's own line only.
pub fn plan(wish: Wish, sources: &[Sources], ours: &Ours) -> Plan {
    let mut plan = Plan::default();
    match wish {
        Wish::Default => {
            plan.steps.extend(ours.fragments().cloned().map(Step::RemoveFragment));
            plan.steps.extend(ours.masks().cloned().map(Step::RemoveMask));
        }
        Wish::Enable => enable(&mut plan, sources, ours, true),
        Wish::Ensure => enable(&mut plan, sources, ours, false),
        Wish::Disable => disable(&mut plan, sources, ours),
    }
    gather(&mut plan.obstacles);
    plan
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// Where our own fragment is, or is to be.
fn own_fragment(sources: &Sources) -> PathBuf {
    let is_vendors = |name: &&str| sources.vendor.iter().any(|f| f.name == **name);
    let name = [OWN_FRAGMENT].into_iter().chain(OTHER_NAMES).find(|name| !is_vendors(name));
    Path::new(LOCAL).join(name.unwrap_or(OWN_FRAGMENT))
}

fn enable(plan: &mut Plan, sources: &[Sources], ours: &Ours, may_unmask: bool) {
    let Some(first) = sources.first() else { return };
    let vendors = |path: &&PathBuf| first.vendor.iter().find(|f| f.name == name_of(path));
    // A vendor has come to ship a file of our name: ours must not hide it.
    plan.steps.extend(ours.fragments().filter(|p| vendors(p).is_some()).cloned().map(Step::RemoveFragment));
    if all(&after_all(sources, &plan.steps), Switch::On) {
        return;
    }
    // What our mask hides, it must not hide any longer; nor may it stand in the place of our fragment.
    let in_the_way = |p: &&PathBuf| vendors(p).is_none_or(sets);
    if may_unmask {
        plan.steps.extend(ours.masks().filter(in_the_way).cloned().map(Step::RemoveMask));
    }
    let now = after(first, &plan.steps);
    let own = own_fragment(first);
    let mut blocked = Vec::new();
    let mut would = plan.steps.clone();
    let masked: Vec<&Fragment> = now.vendor.iter().filter(|f| f.mask.is_some() && sets(f)).collect();
    if !now.vendor.iter().any(sets) && !now.local.iter().any(|f| f.mask.is_none() && sets(f)) {
        let write = Step::WriteFragment(own.clone());
        would.push(write.clone());
        match now.local.iter().find(|f| f.path == own) {
            Some(_) => blocked.push(Obstacle {
                what: "is in the place of our fragment, and is not ours".to_owned(),
                clear: match ours.has(&own) {
                    true => Clear::Verb("enable"),
                    false => Clear::Remove,
                },
                line: None,
                path: own,
            }),
            None => plan.steps.push(write),
        }
    }
    for fragment in masked {
        let path = Path::new(LOCAL).join(&fragment.name);
        would.push(Step::RemoveMask(path.clone()));
        blocked.push(Obstacle {
            what: format!("masks the vendor's fragment {}", fragment.path.display()),
            clear: match ours.has(&path) {
                true => Clear::Verb("enable"),
                false => Clear::Remove,
            },
            line: None,
            path,
        });
    }
    if all(&after_all(sources, &plan.steps), Switch::On) {
        return;
    }
    plan.obstacles = blocked;
    for sources in after_all(sources, &would) {
        plan.add(hindrances(&sources));
    }
}

fn disable(plan: &mut Plan, sources: &[Sources], ours: &Ours) {
    let Some(first) = sources.first() else { return };
    plan.steps.extend(ours.fragments().cloned().map(Step::RemoveFragment));
    if all(&after_all(sources, &plan.steps), Switch::Off) {
        return;
    }
    let now = after(first, &plan.steps);
    let to_mask =
        |f: &&Fragment| f.mask.is_none() && switch_of(&f.bytes) != Switch::Off && holds_only_the_parameter(f);
    let masks = now.vendor.iter().filter(to_mask).map(|f| Path::new(LOCAL).join(&f.name));
    plan.steps.extend(masks.map(Step::WriteMask));
    for sources in after_all(sources, &plan.steps) {
        if is_now(&sources) != Switch::Off {
            plan.add(setters(&sources));
        }
    }
}

impl Plan {
    /// The kernels have most of their files in common.
    fn add(&mut self, obstacles: Vec<Obstacle>) {
        for obstacle in obstacles {
            if !self.obstacles.contains(&obstacle) {
                self.obstacles.push(obstacle);
            }
        }
    }
}

fn after_all(sources: &[Sources], steps: &[Step]) -> Vec<Sources> {
    sources.iter().map(|s| after(s, steps)).collect()
}

/// The sources after some steps.
pub fn after(sources: &Sources, steps: &[Step]) -> Sources {
    let mut after = sources.copy();
    for step in steps {
        let name = name_of(step.path()).to_owned();
        let mask = match step {
            Step::WriteFragment(_) | Step::WriteMask(_) => Some(Mask::SameName),
            Step::RemoveFragment(_) | Step::RemoveMask(_) => None,
        };
        after.vendor.iter_mut().filter(|f| f.name == name).for_each(|f| f.mask.clone_from(&mask));
        after.local.retain(|f| f.name != name);
        let (bytes, mask) = match step {
            Step::WriteFragment(_) => (fragment_bytes(), None),
            Step::WriteMask(_) => (Vec::new(), Some(Mask::DevNull)),
            Step::RemoveFragment(_) | Step::RemoveMask(_) => continue,
        };
        after.local.push(Fragment { name, path: step.path().to_owned(), bytes, mask });
        after.local.sort_by(|a, b| a.name.as_encoded_bytes().cmp(b.name.as_encoded_bytes()));
    }
    after
}

fn all(sources: &[Sources], wanted: Switch) -> bool {
    sources.iter().all(|s| is_now(s) == wanted)
}

fn sets(fragment: &Fragment) -> bool {
    switch_of(&fragment.bytes) == Switch::On
}

/// Does what the plan says. What is about to be ours is written down first, so that a crash in between leaves
/// nothing that we would not know again.
///
/// # Errors
/// At the first file that cannot be changed.
pub fn apply(root: &Root, plan: &Plan, ours: &Ours) -> Result<(), FileError> {
    let mut ours = ours.clone();
    for step in &plan.steps {
        let path = step.path();
        match step {
            Step::WriteFragment(_) => {
                ours.add(root, path)?;
                root.write(path, &fragment_bytes(), 0o644)?;
            }
            Step::WriteMask(_) => {
                ours.add(root, path)?;
                root.link(path, Path::new("/dev/null"))?;
            }
            Step::RemoveFragment(_) | Step::RemoveMask(_) => {
                root.remove(path)?;
                ours.forget(root, path)?;
            }
        }
    }
    // What an admin makes in the place of a file that is gone is not ours.
    if ours.is_stale() { ours.save(root) } else { Ok(()) }
}
