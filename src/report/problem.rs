//! The problems that reports list, and their sentences. A fault that the domain found brings its own
//! sentence, such as [`MenuFault`].

use std::fmt;

use serde::{Serialize, Serializer};
use strum::{EnumDiscriminants, IntoStaticStr};

use crate::automation::AutomationFault;
use crate::boot::deferral::SwupdLine;
use crate::boot::{MenuFault, SetBy};
use crate::boot_decision::OverrideNote;
use crate::cmdline::PARAMETER;
use crate::decide::entry_loss::EntryLoss;
use crate::decide::trial::UNCHECKED_BOOTS;
use crate::dkms::ModuleName;
use crate::dkms::plan::State;
use crate::requirement::{Importance, MissingModule};
use crate::state::{ModuleRecord, WaitingPart};
use crate::sys::TimeStyle;

/// One problem. The variants are in the order of their importance: a cause comes before its consequences.
#[derive(Debug, Clone, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(name(ProblemKind), derive(PartialOrd, Ord, IntoStaticStr, Serialize))]
#[strum_discriminants(strum(serialize_all = "kebab-case"), serde(rename_all = "kebab-case"))]
#[strum_discriminants(doc = "What kind of problem it is; the more important ones are smaller.")]
pub enum Problem {
    /// The kernel that boots next is not installed any more. `lacks`: the critical modules that will be
    /// missing.
    BootsRemoved { kernel: String, lacks: Vec<MissingModule> },
    /// The kernel that boots next lacks a critical module. `by`: the override of an admin that lets it boot.
    BootsWithout { kernel: String, lacks: Vec<MissingModule>, by: Option<AdminOverride> },
    /// No kernel has all that is needed. `best`: the best one, and what it lacks; none if there is no kernel.
    NoGoodKernel { best: Option<(String, Vec<MissingModule>)> },
    /// It is unknown which kernel boots next, and the kernels differ in what is needed. `remembered`: the
    /// release that the last run saw.
    NextBootUnknown { why: String, remembered: Option<String> },
    /// Another kernel than the chosen one boots next. `kernel`: the release of the one that boots next.
    /// `should`: the release of the one that should. `lacks`: what the kernel that boots next lacks, if that
    /// is the reason.
    WrongDefault { kernel: String, should: Option<String>, lacks: Vec<MissingModule> },
    /// An admin holds a kernel. `note`: the user, the time and the reason of the request.
    HeldByAdmin { kernel: String, note: OverrideNote },
    /// The first boot of a kernel has failed. `lack`: what did not work; none if its check did not come to an
    /// end. `back_to`: the release of the kernel that boots next, while the failed one runs.
    TrialFailed { kernel: String, lack: Option<MissingModule>, back_to: Option<String> },
    /// The machine was rebooted in an orderly way before a kernel on trial could be checked.
    TrialUnchecked { kernel: String },
    /// A kernel runs on trial. `fallback`: the release of the kernel that stays the boot default.
    OnTrial { kernel: String, fallback: String },
    /// A kernel is to be booted on trial, and the boot default is not the kernel to return to. `fallback`:
    /// the release of the kernel to return to. `default`: the release or the entry that is the boot default.
    /// `set_by`: what makes it the default.
    TrialOverridden { kernel: String, fallback: String, default: String, set_by: SetBy },
    /// A kernel is kept from becoming the boot default. `lacks`: what it lacks; empty if it cannot be booted.
    HeldBack { kernel: String, lacks: Vec<MissingModule> },
    /// A fact could not be read.
    Unreadable { what: String },
    /// The last run did not reach its end.
    RunBrokenOff,
    /// A module will be missed on a kernel.
    ModuleNotReady(Box<ModuleRecord>),
    /// A kernel will refuse a module for its signature, and the kernel command line does not change that.
    ModuleRefused(Box<ModuleRecord>),
    /// The boot files could not be updated.
    BootUpdateFailed { why: String },
    /// The boot entries are not correct.
    BootEntry(MenuFault),
    /// A kernel has no initrd of its own, but the running kernel has one. `path`: the expected path inside
    /// the root. `shown`: the expected path on the host.
    NoInitrd { kernel: String, path: String, shown: String },
    /// An entry that is written again as configured would lose something.
    EntryLoss(EntryLoss),
    /// The requests of an admin about the boot default cannot be read.
    OverridesLost { why: String },
    /// The kernel that an admin holds cannot be booted.
    HeldUnbootable { kernel: String },
    /// A line of swupd's configuration makes it update the boot files before the modules are proven.
    SwupdOverrides(SwupdLine),
    /// swupd could not be configured to leave the boot files to clr-dkms.
    SwupdNotAsked { why: String },
    /// `module.sig_unenforce` is wanted and not configured. `kernels`: the releases of the kernels without
    /// it. `of`: the number of kernels.
    ParameterMissing { kernels: Vec<String>, of: usize },
    /// Kernels or fragments have changed since the boot entries were written.
    BootFilesOutdated,
    /// A unit or a hook that starts clr-dkms does not do its work.
    Automation(AutomationFault),
    /// The configuration, or the environment of the last run, was faulty before it began.
    SetupFault { what: String },
    /// Another problem that the last run recorded.
    Recorded { what: String },
    /// A part of the boot files waits.
    Waiting(WaitingPart),
    /// The record of the last run cannot be used.
    RecordDamaged { why: String },
    /// No run has been made yet.
    NeverRun,
}

/// How an admin has allowed a kernel to boot that lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub enum AdminOverride {
    /// By `clr-dkms allow`.
    #[strum(to_string = "allowed by an admin")]
    Released,
    /// By `clr-dkms hold`.
    #[strum(to_string = "held by an admin")]
    Held,
}

impl Problem {
    /// The kind of problem.
    pub fn kind(&self) -> ProblemKind {
        self.into()
    }

    /// The module that it concerns, as `name/version`.
    pub fn module(&self) -> Option<String> {
        use Problem as P;
        match self {
            P::BootsRemoved { lacks, .. } | P::BootsWithout { lacks, .. } => {
                Some(lacks.first()?.module.clone())
            }
            P::WrongDefault { lacks, .. } | P::HeldBack { lacks, .. } => Some(lacks.first()?.module.clone()),
            P::NoGoodKernel { best } => Some(best.as_ref()?.1.first()?.module.clone()),
            P::TrialFailed { lack, .. } => Some(lack.as_ref()?.module.clone()),
            P::ModuleNotReady(record) | P::ModuleRefused(record) => Some(record.module.to_string()),
            P::EntryLoss(EntryLoss::Blocked { module, .. }) => Some(module.clone()),
            P::EntryLoss(EntryLoss::Refused { modules, .. }) => Some(modules.first()?.0.clone()),
            _ => None,
        }
    }

    /// The release of the kernel that it concerns.
    pub fn kernel(&self) -> Option<&str> {
        use Problem as P;
        match self {
            P::BootsRemoved { kernel, .. }
            | P::BootsWithout { kernel, .. }
            | P::WrongDefault { kernel, .. } => Some(kernel),
            P::HeldByAdmin { kernel, .. }
            | P::TrialFailed { kernel, .. }
            | P::TrialUnchecked { kernel }
            | P::OnTrial { kernel, .. }
            | P::TrialOverridden { kernel, .. }
            | P::HeldBack { kernel, .. }
            | P::HeldUnbootable { kernel } => Some(kernel),
            P::NoGoodKernel { best } => best.as_ref().map(|(kernel, _)| kernel.as_str()),
            P::ModuleNotReady(record) | P::ModuleRefused(record) => Some(&record.kernel),
            P::NoInitrd { kernel, .. } => Some(kernel),
            P::EntryLoss(
                EntryLoss::Refused { kernel, .. }
                | EntryLoss::Blocked { kernel, .. }
                | EntryLoss::Initrd { kernel, .. },
            ) => Some(kernel),
            P::ParameterMissing { kernels, .. } => kernels.first().map(String::as_str),
            _ => None,
        }
    }

    /// Whether it only says that something is unknown.
    pub fn is_unknown(&self) -> bool {
        match self {
            Problem::Unreadable { .. } | Problem::NextBootUnknown { .. } => true,
            Problem::ModuleNotReady(record) => record.state == State::Unknown,
            Problem::BootsWithout { lacks, .. } => are_unknown(lacks),
            Problem::NoGoodKernel { best } => best.as_ref().is_some_and(|(_, lacks)| are_unknown(lacks)),
            _ => false,
        }
    }

    /// Whether it concerns a module on a kernel.
    pub fn is_of_module(&self) -> bool {
        matches!(self, Problem::ModuleNotReady(_) | Problem::ModuleRefused(_))
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

/// JSON has the sentence of a problem.
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

/// The sentence about the kernel that boots next, or should.
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
                None if are_unknown(lacking) => {
                    write!(f, "it is unknown whether kernel {kernel}, which boots next, has {lack}")
                }
                Some(by) => write!(f, "kernel {kernel} boots next although it lacks {lack}: {by}"),
                None => write!(f, "kernel {kernel} boots next, without {lack}"),
            }
        }
        P::NoGoodKernel { best: Some((kernel, lacking)) } if are_unknown(lacking) => {
            let lack = lacks(lacking).unwrap_or_default();
            write!(
                f,
                "it is unknown whether a kernel has all that is needed; the best is {kernel}, if it has {lack}"
            )
        }
        P::NoGoodKernel { best: Some((kernel, lacking)) } => {
            let lack = lacks(lacking).unwrap_or_default();
            write!(f, "no kernel has all that is needed; the best is {kernel}, without {lack}")
        }
        P::NoGoodKernel { best: None } => f.write_str("there is no kernel with what is needed"),
        P::WrongDefault { kernel, should, lacks: lacking } => match (lacks(lacking), should) {
            (Some(lack), _) if are_unknown(lacking) => {
                write!(f, "kernel {kernel} boots next, and it is unknown whether it has {lack}")
            }
            (Some(lack), _) => write!(f, "kernel {kernel} boots next, and lacks {lack}"),
            (None, should) => {
                let should = should.as_deref().unwrap_or("another one");
                write!(f, "kernel {kernel} boots next, and should not: {should} should")
            }
        },
        P::HeldByAdmin { kernel, note } => write!(f, "an admin holds kernel {kernel}{}", note.text(times)),
        P::HeldBack { kernel, lacks: lacking } => match lacks(lacking) {
            Some(lack) if are_unknown(lacking) => {
                write!(f, "kernel {kernel} is held back: it is unknown whether it has {lack}")
            }
            Some(lack) => write!(f, "kernel {kernel} is held back: it lacks {lack}"),
            None => write!(f, "kernel {kernel} is held back: it cannot be booted"),
        },
        trial => write_trial(f, trial),
    }
}

/// The sentence about a kernel that is, or was, on trial.
fn write_trial(f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
    use Problem as P;
    match problem {
        P::TrialFailed { kernel, lack: Some(lack), back_to } => {
            let MissingModule { module, needed, reason, .. } = lack;
            match back_to {
                // The message of the day has room for the first half.
                Some(older) => write!(
                    f,
                    "kernel {kernel} does not work, a reboot brings {older} back: {module} ({needed}) failed, \
                     {reason}"
                ),
                None => write!(
                    f,
                    "kernel {kernel} is held back: {module} ({needed}) did not work on it, {reason}"
                ),
            }
        }
        P::TrialFailed { kernel, lack: None, .. } => {
            write!(
                f,
                "kernel {kernel} is held back: its boot on trial ended before it had shown that it works"
            )
        }
        P::TrialUnchecked { kernel } => write!(
            f,
            "kernel {kernel} is held back: the machine was rebooted {UNCHECKED_BOOTS} times before it could be \
             checked"
        ),
        P::OnTrial { kernel, fallback } => write!(
            f,
            "kernel {kernel} runs on trial: {fallback} stays the boot default until everything critical works"
        ),
        P::TrialOverridden { kernel, default, set_by: set_by @ SetBy::LoaderEntryDefault, .. } => {
            write!(f, "{set_by} chooses {default} for every boot: ")?;
            match kernel == default {
                true => f.write_str("nothing returns from it if it does not work"),
                false => write!(
                    f,
                    "only a power failure boots kernel {kernel} on trial, an orderly reboot ends that"
                ),
            }
        }
        P::TrialOverridden { kernel, fallback, default, set_by } => write!(
            f,
            "{set_by} is {default}: after a power failure nothing returns to {fallback} if kernel {kernel} does \
             not work on trial"
        ),
        // The other variants were written already.
        _ => Ok(()),
    }
}

/// The sentence about a module that will be missed.
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
        // The name of the other module is an important part of the message.
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

/// Whether it cannot be determined of any of these modules that it is missing.
pub(super) fn are_unknown(lacking: &[MissingModule]) -> bool {
    let unknown = State::Unknown.to_string();
    !lacking.is_empty() && lacking.iter().all(|lack| lack.state == unknown)
}

/// Missing modules as a phrase. For one module it includes its purpose and state; for several, their names
/// and what depends on the first. None if there are none.
pub fn lacks(lacking: &[MissingModule]) -> Option<String> {
    let named = |lack: &MissingModule| match lack.class {
        Importance::Critical => format!("{} ({})", lack.module, lack.needed),
        _ => lack.module.clone(),
    };
    match lacking {
        [] => None,
        // The sentence says already that its state is unknown.
        [one] if are_unknown(lacking) => Some(named(one)),
        [one] => Some(one.to_string()),
        [first, others @ ..] => {
            Some(listed([named(first)].iter().chain(others.iter().map(|lack| &lack.module))))
        }
    }
}

/// Names in a sentence: up to three, otherwise the first two and the number of others.
pub(super) fn listed<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    match names.into_iter().collect::<Vec<T>>().as_slice() {
        [] => String::new(),
        [one] => one.to_string(),
        [one, other] => format!("{one} and {other}"),
        [one, other, third] => format!("{one}, {other} and {third}"),
        [one, other, more @ ..] => format!("{one}, {other} and {} more", more.len()),
    }
}
