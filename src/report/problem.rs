//! What can be wrong. A report is made of these values; their sentences are written here and nowhere else.

use std::fmt;

use serde::{Serialize, Serializer};
use strum::{EnumDiscriminants, IntoStaticStr};

use crate::automation::AutomationFault;
use crate::boot::MenuFault;
use crate::boot::deferral::SwupdLine;
use crate::boot_decision::OverrideNote;
use crate::cmdline::PARAMETER;
use crate::decide::entry_loss::EntryLoss;
use crate::dkms::ModuleName;
use crate::dkms::plan::State;
use crate::requirement::{Importance, MissingModule};
use crate::state::{ModuleRecord, WaitingPart};
use crate::sys::TimeStyle;

/// One thing that is wrong. The order of the variants is that of their importance: a cause comes before what
/// follows from it.
#[derive(Debug, Clone, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(name(ProblemKind), derive(PartialOrd, Ord, IntoStaticStr, Serialize))]
#[strum_discriminants(strum(serialize_all = "kebab-case"), serde(rename_all = "kebab-case"))]
#[strum_discriminants(doc = "What kind of problem it is; the more important ones are smaller.")]
pub enum Problem {
    /// The kernel that boots next is not installed any more.
    BootsRemoved {
        /// Its release.
        kernel: String,
        /// What is critical and will be missing.
        lacks: Vec<MissingModule>,
    },
    /// The kernel that boots next lacks something critical.
    BootsWithout {
        /// Its release.
        kernel: String,
        /// What it lacks.
        lacks: Vec<MissingModule>,
        /// The override of an admin that lets it boot.
        by: Option<AdminOverride>,
    },
    /// No kernel has all that is needed.
    NoGoodKernel {
        /// The best one, and what it lacks; none where there is no kernel.
        best: Option<(String, Vec<MissingModule>)>,
    },
    /// It is unknown which kernel boots next, and the kernels differ in what is needed.
    NextBootUnknown {
        /// Why.
        why: String,
        /// The release that the last run saw.
        remembered: Option<String>,
    },
    /// Another kernel than the chosen one boots next.
    WrongDefault {
        /// The release of the one that boots next.
        kernel: String,
        /// The release of the one that should.
        should: Option<String>,
        /// What the one that boots next lacks, where that is why.
        lacks: Vec<MissingModule>,
    },
    /// An admin holds a kernel.
    HeldByAdmin {
        /// Its release.
        kernel: String,
        /// The user, the time and the reason of the request.
        note: OverrideNote,
    },
    /// A kernel is kept from becoming the boot default.
    HeldBack {
        /// Its release.
        kernel: String,
        /// What it lacks; nothing where it cannot be booted.
        lacks: Vec<MissingModule>,
    },
    /// A fact could not be read.
    Unreadable {
        /// Which one, and why.
        what: String,
    },
    /// The last run did not reach its end.
    RunBrokenOff,
    /// A module will be missed on a kernel.
    ModuleNotReady(Box<ModuleRecord>),
    /// A kernel will refuse a module for its signature, and the kernel command line does not change that.
    ModuleRefused(Box<ModuleRecord>),
    /// The boot files could not be updated.
    BootUpdateFailed {
        /// Why.
        why: String,
    },
    /// The boot entries are not as they should be.
    BootEntry(MenuFault),
    /// A kernel has no initrd where the running kernel has one of its own.
    NoInitrd {
        /// The release of the kernel.
        kernel: String,
        /// Where it is expected, inside the root.
        path: String,
        /// The same as the host sees it.
        shown: String,
    },
    /// A boot entry that is made again as configured would lose something.
    EntryLoss(EntryLoss),
    /// What an admin has said of the boot default cannot be read.
    OverridesLost {
        /// Why.
        why: String,
    },
    /// The kernel that an admin holds cannot be booted.
    HeldUnbootable {
        /// Its release.
        kernel: String,
    },
    /// A line of swupd's configuration has it update the boot files before the modules are proven.
    SwupdOverrides(SwupdLine),
    /// swupd could not be asked to leave the boot files to clr-dkms.
    SwupdNotAsked {
        /// Why.
        why: String,
    },
    /// `module.sig_unenforce` is wanted and not configured.
    ParameterMissing {
        /// The releases of the kernels without it.
        kernels: Vec<String>,
        /// How many kernels there are.
        of: usize,
    },
    /// Kernels or fragments have changed since the boot entries were made.
    BootFilesOutdated,
    /// A unit or a hook that starts clr-dkms does not do its work.
    Automation(AutomationFault),
    /// Something was wrong before the last run began: with the configuration, or with the place where it ran.
    SetupFault {
        /// Which one.
        what: String,
    },
    /// What else the last run recorded.
    Recorded {
        /// What.
        what: String,
    },
    /// A part of the boot files waits.
    Waiting(WaitingPart),
    /// The record of the last run cannot be used.
    RecordDamaged {
        /// Why.
        why: String,
    },
    /// No run has been made yet.
    NeverRun,
}

/// How an admin lets a kernel boot that lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminOverride {
    /// By `clr-dkms allow`.
    Released,
    /// By `clr-dkms hold`.
    Held,
}

impl fmt::Display for AdminOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AdminOverride::Released => "allowed by an admin",
            AdminOverride::Held => "held by an admin",
        })
    }
}

impl Problem {
    /// What kind it is.
    pub fn kind(&self) -> ProblemKind {
        self.into()
    }

    /// A module that it is about, as `name/version`.
    pub fn module(&self) -> Option<String> {
        use Problem as P;
        match self {
            P::BootsRemoved { lacks, .. } | P::BootsWithout { lacks, .. } => {
                Some(lacks.first()?.module.clone())
            }
            P::WrongDefault { lacks, .. } | P::HeldBack { lacks, .. } => Some(lacks.first()?.module.clone()),
            P::NoGoodKernel { best } => Some(best.as_ref()?.1.first()?.module.clone()),
            P::ModuleNotReady(record) | P::ModuleRefused(record) => Some(record.module.to_string()),
            P::EntryLoss(EntryLoss::Module { module, .. } | EntryLoss::Blocked { module, .. }) => {
                Some(module.clone())
            }
            _ => None,
        }
    }

    /// The release of a kernel that it is about.
    pub fn kernel(&self) -> Option<&str> {
        use Problem as P;
        match self {
            P::BootsRemoved { kernel, .. }
            | P::BootsWithout { kernel, .. }
            | P::WrongDefault { kernel, .. } => Some(kernel),
            P::HeldByAdmin { kernel, .. } | P::HeldBack { kernel, .. } | P::HeldUnbootable { kernel } => {
                Some(kernel)
            }
            P::NoGoodKernel { best } => best.as_ref().map(|(kernel, _)| kernel.as_str()),
            P::ModuleNotReady(record) | P::ModuleRefused(record) => Some(&record.kernel),
            P::NoInitrd { kernel, .. } => Some(kernel),
            P::EntryLoss(
                EntryLoss::Module { kernel, .. }
                | EntryLoss::Blocked { kernel, .. }
                | EntryLoss::Initrd { kernel, .. },
            ) => Some(kernel),
            P::ParameterMissing { kernels, .. } => kernels.first().map(String::as_str),
            _ => None,
        }
    }

    /// It says only that something is unknown.
    pub fn is_unknown(&self) -> bool {
        match self {
            Problem::Unreadable { .. } | Problem::NextBootUnknown { .. } => true,
            Problem::ModuleNotReady(record) => record.state == State::Unknown,
            _ => false,
        }
    }

    /// It is about a module on a kernel.
    pub fn is_of_module(&self) -> bool {
        matches!(self, Problem::ModuleNotReady(_) | Problem::ModuleRefused(_))
    }

    /// It is about the kernel that boots next, or should.
    pub fn is_of_boot_default(&self) -> bool {
        self.kind() < ProblemKind::Unreadable
    }
}

/// A problem as a sentence.
struct ProblemSentence<'a>(&'a Problem, &'a TimeStyle);

impl Problem {
    /// The sentence, with its times in that style.
    pub fn sentence(&self, times: &TimeStyle) -> String {
        ProblemSentence(self, times).to_string()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ProblemSentence(self, &TimeStyle::Utc).fmt(f)
    }
}

/// A problem is a sentence in JSON.
impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for ProblemSentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Problem as P;
        let ProblemSentence(problem, times) = self;
        match problem {
            P::ModuleNotReady(record) | P::ModuleRefused(record) => write_module(f, record),
            P::NextBootUnknown { why, remembered } => {
                let remembered = remembered.iter().map(|release| format!(" (the last run saw {release})"));
                let remembered: String = remembered.collect();
                write!(f, "it is unknown which kernel boots next{remembered}: {why}")
            }
            P::Unreadable { what } | P::SetupFault { what } | P::Recorded { what } => f.write_str(what),
            P::BootUpdateFailed { why } | P::SwupdNotAsked { why } | P::RecordDamaged { why } => {
                f.write_str(why)
            }
            P::RunBrokenOff => f.write_str("the last run was interrupted before its end"),
            P::NeverRun => f.write_str("clr-dkms-post-update has not run on this system yet"),
            P::BootEntry(fault) => fault.fmt(f),
            P::Automation(fault) => fault.fmt(f),
            P::NoInitrd { kernel, shown, .. } => {
                write!(
                    f,
                    "kernel {kernel} has no successor of the running kernel's own initrd: there is no {shown}"
                )
            }
            P::EntryLoss(loss) => loss.fmt(f),
            P::OverridesLost { why } => {
                write!(f, "the admin's requests for the boot default are lost: {why}")
            }
            P::HeldUnbootable { kernel } => {
                write!(f, "an admin holds kernel {kernel}, which cannot be booted")
            }
            P::SwupdOverrides(by) => {
                write!(f, "{by} makes swupd run clr-boot-manager before the modules are proven")
            }
            P::ParameterMissing { kernels, of } => match kernels.as_slice() {
                [one, other, third, more @ ..] if !more.is_empty() => write!(
                    f,
                    "{PARAMETER} is not configured for {} of {of} kernels: {one}, {other}, {third} …",
                    kernels.len()
                ),
                few => write!(f, "{PARAMETER} is not configured for kernel {}", few.join(", ")),
            },
            P::BootFilesOutdated => {
                f.write_str("kernels or fragments have changed since the boot entries were made")
            }
            P::Waiting(WaitingPart { what, since, why, command }) => write!(
                f,
                "out of date since {}: {what}, because {why}; `sudo {command}` does not wait, at your own risk",
                times.moment(*since)
            ),
            default => write_boot_default(f, default, times),
        }
    }
}

/// The sentence on the kernel that boots next, or should.
fn write_boot_default(f: &mut fmt::Formatter<'_>, problem: &Problem, times: &TimeStyle) -> fmt::Result {
    use Problem as P;
    match problem {
        P::BootsRemoved { kernel, lacks: lacking } => {
            let without = lacks(lacking).unwrap_or_else(|| "its modules".to_owned());
            write!(f, "kernel {kernel} boots next, which is not installed any more: without {without}")
        }
        P::BootsWithout { kernel, lacks: lacking, by } => {
            let lack = lacks(lacking).unwrap_or_default();
            match by {
                Some(by) => write!(f, "kernel {kernel} boots next although it lacks {lack}: {by}"),
                None => write!(f, "kernel {kernel} boots next, without {lack}"),
            }
        }
        P::NoGoodKernel { best: Some((kernel, lacking)) } => {
            let lack = lacks(lacking).unwrap_or_default();
            write!(f, "no kernel has all that is needed; the best is {kernel}, without {lack}")
        }
        P::NoGoodKernel { best: None } => f.write_str("there is no kernel with what is needed"),
        P::WrongDefault { kernel, should, lacks: lacking } => match (lacks(lacking), should) {
            (Some(lack), _) => write!(f, "kernel {kernel} boots next, and lacks {lack}"),
            (None, should) => {
                let should = should.as_deref().unwrap_or("another one");
                write!(f, "kernel {kernel} boots next, and should not: {should} should")
            }
        },
        P::HeldByAdmin { kernel, note } => write!(f, "an admin holds kernel {kernel}{}", note.text(times)),
        P::HeldBack { kernel, lacks: lacking } => match lacks(lacking) {
            Some(lack) => write!(f, "kernel {kernel} is held back: it lacks {lack}"),
            None => write!(f, "kernel {kernel} is held back: it cannot be booted"),
        },
        // The others have been written.
        _ => Ok(()),
    }
}

/// The sentence on a module that will be missed.
fn write_module(f: &mut fmt::Formatter<'_>, record: &ModuleRecord) -> fmt::Result {
    let ModuleRecord { module, kernel, state, reason, .. } = record;
    let why = |other: &'static str| reason.as_deref().unwrap_or(other);
    match state {
        State::Blocked => {
            let why = why("something keeps it from being loaded");
            write!(f, "{module} will not be loaded on kernel {kernel}: {why}")
        }
        State::InitrdStale => {
            write!(f, "{module} is not ready for kernel {kernel}: {}", why("its initrd is another one"))
        }
        State::HookFailed => f.write_str(why("a hook script of its dkms.conf has failed")),
        State::SignatureRefused => f.write_str(why("the kernel will refuse it for its signature")),
        // Two modules are in it: the other one's name is half of the news.
        State::Conflict => {
            let why = why("another module has its file");
            write!(f, "{module} is not ready for kernel {kernel} (conflict): {why}")
        }
        State::NotManaged => {
            write!(
                f,
                "a reboot loses {module}: DKMS does not manage it, and kernel {kernel} does not have it"
            )
        }
        state if state.is_fine() => {
            write!(f, "{module} is in use and will not be there on kernel {kernel} ({state})")
        }
        state => {
            write!(f, "{module} is not ready for kernel {kernel} ({state})")?;
            let Some(version) = &record.in_force else { return Ok(()) };
            let older = ModuleName { name: module.name.clone(), version: version.clone() };
            write!(f, "; {older} is in force there")
        }
    }
}

/// Them in a sentence: of one why it is needed and how it is, of several their names, and what depends on the
/// first; none when there is none.
pub fn lacks(lacking: &[MissingModule]) -> Option<String> {
    let named = |lack: &MissingModule| match lack.class {
        Importance::Critical => format!("{} ({})", lack.module, lack.needed),
        _ => lack.module.clone(),
    };
    match lacking {
        [] => None,
        [one] => Some(one.to_string()),
        [first, others @ ..] => {
            let first = named(first);
            let names = std::iter::once(first.as_str()).chain(others.iter().map(|lack| lack.module.as_str()));
            Some(listed(&names.collect::<Vec<_>>()))
        }
    }
}

/// Names in a sentence: all of three, of more the first two.
pub(super) fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [one, other] => format!("{one} and {other}"),
        [one, other, third] => format!("{one}, {other} and {third}"),
        [one, other, more @ ..] => format!("{one}, {other} and {} more", more.len()),
    }
}
