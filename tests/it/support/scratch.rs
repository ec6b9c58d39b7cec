//! Where the tests put their files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

/// What the tests of one run have on disk at a time is a hundredth of this.
const ROOM: u64 = 256 << 20;

const PREFIX: &str = "clr-dkms-it-";
const LETTERS: usize = 6;
const LENGTH: usize = "/tmp/".len() + PREFIX.len() + LETTERS;

/// An empty directory that is removed with the value.
///
/// Its path is as long as that of one in `/tmp`, if that can be: screens break their lines by the length of
/// paths.
pub(crate) fn directory() -> tempfile::TempDir {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    let place = PLACE.get_or_init(place);
    // What a test asks the library for is done by a process of our programs.
    clr_dkms::sys::sandbox::use_program(Path::new(env!("CARGO_BIN_EXE_clr-dkms")));
    let left = LENGTH.saturating_sub(place.as_os_str().len() + "/".len());
    let prefix = &PREFIX[..left.saturating_sub(LETTERS).min(PREFIX.len())];
    let letters = left.saturating_sub(prefix.len()).max(LETTERS);
    tempfile::Builder::new().prefix(prefix).rand_bytes(letters).tempdir_in(place).unwrap()
}

/// Memory, where there is enough of it: thousands of small files, each of them synced and soon removed, are
/// most of what a run costs on a disk. `TMPDIR` decides otherwise.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let roomy = statvfs(memory).is_ok_and(|s| {
        s.f_bavail.saturating_mul(s.f_frsize) >= ROOM && !s.f_flag.contains(StatVfsMountFlags::NOEXEC)
    });
    if std::env::var_os("TMPDIR").is_none()
        && roomy
        && access(memory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    {
        return memory.to_owned();
    }
    let asked = std::env::temp_dir().canonicalize().unwrap();
    // A long path would break the lines of screens elsewhere.
    if asked.as_os_str().len() < LENGTH - LETTERS { asked } else { PathBuf::from("/tmp") }
}
