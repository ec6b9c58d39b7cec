//! The files that an evaluation sees: a root in memory that shows the required parts of the machine
//! read-only.
//!
//! The root of the machine is mounted on one directory that every system has, and the new root is created on
//! another one, so that nothing of the machine is covered while it is used. Only this process sees either of
//! them.
#![allow(clippy::disallowed_methods)] // of the machine we run on, whatever the root is; and in memory of this process

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, OFlags, ResolveFlags};

use super::mounts::{
    bind, failed, keep_mounts_private, make_directory, make_read_only, minimal_devices, proc, tmpfs,
};
use super::request::{Sight, Strength};

/// Where the root of the machine is mounted.
const MACHINE: &str = "/etc";
/// Where the new root is created.
const NEW: &str = "/usr";
/// The parts of a root that are not shown: files of users, other filesystems, sockets, devices, and
/// directories that everybody may write to.
const LEFT_OUT: [&str; 12] =
    ["dev", "proc", "run", "tmp", "home", "lost+found", "media", "mnt", "net", "root", "srv", "var"];
/// How many of them are not shown to a build of a registered module: its source may be anywhere, and so may
/// keys and tools.
const LEFT_OUT_OF_BUILD: usize = 4;
/// The private `/tmp`, and its other paths.
const TEMPORARY: [&str; 3] = ["tmp", "var/tmp", "dev/shm"];
/// Its size for an evaluation.
const TMP: &str = "mode=1777,size=64m,nr_inodes=16k";
/// Its size for a compiler.
const TMP_OF_BUILD: &str = "mode=1777,size=50%";
/// The size of file systems for mount points.
const SKELETON: &str = "mode=0755,size=1m,nr_inodes=16k";
/// The size of the copy of a directory with files that not everybody may read.
const COPY: &str = "mode=0755,size=64m,nr_inodes=32k";
/// How many bytes are copied at most. Further files exist but cannot be read.
const COPY_LIMIT: u64 = 48 << 20;
/// How many entries of a directory are examined or copied.
const ENTRY_LIMIT: usize = 20_000;

/// The parts of a root that are not shown.
pub(super) fn left_out(strength: Strength) -> &'static [&'static str] {
    match strength {
        Strength::Build => &LEFT_OUT[..LEFT_OUT_OF_BUILD],
        Strength::Evaluate | Strength::ScratchBuild => &LEFT_OUT,
    }
}

/// Creates the root and makes it the root of this process, which becomes that user afterwards.
pub(super) fn enter(strength: Strength, sight: &Sight, user: Option<u32>) -> io::Result<()> {
    keep_mounts_private().map_err(|e| failed("mounts cannot be made private", e))?;
    let (machine, new) = (Path::new(MACHINE), Path::new(NEW));
    bind(Path::new("/"), machine)?;
    tmpfs(new, SKELETON)?;
    populate(machine, new, left_out(strength))?;
    furnish(machine, new, strength)?;
    for root in &sight.roots {
        make_directories(new, Path::new(root))?;
        populate(&inside(machine, root), &inside(new, root), left_out(strength))?;
    }
    let copied = sight.readable.iter().map(|path| (path, true));
    for (path, must_be_readable) in sight.shown.iter().map(|path| (path, false)).chain(copied) {
        let path = Path::new(path);
        let shown = show(machine, new, path).and_then(|is_there| {
            if is_there && user.is_some() {
                open_up(machine, new, path)?;
                if must_be_readable && !all_can_read(&inside(machine, path)) {
                    return copy(&inside(machine, path), &inside(new, path));
                }
            }
            Ok(())
        });
        shown.map_err(|e| failed(&path.display().to_string(), e))?;
    }
    let mut writable: Vec<PathBuf> = TEMPORARY.iter().chain(&["proc"]).map(|name| new.join(name)).collect();
    for path in &sight.writable {
        let (path, target) = (Path::new(path), inside(new, path));
        show(machine, new, path)?;
        // A separate mount, which stays unchanged when those around it become read-only. A missing path is
        // skipped.
        if target.symlink_metadata().is_err() {
            continue;
        }
        bind(&inside(machine, path), &target)?;
        if let Some(user) = user {
            open_up(machine, new, path.parent().unwrap_or(path))?;
            hand_over(&target, user)?;
        }
        writable.push(target);
    }
    for tree in &sight.trees {
        let target = inside(new, &tree.target);
        // Without that directory there is nothing to mount on: the tree is not shown.
        if target.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            bind(&inside(machine, &tree.source), &target)?;
            if tree.is_writable {
                writable.push(target);
            }
        }
    }
    let mounts = fs::read(new.join("proc/self/mountinfo")).map_err(|e| failed("mountinfo", e))?;
    make_read_only(&mounts, new, &writable)?;
    nix::unistd::chroot(new).map_err(|e| failed("chroot", e))?;
    Ok(nix::unistd::chdir("/")?)
}

/// Makes an installed system the root of this process, with the mounts that programs expect.
pub(super) fn enter_image(root: &Path) -> io::Result<()> {
    keep_mounts_private().map_err(|e| failed("mounts cannot be made private", e))?;
    // The order matters: both the image and the devices may be anywhere.
    let (machine, new) = (Path::new(MACHINE), Path::new(NEW));
    bind(Path::new("/"), machine)?;
    bind(&inside(machine, root), new)?;
    for name in ["proc", "tmp", "run"] {
        make_directory(&new.join(name))?;
    }
    proc(&new.join("proc"))?;
    for (name, options) in [("tmp", TMP_OF_BUILD), ("run", SKELETON)] {
        tmpfs(&new.join(name), options)?;
    }
    minimal_devices(machine, &new.join("dev"))?;
    nix::unistd::chroot(new).map_err(|e| failed("chroot", e))?;
    Ok(nix::unistd::chdir("/")?)
}

fn inside(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Shows the directories of a root in the new one. Those that are left out are empty.
fn populate(from: &Path, to: &Path, left_out: &[&str]) -> io::Result<()> {
    for entry in fs::read_dir(from).map_err(|e| failed("the root cannot be listed", e))? {
        let entry = entry?;
        let (name, kind, target) = (entry.file_name(), entry.file_type()?, to.join(entry.file_name()));
        // Already shown for a root that contains this one.
        if target.symlink_metadata().is_ok() {
            continue;
        }
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target)?;
        } else if kind.is_dir() {
            make_directory(&target)?;
            if !left_out.iter().any(|left_out| name == *left_out) {
                bind(&entry.path(), &target)?;
            }
        }
    }
    Ok(())
}

/// `/proc`, a minimal `/dev`, `/tmp` and `/var/tmp`.
fn furnish(machine: &Path, new: &Path, strength: Strength) -> io::Result<()> {
    for name in ["proc", "tmp", "var", "run"] {
        make_directory(&new.join(name))?;
    }
    minimal_devices(machine, &new.join("dev"))?;
    let own = new.join("proc");
    // In a container that covers parts of /proc, a user namespace cannot mount a new one. The existing one
    // shows the processes of the container, but the sandbox cannot act on them.
    proc(&own).or_else(|e| bind(&machine.join("proc"), &own).map_err(|_| e))?;
    let is_evaluation = strength == Strength::Evaluate;
    tmpfs(&new.join(TEMPORARY[0]), if is_evaluation { TMP } else { TMP_OF_BUILD })?;
    for name in &TEMPORARY[1..] {
        let target = new.join(name);
        // A directory on the filesystem of the host exists already; a missing one makes the mount below fail.
        make_directory(&target).ok();
        if target.is_dir() {
            bind(&new.join(TEMPORARY[0]), &target)?;
        }
    }
    Ok(())
}

/// Creates the missing directories of a path in the new root.
fn make_directories(new: &Path, path: &Path) -> io::Result<()> {
    let mut at = new.to_owned();
    for part in path.components() {
        if let Component::Normal(name) = part {
            at.push(name);
            make_directory(&at)?;
        }
    }
    Ok(())
}

/// Changes the owner of a directory and of everything in it. Symlinks are not followed.
pub(super) fn hand_over(directory: &Path, user: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(directory, Some(user), Some(user))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => hand_over(&entry.path(), user)?,
            false => std::os::unix::fs::lchown(entry.path(), Some(user), Some(user))?,
        }
    }
    Ok(())
}

/// Shows a file or directory at its own path. Returns false if it does not exist.
fn show(machine: &Path, new: &Path, path: &Path) -> io::Result<bool> {
    let (source, target) = (inside(machine, path), inside(new, path));
    // What cannot be looked at is not shown; the program in the sandbox then reports it.
    let Ok(found) = source.symlink_metadata() else { return Ok(false) };
    // If it cannot be looked at, it is not the same.
    if target.symlink_metadata().is_ok_and(|there| (there.dev(), there.ino()) == (found.dev(), found.ino())) {
        return Ok(true);
    }
    make_directories(new, path.parent().unwrap_or(path))?;
    match found.is_dir() {
        true => make_directory(&target)?,
        false => drop(File::create(&target)?),
    }
    bind(&source, &target)?;
    Ok(true)
}

/// Covers each parent directory of `path` that not everybody may enter, and shows its contents again.
fn open_up(machine: &Path, new: &Path, path: &Path) -> io::Result<()> {
    let mut at = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        at.push(name);
        let found = new.join(&at).metadata()?;
        if found.is_dir() && found.mode() & 0o5 != 0o5 {
            let (source, target) = (machine.join(&at), new.join(&at));
            let entries = fs::read_dir(&source)?.take(ENTRY_LIMIT).collect::<Result<Vec<_>, _>>()?;
            tmpfs(&target, SKELETON)?;
            for entry in entries {
                let (kind, shown) = (entry.file_type()?, target.join(entry.file_name()));
                if kind.is_symlink() {
                    symlink(fs::read_link(entry.path())?, shown)?;
                } else if kind.is_dir() {
                    make_directory(&shown)?;
                    bind(&entry.path(), &shown)?;
                } else if kind.is_file() {
                    File::create(&shown)?;
                    bind(&entry.path(), &shown)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether everybody may read every file of a directory, and enter all directories above it.
pub(super) fn all_can_reach(directory: &Path) -> bool {
    // What cannot be looked at is as good as closed, here and below.
    let passable = |path: &Path| path.metadata().is_ok_and(|found| found.mode() & 0o1 != 0);
    directory.ancestors().skip(1).all(passable) && all_can_read(directory)
}

/// Whether everybody may read every file of a directory, and enter its subdirectories. What cannot be looked
/// at counts as unreadable for others: the directory is then copied, which reports the error.
fn all_can_read(directory: &Path) -> bool {
    let mut waiting = vec![directory.to_owned()];
    let mut seen = 0;
    while let Some(directory) = waiting.pop() {
        // As above, here and below.
        let Ok(found) = directory.symlink_metadata() else { return false };
        if found.mode() & 0o5 != 0o5 {
            return false;
        }
        // As above.
        let Ok(entries) = fs::read_dir(&directory) else { return false };
        for entry in entries {
            seen += 1;
            // Files beyond the limit are checked when they are read.
            if seen > ENTRY_LIMIT {
                return true;
            }
            // As above.
            let Ok(entry) = entry else { return false };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && entry.file_name() != ".git" => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    // As above.
                    if !entry.metadata().is_ok_and(|found| found.mode() & 0o4 != 0) {
                        return false;
                    }
                }
                Ok(_) => {}
                // As above.
                Err(_) => return false,
            }
        }
    }
    true
}

/// Copies a directory into memory, readable by everybody. Symlinks are not followed, because another user may
/// own the directory and change it meanwhile.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat2(CWD, from, flags, rustix::fs::Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    tmpfs(to, COPY)?;
    let mut room = Room { bytes: COPY_LIMIT, entries: ENTRY_LIMIT };
    copy_directory(&from, to, &mut room)
}

struct Room {
    bytes: u64,
    entries: usize,
}

fn copy_directory(from: &OwnedFd, to: &Path, room: &mut Room) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(from)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if [".", ".."].contains(&&*name.to_string_lossy()) {
            continue;
        }
        room.entries =
            room.entries.checked_sub(1).ok_or_else(|| io::Error::other("it has too many files"))?;
        let target = to.join(name);
        let found = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let open = |flags: OFlags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(from, name, flags, rustix::fs::Mode::empty())
        };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                make_directory(&target)?;
                if name != ".git" {
                    copy_directory(&open(OFlags::RDONLY | OFlags::DIRECTORY)?, &target, room)?;
                }
            }
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(from, name, Vec::new())?;
                symlink(OsString::from(OsStr::from_bytes(text.to_bytes())), &target)?;
            }
            FileType::RegularFile => {
                // A size is never negative.
                let size = u64::try_from(found.st_size).unwrap_or(u64::MAX);
                let mut copy = File::create(&target)?;
                if size > room.bytes {
                    fs::set_permissions(&target, Permissions::from_mode(0o000))?;
                    continue;
                }
                room.bytes -= size;
                let file = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK)?);
                io::copy(&mut file.take(size), &mut copy)?;
                copy.flush()?;
                let executable = found.st_mode & 0o100 != 0;
                fs::set_permissions(&target, Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
            }
            _ => {}
        }
    }
    Ok(())
}
