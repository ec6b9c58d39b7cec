//! Mounts in a namespace of our own.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::sys::mount::unescaped;

const NONE: Option<&Path> = None;
/// The options of mountinfo(5) that stay when a mount becomes read-only: a user namespace must not take them
/// away.
const KEPT: [(&[u8], MsFlags); 6] = [
    (b"nosuid", MsFlags::MS_NOSUID),
    (b"nodev", MsFlags::MS_NODEV),
    (b"noexec", MsFlags::MS_NOEXEC),
    (b"noatime", MsFlags::MS_NOATIME),
    (b"nodiratime", MsFlags::MS_NODIRATIME),
    (b"relatime", MsFlags::MS_RELATIME),
];

/// The error with what was being done.
pub(super) fn failed(what: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn about(what: &str, path: &Path) -> impl FnOnce(Errno) -> io::Error {
    move |e| failed(&format!("{what} {}", path.display()), e)
}

/// Shows `source`, with all that is mounted below it, at `target` too.
pub(super) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .map_err(about("cannot show", source))
}

/// An empty directory in memory at `target`.
pub(super) fn tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options)).map_err(about("cannot cover", target))
}

/// The processes of the own PID namespace.
pub(super) fn proc(target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), target, Some("proc"), flags, NONE).map_err(about("cannot mount proc at", target))
}

/// Makes every mount at or below `top` read-only, except those in `writable`. `mounts` is mountinfo(5) of
/// this process.
pub(super) fn make_read_only(mounts: &[u8], top: &Path, writable: &[PathBuf]) -> io::Result<()> {
    for (point, kept) in mount_points(mounts) {
        if !point.starts_with(top) || writable.contains(&point) {
            continue;
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept;
        match mount(NONE, &point, NONE, flags, NONE) {
            // Another mount covers it: nobody can reach it.
            Ok(()) | Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOTDIR) => {}
            Err(e) => return Err(about("cannot make read-only", &point)(e)),
        }
    }
    Ok(())
}

/// The mount points of mountinfo(5), each with the options that must stay.
fn mount_points(mounts: &[u8]) -> impl Iterator<Item = (PathBuf, MsFlags)> {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    mounts.split(|b| *b == b'\n').filter_map(|line| {
        // Number, number of the parent, device, root of the mount in the filesystem, mount point, options.
        let mut fields = line.split(|b| *b == b' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        let has = |name: &[u8]| options.split(|b| *b == b',').any(|option| option == name);
        let kept = KEPT.iter().filter(|(name, _)| has(name)).map(|(_, flag)| *flag).collect();
        Some((PathBuf::from(OsString::from_vec(unescaped(point))), kept))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_keep_what_restricts_them() {
        let text = b"22 1 8:1 / /usr rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            23 22 0:5 / /usr/a\\040b rw,nosuid,nodev,noexec - tmpfs tmpfs rw\n";
        let points: Vec<_> = mount_points(text).collect();
        assert_eq!(
            points,
            [
                (PathBuf::from("/usr"), MsFlags::MS_RELATIME),
                (PathBuf::from("/usr/a b"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC),
            ]
        );
    }
}
