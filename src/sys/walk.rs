//! Opening a path below a directory where there is no openat2(2).

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};

use super::root::FileKind;

/// Opens a path below a directory without openat2(2): component by component and through no symlink, so that
/// it cannot leave the directory. A path with a symlink or `..` cannot be opened this way: ELOOP, which is
/// not "absent".
pub(super) fn without_openat2(top: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::ELOOP),
        }
    }
    let here = OsStr::new(".");
    // What ends like this is a directory; the components do not show it.
    if [b"/".as_slice(), b"/."].iter().any(|end| path.as_os_str().as_bytes().ends_with(end)) {
        names.push(here);
    }
    let (last, directories) = names.split_last().map_or((here, &[][..]), |(last, rest)| (*last, rest));
    let mut fd = openat(top, here, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let looked = |fd: &OwnedFd, name: &OsStr| {
        openat(fd, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
    };
    let is_link = |fd: &OwnedFd| fstat(fd).map(|stat| FileKind::of_mode(stat.st_mode) == FileKind::Link);
    for name in directories {
        fd = looked(&fd, name)?;
        if is_link(&fd)? {
            return Err(Errno::ELOOP);
        }
    }
    if !flags.contains(OFlag::O_NOFOLLOW) && is_link(&looked(&fd, last)?)? {
        return Err(Errno::ELOOP);
    }
    openat(&fd, last, flags | OFlag::O_NOFOLLOW, Mode::empty())
}

/// A path of the system's own root without symlinks, found without `/proc`.
pub(super) fn without_proc(path: &std::path::Path) -> std::io::Result<std::path::PathBuf> {
    #[allow(clippy::disallowed_methods)] // the root is the one that every call sees
    path.canonicalize()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use std::path::PathBuf;

    use crate::sys::{Root, RootKind};
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Root) {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path();
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("a/b/file"), "inside").unwrap();
        symlink("b", top.join("a/link")).unwrap();
        symlink("/", top.join("a/out")).unwrap();
        symlink("file", top.join("a/b/last")).unwrap();
        let root = Root::open(RootKind::Image, top).unwrap();
        (scratch, root)
    }

    #[test]
    fn without_openat2_no_symlink_is_followed() {
        let (_scratch, root) = tree();
        let open =
            |path: &str, flags| without_openat2(&root.fd, Path::new(path), flags | OFlag::O_CLOEXEC).err();
        for path in ["/a/b/file", "a/./b/file", "/", "/a/b", "/a/b/", "/a/b/."] {
            assert_eq!(open(path, OFlag::O_PATH), None, "{path}");
        }
        for path in ["/a/b/file/.", "/a/b/file/"] {
            assert_eq!(open(path, OFlag::O_PATH), Some(Errno::ENOTDIR), "{path}");
        }
        for path in ["/a/link/file", "/a/out/etc/passwd", "/a/b/last", "/a/../a/b/file", "/../etc"] {
            assert_eq!(open(path, OFlag::O_RDONLY), Some(Errno::ELOOP), "{path}");
        }
        assert_eq!(open("/a/b/last", OFlag::O_PATH | OFlag::O_NOFOLLOW), None, "the symlink itself");
        assert_eq!(open("/a/b/none", OFlag::O_PATH), Some(Errno::ENOENT));
        assert_eq!(open("/a/b/file/x", OFlag::O_PATH), Some(Errno::ENOTDIR));
    }

    proptest! {
        /// What it opens is what openat2 opens; what it does not open for a symlink is never reported as
        /// absent.
        #[test]
        fn both_ways_open_the_same_file(names in proptest::collection::vec("a|b|file|link|out|last|none|\\.\\.|\\.", 0..5)) {
            let (_scratch, root) = tree();
            let path = PathBuf::from(format!("/{}", names.join("/")));
            let inode = |fd: OwnedFd| fstat(fd).unwrap().st_ino;
            let walked = without_openat2(&root.fd, &path, OFlag::O_PATH | OFlag::O_CLOEXEC).map(inode);
            let opened = root.open_at(&path, OFlag::O_PATH).map(inode);
            match walked {
                Err(Errno::ELOOP) => {}
                other => prop_assert_eq!(other, opened),
            }
        }
    }
}
