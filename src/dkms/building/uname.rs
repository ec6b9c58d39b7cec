//! A replacement for `uname` in the make step, for modules whose Makefile builds for the running kernel. That
//! is the most frequent error in modules of DKMS, which builds for kernels that are not running yet.
//!
//! It comes first in the `PATH` of a build, and only if `make -n` names the headers of another kernel, or a
//! plain build has entered them. It changes only the answer to `-r`, and only for make: hook scripts that
//! dkms runs get the answer of the system.

use std::path::Path;

use anyhow::ensure;

use crate::dkms::ModuleName;
use crate::dkms::staging::Temporary;
use crate::sys::{FileKind, Root, Tools};

/// How many files of a source are searched for the line that asks for the running kernel.
const MOST_LISTED: usize = 5_000;
/// How many bytes of each file are searched.
const MAKEFILE: u64 = 256 << 10;

/// The script. Its caller is make if the process below dkms, among all between them, is a make: that is the
/// MAKE command, which dkms runs itself.
const SCRIPT: &str = r#"#!/bin/sh
# Made by clr-dkms for one build, and removed after it.
is_of_make() {
    pid=$PPID below=
    while [ "${pid:-0}" -gt 1 ]; do
        name= parent=
        while read -r key value; do
            case $key in
            Name:) name=$value ;;
            PPid:) parent=$value; break ;;
            esac
        done <"/proc/$pid/status" || return 1
        [ "$name" = dkms ] && { [ "$below" = make ] || [ "$below" = gmake ]; return; }
        below=$name pid=$parent
    done
    return 1
}
case $#$1 in
1-r | 1--kernel-release) if is_of_make 2>/dev/null; then echo 'RELEASE' && exit; fi ;;
esac
exec 'PROGRAM' "$@"
"#;

/// Creates a replacement in its own directory.
///
/// # Errors
///
/// If this machine has no `uname`, or the file cannot be written.
pub(in crate::dkms) fn lay_out<'a>(
    root: &'a Root,
    tools: &Tools,
    module: &ModuleName,
    release: &str,
) -> anyhow::Result<Temporary<'a>> {
    let own = tools.find("uname")?.display().to_string();
    // The release is the name of a directory, so it may contain quotes.
    ensure!(!release.contains('\'') && !own.contains('\''), "the name {release} cannot be quoted");
    let directory = Temporary::new(root, module, release, "-uname");
    let text = SCRIPT.replace("RELEASE", release).replace("PROGRAM", &own);
    root.write(format!("{}/uname", directory.path), text.as_bytes(), 0o755)?;
    Ok(directory)
}

/// The file and the line of a source that ask for the running kernel.
pub(in crate::dkms) fn asks_for_running(root: &Root, source: &Path) -> Option<(String, u32)> {
    let (mut waiting, mut left) = (vec![source.to_owned()], MOST_LISTED);
    while let Some(directory) = waiting.pop() {
        // Only used in a report, which is shorter if something cannot be listed or read.
        for entry in root.list_optional(&directory).unwrap_or_default() {
            left = left.checked_sub(1)?;
            let path = directory.join(&entry.name);
            let name = entry.name.to_string_lossy();
            match entry.kind {
                FileKind::Directory if name != ".git" => waiting.insert(0, path),
                FileKind::File if is_makefile(&name) => {
                    // As above.
                    let text = root.read_start(&path, MAKEFILE).unwrap_or_default();
                    if let Some(line) = running_line(&String::from_utf8_lossy(&text)) {
                        return Some((path.display().to_string(), line));
                    }
                }
                _ => {}
            }
        }
    }
    None
}

fn is_makefile(name: &str) -> bool {
    ["Makefile", "makefile", "GNUmakefile", "Kbuild", "dkms.conf"].contains(&name) || name.ends_with(".mk")
}

/// The first line that calls `uname` for the release and is not a comment.
fn running_line(text: &str) -> Option<u32> {
    let mut lines = text.lines().enumerate();
    let (at, _) = lines.find(|(_, line)| !line.trim_start().starts_with('#') && asks_release(line))?;
    // The text is at most MAKEFILE bytes long, so the number fits.
    u32::try_from(at + 1).ok()
}

/// Whether a text calls `uname` for the release of the running kernel.
pub(in crate::dkms) fn asks_release(text: &str) -> bool {
    let words = text.split(|c: char| c.is_whitespace() || "()`\"';|&".contains(c));
    let mut words = words.filter(|word| !word.is_empty());
    let is_call = |word: &str| word == "uname" || word.ends_with("/uname");
    words.any(is_call) && words.next().is_some_and(|option| matches!(option, "-r" | "--kernel-release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_asks_for_the_running_kernel() {
        for (text, line) in [
            ("obj-m := a.o\nKVER ?= $(shell uname -r)\n", Some(2)),
            ("# uname -r\nall:\n\tmake -C /lib/modules/`uname -r`/build\n", Some(3)),
            ("MAKE=\"make KVER=$(/usr/bin/uname --kernel-release)\"\n", Some(1)),
            ("ARCH := $(shell uname -m)\n", None),
            ("KVER ?= $(KERNELRELEASE)\n", None),
        ] {
            assert_eq!(running_line(text), line, "{text}");
        }
    }
}
