//! What helps against the cause of a failed build.

use crate::dkms::cause::{Cause, PackagingFault};
use crate::dkms::first_error::FirstError;

/// What has to be done before the build can succeed, in words that go on with "then run …". `names` is the
/// module, and others that fail for the same cause.
pub(super) fn cause_remedy(error: Option<&FirstError>, names: &str) -> String {
    let Some(error) = error else { return format!("fix or update {names}") };
    match &error.cause {
        Cause::Module { .. } | Cause::Unknown | Cause::NotConfined => format!("fix or update {names}"),
        Cause::Packaging(fault) => packaging(fault, error, names),
        Cause::Headers { .. } => "`swupd repair`, which brings the kernel's headers again".to_owned(),
        Cause::Toolchain { lacks: Some(lacks), .. } if is_file(lacks) => {
            format!("install the bundle with {lacks}, which `swupd search-file {lacks}` finds")
        }
        Cause::Toolchain { .. } => {
            "`swupd update`, so that the compiler is the one of the kernel's headers".to_owned()
        }
        Cause::Clang { .. } => {
            format!("install clang (bundle llvm), and put LLVM=1 into the MAKE of the dkms.conf of {names}")
        }
        Cause::NoSpace { filesystem: Some(path) } => format!("make room on the file system of {path}"),
        Cause::NoSpace { filesystem: None } => "make room on the file system that is full".to_owned(),
        Cause::NoMemory => "end what needs much memory, or add swap".to_owned(),
        Cause::MissingProgram { program } => {
            format!("install the bundle with {program}, which `swupd search-file {program}` finds")
        }
        Cause::Dependency { needs: Some(needs) } => format!("bring {needs}, which {names} is built upon"),
        Cause::Dependency { needs: None } => format!("bring what {names} is built upon"),
    }
}

/// A header or a library, and not an option or a version.
fn is_file(lacks: &str) -> bool {
    lacks.ends_with(".h") || lacks.starts_with("lib")
}

fn packaging(fault: &PackagingFault, error: &FirstError, names: &str) -> String {
    let place = match (&error.file, error.line) {
        (Some(file), Some(line)) => format!("line {line} of {file}"),
        (Some(file), None) => file.clone(),
        (None, _) => format!("the dkms.conf or the Makefile of {names}"),
    };
    match fault {
        PackagingFault::OtherKernel { release: Some(release) } => {
            format!("correct {place}, which builds for kernel {release}")
        }
        PackagingFault::OtherKernel { release: None } => {
            format!("correct {place}, which builds for the running kernel")
        }
        PackagingFault::WrongName { expected, .. } => {
            format!("correct the dkms.conf of {names}, which names {expected}")
        }
        PackagingFault::NoMakefile { .. } | PackagingFault::MissingFile { .. } => {
            format!("install the source of {names} again: it is not complete")
        }
        PackagingFault::Patch { patch: Some(patch) } => format!("correct {patch}, or update {names}"),
        PackagingFault::Patch { patch: None } => format!("correct the patch, or update {names}"),
        PackagingFault::Script { script: Some(script) } => format!("correct {script} of {names}"),
        PackagingFault::Script { script: None } => format!("correct the hook script of {names}"),
        PackagingFault::Subdirs => format!("put M= in the place of SUBDIRS= in the Makefile of {names}"),
        PackagingFault::Mistake => format!("correct {place}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dkms::first_error::find;

    #[test]
    fn what_helps_depends_on_the_cause() {
        for (log, remedy) in [
            ("a.c:1:1: error: unknown type name 'x'", "fix or update hello/1.0"),
            (
                "/bin/sh: 1: flex: not found",
                "install the bundle with flex, which `swupd search-file flex` finds",
            ),
            ("cp: error writing '/a/b': No space left on device", "make room on the file system of /a/b"),
            (
                "gcc: fatal error: Killed signal terminated program cc1",
                "end what needs much memory, or add swap",
            ),
            ("Makefile:4: *** missing 'endif'.  Stop.", "correct line 4 of Makefile"),
            ("Error! Application of patch fix.patch failed.", "correct fix.patch, or update hello/1.0"),
            (
                "gcc: error: unrecognized command-line option '-mllvm'",
                "install clang (bundle llvm), and put LLVM=1 into the MAKE of the dkms.conf of hello/1.0",
            ),
        ] {
            let error = find(log).error.unwrap();
            assert_eq!(cause_remedy(Some(&error), "hello/1.0"), remedy, "{log}");
        }
    }
}
