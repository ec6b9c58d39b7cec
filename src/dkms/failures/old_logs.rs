//! Finds logs of clr-dkms that are no longer of use.

use crate::dkms::ModuleName;
use crate::dkms::gc::{GcLeftover, GcRefusal, Observed, Thing};
use crate::dkms::log::LOGS;
use crate::dkms::tree::TREE;
use crate::sys::{FileError, FileKind, Listed, Root};

/// Logs that are younger than this many nanoseconds (90 days) are kept.
const KEPT: i128 = 90 * 24 * 3600 * 1_000_000_000;

/// Adds the old logs to the observations. `now_ns` is the time in nanoseconds since the epoch. A directory of
/// logs that cannot be read is kept, without effect on anything else: it says nothing about kernels.
pub fn observe(root: &Root, now_ns: i128, found: &mut Observed) {
    if let Err(e) = look(root, now_ns, found) {
        found.odd.push(GcRefusal { what: LOGS.to_owned(), why: e.to_string() });
    }
}

fn look(root: &Root, now_ns: i128, found: &mut Observed) -> Result<(), FileError> {
    for name in directory(root, LOGS)? {
        let Some(text) = directory_name(&name) else { continue };
        let path = format!("{LOGS}/{text}");
        for entry in directory(root, &path)? {
            // An earlier version had them here, in a directory NAME-VERSION.
            logs(root, &path, &entry, now_ns, || was_split(root, text), found);
            let Some(version) = directory_name(&entry) else { continue };
            let inner = format!("{path}/{version}");
            let module = ModuleName { name: text.to_owned(), version: version.to_owned() };
            for log in directory(root, &inner)? {
                logs(root, &inner, &log, now_ns, || is_gone(root, &module), found);
            }
        }
    }
    Ok(())
}

/// The entries of a directory; none for a symlink, which may lead anywhere.
fn directory(root: &Root, path: &str) -> Result<Vec<Listed>, FileError> {
    if root.lookup_link(path).is(FileKind::Directory) { root.list(path) } else { Ok(Vec::new()) }
}

fn directory_name(entry: &Listed) -> Option<&str> {
    entry.text().filter(|_| entry.kind == FileKind::Directory)
}

fn logs(
    root: &Root,
    directory: &str,
    entry: &Listed,
    now_ns: i128,
    orphan: impl Fn() -> bool,
    found: &mut Observed,
) {
    let Some(release) = entry.text().and_then(release_of_log) else { return };
    let path = format!("{directory}/{}", entry.name.to_string_lossy());
    let stat = root.lookup_link(&path).stat().filter(|stat| stat.kind == FileKind::File);
    let Some(stat) = stat.filter(|stat| now_ns - stat.mtime_ns > KEPT) else { return };
    let left = GcLeftover::Log { orphan: orphan() };
    found.things.push(Thing { release: release.to_owned(), left, path, bytes: stat.size, blocker: None });
}

/// The kernel of a log named `K.log` or `K.log.3`.
fn release_of_log(name: &str) -> Option<&str> {
    let plain = match name.rsplit_once('.') {
        // What is not a number is a part of the release.
        Some((log, number)) if number.parse::<u8>().is_ok() => log,
        _ => name,
    };
    plain.strip_suffix(".log").filter(|release| !release.is_empty())
}

/// Whether the module is certainly not in the tree.
fn is_gone(root: &Root, module: &ModuleName) -> bool {
    root.lookup_link(format!("{TREE}/{module}")).is_absent()
}

/// Whether none of the modules that `NAME-VERSION` may mean is in the tree.
fn was_split(root: &Root, directory: &str) -> bool {
    let module = |(at, _): (usize, &str)| ModuleName {
        name: directory[..at].to_owned(),
        version: directory[at + 1..].to_owned(),
    };
    directory.match_indices('-').map(module).all(|module| is_gone(root, &module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_a_log() {
        let k = Some("6.15.7-1591.native");
        for (name, release) in [
            ("6.15.7-1591.native.log", k),
            ("6.15.7-1591.native.log.4", k),
            ("6.15.7-1591.native.log.old", None),
            ("6.15.7-1591.native", None),
            (".log", None),
            ("notes.txt", None),
        ] {
            assert_eq!(release_of_log(name), release, "{name}");
        }
    }
}
