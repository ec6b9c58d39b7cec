//! The writer of `module.sig_unenforce`: the smallest change that switches it on or off, and the way back.
//!
//! It only ever changes or removes files that clr-dkms has written.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::blocker::{blockers, gather, holds_only_the_parameter, is_now, setters, switch_of};
use super::ours::fragment_bytes;
use super::sources::{CmdlineSources, Fragment, LOCAL, Mask};
use super::{PARAMETER, Switch};
use crate::sys::{FileError, Root};

pub use super::blocker::{Clear, CmdlineBlocker};
pub use super::ours::{Ours, STATE};

/// The name of our own fragment, which is used if no bundle ships one. If a vendor file has this name,
/// another name is used, because ours would mask it.
pub const OWN_FRAGMENT: &str = "clr-dkms.conf";
/// The alternative names.
const OTHER_NAMES: [&str; 2] = ["clr-dkms-sig-unenforce.conf", "zz-clr-dkms.conf"];

/// The requested change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The parameter must be on the line. An admin requests it, which overrides an earlier request to mask
    /// it.
    Enable,
    /// The same, requested automatically: a mask stays, whether an admin or clr-dkms wrote it.
    Ensure,
    /// The parameter must not be on the line.
    Disable,
    /// The state that the vendor and the admin have configured: every change of clr-dkms is undone.
    Default,
}

impl Wish {
    /// The verb of `clr-dkms-cmdline`.
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
pub enum WriterStep {
    /// Write our own fragment.
    WriteFragment(PathBuf),
    /// Remove our own fragment.
    RemoveFragment(PathBuf),
    /// Mask a vendor fragment with a symlink to `/dev/null`.
    WriteMask(PathBuf),
    /// Remove our own mask.
    RemoveMask(PathBuf),
}

impl WriterStep {
    /// The file inside the root.
    pub fn path(&self) -> &Path {
        match self {
            WriterStep::WriteFragment(p)
            | WriterStep::RemoveFragment(p)
            | WriterStep::WriteMask(p)
            | WriterStep::RemoveMask(p) => p,
        }
    }
}

impl std::fmt::Display for WriterStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path().display();
        match self {
            WriterStep::WriteFragment(_) => write!(f, "write {path} with {PARAMETER}"),
            WriterStep::RemoveFragment(_) => write!(f, "remove {path}, which we wrote"),
            WriterStep::WriteMask(_) => write!(f, "mask the vendor's fragment with {path} -> /dev/null"),
            WriterStep::RemoveMask(_) => write!(f, "remove the mask {path}, which we wrote"),
        }
    }
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriterPlan {
    /// The changes, in order.
    pub steps: Vec<WriterStep>,
    /// Why the request is not fulfilled even with these changes.
    pub blockers: Vec<CmdlineBlocker>,
}

/// Plans a change. `sources` are those of every kernel that matters; they differ only in the kernel's own
/// line.
pub fn plan(wish: Wish, sources: &[CmdlineSources], ours: &Ours) -> WriterPlan {
    let mut plan = WriterPlan::default();
    match wish {
        Wish::Default => {
            plan.steps.extend(ours.fragments().cloned().map(WriterStep::RemoveFragment));
            plan.steps.extend(ours.masks().cloned().map(WriterStep::RemoveMask));
        }
        Wish::Enable => enable(&mut plan, sources, ours, true),
        Wish::Ensure => enable(&mut plan, sources, ours, false),
        Wish::Disable => disable(&mut plan, sources, ours),
    }
    gather(&mut plan.blockers);
    plan
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// The path of our own fragment, existing or new.
fn own_fragment(sources: &CmdlineSources) -> PathBuf {
    let is_vendors = |name: &&str| sources.vendor.iter().any(|f| f.name == **name);
    let name = [OWN_FRAGMENT].into_iter().chain(OTHER_NAMES).find(|name| !is_vendors(name));
    Path::new(LOCAL).join(name.unwrap_or(OWN_FRAGMENT))
}

fn enable(plan: &mut WriterPlan, sources: &[CmdlineSources], ours: &Ours, may_unmask: bool) {
    let Some(first) = sources.first() else { return };
    let vendors = |path: &&PathBuf| first.vendor.iter().find(|f| f.name == name_of(path));
    // A vendor now ships a file of the same name, which our fragment must not mask.
    plan.steps
        .extend(ours.fragments().filter(|p| vendors(p).is_some()).cloned().map(WriterStep::RemoveFragment));
    if all(&after_all(sources, &plan.steps), Switch::On) {
        return;
    }
    // Our mask must no longer hide the vendor fragment, nor occupy the path of our own fragment.
    let in_the_way = |p: &&PathBuf| vendors(p).is_none_or(sets);
    if may_unmask {
        plan.steps.extend(ours.masks().filter(in_the_way).cloned().map(WriterStep::RemoveMask));
    }
    let now = after(first, &plan.steps);
    let own = own_fragment(first);
    let mut blocked = Vec::new();
    let mut would = plan.steps.clone();
    let masked: Vec<&Fragment> = now.vendor.iter().filter(|f| f.mask.is_some() && sets(f)).collect();
    if !now.vendor.iter().any(sets) && !now.local.iter().any(|f| f.mask.is_none() && sets(f)) {
        let write = WriterStep::WriteFragment(own.clone());
        would.push(write.clone());
        match now.local.iter().find(|f| f.path == own) {
            Some(_) => blocked.push(CmdlineBlocker {
                what: "occupies the path of our fragment, but clr-dkms did not write it".to_owned(),
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
        would.push(WriterStep::RemoveMask(path.clone()));
        blocked.push(CmdlineBlocker {
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
    plan.blockers = blocked;
    for sources in after_all(sources, &would) {
        plan.add(blockers(&sources));
    }
}

fn disable(plan: &mut WriterPlan, sources: &[CmdlineSources], ours: &Ours) {
    let Some(first) = sources.first() else { return };
    plan.steps.extend(ours.fragments().cloned().map(WriterStep::RemoveFragment));
    if all(&after_all(sources, &plan.steps), Switch::Off) {
        return;
    }
    let now = after(first, &plan.steps);
    let to_mask =
        |f: &&Fragment| f.mask.is_none() && switch_of(&f.bytes) != Switch::Off && holds_only_the_parameter(f);
    let masks = now.vendor.iter().filter(to_mask).map(|f| Path::new(LOCAL).join(&f.name));
    plan.steps.extend(masks.map(WriterStep::WriteMask));
    for sources in after_all(sources, &plan.steps) {
        if is_now(&sources) != Switch::Off {
            plan.add(setters(&sources));
        }
    }
}

impl WriterPlan {
    /// Most files belong to all kernels.
    fn add(&mut self, blockers: Vec<CmdlineBlocker>) {
        for blocker in blockers {
            if !self.blockers.contains(&blocker) {
                self.blockers.push(blocker);
            }
        }
    }
}

fn after_all(sources: &[CmdlineSources], steps: &[WriterStep]) -> Vec<CmdlineSources> {
    sources.iter().map(|s| after(s, steps)).collect()
}

/// The sources after some of the changes.
pub fn after(sources: &CmdlineSources, steps: &[WriterStep]) -> CmdlineSources {
    let mut after = sources.copy();
    for step in steps {
        let name = name_of(step.path()).to_owned();
        let mask = match step {
            WriterStep::WriteFragment(_) | WriterStep::WriteMask(_) => Some(Mask::SameName),
            WriterStep::RemoveFragment(_) | WriterStep::RemoveMask(_) => None,
        };
        after.vendor.iter_mut().filter(|f| f.name == name).for_each(|f| f.mask.clone_from(&mask));
        after.local.retain(|f| f.name != name);
        let (bytes, mask) = match step {
            WriterStep::WriteFragment(_) => (fragment_bytes(), None),
            WriterStep::WriteMask(_) => (Vec::new(), Some(Mask::DevNull)),
            WriterStep::RemoveFragment(_) | WriterStep::RemoveMask(_) => continue,
        };
        after.local.push(Fragment { name, path: step.path().to_owned(), bytes, mask });
        after.local.sort_by(|a, b| a.name.as_encoded_bytes().cmp(b.name.as_encoded_bytes()));
    }
    after
}

fn all(sources: &[CmdlineSources], wanted: Switch) -> bool {
    sources.iter().all(|s| is_now(s) == wanted)
}

fn sets(fragment: &Fragment) -> bool {
    switch_of(&fragment.bytes) == Switch::On
}

/// Carries out a plan. The files are recorded before they are written, so that after a crash they are still
/// known as ours.
///
/// # Errors
///
/// At the first file that cannot be changed.
pub fn apply(root: &Root, plan: &WriterPlan, ours: &Ours) -> Result<(), FileError> {
    let mut ours = ours.clone();
    for step in &plan.steps {
        let path = step.path();
        match step {
            WriterStep::WriteFragment(_) => {
                ours.add(root, path)?;
                root.write(path, &fragment_bytes(), 0o644)?;
            }
            WriterStep::WriteMask(_) => {
                ours.add(root, path)?;
                root.link(path, Path::new("/dev/null"))?;
            }
            WriterStep::RemoveFragment(_) | WriterStep::RemoveMask(_) => {
                root.remove(path)?;
                ours.forget(root, path)?;
            }
        }
    }
    // A file that an admin creates in place of a deleted one is not ours.
    if ours.stale { ours.save(root) } else { Ok(()) }
}
