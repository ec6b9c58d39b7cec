//! The states of a module on a kernel.

use serde::{Deserialize, Serialize};

use crate::dkms::Flaw;

/// The state of a module on a kernel, as all reports name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::VariantArray)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum State {
    /// Proven.
    Ok,
    /// It should be installed and is not; nothing was tried yet.
    NotBuilt,
    /// The current run is building it.
    Building,
    /// dkms, the compiler or the installation failed.
    BuildFailed,
    /// Something that it depends on is missing.
    DependencyFailed,
    /// The headers of this kernel are not installed.
    HeadersMissing,
    /// The headers are for another kernel.
    HeadersMismatch,
    /// Its dkms.conf excludes this kernel.
    SkippedExclusive,
    /// Its dkms.conf does not set AUTOINSTALL.
    NotAutoinstall,
    /// Another module makes a file with the same name and is installed on this kernel.
    Conflict,
    /// A program for builds is not installed: the compiler of the kernel, make or a linker.
    CompilerMissing,
    /// Its source or its dkms.conf cannot be used.
    BrokenSource,
    /// The installed file is for another kernel.
    VermagicMismatch,
    /// It was built with other symbol versions, or needs a symbol that does not exist.
    SymbolsMismatch,
    /// The kernel will refuse it because of its signature, or because it has none.
    SignatureRefused,
    /// modprobe does not find it.
    NotInModulesDep,
    /// It is in use, missing on this kernel, and not known to DKMS.
    NotManaged,
    /// modprobe.d or the kernel command line prevents it from being loaded.
    Blocked,
    /// The initrd of the kernel lacks it or contains another build.
    InitrdStale,
    /// Its files are proven; a hook script of its dkms.conf is missing or has failed.
    HookFailed,
    /// It cannot be determined.
    Unknown,
}

impl State {
    /// Its files are proven. The kernel may still refuse to load them.
    pub fn is_proven(self) -> bool {
        use State::{Blocked, HookFailed, InitrdStale, Ok, SignatureRefused};
        matches!(self, Ok | HookFailed | SignatureRefused | Blocked | InitrdStale)
    }

    /// Its files are proven, and the kernel loads them.
    pub fn works(self) -> bool {
        matches!(self, State::Ok | State::HookFailed)
    }

    /// No action is needed.
    pub fn is_fine(self) -> bool {
        matches!(self, State::Ok | State::SkippedExclusive | State::NotAutoinstall)
    }

    /// It is derived from the disk at any time, so a recorded one may be outdated.
    pub fn is_seen(self) -> bool {
        use State::{CompilerMissing, Conflict, HeadersMismatch, HeadersMissing};
        matches!(self, Conflict | CompilerMissing | HeadersMissing | HeadersMismatch)
    }
}

/// The state for these flaws, if nothing was tried, or trying did not help.
pub fn state_of(flaws: &[Flaw]) -> State {
    let is = |test: fn(&Flaw) -> bool| flaws.iter().any(test);
    if is(|f| {
        matches!(f, Flaw::Missing { .. } | Flaw::Damaged { .. } | Flaw::NotInstalled | Flaw::Differs { .. })
    }) {
        State::NotBuilt
    } else if is(|f| matches!(f, Flaw::Vermagic { .. })) {
        State::VermagicMismatch
    } else if is(|f| matches!(f, Flaw::Symbols { .. })) {
        State::SymbolsMismatch
    } else if is(|f| matches!(f, Flaw::NotListed { .. })) {
        State::NotInModulesDep
    } else if is(|f| matches!(f, Flaw::Dependency { .. })) {
        State::DependencyFailed
    } else {
        State::Unknown
    }
}
