//! Deferral: swupd is configured to leave the boot files to clr-dkms, so that they change only after the
//! proof.
//!
//! swupd 7 reads three configuration files, and the last value counts. Its parser was measured: a comment
//! begins with `#` or `;` in the first column; a section header is a whole line; names are matched without
//! case, and `_` equals `-`; only `true`, in any case, is true; blanks belong to the name and the value.
//! Without an error message it stops reading a file at a line without a newline, with a NUL byte, or with
//! 8,191 bytes or more. A setting outside of a section, or in `[GLOBAL]`, applies to every command, including
//! `os-install`. The setting of clr-dkms is therefore in the sections of three commands.

use std::fmt;

use anyhow::{Error, anyhow};

use crate::sys::{FileKind, Root};

/// The file with the setting. It is lost with a reboot.
pub const CONFIG: &str = "/run/swupd/config";
/// The files, in the order in which swupd reads them.
const FILES: [&str; 3] = ["/usr/share/defaults/swupd/config", CONFIG, "/etc/swupd/config"];
/// The commands that may install a kernel on a running system.
const COMMANDS: [&str; 3] = ["update", "bundle-add", "repair"];
/// The setting, as swupd writes it.
const SETTING: &str = "no_boot_update";
/// The length of the longest line that swupd reads, including its newline.
const LONGEST_LINE: usize = 8191;

/// The first and the last line of our block.
pub(super) const BEGIN: &str =
    "# clr-dkms: the boot files change after the DKMS modules are proven; this goes with the next reboot";
pub(super) const END: &str = "# clr-dkms: end";

/// A line of a configuration file of swupd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwupdLine {
    /// The file on the host.
    pub file: String,
    /// The line number, from 1.
    pub line: usize,
}

impl fmt::Display for SwupdLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What swupd does with the boot files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deferral {
    /// It leaves them to clr-dkms.
    Armed,
    /// It runs clr-boot-manager itself. `refused`: why our setting could not be written.
    Off { overridden_by: Option<SwupdLine>, refused: Option<String> },
}

/// Reads what swupd will read. A file that cannot be read counts as empty: swupd cannot read it either.
pub fn observe(root: &Root) -> Deferral {
    let files: Vec<(&str, Vec<u8>)> =
        FILES.iter().map(|path| (*path, root.read(path).unwrap_or_default())).collect();
    let place = |path: &str, line| SwupdLine { file: root.shown_path(path).display().to_string(), line };
    let mut overridden_by = None;
    for command in COMMANDS {
        match effective(&files, command) {
            Some((true, ..)) => {}
            Some((false, path, line)) => {
                overridden_by = overridden_by.or_else(|| Some(place(path, line)));
            }
            None => {
                return Deferral::Off { overridden_by, refused: ours(root).err().map(|e| e.to_string()) };
            }
        }
    }
    match overridden_by {
        None => Deferral::Armed,
        by => Deferral::Off { overridden_by: by, refused: None },
    }
}

/// The effective setting for a command: its value, the file and the line number.
fn effective<'f>(files: &'f [(&'f str, Vec<u8>)], command: &str) -> Option<(bool, &'f str, usize)> {
    let mut last = None;
    for (path, text) in files {
        let mut section: Option<String> = None;
        for (at, line) in lines(text).enumerate() {
            // swupd stops there too.
            let Ok(line) = line else { break };
            if line.starts_with([';', '#']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = Some(name.to_ascii_lowercase());
                continue;
            }
            let Some((name, value)) = line.split_once('=') else { continue };
            let counts = section.as_deref().is_none_or(|s| s == "global" || s == command);
            let is_ours = name.to_ascii_lowercase().replace('_', "-") == "no-boot-update";
            if counts && is_ours && !value.is_empty() && !value.contains('=') {
                last = Some((value.eq_ignore_ascii_case("true"), *path, at + 1));
            }
        }
    }
    last
}

/// The lines as swupd reads them. An error, with its reason, is where it stops.
fn lines(text: &[u8]) -> impl Iterator<Item = Result<String, &'static str>> {
    text.split_inclusive(|b| *b == b'\n').map(|line| match line.strip_suffix(b"\n") {
        None => Err("its last line has no newline"),
        Some(_) if line.len() > LONGEST_LINE => Err("it has a line of more than 8,190 bytes"),
        Some(line) if line.contains(&0) => Err("it has a NUL byte"),
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
    })
}

/// The contents of the file that clr-dkms may write to.
fn ours(root: &Root) -> anyhow::Result<Option<Vec<u8>>> {
    let refused = |why: &str| anyhow!("{} is left alone: {why}", root.shown_path(CONFIG).display());
    match root.lookup_link(CONFIG).known()? {
        None => return Ok(None),
        Some(stat) if stat.kind == FileKind::File => {}
        Some(_) => return Err(refused("it is not a regular file")),
    }
    let text = root.read(CONFIG)?;
    without(&text).map_err(refused)?;
    Ok(Some(text))
}

fn block() -> String {
    let sections = COMMANDS.map(|command| format!("[{command}]\n{SETTING}=true\n"));
    format!("{BEGIN}\n{}{END}\n", sections.concat())
}

/// A file without our block. All other bytes are kept.
fn without(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    if let Some(why) = lines(text).find_map(Result::err) {
        return Err(why);
    }
    let mut kept = Vec::with_capacity(text.len());
    let mut inside = false;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let is = |mark: &str| line.strip_suffix(b"\n") == Some(mark.as_bytes());
        match inside {
            false if is(BEGIN) => inside = true,
            true if is(END) => inside = false,
            true => {}
            false => kept.extend_from_slice(line),
        }
    }
    if inside { Err("it has the first line of our block but not the last") } else { Ok(kept) }
}

/// Writes our block. Returns whether the file has changed.
///
/// # Errors
///
/// If the file of somebody else cannot be extended, or nothing can be written.
pub fn arm(root: &Root) -> anyhow::Result<bool> {
    let known = ours(root)?.unwrap_or_default();
    // At the end of the file, because the last value counts.
    let mut text = without(&known).map_err(Error::msg)?;
    text.extend_from_slice(block().as_bytes());
    change(root, &known, &text)
}

fn change(root: &Root, known: &[u8], text: &[u8]) -> anyhow::Result<bool> {
    if text != known {
        let mode = root.lookup(CONFIG).stat().map_or(0o644, |s| s.mode & 0o777);
        root.write(CONFIG, text, mode)?;
    }
    Ok(text != known)
}

/// Removes our block, and the file if nothing else is in it. Returns whether anything has changed.
///
/// # Errors
///
/// If the file cannot be changed.
pub fn disarm(root: &Root) -> anyhow::Result<bool> {
    let Some(known) = ours(root)? else { return Ok(false) };
    let text = without(&known).map_err(Error::msg)?;
    if !text.is_empty() || known.is_empty() {
        return change(root, &known, &text);
    }
    root.remove(CONFIG)?;
    root.remove_empty_directory("/run/swupd")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(text: &str, command: &str) -> Option<bool> {
        effective(&[("/c", text.as_bytes().to_vec())], command).map(|(value, ..)| value)
    }

    #[test]
    fn settings_are_read_as_swupd_reads_them() {
        let table = [
            ("[update]\nno_boot_update=true\n", Some(true)),
            ("[UPDATE]\nNo-Boot_Update=TRUE\n", Some(true)),
            ("[GLOBAL]\nno_boot_update=true\n", Some(true)),
            ("no_boot_update=true\n", Some(true)),
            ("[repair]\nno_boot_update=true\n", None),
            ("[update]\nno_boot_update=yes\n", Some(false)),
            ("[update]\nno_boot_update=true \n", Some(false)),
            ("[update]\n no_boot_update=true\n", None),
            ("[update]\nno_boot_update = true\n", None),
            ("[update]\nno_boot_update=\n", None),
            ("[update]\nno_boot_update=true=true\n", None),
            (" [update]\nno_boot_update=true\n", Some(true)),
            ("#[update]\nno_boot_update=false\n", Some(false)),
            ("[update]\nno_boot_update=true", None),
            ("[update]\nx\0\nno_boot_update=true\n", None),
            ("[update]\nno_boot_update=true\nno_boot_update=false\n", Some(false)),
        ];
        for (text, expected) in table {
            assert_eq!(said(text, "update"), expected, "{text:?}");
        }
        let long = format!("{}\n[update]\nno_boot_update=true\n", "x".repeat(LONGEST_LINE));
        assert_eq!(said(&long, "update"), None);
        for command in COMMANDS {
            assert_eq!(said(&block(), command), Some(true));
        }
        assert_eq!(said(&block(), "os-install"), None);
    }

    #[test]
    fn no_byte_of_others_is_lost() {
        for foreign in ["", "[update]\nurl=x\n", "\n\n# x\r\n[a]\n", "[update]\nno_boot_update=false\n"] {
            let armed = [foreign.as_bytes(), block().as_bytes()].concat();
            assert_eq!(without(&armed).unwrap(), foreign.as_bytes());
            // Somebody has added lines after our block.
            let more = [&armed, b"[x]\ny=z\n".as_slice()].concat();
            assert_eq!(without(&more).unwrap(), [foreign.as_bytes(), b"[x]\ny=z\n"].concat());
            assert_eq!(said(&String::from_utf8(armed).unwrap(), "update"), Some(true));
        }
        for bad in ["x", "a\0b\n", &format!("{BEGIN}\n[update]\n")] {
            assert!(without(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
