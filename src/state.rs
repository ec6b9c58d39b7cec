//! State files in `/var/lib/clr-dkms`: the record of the last run, the mark of a run in progress, the
//! snapshot of the pre-update hook, and the requests of an admin.
//!
//! All files are JSON. Each begins with `schema`; a file with a higher schema than [`SCHEMA`] is not used.
//! Fields are only added, and files of version 0.1 remain readable. Times are in RFC 3339 format.

pub mod added;
pub mod change;
pub mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::boot::inputs::{BootInputs, BootPart};
use crate::boot_decision::{AdminOverrides, Allowance, BootDecision, NextBootSource, OverrideNote, Reason};
use crate::dkms::first_error::FirstError;
use crate::dkms::plan::State;
use crate::dkms::{ModuleName, Proof};
use crate::limits;
use crate::requirement::Requirement;
use crate::sys::sandbox::Layers;
use crate::sys::{FileError, Root};

/// The record of the last run of the post-update hook.
pub const RECORD: &str = "/var/lib/clr-dkms/last-run.json";
/// What a run intends to change. The file is deleted when the run ends.
pub const IN_PROGRESS: &str = "/var/lib/clr-dkms/in-progress.json";
/// The snapshot of the pre-update hook.
pub const SNAPSHOT: &str = "/var/lib/clr-dkms/before-update.json";
/// The requests of an admin about the boot default.
pub const WISHES: &str = "/var/lib/clr-dkms/boot-wishes.json";
/// The lock that a program holds while it changes something.
pub const LOCK: &str = "/run/clr-dkms.lock";
/// The schema of these files. It is increased only if a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// The state of one module on one kernel at the end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleRecord {
    #[serde(flatten)]
    pub module: ModuleName,
    /// The kernel release.
    pub kernel: String,
    pub state: State,
    /// Why it is not installed. None if it is.
    pub reason: Option<String>,
    /// The first error of the build.
    pub error: Option<FirstError>,
    /// The path of the build log inside the root, if there was a build.
    pub log: Option<String>,
    /// The fingerprint of the inputs of a failed build. The build is not repeated automatically with the same
    /// inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
    /// What a hook script of dkms.conf failed to do for these files, as a sentence. It cannot be observed
    /// later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The proven files.
    pub files: Vec<Proof>,
    /// The older version that is installed and works while this version is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
}

/// The state of the kernel command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CmdlineRecord {
    /// `module.sig_unenforce` is wanted.
    pub wanted: bool,
    /// It is in the effective command line of every tip and of the next boot.
    pub in_force: bool,
    /// What prevents the wanted state.
    #[serde(rename = "obstacles")]
    pub blockers: Vec<String>,
}

/// The state of the boot files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BootRecord {
    /// The fingerprint of the inputs of the last successful `clr-boot-manager update`. None if there was
    /// none.
    pub inputs: Option<String>,
    /// The time of that update.
    pub updated: Option<Timestamp>,
    /// The result of reading the boot entries back: `verified`, `differs` or `not-visible`.
    pub entries: Option<String>,
    /// The error of the last attempt.
    pub error: Option<String>,
    /// That is only that the entries are not as configured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub differs: bool,
    /// A kernel is kept from becoming the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
    /// The fingerprint of each part of the boot files when the part was last updated.
    #[serde(default, skip_serializing_if = "BootInputs::is_empty")]
    pub parts: BootInputs,
    /// Outdated parts of the boot files that cannot be updated without changing the boot default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingPart>,
}

/// A part of the boot files that is left outdated on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingPart {
    pub what: BootPart,
    pub since: Timestamp,
    /// Why it was not updated.
    pub why: String,
    /// The command that updates it. It may make a kernel the boot default that lacks something.
    pub command: String,
}

/// A kernel that is kept from becoming the boot default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// The kernel release.
    pub kernel: String,
    /// Since when any kernel has been held back.
    pub since: Timestamp,
    /// The boot files have not been changed since then. Outdated parts are in [`BootRecord::waiting`].
    pub deferred: bool,
}

/// The record of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// When the run that first found this state began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// The release of the running kernel.
    pub running: Option<String>,
    /// The release of the kernel that boots next. None if it was unknown.
    pub next_boot: Option<String>,
    /// How the next boot was known. None in older records, which contain the expected default of
    /// clr-boot-manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_boot_source: Option<NextBootSource>,
    /// Kernels that the update installed.
    pub new_kernels: Vec<String>,
    /// Every module on every tip, and modules that were built on request for other kernels.
    pub modules: ModuleRecords,
    pub cmdline: CmdlineRecord,
    pub boot: BootRecord,
    /// Problems of the configuration, or of the place of the run, as sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// Other problems, as sentences.
    pub problems: Vec<String>,
    /// The importance of each module. A critical module is remembered while it is not loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Requirement>,
    /// The verdict of `clr-dkms status` after the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The SHA-256 of module files whose symbols and dependencies were checked. The result remains valid as
    /// long as the file is unchanged, even without the headers of its kernel.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checked: BTreeMap<String, String>,
    /// The fingerprint of the source that an installed file was built from, by the SHA-256 of the file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub built_from: BTreeMap<String, String>,
    /// The decision about the boot default. Not in records of versions without a boot guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<BootDecision>,
    /// The sandbox layers that were active when a dkms.conf was last evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Layers>,
}

impl RunRecord {
    /// The record of a run that has determined nothing.
    pub fn empty(started: Timestamp) -> RunRecord {
        RunRecord { schema: SCHEMA, started, finished: started, ..RunRecord::default() }
    }

    /// Whether two records are equal except for their times.
    pub fn tells_the_same_as(&self, other: &RunRecord) -> bool {
        let timeless = |r: &RunRecord| {
            let mut r = r.clone();
            r.started = Timestamp::UNIX_EPOCH;
            r.finished = Timestamp::UNIX_EPOCH;
            r.new_kernels.clear();
            r.modules.list.iter_mut().flat_map(|m| &mut m.files).for_each(|file| file.checked = None);
            r
        };
        timeless(self) == timeless(other)
    }

    /// The record of a module on a kernel.
    pub fn module(&self, module: &ModuleName, release: &str) -> Option<&ModuleRecord> {
        self.modules.find(module, release)
    }
}

/// The states of modules on kernels. With 100 modules on 10 kernels, each of them is searched several times
/// in each run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<ModuleRecord>")]
pub struct ModuleRecords {
    list: Vec<ModuleRecord>,
    /// The positions in `list`, sorted by module and kernel. The first of two equal ones comes first.
    sorted: Vec<usize>,
}

impl From<Vec<ModuleRecord>> for ModuleRecords {
    fn from(list: Vec<ModuleRecord>) -> ModuleRecords {
        let mut sorted: Vec<usize> = (0..list.len()).collect();
        sorted.sort_by_key(|at| list[*at].key());
        ModuleRecords { list, sorted }
    }
}

impl FromIterator<ModuleRecord> for ModuleRecords {
    fn from_iter<I: IntoIterator<Item = ModuleRecord>>(records: I) -> ModuleRecords {
        records.into_iter().collect::<Vec<_>>().into()
    }
}

impl Serialize for ModuleRecords {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list.serialize(serializer)
    }
}

impl std::ops::Deref for ModuleRecords {
    type Target = [ModuleRecord];

    fn deref(&self) -> &[ModuleRecord] {
        &self.list
    }
}

impl ModuleRecords {
    fn find(&self, module: &ModuleName, release: &str) -> Option<&ModuleRecord> {
        let wanted = (module, release);
        let first = self.sorted.partition_point(|at| self.list[*at].key() < wanted);
        let found = self.sorted.get(first).map(|at| &self.list[*at]);
        found.filter(|record| record.key() == wanted)
    }
}

impl ModuleRecord {
    fn key(&self) -> (&ModuleName, &str) {
        (&self.module, &self.kernel)
    }
}

/// What a run intends to do, written before it changes anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InProgress {
    /// See [`SCHEMA`].
    pub schema: u32,
    pub started: Timestamp,
    /// The process id.
    pub pid: u32,
    /// `module/version on kernel`, in the order of work.
    pub builds: Vec<String>,
    /// The fingerprint of the source of each build that was begun and replaces no other, by
    /// `module/version on kernel`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, String>,
    /// The fingerprint of the source of each file that was built, by the SHA-256 of the file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub built_from: BTreeMap<String, String>,
}

/// The kernels and installed modules before an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// See [`SCHEMA`].
    pub schema: u32,
    pub taken: Timestamp,
    /// The release of the running kernel.
    pub running: Option<String>,
    /// Kernel releases, each with the modules (`name/version`) that DKMS had installed on it.
    pub kernels: BTreeMap<String, Vec<String>>,
}

/// The result of reading a state file.
#[derive(Debug)]
pub enum Stored<T> {
    /// The file does not exist.
    Absent,
    Good(T),
    /// The contents cannot be used, and why.
    Bad(String),
    /// The file cannot be read, and why.
    Unreadable(String),
}

impl<T> Stored<T> {
    pub fn good(self) -> Option<T> {
        if let Stored::Good(value) = self { Some(value) } else { None }
    }

    pub fn as_good(&self) -> Option<&T> {
        if let Stored::Good(value) = self { Some(value) } else { None }
    }
}

/// The field that every state file has.
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
        let what = io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {} values", limits::VALUES),
        );
        return Stored::Unreadable(root.fail_read("read", Path::new(path), what).to_string());
    }
    match serde_json::from_slice::<Head>(&bytes) {
        Ok(head) if head.schema > SCHEMA => {
            return Stored::Bad(format!(
                "{} was written by a newer clr-dkms",
                root.shown_path(path).display()
            ));
        }
        // Every other fault is reported by the second parse.
        Ok(_) | Err(_) => {}
    }
    match serde_json::from_slice(&bytes) {
        Ok(value) => Stored::Good(value),
        Err(e) => Stored::Bad(format!("{} is damaged: {e}", root.shown_path(path).display())),
    }
}

/// Copies a damaged state file to another name, so that its contents are not lost when a new one is written.
///
/// # Errors
///
/// If it cannot be copied.
pub fn set_aside(root: &Root, path: &str) -> Result<String, FileError> {
    let aside = format!("{path}.damaged");
    root.copy(path, &aside, 0o644, limits::SYMBOL_MAP)?;
    Ok(aside)
}

/// The format of the file with the requests of an admin.
#[derive(Debug, Serialize, Deserialize)]
pub struct WishesFile {
    /// See [`SCHEMA`].
    pub schema: u32,
    #[serde(flatten)]
    pub wishes: AdminOverrides,
    /// Kernel releases that version 0.1 let boot without any module that they lacked. It is only read.
    #[serde(default, skip_serializing)]
    pub released: BTreeSet<String>,
}

/// An allowance for each module that a kernel lacked when the last run let it boot on the word of an admin,
/// or that was not ready on a kernel that was not to boot then.
fn allowances_of_released(released: &BTreeSet<String>, record: Option<&RunRecord>) -> Vec<Allowance> {
    let Some(record) = record else { return Vec::new() };
    let of_target =
        |kernel: &String| record.guard.as_ref().filter(|decision| decision.target.as_ref() == Some(kernel));
    let lacked = |kernel: &String| -> BTreeSet<String> {
        match of_target(kernel) {
            Some(decision) if decision.because == Reason::Released => {
                let lacking = decision.lacking.iter().chain(&decision.default_lacks);
                lacking.map(|lack| lack.name().to_owned()).collect()
            }
            // It lacked nothing that is required, or its release did not count.
            Some(_) => BTreeSet::new(),
            None => {
                let on = record.modules.iter().filter(|m| m.kernel == *kernel && !m.state.is_fine());
                on.map(|m| m.module.name.clone()).collect()
            }
        }
    };
    let allowances = |kernel: &String| {
        let allowance =
            |without| Allowance { kernel: kernel.clone(), without, note: OverrideNote::default() };
        lacked(kernel).into_iter().map(allowance).collect::<Vec<_>>()
    };
    released.iter().flat_map(allowances).collect()
}

/// The SHA-256 of the module files that the last run checked completely.
pub fn checked(root: &Root) -> BTreeMap<String, String> {
    // Without a readable record the files are checked again, or count as not checked completely.
    load::<RunRecord>(root, RECORD).good().map(|record| record.checked).unwrap_or_default()
}

/// The requests of an admin about the boot default. If the file cannot be used, the hold is taken from the
/// last record, and no kernel may lack a module.
pub fn wishes(root: &Root) -> AdminOverrides {
    match load::<WishesFile>(root, WISHES) {
        Stored::Good(WishesFile { mut wishes, released, .. }) => {
            if !released.is_empty() {
                let record = load::<RunRecord>(root, RECORD).good();
                wishes.allowed.extend(allowances_of_released(&released, record.as_ref()));
                wishes.is_converted = true;
            }
            wishes
        }
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

/// Whether a process of that name is a run of clr-dkms, as opposed to a child that a killed run left behind.
pub fn is_ours(program: &str) -> bool {
    program.starts_with("clr-dkms")
}
