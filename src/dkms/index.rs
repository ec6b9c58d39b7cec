//! Which file modprobe takes for which module of a kernel, and what it loads before.

use std::collections::BTreeMap;

use super::modfile::ENDINGS;
use crate::kernel::inventory::module_folder;
use crate::sys::Root;

/// `modules.dep` and `modules.dep.bin`, read once.
#[derive(Debug, Default)]
pub struct Index {
    text: Vec<u8>,
    binary: Vec<u8>,
}

/// A line of it; paths are below the module folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub path: String,
    /// All files that modprobe loads before it.
    pub needs: Vec<String>,
}

impl Index {
    /// Reads the index of a kernel; an absent one lists nothing.
    ///
    /// # Errors
    /// In words, when it is there and cannot be read.
    pub fn load(root: &Root, release: &str) -> Result<Index, String> {
        let path = format!("{}/modules.dep", module_folder(release));
        let read = |path: &str| root.read_optional(path).map_err(|e| e.to_string());
        Ok(Index {
            text: read(&path)?.unwrap_or_default(),
            binary: read(&format!("{path}.bin"))?.unwrap_or_default(),
        })
    }

    /// The entries of some modules, by the names as they are given.
    pub fn find<'a>(&self, names: &[&'a str]) -> BTreeMap<&'a str, Entry> {
        let mut found = BTreeMap::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for line in self.text.split(|b| *b == b'\n') {
            let Some(end) = memchr::memchr(b':', line) else { continue };
            let path = &line[..end];
            let base = memchr::memrchr(b'/', path).map_or(0, |at| at + 1);
            for name in names {
                if is_file_of(&path[base..], name) {
                    let needs = line[end + 1..].split(u8::is_ascii_whitespace).filter(|n| !n.is_empty());
                    found.insert(*name, Entry { path: text(path), needs: needs.map(text).collect() });
                }
            }
        }
        found
    }

    /// Whether modprobe, which reads only the binary file, knows that path. It holds each line of the text as it is;
    /// the times of the two files tell nothing once one of them was copied or restored.
    pub fn modprobe_knows(&self, path: &str) -> bool {
        memchr::memmem::find(&self.binary, format!("{path}:").as_bytes()).is_some()
    }
}

/// Whether a file name is that of a module; dash and underscore are one letter, as for modprobe.
pub fn is_file_of(file: &[u8], module: &str) -> bool {
    let fold = |b: u8| if b == b'-' { b'_' } else { b };
    file.len() > module.len()
        && file.iter().zip(module.as_bytes()).all(|(a, b)| fold(*a) == fold(*b))
        && ENDINGS.iter().any(|ending| &file[module.len()..] == ending.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_dep_is_read_by_whole_names() {
        let index = Index {
            text: b"kernel/a/hello.ko.zst:\nupdates/dkms/snd-x.ko: kernel/a/hello.ko.zst b.ko\nkernel/hello_more.ko:\n".to_vec(),
            binary: Vec::new(),
        };
        let found = index.find(&["hello", "snd_x", "more", "hell"]);
        let entry = |name: &str| found.get(name).map(|e| (e.path.as_str(), e.needs.join(" ")));
        assert_eq!(entry("hello"), Some(("kernel/a/hello.ko.zst", String::new())));
        assert_eq!(entry("snd_x"), Some(("updates/dkms/snd-x.ko", "kernel/a/hello.ko.zst b.ko".to_owned())));
        assert_eq!(found.len(), 2);
    }
}
