//! Build logs: one file for each module and kernel, next to those of previous attempts, with limited size.
//!
//! A build with endless output must not fill the disk, and must not fail because of clr-dkms. dkms therefore
//! writes to plain files, and clr-dkms frees the space in the middle of files that grow too large. A pipe
//! would allow counting too, but dkms dies if it is closed, and background processes of make keep it open.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::Duration;

use crate::dkms::first_error::{BuildFacts, Findings, FirstError, Search};
use crate::dkms::leftovers::kernel_of_log;
use crate::dkms::{ModuleName, toolchain};
use crate::sys::child::unnamed_file;
use crate::sys::{Root, punch_hole};

/// Where the logs are.
pub const LOGS: &str = "/var/log/clr-dkms";
/// How many attempts are kept.
pub const ATTEMPTS: usize = 5;
/// How many bytes are kept of the beginning and of the end, both of the output of dkms and of make.
const HEAD: u64 = 8 << 20;
const TAIL: u64 = 8 << 20;
/// The middle is removed from this size on, which leaves room for the line in its place.
const LIMIT: u64 = HEAD + TAIL + (64 << 10);
/// How often the sizes are checked. At a gigabyte per second a build writes 50 MB meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// The log file of a module on a kernel, inside the root. Names contain no slash, so no two modules share a
/// file.
pub fn path(module: &ModuleName, release: &str) -> String {
    format!("{LOGS}/{}/{}/{release}.log", module.name, module.version)
}

/// The first error in the log of a module on a kernel.
pub fn first_error(root: &Root, module: &ModuleName, release: &str) -> Option<FirstError> {
    let mut search = Search::with(toolchain::facts(root, release));
    // Only used in a report, which is shorter if the log cannot be read.
    look(&mut search, &root.open_file(path(module, release)).ok()?);
    search.finish().error
}

/// Rotates the logs and opens the one of a new attempt: the newest is `K.log`, older ones are `K.log.1` and
/// so on. If it cannot be written, it is kept in memory: the module is built nevertheless.
///
/// # Errors
///
/// If there is not enough memory for it.
pub(in crate::dkms) fn begin(root: &Root, path: &str) -> io::Result<File> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let numbered = |text: &str, n: usize| if n == 0 { text.to_owned() } else { format!("{text}.{n}") };
    for n in (0..ATTEMPTS - 1).rev() {
        if let Err(e) = root.rename(numbered(path, n), &numbered(name, n + 1)) {
            tracing::warn!("{e}; that log is overwritten");
        }
    }
    // The reason makes no difference: only an ordinary file becomes the log.
    let plain = |file: &File| file.metadata().is_ok_and(|m| m.is_file());
    match root.create(path) {
        Ok(log) if plain(&log) => return Ok(log),
        Ok(_) => tracing::warn!("{path} is not a file; the module is built without a log"),
        Err(e) => tracing::warn!("{e}; the module is built without a log"),
    }
    unnamed_file()
}

/// How long a log is now; 0 if that is unknown, so that it is searched from its beginning.
pub(in crate::dkms) fn length(log: &File) -> u64 {
    log.metadata().map_or(0, |metadata| metadata.len())
}

/// Writes a line of clr-dkms. A build continues if its log cannot be written, for example on a full disk.
pub(in crate::dkms) fn note(mut log: &File, text: &str) {
    if let Err(e) = writeln!(log, "# clr-dkms: {text}") {
        tracing::warn!("cannot write the build log: {e}");
    }
}

/// Runs `work`, which writes to the log and to the file `beside`, and limits the size of both.
pub(in crate::dkms) fn kept_small<T>(root: &Root, log: &File, beside: &str, work: impl FnOnce() -> T) -> T {
    let (working, done) = mpsc::channel::<()>();
    let give_back = || -> anyhow::Result<()> {
        punch_hole(log, HEAD, TAIL, LIMIT)?;
        Ok(root.punch_hole(beside, HEAD, TAIL, LIMIT)?)
    };
    let watch = move || {
        while done.recv_timeout(PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
            if let Err(e) = give_back() {
                tracing::warn!("the size of the build log is not watched: {e}");
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        if let Err(e) = std::thread::Builder::new().spawn_scoped(scope, watch) {
            tracing::warn!("the size of the build log is not watched: {e}");
        }
        let result = work();
        drop(working);
        result
    })
}

/// Removes the middle of a log that is too large. Writing continues at its end.
pub(in crate::dkms) fn settle(mut log: &File) {
    let mut settled = || -> io::Result<()> {
        let mut ends = Ends::of(log)?;
        let mut at = HEAD;
        if ends.size > LIMIT {
            ends.at = HEAD;
            let mut block = vec![0; 64 << 10];
            loop {
                let length = ends.read(&mut block)?;
                if length == 0 {
                    break;
                }
                log.write_all_at(&block[..length], at)?;
                at += length as u64;
            }
            log.set_len(at)?;
        }
        // The child has moved the file position, which it shares with this process.
        log.seek(SeekFrom::End(0)).map(|_| ())
    };
    if let Err(e) = settled() {
        tracing::warn!("cannot write the build log: {e}");
    }
}

/// Appends the log of make to ours.
pub(in crate::dkms) fn append(root: &Root, log: &File, path: &str) {
    match root.open_file(path) {
        Ok(from) => copy(&from, log, path),
        Err(e) if e.is_absent() => {}
        Err(e) => tracing::warn!("{e}; it is missing in the build log"),
    }
}

fn copy(from: &File, mut log: &File, path: &str) {
    if let Err(e) = Ends::of(from).and_then(|mut ends| io::copy(&mut ends, &mut log)) {
        tracing::warn!("cannot copy {path} into the build log: {e}");
    }
}

/// The findings in the log of a failed step and in the log of make, which is then appended to it: the next
/// build of this module, for any kernel, deletes the log of make. Both are read in place, because the copy
/// may not fit on the disk.
pub(in crate::dkms) fn findings(root: &Root, log: &File, make_log: &str, known: BuildFacts) -> Findings {
    let release = known.release.clone();
    let mut search = Search::with(known);
    look(&mut search, log);
    match root.open_file(make_log) {
        Ok(file) if is_of(&file, release.as_deref()) => {
            look(&mut search, &file);
            copy(&file, log, make_log);
        }
        Ok(_) => {}
        Err(e) if e.is_absent() => {}
        Err(e) => tracing::warn!("{e}; it is missing in the build log"),
    }
    search.finish()
}

/// The kernel whose headers make entered instead of those of the target kernel. Nothing is copied.
pub(in crate::dkms) fn other_release(
    root: &Root,
    log: &File,
    make_log: &str,
    known: BuildFacts,
) -> Option<String> {
    let mut search = Search::with(known);
    look(&mut search, log);
    // A log that cannot be read shows nothing.
    if let Ok(file) = root.open_file(make_log) {
        look(&mut search, &file);
    }
    search.finish().other_release
}

/// The directives whose hook scripts dkms skipped, according to the log of a successful step.
pub(in crate::dkms) fn unrun_hooks(log: &File) -> Vec<String> {
    let mut search = Search::default();
    look(&mut search, log);
    search.finish().unrun_hooks
}

/// Whether the log of make is of that kernel: the log of an earlier failure for another kernel may still
/// exist.
fn is_of(log: &File, release: Option<&str>) -> bool {
    let mut start = [0; 512];
    // An error of the disk shows again when the whole log is read.
    let length = log.read_at(&mut start, 0).unwrap_or(0);
    kernel_of_log(&start[..length]).is_none_or(|kernel| release.is_none_or(|release| kernel == release))
}

fn look(search: &mut Search, log: &File) {
    // A log that cannot be read contributes no error. How the step ended is reported in any case.
    if let Err(e) = Ends::of(log).and_then(|ends| search.read(ends)) {
        tracing::warn!("cannot read a build log: {e}");
    }
}

/// Reads a file without its middle if the file is too large. Independent of the file position that is shared
/// with a child.
struct Ends<'f> {
    file: &'f File,
    at: u64,
    size: u64,
    /// The offset of the end part, and the text before it.
    tail: u64,
    left_out: io::Cursor<String>,
}

impl Ends<'_> {
    fn of(file: &File) -> io::Result<Ends<'_>> {
        let size = file.metadata()?.len();
        let mut ends = Ends { file, at: 0, size, tail: 0, left_out: io::Cursor::default() };
        if size > LIMIT {
            // Starts at a line break if there is one nearby.
            let mut start = [0; 4096];
            let length = ends.file.read_at(&mut start, size - TAIL)?;
            let line = start[..length].iter().position(|b| *b == b'\n').map_or(0, |at| at as u64 + 1);
            ends.tail = size - TAIL + line;
            let note = format!("\n# clr-dkms: {} bytes are left out here\n", ends.tail - HEAD);
            ends.left_out = io::Cursor::new(note);
        }
        Ok(ends)
    }
}

impl Read for Ends<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut room = into.len();
        if self.tail > 0 && self.at < self.tail {
            // The head is smaller than memory has addresses.
            room = room.min(usize::try_from(HEAD.saturating_sub(self.at)).unwrap_or(room));
            if room == 0 {
                let length = self.left_out.read(into)?;
                if length > 0 {
                    return Ok(length);
                }
                (self.at, room) = (self.tail, into.len());
            }
        }
        // What is written meanwhile is not read.
        room = room.min(usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(room));
        let length = self.file.read_at(&mut into[..room], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A log in memory, of numbered lines of 64 bytes.
    fn large(size: u64) -> File {
        let mut file = unnamed_file().unwrap();
        let text: String = (0..size / 64).map(|n| format!("{n:063}\n")).collect();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn the_middle_is_left_out_and_the_end_stays() {
        for size in [0, 6400, LIMIT, LIMIT + 64, 50 << 20] {
            let mut log = large(size);
            punch_hole(&log, HEAD, TAIL, LIMIT).unwrap();
            settle(&log);
            note(&log, "the end");
            let mut text = String::new();
            log.rewind().unwrap();
            log.read_to_string(&mut text).unwrap();
            assert!(text.len() as u64 <= LIMIT + 64, "{size}: {}", text.len());
            assert!(!text.contains('\0'), "{size}");
            assert!(text.ends_with("\n# clr-dkms: the end\n") || size == 0);
            assert_eq!(text.contains("bytes are left out here\n"), size > LIMIT, "{size}");
            if size > 0 {
                let (first, last) = (format!("{:063}\n", 0), format!("{:063}\n# clr-dkms", size / 64 - 1));
                assert!(text.starts_with(&first) && text.contains(&last), "{size}");
                assert!(text.lines().all(|l| l.len() == 63 || l.is_empty() || l.starts_with('#')), "{size}");
            }
        }
    }

    #[test]
    fn what_grows_gives_its_room_back() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(crate::sys::RootKind::Image, directory.path()).unwrap();
        let (log, mut beside) = (large(40 << 20), root.create("/make.log").unwrap());
        io::copy(&mut Ends::of(&large(LIMIT)).unwrap(), &mut beside).unwrap();
        io::copy(&mut Ends::of(&large(LIMIT)).unwrap(), &mut beside).unwrap();
        kept_small(&root, &log, "/make.log", || std::thread::sleep(PAUSE * 4));
        for (file, size) in [(&log, 40 << 20), (&beside, LIMIT * 2)] {
            let stat = file.metadata().unwrap();
            assert_eq!(stat.len(), size);
            assert!(stat.blocks() * 512 <= LIMIT, "{} blocks", stat.blocks());
        }
    }
}
