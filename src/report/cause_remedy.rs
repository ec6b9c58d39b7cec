//! The remedy for the cause of a failed build.

use super::packages::Packages;
use super::remedy::{AdminCommand, CommandTarget, Remedy};
use crate::dkms::cause::{Cause, PackagingFault};
use crate::dkms::first_error::FirstError;
use crate::system::System;

/// What must be done before the build can succeed. `names` are the module and others that fail for the same
/// cause.
pub fn cause_remedy(error: Option<&FirstError>, names: &str, packages: &Packages) -> Remedy {
    let fix_module = || format!("fix or update {names}");
    let Some(error) = error else { return Remedy::by_hand(fix_module()) };
    let by_hand = match &error.cause {
        Cause::Headers { .. } => return packages.restore_headers().to("restore the kernel's headers").into(),
        Cause::Toolchain { lacks: Some(lacks), .. } if is_file(lacks) => return packages.install_file(lacks),
        Cause::Toolchain { .. } => {
            return packages.update().to("get the compiler of the kernel's headers").into();
        }
        Cause::MissingProgram { program } => return packages.install_file(program),
        Cause::Packaging(fault) => packaging(fault, error, names),
        Cause::Clang { .. } => {
            format!("{}, and put LLVM=1 into the MAKE of the dkms.conf of {names}", packages.clang())
        }
        Cause::NoSpace { filesystem: Some(path), inodes: false } => {
            format!("make room on the file system of {path}")
        }
        Cause::NoSpace { filesystem: Some(path), inodes: true } => {
            format!("delete files that are not needed on the file system of {path}: it has no free inode")
        }
        Cause::NoSpace { filesystem: None, .. } => "make room on the file system that is full".to_owned(),
        Cause::NoMemory => "end what needs much memory, or add swap".to_owned(),
        Cause::Dependency { needs: Some(needs) } => format!("install {needs}, which {names} is built upon"),
        Cause::Dependency { needs: None } => format!("install what {names} is built upon"),
        // The remedy for a machine that cannot confine it depends on the system: see `trust`.
        Cause::Module { .. } | Cause::NotConfined | Cause::Unknown => fix_module(),
    };
    Remedy::by_hand(by_hand)
}

/// The remedy if the machine cannot confine the programs of a module. For an image, the setting `trust` of
/// the machine that builds is unknown.
pub(super) fn trust(system: &System, run: Remedy) -> Remedy {
    if CommandTarget::of(system).is_image() {
        let trust = AdminCommand::change("clr-dkms-post-update", &["--trust"]);
        return trust.to("build them, if its modules are trusted").into();
    }
    let setting = "put `[build] trust = yes` into /etc/clr-dkms/clr-dkms.conf";
    Remedy::by_hand(format!("if the modules are trusted, {setting}")).then(run)
}

/// Whether it is a header or a library, and not an option or a version.
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
                "run `swupd search-file flex` to see which bundle has it, then install that bundle",
            ),
            (
                "/usr/src/x/dkms.conf: line 1: 3.4=1.2: command not found",
                "correct line 1 of /usr/src/x/dkms.conf",
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
            let found = cause_remedy(Some(&error), "hello/1.0", &Packages::Swupd { bundle: None });
            assert_eq!(found.text(&CommandTarget::here()), remedy, "{log}");
        }
    }
}
