//! Every verdict, every state of a module and every class, with an id that stays the same, what it means, where it comes from, and one
//! next command. `clr-dkms explain` and clr-dkms-states(7) are made of this table.

use serde::Serialize;

use super::Verdict;
use super::remedies::{of_state, of_verdict};
use super::remedy::{AdminCommand, CommandTarget, Remedy};
use crate::dkms::ModuleName;
use crate::dkms::plan::State;
use crate::requirement::Importance;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// `CD-0…` for verdicts, `CD-1…` for states of a module on a kernel, `CD-2…` for how much a module is needed.
    pub id: &'static str,
    /// The word that screens and JSON use.
    pub name: &'static str,
    /// What it means, in one sentence.
    pub meaning: &'static str,
    /// Where it comes from.
    pub cause: &'static str,
    /// The next command or step; none where there is nothing to do.
    pub next: Option<String>,
}

fn row(
    id: &'static str,
    name: &'static str,
    meaning: &'static str,
    cause: &'static str,
    next: Option<Remedy>,
) -> Explained {
    Explained { id, name, meaning, cause, next: next.map(|remedy| remedy.text(&CommandTarget::here())) }
}

/// The row of a verdict.
pub fn verdict(verdict: Verdict) -> Explained {
    let next = of_verdict(verdict);
    match verdict {
        Verdict::Healthy => row(
            "CD-001",
            "healthy",
            "The kernel that runs is the one that boots next, and all modules are there.",
            "Every module that this machine wants is built and proven, and no reboot is due.",
            next,
        ),
        Verdict::RebootPending => row(
            "CD-002",
            "reboot-pending",
            "All modules are there for the next boot, and only a reboot makes them work.",
            "An update has brought a kernel, for which its modules are built and proven; or the running kernel refuses them \
             until it is booted with the command line that its boot entry has now.",
            next,
        ),
        Verdict::Building => row(
            "CD-003",
            "building",
            "Modules are being built now.",
            "An update, or somebody with `clr-dkms rebuild`, has asked for it. `journalctl -fu clr-dkms` shows how it goes.",
            next,
        ),
        Verdict::Degraded => row(
            "CD-004",
            "degraded",
            "Something is missing or failed; what boots next has all that is critical.",
            "A build failed or something that builds need is missing; or the boot files, the command line or the configuration \
             are not as they should be. The screen of `clr-dkms status` names it below its first line.",
            next,
        ),
        Verdict::Held => row(
            "CD-005",
            "held",
            "The newest kernel is kept from becoming the boot default; a kernel that has what is needed boots next.",
            "A module that works on the running kernel and is needed is not proven for the newest one, or an admin holds a \
             kernel. `sudo clr-dkms release` goes ahead all the same.",
            next,
        ),
        Verdict::Unsafe => row(
            "CD-006",
            "unsafe",
            "What boots next is without a module that is critical, or no kernel has all that is needed.",
            "The boot default was changed by something else, or is a kernel that is not installed any more; the module is gone from every kernel or will be refused for its \
             signature, or an admin released a kernel that lacks it.",
            next,
        ),
        Verdict::Unknown => row(
            "CD-007",
            "unknown",
            "It is unknown whether the modules will be there.",
            "A file or directory cannot be read, or it is unknown which kernel boots next: most often because a normal user \
             asks.",
            next,
        ),
        Verdict::NotApplicable => row(
            "CD-008",
            "not-applicable",
            "There is no kernel of clr-boot-manager on this system.",
            "It is no Clear Linux, or its kernels come from elsewhere.",
            next,
        ),
    }
}

/// What helps a module in a state, whatever module and kernel it is.
fn next_for_any_module(state: State) -> Option<Remedy> {
    if state.is_fine()
        && state != State::Building
        && state != State::NotAutoinstall
        && state != State::SkippedExclusive
    {
        return None;
    }
    let module = ModuleName { name: "MODULE".to_owned(), version: "VERSION".to_owned() };
    let build = AdminCommand::change("clr-dkms-post-update", &[]);
    Some(of_state(state, &module, "the module", "KERNEL", Some("BUNDLE"), build.into()))
}

/// The row of a state.
pub fn state(state: State) -> Explained {
    let next = next_for_any_module(state);
    match state {
        State::Ok => row(
            "CD-100",
            "ok",
            "The module is proven: built for this kernel, found by modprobe, and taken by the kernel.",
            "It was built with the headers of this kernel, and has not been changed since.",
            next,
        ),
        State::NotBuilt => row(
            "CD-101",
            "not-built",
            "The module should be there and is not; nothing has been tried yet.",
            "A kernel or a module is new, or files were deleted.",
            next,
        ),
        State::Building => row(
            "CD-116",
            "building",
            "A run that is at work builds the module now, or will.",
            "An update, or somebody with `clr-dkms rebuild`, has asked for it. `journalctl -fu clr-dkms` shows how it goes.",
            next,
        ),
        State::BuildFailed => row(
            "CD-102",
            "build-failed",
            "dkms, the compiler or the installation failed.",
            "Most often the source of the module does not know this kernel yet; also a full disk or too little memory. With \
             the same source, headers and compiler it is not tried again by itself. `clr-dkms logs MODULE` shows the first error.",
            next,
        ),
        State::DependencyFailed => row(
            "CD-103",
            "dependency-failed",
            "Something that the module needs is not there.",
            "A module that it is built upon (BUILD_DEPENDS), or that it is loaded on top of, is missing for this kernel. \
             One that is not registered with dkms has to be installed first.",
            next,
        ),
        State::HeadersMissing => row(
            "CD-104",
            "headers-missing",
            "The kernel's headers are not installed: nothing can be built for it.",
            "The kernel's bundle is there without the one that brings its headers: kernel-native-dkms for native; \
             `clr-dkms-variant --long` names that of another variant.",
            next,
        ),
        State::HeadersMismatch => row(
            "CD-105",
            "headers-mismatch",
            "The headers are those of another kernel: modules built with them would not load.",
            "Kernel and headers were updated only in part, or a link in /usr/lib/modules leads elsewhere.",
            next,
        ),
        State::SkippedExclusive => row(
            "CD-106",
            "skipped-exclusive",
            "The module's dkms.conf excludes this kernel.",
            "BUILD_EXCLUSIVE_KERNEL or the like: its author says that it is not for this kernel. `clr-dkms lint MODULE` shows \
             the pattern.",
            next,
        ),
        State::NotAutoinstall => row(
            "CD-107",
            "not-autoinstall",
            "The module's dkms.conf does not ask to be built by itself.",
            "AUTOINSTALL is missing or is not `yes`: with AUTOINSTALL=\"yes\" it is built after each update.",
            next,
        ),
        State::BrokenSource => row(
            "CD-108",
            "broken-source",
            "The source or the dkms.conf of the module cannot be used.",
            "The directory in /usr/src is gone, or its dkms.conf has an error.",
            next,
        ),
        State::VermagicMismatch => row(
            "CD-109",
            "vermagic-mismatch",
            "The installed file was made for another kernel: this one refuses it.",
            "A build with the headers of another kernel, or two runs of dkms at once.",
            next,
        ),
        State::NotInModulesDep => row(
            "CD-110",
            "not-in-modules-dep",
            "The file is there, and modprobe does not find it.",
            "swupd has put its own modules.dep back, or depmod was not run.",
            next,
        ),
        State::Blocked => row(
            "CD-118",
            "blocked",
            "The module is proven, and modprobe.d or the kernel command line keeps it from being loaded.",
            "`install MODULE /bin/false`, `blacklist MODULE` where nothing loads the module by its name, or module_blacklist= \
             or modprobe.blacklist= on the command line of the next boot; for the module or for one that it needs. \
             modules-load.d does not load a blacklisted module.",
            next,
        ),
        State::InitrdStale => row(
            "CD-119",
            "initrd-stale",
            "The module is proven, and the initrd of the kernel lacks it or holds another build.",
            "The initrd of the running kernel holds the module, something critical depends on it, and the initrd of this \
             kernel was not made, or was made before the module was built.",
            next,
        ),
        State::HookFailed => row(
            "CD-120",
            "hook-failed",
            "The module is proven, and a hook script of its dkms.conf is missing or has failed.",
            "PRE_BUILD, POST_BUILD, PRE_INSTALL or POST_INSTALL names a file that is not there or is not executable, or \
             the script ended with an error: what it does for the module, such as udev rules, is not done. dkms only \
             warns, or says nothing.",
            next,
        ),
        State::SignatureRefused => row(
            "CD-111",
            "signature-refused",
            "The module is there, and the kernel will refuse it for its signature.",
            "The kernel demands signatures, and module.sig_unenforce is not in force.",
            next,
        ),
        State::Unknown => row(
            "CD-112",
            "unknown",
            "It cannot be determined.",
            "A file cannot be read, a dkms.conf could not be evaluated in time, or the symbols that a module takes \
             could not be compared: without the headers' Module.symvers the names in System.map are asked, and what \
             was checked once holds for the same file.",
            next,
        ),
        State::SymbolsMismatch => row(
            "CD-113",
            "symbols-mismatch",
            "The module needs a symbol that nothing exports, or in another version than it is exported.",
            "The kernel, or a module beneath, was built again since the module was.",
            next,
        ),
        State::Conflict => row(
            "CD-114",
            "conflict",
            "Another module has a file of the same name installed.",
            "Two modules make one file: one of them can have it.",
            next,
        ),
        State::CompilerMissing => row(
            "CD-115",
            "compiler-missing",
            "The compiler, the linker or make is not installed: nothing can be built.",
            "The bundle c-basic is not there.",
            next,
        ),
        State::NotManaged => row(
            "CD-117",
            "not-managed",
            "The module is in use, DKMS does not manage it, and this kernel does not have it: a reboot loses it.",
            "It was installed by hand, by a vendor's installer or by a package, for another kernel; or its entry in the DKMS tree \
             is lost. No run builds it: its source has to be registered first.",
            next,
        ),
    }
}

/// The row of a class.
pub fn class(class: Importance) -> Explained {
    let guard = AdminCommand::look("clr-dkms", &["guard"]).to("see what each module is needed for");
    let next = Some(guard.into());
    match class {
        Importance::Critical => row(
            "CD-201",
            "critical",
            "Without the module there is no root, no disk, no network or no picture: a kernel without it is held back.",
            "Something that is mounted, connected or shown depends on it, or did when it could load last, or `[modules] critical` \
             in clr-dkms.conf lists it. Whether DKMS manages it makes no difference. `clr-dkms forget MODULE` ends what is only \
             remembered.",
            next,
        ),
        Importance::Wanted => row(
            "CD-202",
            "wanted",
            "The module is in use here: a kernel without it is held back.",
            "It is loaded in the running kernel, installed for it in some version, listed in modules-load.d or in `[modules] \
             wanted`, or was so before and was lost without being removed. `clr-dkms forget MODULE` ends what is only remembered.",
            next,
        ),
        Importance::Optional => row(
            "CD-203",
            "optional",
            "No kernel is held back for the module; a run builds it like the others, if DKMS manages it.",
            "The running kernel does not have it and nothing names it; or DKMS does not manage it and nothing depends on it; or \
             `[modules] optional` lists it.",
            next,
        ),
    }
}

/// All rows, by id.
pub fn all() -> Vec<Explained> {
    use State as S;
    use Verdict as V;
    let verdicts = [
        V::Healthy,
        V::RebootPending,
        V::Building,
        V::Degraded,
        V::Held,
        V::Unsafe,
        V::Unknown,
        V::NotApplicable,
    ];
    let states = [
        S::Ok,
        S::NotBuilt,
        S::BuildFailed,
        S::DependencyFailed,
        S::HeadersMissing,
        S::HeadersMismatch,
        S::SkippedExclusive,
        S::NotAutoinstall,
        S::BrokenSource,
        S::VermagicMismatch,
        S::NotInModulesDep,
        S::SignatureRefused,
        S::Unknown,
        S::SymbolsMismatch,
        S::Conflict,
        S::CompilerMissing,
        S::Building,
        S::NotManaged,
        S::Blocked,
        S::InitrdStale,
        S::HookFailed,
    ];
    let classes = [Importance::Critical, Importance::Wanted, Importance::Optional];
    verdicts.map(verdict).into_iter().chain(states.map(state)).chain(classes.map(class)).collect()
}

/// The rows that an id or a name stands for: `unknown` is a verdict and a state.
pub fn find(asked: &str) -> Vec<Explained> {
    let fits = |row: &Explained| row.id.eq_ignore_ascii_case(asked) || row.name.eq_ignore_ascii_case(asked);
    all().into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_row_has_its_own_id_and_the_word_of_the_screens() {
        let rows = all();
        let ids: BTreeSet<&str> = rows.iter().map(|r| r.id).collect();
        assert_eq!(ids.len(), rows.len());
        assert!(rows.windows(2).all(|pair| pair[0].id < pair[1].id), "by id");
        for verdict in [Verdict::Healthy, Verdict::Held, Verdict::Unsafe, Verdict::NotApplicable] {
            assert_eq!(super::verdict(verdict).name, verdict.to_string());
        }
        for state in [State::Ok, State::SymbolsMismatch, State::CompilerMissing, State::NotInModulesDep] {
            assert_eq!(super::state(state).name, state.to_string());
        }
        for class in [Importance::Critical, Importance::Wanted, Importance::Optional] {
            assert_eq!(super::class(class).name, class.to_string());
        }
        assert_eq!(find("cd-102")[0].name, "build-failed");
        assert_eq!(find("unknown").len(), 2);
        assert!(find("nothing").is_empty());
    }
}
