//! The log of the running kernel.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// The longest record of the log.
const RECORD: usize = 8 << 10;
/// The most records that are read.
const MOST: usize = 1000;

/// The log of the running kernel, from now on.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// Skips what is in it. None where it cannot be read, as in most containers.
    #[allow(clippy::disallowed_methods)] // of the machine we run on
    pub fn from_now() -> Option<KernelLog> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        // The reason makes no difference: a report has no lines of the kernel then.
        let mut file = options.open("/dev/kmsg").ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(KernelLog { file })
    }

    /// The messages since then.
    pub fn messages(mut self) -> Vec<String> {
        let mut found = Vec::new();
        let mut record = [0; RECORD];
        for _ in 0..MOST {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => found.extend(message(&record[..length])),
                // Records were overwritten before they were read.
                Err(e) if e.raw_os_error() == Some(Errno::EPIPE as i32) => {}
                // EAGAIN: none is left. After another error the rest is unknown; it is for a message only.
                Err(_) => break,
            }
        }
        found
    }
}

/// The text of a record: "6,339,5140900,-;hello: loading out-of-tree module taints kernel.", and lines with
/// further values.
fn message(record: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(record);
    let (_, text) = text.split_once(';')?;
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_one_line_of_text() {
        let record = b"4,1339,5140900,-;hello: unknown parameter 'x;y' ignored\n SUBSYSTEM=module\n";
        assert_eq!(message(record).as_deref(), Some("hello: unknown parameter 'x;y' ignored"));
        assert_eq!(message(b"nothing"), None);
    }
}
