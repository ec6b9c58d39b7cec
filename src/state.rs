//! What a run leaves behind for the next one and for the reports: the record of the last run, the mark of a run in
//! progress, and the snapshot that the pre-update hook takes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::boot::inputs::{BootInputs, BootPart};
use crate::boot_decision::{AdminOverrides, BootDecision, NextBootSource, Reason};
use crate::dkms::first_error::FirstError;
use crate::dkms::plan::State;
use crate::dkms::{ModuleName, Proof};
use crate::limits;
use crate::requirement::Requirement;
use crate::sys::sandbox::Layers;
use crate::sys::{FileError, Root};

/// The record of the last run of the post-update hook.
pub const RECORD: &str = "/var/lib/clr-dkms/last-run.json";
/// What a run that has begun to change things intends; gone when it has ended.
pub const IN_PROGRESS: &str = "/var/lib/clr-dkms/in-progress.json";
/// The snapshot of the pre-update hook.
pub const SNAPSHOT: &str = "/var/lib/clr-dkms/before-update.json";
/// What an admin has said of the boot default.
pub const WISHES: &str = "/var/lib/clr-dkms/boot-wishes.json";
/// The lock that every program which changes something holds.
pub const LOCK: &str = "/run/clr-dkms.lock";
/// The schema of these files. It grows only when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// One module on one kernel, as a run left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleRecord {
    /// Which module.
    #[serde(flatten)]
    pub module: ModuleName,
    /// On which kernel release.
    pub kernel: String,
    /// How it is.
    pub state: State,
    /// Why, when it is not simply there.
    pub reason: Option<String>,
    /// The first error of the build.
    pub error: Option<FirstError>,
    /// The log inside the root, when there was a build.
    pub log: Option<String>,
    /// The fingerprint of the inputs that the build failed with: with the same ones it is not tried again by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
    /// What a hook script of dkms.conf has not done, in words: of these files, for no later look shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The files that were found good.
    pub files: Vec<Proof>,
    /// The older version that is installed and works meanwhile, where this one is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
}

/// What became of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CmdlineRecord {
    /// `module.sig_unenforce` is wanted.
    pub wanted: bool,
    /// It is in the effective command line of every tip, and of the next boot.
    pub in_force: bool,
    /// What stands in the way.
    #[serde(rename = "obstacles")]
    pub blockers: Vec<String>,
}

/// What became of the boot files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BootRecord {
    /// The fingerprint of what `clr-boot-manager update` read when it last did its work; none when it never did.
    pub inputs: Option<String>,
    /// When that was.
    pub updated: Option<Timestamp>,
    /// What the boot entries said when they were read back: `verified`, `differs`, `not-visible`.
    pub entries: Option<String>,
    /// What went wrong the last time.
    pub error: Option<String>,
    /// A kernel is kept from becoming the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
    /// The fingerprint of each part of the boot files as it was when the part was last brought up to date.
    #[serde(default, skip_serializing_if = "BootInputs::is_empty")]
    pub parts: BootInputs,
    /// Parts of the boot files that are out of date, because nothing could be run that does not touch the boot default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingPart>,
}

/// A part of the boot files that is out of date on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingPart {
    /// Which part.
    pub what: BootPart,
    /// Since when.
    pub since: Timestamp,
    /// Why it was not brought up to date.
    pub why: String,
    /// The command that does it, and may make a kernel the boot default that lacks something.
    pub command: String,
}

/// A kernel that is kept from becoming the boot default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// Its release.
    pub kernel: String,
    /// Since when any kernel is.
    pub since: Timestamp,
    /// The boot files have not been touched since. What waits because of that is in [`BootRecord::waiting`].
    pub deferred: bool,
}

/// The record of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When the run that found this began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// The release of the running kernel.
    pub running: Option<String>,
    /// The release of the kernel that boots next; none where it was unknown.
    pub next_boot: Option<String>,
    /// How that was known; none in records of versions that recorded what clr-boot-manager would make the
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_boot_source: Option<NextBootSource>,
    /// Kernels that were not there before the update.
    pub new_kernels: Vec<String>,
    /// Every module on every tip, and what was built by hand for other kernels.
    pub modules: Vec<ModuleRecord>,
    /// The command line.
    pub cmdline: CmdlineRecord,
    /// The boot files.
    pub boot: BootRecord,
    /// What else was wrong.
    pub problems: Vec<String>,
    /// How much each module is needed; what was critical is remembered while it is not loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Requirement>,
    /// The verdict of `clr-dkms status` after the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Module files of which the symbols and the modules beneath were checked, and their SHA-256: it holds while the file is
    /// the same, also without the headers of its kernel.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checked: BTreeMap<String, String>,
    /// What was decided about the boot default; not in records of before there was a guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<BootDecision>,
    /// What confined the evaluation of each dkms.conf when one was last evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Layers>,
}

impl RunRecord {
    /// A record of a run that has found nothing out.
    pub fn empty(started: Timestamp) -> RunRecord {
        RunRecord {
            schema: SCHEMA,
            started,
            finished: started,
            running: None,
            next_boot: None,
            next_boot_source: None,
            new_kernels: Vec::new(),
            modules: Vec::new(),
            cmdline: CmdlineRecord::default(),
            boot: BootRecord::default(),
            problems: Vec::new(),
            needs: Vec::new(),
            verdict: None,
            checked: BTreeMap::new(),
            guard: None,
            sandbox: None,
        }
    }

    /// The two tell the same, though found at different times.
    pub fn tells_the_same_as(&self, other: &RunRecord) -> bool {
        let timeless = |r: &RunRecord| {
            let mut r = r.clone();
            r.started = Timestamp::UNIX_EPOCH;
            r.finished = Timestamp::UNIX_EPOCH;
            r.new_kernels.clear();
            r.modules.iter_mut().flat_map(|m| &mut m.files).for_each(|file| file.checked = None);
            r
        };
        timeless(self) == timeless(other)
    }

    /// The entry of a module on a kernel.
    pub fn module(&self, module: &ModuleName, release: &str) -> Option<&ModuleRecord> {
        self.modules.iter().find(|m| m.module == *module && m.kernel == release)
    }
}

/// What a run intends, written before it changes anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InProgress {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it began.
    pub started: Timestamp,
    /// Its process.
    pub pid: u32,
    /// `module/version on kernel`, in order.
    pub builds: Vec<String>,
}

/// The kernels and module states before an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was taken.
    pub taken: Timestamp,
    /// The running kernel.
    pub running: Option<String>,
    /// Kernel release to the modules (`name/version`) that dkms had installed on it.
    pub kernels: BTreeMap<String, Vec<String>>,
}

/// What lies in the place of a state file.
#[derive(Debug)]
pub enum Stored<T> {
    /// Nothing.
    Absent,
    /// This.
    Good(T),
    /// Something that cannot be used, with the reason.
    Bad(String),
    /// Something that cannot be read, with the reason.
    Unreadable(String),
}

impl<T> Stored<T> {
    /// The value, if it is good.
    pub fn good(self) -> Option<T> {
        match self {
            Stored::Good(value) => Some(value),
            _ => None,
        }
    }

    /// A reference to the value, if it is good.
    pub fn as_good(&self) -> Option<&T> {
        match self {
            Stored::Good(value) => Some(value),
            _ => None,
        }
    }
}

/// What every state file begins with.
#[derive(Deserialize)]
struct Head {
    schema: u32,
}

/// Reads a state file.
pub fn load<T: DeserializeOwned>(root: &Root, path: &str) -> Stored<T> {
    let bytes = match root.read_optional_within(path, limits::RECORD) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Stored::Absent,
        Err(e) if e.leaves_open() => return Stored::Unreadable(e.to_string()),
        Err(e) => return Stored::Bad(e.to_string()),
    };
    if limits::has_too_many_values(&bytes) {
        let (path, most) = (root.shown_path(path), limits::VALUES);
        return Stored::Unreadable(format!("{} has more than {most} values", path.display()));
    }
    match serde_json::from_slice::<Head>(&bytes) {
        Ok(head) if head.schema > SCHEMA => {
            return Stored::Bad(format!("{} is of a newer clr-dkms", root.shown_path(path).display()));
        }
        // What else is wrong with it is told below.
        Ok(_) | Err(_) => {}
    }
    match serde_json::from_slice(&bytes) {
        Ok(value) => Stored::Good(value),
        Err(e) => Stored::Bad(format!("{} is damaged: {e}", root.shown_path(path).display())),
    }
}

/// Keeps a damaged state file under another name, so that nothing is lost when a new one is written.
///
/// # Errors
/// When it cannot be copied.
pub fn set_aside(root: &Root, path: &str) -> Result<String, FileError> {
    let aside = format!("{path}.damaged");
    root.copy(path, &aside, 0o644, limits::SYMBOL_MAP)?;
    Ok(aside)
}

/// The file that keeps what an admin has said of the boot default.
#[derive(Debug, Serialize, Deserialize)]
pub struct WishesFile {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What was said.
    #[serde(flatten)]
    pub wishes: AdminOverrides,
}

/// The module files that the last run could check whole.
pub fn checked(root: &Root) -> BTreeMap<String, String> {
    load::<RunRecord>(root, RECORD).good().map(|record| record.checked).unwrap_or_default()
}

/// What an admin has said of the boot default. Where the file cannot be used, a hold is the one that the last run knew of,
/// and for the rest the rules decide.
pub fn wishes(root: &Root) -> AdminOverrides {
    match load::<WishesFile>(root, WISHES) {
        Stored::Good(file) => file.wishes,
        Stored::Absent => AdminOverrides::default(),
        Stored::Bad(reason) | Stored::Unreadable(reason) => {
            let last = load::<RunRecord>(root, RECORD).good().and_then(|record| record.guard);
            let held = last.filter(|decision| decision.because == Reason::Held);
            AdminOverrides {
                hold: held.and_then(|decision| decision.default),
                fault: Some(reason),
                ..AdminOverrides::default()
            }
        }
    }
}

/// Whether a process of that name is a run of ours, as opposed to a child that a killed run left behind.
pub fn is_ours(program: &str) -> bool {
    program.starts_with("clr-dkms")
}
