//! Boot entries as they lie in the boot partition, where it can be seen below `/boot`.

use std::path::Path;

use crate::sys::{Listed, Root};

/// The folder of systemd-boot's entries, where the boot partition is mounted or part of the root.
pub const ENTRIES: &str = "/boot/loader/entries";
/// systemd-boot's own configuration.
pub const LOADER: &str = "/boot/loader/loader.conf";

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file's name.
    pub file: String,
    /// The kernel id, off the `linux` line.
    pub id: Option<String>,
    /// The `options` lines, joined.
    pub options: Vec<u8>,
}

/// What the entries say, beside what they should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadBack {
    /// Each kernel that should have an entry has one, with its effective command line.
    Verified,
    /// Something is missing or differs.
    Differs(Vec<String>),
    /// There is no entry below `/boot`: the boot partition is not mounted, or the boot loader is another one.
    NotVisible,
}

impl ReadBack {
    /// One word for the record.
    pub fn word(&self) -> &'static str {
        match self {
            ReadBack::Verified => "verified",
            ReadBack::Differs(_) => "differs",
            ReadBack::NotVisible => "not-visible",
        }
    }
}

/// Whether another boot loader than systemd-boot keeps its entries below `/boot`, where we cannot read them yet.
pub fn is_another_loader(root: &Root) -> bool {
    ["/boot/grub/grub.cfg", "/boot/syslinux.cfg"].iter().any(|path| root.lookup(path).is_there())
}

/// Reads one entry.
pub fn parse(file: &str, text: &[u8]) -> Entry {
    let mut entry = Entry { file: file.to_owned(), id: None, options: Vec::new() };
    for line in text.split(|b| *b == b'\n') {
        let line = line.trim_ascii();
        let end = line.iter().position(|b| b.is_ascii_whitespace()).unwrap_or(line.len());
        let (key, value) = (&line[..end], line[end..].trim_ascii());
        match key {
            b"linux" => {
                let name = String::from_utf8_lossy(value).into_owned();
                let name = Path::new(&name).file_name().map(|n| n.to_string_lossy().into_owned());
                // The old layout has no prefix.
                entry.id = name.map(|n| n.strip_prefix("kernel-").unwrap_or(&n).to_owned());
            }
            b"options" => {
                if !entry.options.is_empty() {
                    entry.options.push(b' ');
                }
                entry.options.extend(value);
            }
            _ => {}
        }
    }
    entry
}

/// Compares the entries with what they should be: kernel ids and effective command lines.
pub fn read_back(root: &Root, expected: &[(String, Vec<u8>)]) -> ReadBack {
    let files = match root.list(ENTRIES) {
        Ok(files) => files,
        Err(e) if e.is_absent() => return ReadBack::NotVisible,
        Err(e) => return ReadBack::Differs(vec![e.to_string()]),
    };
    let (mut entries, mut wrong) = (Vec::new(), Vec::new());
    for file in files.iter().filter_map(|f| f.text()).filter(|f| f.ends_with(".conf")) {
        let path = format!("{ENTRIES}/{file}");
        match root.read(&path) {
            Ok(text) if text.is_empty() => {
                wrong.push(format!("{} is empty; delete it", root.spell(&path).display()));
            }
            Ok(text) => entries.push(parse(file, &text)),
            Err(e) => wrong.push(e.to_string()),
        }
    }
    wrong.extend(wrong_default(root, &files));
    for (id, line) in expected {
        match entries.iter().find(|e| e.id.as_deref() == Some(id)) {
            None => wrong.push(format!("there is no boot entry for {id}")),
            Some(entry) if words(&entry.options) != words(line) => {
                wrong.push(format!("the boot entry {} has another command line than configured", entry.file));
            }
            Some(_) => {}
        }
    }
    if wrong.is_empty() { ReadBack::Verified } else { ReadBack::Differs(wrong) }
}

/// What is wrong with `loader.conf`: an empty one crashes clr-boot-manager, and a default without an entry boots
/// whatever the loader finds.
fn wrong_default(root: &Root, files: &[Listed]) -> Option<String> {
    let path = root.spell(LOADER);
    let text = match root.read_optional(LOADER) {
        Ok(text) => text?,
        Err(e) => return Some(e.to_string()),
    };
    if text.is_empty() {
        return Some(format!("{} is empty; delete it", path.display()));
    }
    let text = String::from_utf8_lossy(&text);
    let default = text.lines().find_map(|line| line.strip_prefix("default"))?.trim();
    // The loader compares names without case, takes the ending for granted, and knows patterns and @saved.
    let wanted = default.strip_suffix(".conf").unwrap_or(default);
    let known = |file: &str| file.strip_suffix(".conf").is_some_and(|f| f.eq_ignore_ascii_case(wanted));
    let told_apart = !wanted.is_empty() && !wanted.contains(['*', '?', '[', '@']);
    (told_apart && !files.iter().filter_map(Listed::text).any(known))
        .then(|| format!("the default of {} is {default}, which is no entry", path.display()))
}

/// The words that compare: clr-boot-manager puts some of its own in front.
fn words(line: &[u8]) -> Vec<&[u8]> {
    // The last two are Solus's.
    const OWN: [&[u8]; 5] = [b"root=", b"initrd=", b"rd.luks.uuid=", b"rootflags=", b"rd.vconsole."];
    line.split(|b| b.is_ascii_whitespace())
        .filter(|word| !word.is_empty() && !OWN.iter().any(|own| word.starts_with(own)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry() {
        let text = b"title Clear Linux\nlinux /EFI/org.clearlinux/kernel-org.clearlinux.native.6.15.7-1591\n\
                     options root=PARTUUID=1 quiet  rw\n";
        let entry = parse("x.conf", text);
        assert_eq!(entry.id.as_deref(), Some("org.clearlinux.native.6.15.7-1591"));
        assert_eq!(words(&entry.options), words(b"quiet rw "));
        assert_ne!(words(&entry.options), words(b"quiet rw more"));
    }
}
