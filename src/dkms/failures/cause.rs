//! The cause of a failed build: what has to change before it can succeed.
//! [`crate::dkms::first_error::ErrorKind`], in contrast, says which program printed the error.

use serde::{Deserialize, Deserializer, Serialize};
use strum::{IntoStaticStr, VariantNames};

use crate::dkms::first_error::{ErrorKind, FirstError};
use crate::sys::Shortage;

/// Why a build failed, with the values that its remedy needs. A value is none if the log does not contain it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[serde(tag = "cause", rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Cause {
    /// The module's source does not support this kernel.
    Module {
        /// The symbol, type or function that this kernel lacks or defines differently.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        symbol: Option<String>,
        /// The header that this kernel lacks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        header: Option<String>,
    },
    /// `dkms.conf`, a Makefile, a patch or a hook script is wrong. The file and line are those of the error.
    Packaging(PackagingFault),
    /// The kernel's headers are missing or broken.
    Headers {
        /// The missing file or directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        missing: Option<String>,
    },
    /// The compiler, its plugins, a library or pahole does not fit the kernel's headers.
    Toolchain {
        /// The compiler of the kernel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kernel_compiler: Option<String>,
        /// The compiler on this machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compiler: Option<String>,
        /// What the toolchain lacks: an option, a library, a header of a library, or a version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lacks: Option<String>,
    },
    /// The kernel was built with clang, the module with another compiler.
    Clang {
        /// The compiler of the kernel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kernel_compiler: Option<String>,
    },
    /// A file system is full, or a quota is used up.
    NoSpace {
        /// A path on that file system.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filesystem: Option<String>,
        /// It has room, and no free inode.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        inodes: bool,
    },
    /// There was not enough memory.
    NoMemory,
    /// A program is not installed.
    MissingProgram {
        /// The name of the program, or of the Perl or Python module.
        program: String,
    },
    /// Another module that this one depends on is missing.
    Dependency {
        /// The name of that module.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        needs: Option<String>,
    },
    /// The machine offers neither namespaces nor Landlock, and its modules are not trusted.
    NotConfined,
    /// Unknown, or a cause that only later versions know.
    #[default]
    Unknown,
}

/// What is wrong in the packaging of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum PackagingFault {
    /// It builds for another kernel than requested, usually for the running one.
    OtherKernel {
        /// The release that it builds for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<String>,
    },
    /// make succeeded without making a file that `dkms.conf` names.
    WrongName {
        /// The file that `dkms.conf` names.
        expected: String,
        /// The files that were made.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        built: Vec<String>,
    },
    /// There is no Makefile, or it has no target.
    NoMakefile {
        /// The directory without a Makefile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        directory: Option<String>,
    },
    /// A file that the Makefile needs is not part of the source.
    MissingFile {
        /// The name of the file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// A patch of `dkms.conf` is missing or does not apply.
    Patch {
        /// The name of the patch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        patch: Option<String>,
    },
    /// A script is missing, is not executable or fails.
    Script {
        /// The name of the script.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        script: Option<String>,
    },
    /// The Makefile sets `SUBDIRS`, which kernels of 5.4 and later ignore.
    Subdirs,
    /// The Makefile or `dkms.conf` contains an error.
    Mistake,
}

impl Cause {
    /// The cause without its values.
    pub fn word(&self) -> &'static str {
        self.into()
    }
}

/// For a flattened field: a record without a cause, or with one of a later version, can still be read.
pub(in crate::dkms) fn known_or_unknown<'de, D: Deserializer<'de>>(from: D) -> Result<Cause, D::Error> {
    Option::<Cause>::deserialize(from).map(Option::unwrap_or_default)
}

/// The phase of dkms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Applying a patch of `dkms.conf`.
    Patch,
    /// Running the PRE_BUILD script.
    PreBuild,
    /// Running the MAKE command.
    Make,
    /// Running the POST_BUILD script.
    PostBuild,
    /// Running the PRE_INSTALL script.
    PreInstall,
    /// Installing the files.
    Install,
    /// Running the POST_INSTALL script.
    PostInstall,
    /// A phase that only later versions know.
    #[serde(other)]
    Other,
}

/// That a filesystem is full, as the rest of a sentence.
pub fn lack_of(lack: Shortage) -> &'static str {
    match lack {
        Shortage::Space => "is full",
        Shortage::Inodes => "has no free inode",
    }
}

/// Errors that are not found in a line of a log.
impl FirstError {
    /// The error of a build that met a full file system. The affected programs often cannot write their own
    /// message.
    pub fn of_full(found: Option<FirstError>, filesystem: String, lack: Shortage) -> FirstError {
        let message = format!("{filesystem} {}", lack_of(lack));
        let cause = Cause::NoSpace { filesystem: Some(filesystem), inodes: lack == Shortage::Inodes };
        let unsaid = FirstError { kind: ErrorKind::NoSpace, message, ..FirstError::default() };
        match found {
            Some(found) if found.is_in_source() => found,
            found => FirstError { cause, ..found.unwrap_or(unsaid) },
        }
    }

    /// The error of a build that was not started because the machine cannot confine it.
    pub fn not_confined(message: String) -> FirstError {
        FirstError { cause: Cause::NotConfined, message, ..FirstError::default() }
    }

    /// The error of a build that succeeded for another kernel.
    pub fn of_other_kernel(release: String) -> FirstError {
        FirstError {
            kind: ErrorKind::Make,
            message: format!("it builds for kernel {release}"),
            cause: Cause::Packaging(PackagingFault::OtherKernel { release: Some(release) }),
            phase: Some(Phase::Make),
            ..FirstError::default()
        }
    }

    /// The error of a hook script that printed none.
    pub fn of_hook(phase: Phase, message: &str, command: &str) -> FirstError {
        let script = command.split_ascii_whitespace().next().map(str::to_owned);
        FirstError {
            kind: ErrorKind::Script,
            cause: Cause::Packaging(PackagingFault::Script { script }),
            phase: Some(phase),
            message: message.to_owned(),
            ..FirstError::default()
        }
    }
}

impl FirstError {
    /// The build was for another kernel than requested.
    pub fn is_for_other_kernel(&self) -> bool {
        matches!(self.cause, Cause::Packaging(PackagingFault::OtherKernel { .. }))
    }
}

impl Phase {
    /// The phase runs a hook script of dkms.conf.
    pub fn is_hook(self) -> bool {
        matches!(self, Phase::PreBuild | Phase::PostBuild | Phase::PreInstall | Phase::PostInstall)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_json_has_the_words() {
        let some = || Some("x".to_owned());
        let causes = [
            Cause::Module { symbol: some(), header: None },
            Cause::Packaging(PackagingFault::Subdirs),
            Cause::Headers { missing: None },
            Cause::Toolchain { kernel_compiler: some(), compiler: some(), lacks: None },
            Cause::Clang { kernel_compiler: None },
            Cause::NoSpace { filesystem: some(), inodes: true },
            Cause::NoMemory,
            Cause::MissingProgram { program: "bc".to_owned() },
            Cause::Dependency { needs: some() },
            Cause::NotConfined,
            Cause::Unknown,
        ];
        for (cause, word) in causes.iter().zip(Cause::VARIANTS) {
            let json = serde_json::to_value(cause).unwrap();
            assert_eq!((json["cause"].as_str(), cause.word()), (Some(*word), *word));
            assert_eq!(serde_json::from_value::<Cause>(json).unwrap(), *cause);
        }
        assert_eq!(causes.len(), Cause::VARIANTS.len());
    }
}
