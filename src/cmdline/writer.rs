//! The writer of `module.sig_unenforce`: the smallest change that switches it on or off, and the way back.
//!
//! Only what we wrote ourselves is ever changed or removed. What that is stands in a state file, because an admin's
//! mask (a link to `/dev/null`, as the distribution's guide teaches) looks exactly like ours.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PARAMETER;
use super::merge::{Effect, Word, contents, effective, merge};
use super::parameter::{Arguments, Switch, read_switch};
use super::sources::{ADMIN, Fragment, LOCAL, Mask, Sources};
use crate::sys::{FileError, Root};

/// What we wrote, so that we may take it away again.
pub const STATE: &str = "/var/lib/clr-dkms/cmdline.json";
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
    fn path(&self) -> &Path {
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

/// What stands in the way, and the command that would clear it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// The file inside the root.
    pub path: PathBuf,
    /// What it does.
    pub what: String,
    /// What an admin can do.
    pub clear: String,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}; to change that: {}", self.path.display(), self.what, self.clear)
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

/// The state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ours {
    schema: u32,
    wrote: Vec<PathBuf>,
    /// Folders that were not there before us, the outermost first.
    #[serde(default)]
    made: Vec<PathBuf>,
    /// Which of our files are masks.
    #[serde(skip)]
    masks: Vec<PathBuf>,
}

impl Ours {
    /// Reads what we wrote, less what somebody has changed since.
    ///
    /// # Errors
    /// When the state file cannot be read; a file that holds garbage counts as none, and is told.
    pub fn load(root: &Root) -> Result<Ours, FileError> {
        let Some(bytes) = root.read_optional(STATE)? else {
            return Ok(Ours::default());
        };
        let mut ours: Ours = serde_json::from_slice(&bytes).unwrap_or_else(|e| {
            let path = root.spell(STATE);
            tracing::warn!("{} is damaged ({e}): no fragment or mask counts as ours", path.display());
            Ours::default()
        });
        ours.wrote.retain(|path| {
            path.parent() == Some(Path::new(LOCAL))
                && (root.read_link(path).is_ok_and(|text| text == Path::new("/dev/null"))
                    || root.read(path).is_ok_and(|bytes| bytes == fragment_bytes()))
        });
        ours.made.retain(|folder| {
            folder.parent().is_some()
                && (Path::new(LOCAL).starts_with(folder) || Path::new(STATE).starts_with(folder))
        });
        ours.masks = ours.wrote.iter().filter(|path| root.read_link(path).is_ok()).cloned().collect();
        Ok(ours)
    }

    fn removal_of(&self, path: &Path) -> Step {
        match self.masks.iter().any(|mask| mask == path) {
            true => Step::RemoveMask(path.to_owned()),
            false => Step::RemoveFragment(path.to_owned()),
        }
    }

    /// Notes which of the folders above `path` are still to be made.
    fn note_folders(&mut self, root: &Root, path: &Path) {
        let mut missing: Vec<PathBuf> = path
            .ancestors()
            .skip(1)
            .take_while(|folder| !root.lookup(folder).is_there())
            .map(Path::to_owned)
            .filter(|folder| !self.made.contains(folder))
            .collect();
        missing.reverse();
        self.made.extend(missing);
    }

    fn has(&self, path: &Path) -> bool {
        self.wrote.iter().any(|p| p == path)
    }

    fn save(&self, root: &Root) -> Result<(), FileError> {
        if self.wrote.is_empty() {
            root.remove(STATE)?;
            // Whatever somebody else has put into them since keeps them.
            for folder in self.made.iter().rev() {
                root.remove_empty_folder(folder)?;
            }
            return Ok(());
        }
        root.write_json(STATE, &Ours { schema: 1, ..self.clone() }).map(|_| ())
    }
}

/// The contents of our own fragment.
fn fragment_bytes() -> Vec<u8> {
    format!("{PARAMETER}\n").into_bytes()
}

/// What is to be done. `sources` are those of every kernel that matters; they differ in the kernel's own line only.
pub fn plan(wish: Wish, sources: &[Sources], ours: &Ours) -> Plan {
    let mut plan = Plan::default();
    if wish == Wish::Default {
        plan.steps.extend(ours.wrote.iter().map(|path| ours.removal_of(path)));
        return plan;
    }
    let Some(first) = sources.first() else { return plan };
    let own = own_fragment(first);
    let our_fragment = || first.local.iter().any(|f| f.path == own && f.mask.is_none()) && ours.has(&own);
    match wish {
        Wish::Enable | Wish::Ensure if all(sources, Switch::On) => {}
        Wish::Enable => enable(&mut plan, first, sources, ours, &own, true),
        Wish::Ensure => enable(&mut plan, first, sources, ours, &own, false),
        Wish::Disable => {
            if our_fragment() {
                plan.steps.push(Step::RemoveFragment(own));
            }
            disable(&mut plan, first, sources);
        }
        Wish::Default => {}
    }
    plan
}

fn own_fragment(sources: &Sources) -> PathBuf {
    let is_vendors = |name: &&str| sources.vendor.iter().any(|f| f.name == **name);
    let name = [OWN_FRAGMENT].into_iter().chain(OTHER_NAMES).find(|name| !is_vendors(name));
    Path::new(LOCAL).join(name.unwrap_or(OWN_FRAGMENT))
}

fn enable(plan: &mut Plan, first: &Sources, sources: &[Sources], ours: &Ours, own: &Path, may_unmask: bool) {
    let setting: Vec<&Fragment> = first.vendor.iter().filter(|f| sets(f)).collect();
    let mask_of = |f: &Fragment| Path::new(LOCAL).join(&f.name);
    for fragment in setting.iter().filter(|f| f.mask.is_some()) {
        let mask = mask_of(fragment);
        if ours.has(&mask) && may_unmask {
            plan.steps.push(Step::RemoveMask(mask));
        }
    }
    if setting.is_empty() && !first.local.iter().any(sets) {
        match first.local.iter().find(|f| f.path == own) {
            // Ours and masked cannot be; what is there is an admin's.
            Some(_) => plan.obstacles.push(Obstacle {
                path: own.to_owned(),
                what: "is in the place of our fragment and is not ours".to_owned(),
                clear: format!("rm {}", own.display()),
            }),
            None => plan.steps.push(Step::WriteFragment(own.to_owned())),
        }
    }
    let then: Vec<Sources> = sources.iter().map(|s| after(s, &plan.steps)).collect();
    if all(&then, Switch::On) {
        return;
    }
    for fragment in setting.iter().filter(|f| f.mask.is_some()) {
        let mask = mask_of(fragment);
        let clear = match (ours.has(&mask), may_unmask) {
            (true, true) => continue,
            (true, false) => "clr-dkms-cmdline enable".to_owned(),
            (false, _) => format!("rm {}", mask.display()),
        };
        plan.obstacles.push(Obstacle {
            what: format!("masks the vendor's fragment {}", fragment.path.display()),
            clear,
            path: mask,
        });
    }
    if let Some(failing) = then.iter().find(|s| !all(std::slice::from_ref(*s), Switch::On)) {
        plan.obstacles.extend(hindrances(&seen(failing)));
    }
    if plan.obstacles.is_empty() {
        plan.obstacles.push(Obstacle {
            path: PathBuf::from(LOCAL),
            what: format!("and the other sources do not give a line with {PARAMETER}"),
            clear: "look at the line with `clr-dkms-cmdline show`".to_owned(),
        });
    }
}

/// What keeps a parameter that some file sets from being effective: removals that take it, or a part of a word beside it,
/// and words that end what the kernel reads.
fn hindrances(sources: &Sources) -> Vec<Obstacle> {
    let merged = merge(sources);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let is_ours = |word: &Word| read_switch(&word.bytes, PARAMETER) == Switch::On;
    let mut obstacles = Vec::new();
    for removed in &merged.removed {
        let what = match &removed.effect {
            Effect::Took(words) if words.iter().any(is_ours) => {
                format!("takes {PARAMETER} out of the line again")
            }
            Effect::TookPart { of, left } if of.iter().any(is_ours) || mentions(left) => {
                let of = of.iter().map(|w| text(&w.bytes)).collect::<Vec<_>>().join(" ");
                format!("takes a part of {of}, and leaves {} behind", text(left))
            }
            _ => continue,
        };
        obstacles.push(Obstacle {
            what: format!("{what} (line {}: \"{}\")", removed.by.line, text(&removed.text)),
            clear: format!("edit or remove {}", removed.by.path.display()),
            path: removed.by.path.clone(),
        });
    }
    let arguments = Arguments::read(&merged.line);
    let ends = |word: &&Word| {
        let quotes = word.bytes.iter().filter(|b| **b == b'"').count();
        word.bytes == b"--" || word.bytes == b"\"--\"" || quotes % 2 == 1
    };
    let shown = |bytes: &[u8]| -> String { text(bytes).chars().take(40).collect() };
    if let Some(word) = merged.words.iter().find(ends)
        && let Some(origin) = word.origins.first()
    {
        obstacles.push(Obstacle {
            path: origin.path.clone(),
            what: format!(
                "has {} in line {}, behind which the kernel reads no parameter",
                shown(&word.bytes),
                origin.line
            ),
            clear: format!(
                "edit {}, or look at the line with `clr-dkms-cmdline show`",
                origin.path.display()
            ),
        });
    }
    for origin in &merged.cut_at {
        obstacles.push(Obstacle {
            path: origin.path.clone(),
            what: format!("has a NUL byte in line {}, behind which everything is cut off", origin.line),
            clear: format!("edit {}", origin.path.display()),
        });
    }
    if obstacles.is_empty() {
        obstacles.extend(arguments.remarks(PARAMETER).into_iter().map(|remark| Obstacle {
            path: PathBuf::from(LOCAL),
            what: format!("and the other sources give a line on which {remark}"),
            clear: "look at the line with `clr-dkms-cmdline show`".to_owned(),
        }));
    }
    obstacles
}

fn mentions(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, PARAMETER.as_bytes()).is_some()
}

fn disable(plan: &mut Plan, first: &Sources, sources: &[Sources]) {
    for fragment in first.vendor.iter().filter(|f| f.mask.is_none() && sets(f)) {
        if holds_only_the_parameter(fragment) {
            plan.steps.push(Step::WriteMask(Path::new(LOCAL).join(&fragment.name)));
        } else {
            plan.obstacles.push(Obstacle {
                path: fragment.path.clone(),
                what: format!("sets {PARAMETER} beside other words, which a mask would take away too"),
                clear: format!("put a changed copy at {LOCAL}/{}", fragment.name.to_string_lossy()),
            });
        }
    }
    let then: Vec<Sources> = sources.iter().map(|s| after(s, &plan.steps)).collect();
    if !plan.obstacles.is_empty() || all(&then, Switch::Off) {
        return;
    }
    let theirs = |path: PathBuf| Obstacle {
        what: format!("sets {PARAMETER}, and is not ours"),
        clear: format!("take {PARAMETER} out of {}", path.display()),
        path,
    };
    if let Some(after) = then.first() {
        let local = after.local.iter().filter(|f| f.mask.is_none() && sets(f));
        plan.obstacles.extend(local.map(|f| theirs(f.path.clone())));
        if after.admin.as_ref().is_some_and(|bytes| switch_of(bytes) != Switch::Off) {
            plan.obstacles.push(theirs(PathBuf::from(ADMIN)));
        }
    }
    if sources.iter().any(|s| switch_of(&s.kernel) != Switch::Off) {
        plan.obstacles.push(Obstacle {
            path: PathBuf::from("/usr/lib/kernel/cmdline-*"),
            what: format!("of a kernel sets {PARAMETER} itself"),
            clear: format!("put {PARAMETER} into a file /etc/kernel/cmdline-removal.d/NAME.conf"),
        });
    }
}

/// The sources after some steps.
pub fn after(sources: &Sources, steps: &[Step]) -> Sources {
    let mut after = sources.copy();
    for step in steps {
        let name = step.path().file_name().unwrap_or_default().to_owned();
        match step {
            Step::WriteFragment(path) => {
                let new = Fragment { name, path: path.clone(), bytes: fragment_bytes(), mask: None };
                after.local.push(new);
                after.local.sort_by(|a, b| a.name.as_encoded_bytes().cmp(b.name.as_encoded_bytes()));
            }
            Step::RemoveFragment(_) => after.local.retain(|f| f.name != name),
            Step::WriteMask(_) => {
                after
                    .vendor
                    .iter_mut()
                    .filter(|f| f.name == name)
                    .for_each(|f| f.mask = Some(Mask::SameName));
            }
            Step::RemoveMask(_) => {
                after.local.retain(|f| f.name != name);
                after.vendor.iter_mut().filter(|f| f.name == name).for_each(|f| f.mask = None);
            }
        }
    }
    after
}

fn all(sources: &[Sources], wanted: Switch) -> bool {
    sources.iter().all(|s| read_switch(&effective(&seen(s)), PARAMETER) == wanted)
}

/// What this system itself makes of its files: the glob trap concerns only who is given a path.
fn seen(sources: &Sources) -> Sources {
    Sources { glob_blind: false, ..sources.copy() }
}

fn switch_of(bytes: &[u8]) -> Switch {
    read_switch(&contents(bytes), PARAMETER)
}

fn sets(fragment: &Fragment) -> bool {
    switch_of(&fragment.bytes) == Switch::On
}

fn holds_only_the_parameter(fragment: &Fragment) -> bool {
    let line = contents(&fragment.bytes);
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .all(|word| read_switch(word, PARAMETER) == Switch::On)
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
            Step::WriteFragment(_) | Step::WriteMask(_) => {
                ours.note_folders(root, path);
                ours.note_folders(root, Path::new(STATE));
                if !ours.has(path) {
                    ours.wrote.push(path.to_owned());
                    ours.save(root)?;
                }
                match step {
                    Step::WriteMask(_) => root.link(path, Path::new("/dev/null"))?,
                    _ => root.write(path, &fragment_bytes(), 0o644)?,
                };
            }
            Step::RemoveFragment(_) | Step::RemoveMask(_) => {
                root.remove(path)?;
                ours.wrote.retain(|p| p != path);
                ours.save(root)?;
            }
        }
    }
    Ok(())
}
