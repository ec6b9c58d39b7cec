//! Which file modprobe loads for a module name, and which files it loads before.
//!
//! modprobe reads only `modules.dep.bin`, a trie of module names that contains the lines of `modules.dep`.
//! All numbers are big-endian. The file begins with a magic number, a version and the offset of the root
//! node. The upper bits of an offset say what the node contains, in this order: a prefix (text up to a NUL);
//! children (the first and the last letter, then an offset for each letter in between, 0 for none); values
//! (their number, then for each a priority and a text up to a NUL).

use std::cell::OnceCell;

use crate::kernel::inventory::module_directory;
use crate::kernel::module_file::{ENDINGS, folded};
use crate::limits::{KERNEL_INDEX, KERNEL_LIST};
use crate::sys::{FileError, Root};

const MARK: u32 = 0xB007_F457;
/// The upper half of the version. The lower half counts compatible additions.
const VERSION: u32 = 2;
const HAS_PREFIX: u32 = 1 << 31;
const HAS_VALUES: u32 = 1 << 30;
const HAS_CHILDREN: u32 = 1 << 29;
const PLACE: u32 = (1 << 28) - 1;

/// `modules.dep` and `modules.dep.bin`, read once.
#[derive(Debug, Default)]
pub struct Index {
    text: Vec<u8>,
    binary: Vec<u8>,
    /// The ranges of the lines in the text, sorted by the hash of the module name ([`hash_of`]). If two names
    /// have the same hash, the line differs from what modprobe finds, and this is checked.
    lines: OnceCell<Vec<(u64, u32, u32)>>,
}

/// A line of `modules.dep`. Paths are relative to the module directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependencyEntry {
    pub path: String,
    /// All files that modprobe loads before it.
    pub needs: Vec<String>,
}

impl DependencyEntry {
    fn of_line(line: &[u8]) -> Option<DependencyEntry> {
        let (path, needs) = line.split_at_checked(memchr::memchr(b':', line)?)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let needs = needs[1..].split(u8::is_ascii_whitespace).filter(|need| !need.is_empty());
        Some(DependencyEntry { path: text(path), needs: needs.map(text).collect() })
    }
}

impl Index {
    /// Reads the index of a kernel. An absent index lists nothing.
    ///
    /// # Errors
    ///
    /// If it exists and cannot be read.
    pub fn load(root: &Root, release: &str) -> Result<Index, FileError> {
        let path = format!("{}/modules.dep", module_directory(release));
        let text = root.read_optional_within(&path, KERNEL_LIST)?;
        let binary = root.read_optional_within(format!("{path}.bin"), KERNEL_INDEX)?;
        Ok(Index::new(text.unwrap_or_default(), binary.unwrap_or_default()))
    }

    /// The index in the contents of the two files.
    pub fn new(text: Vec<u8>, binary: Vec<u8>) -> Index {
        Index { text, binary, lines: OnceCell::new() }
    }

    /// The line of a module, if `modules.dep` and `modules.dep.bin` agree.
    ///
    /// # Errors
    ///
    /// The differing line in `modules.dep.bin`, if there is one.
    pub fn entry(&self, module: &str) -> Result<DependencyEntry, Option<String>> {
        let lines = self.lines.get_or_init(|| lines(&self.text));
        let number = hash_of(module.as_bytes());
        // The last line of a module counts.
        let at = lines.partition_point(|(of, ..)| *of <= number).checked_sub(1).map(|at| lines[at]);
        let line = at.filter(|(of, ..)| *of == number);
        let line = line.and_then(|(_, start, end)| self.text.get(start as usize..end as usize));
        let Some(line) = line else { return Err(None) };
        match look_up(&self.binary, &folded_name(module.as_bytes())) {
            // The modification times of the two files prove nothing, because one of them may have been copied
            // or restored.
            Ok(Some(same)) if same == line => DependencyEntry::of_line(line).ok_or(None),
            Ok(_) => Err(Some("something else in modules.dep.bin".to_owned())),
            Err(why) => Err(Some(format!("nothing that modprobe can read (modules.dep.bin {why})"))),
        }
    }

    /// The files that `modules.dep` lists, as far as their paths are text.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let lines = self.text.split(|b| *b == b'\n');
        // modprobe finds no module by a name that is not UTF-8.
        lines.filter_map(|line| str::from_utf8(line).ok()?.split_once(':').map(|(path, _)| path))
    }

    /// Both files are absent or empty.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.binary.is_empty()
    }

    /// The line that modprobe finds for a module.
    pub fn modprobe(&self, module: &str) -> Option<DependencyEntry> {
        // A damaged index has no line; `found` gives the reason.
        self.found(module).ok()?
    }

    /// The line that modprobe finds for a module. None if there is no line; modprobe reads only
    /// `modules.dep.bin`.
    ///
    /// # Errors
    ///
    /// What is wrong with `modules.dep.bin`, as a phrase that follows its name.
    pub fn found(&self, module: &str) -> Result<Option<DependencyEntry>, &'static str> {
        Ok(look_up(&self.binary, &folded_name(module.as_bytes()))?.and_then(DependencyEntry::of_line))
    }
}

/// The ranges of the lines, sorted.
fn lines(text: &[u8]) -> Vec<(u64, u32, u32)> {
    let mut lines = Vec::with_capacity(text.len() / 128);
    let ends = memchr::memchr_iter(b'\n', text).chain([text.len()]);
    ends.fold(0, |start, end| {
        if let Some(colon) = memchr::memchr(b':', &text[start..end]) {
            let path = &text[start..start + colon];
            let base = &path[memchr::memrchr(b'/', path).map_or(0, |at| at + 1)..];
            let name = ENDINGS.iter().find_map(|ending| base.strip_suffix(ending.as_bytes()));
            // The size limit of the file is far below 4 GB.
            if let (Some(name), Ok(start), Ok(end)) = (name, u32::try_from(start), u32::try_from(end)) {
                lines.push((hash_of(name), start, end));
            }
        }
        end + 1
    });
    // The later line of a module comes last.
    lines.sort_unstable();
    lines
}

/// A name as modprobe compares it.
fn folded_name(name: &[u8]) -> Vec<u8> {
    name.iter().map(|b| folded(*b)).collect()
}

/// A hash of a name (FNV-1a), which is the same for `-` and `_`.
fn hash_of(name: &[u8]) -> u64 {
    name.iter()
        .map(|b| folded(*b))
        .fold(0xCBF2_9CE4_8422_2325, |n, b| (n ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

/// The first value of a key, which is the one that modprobe uses.
///
/// # Errors
///
/// If it is not an index, or an offset is out of range; a phrase that follows its name.
fn look_up<'a>(index: &'a [u8], key: &[u8]) -> Result<Option<&'a [u8]>, &'static str> {
    let mut at = IndexReader { index, at: 0 };
    // A file without a first number is not an index either.
    if at.number().ok() != Some(MARK) {
        return Err("is not an index");
    }
    if at.number()? >> 16 != VERSION {
        return Err("is of another version");
    }
    let mut place = at.number()?;
    let mut key = key.iter();
    // Each iteration but the last consumes one letter of the key.
    loop {
        let mut node = IndexReader { index, at: (place & PLACE) as usize };
        if place & HAS_PREFIX != 0 && !node.text()?.iter().all(|letter| key.next() == Some(letter)) {
            return Ok(None);
        }
        let letter = key.next();
        let mut child = 0;
        if place & HAS_CHILDREN != 0 {
            let (first, last) = (node.byte()?, node.byte()?);
            let children = node.at;
            let among = letter.filter(|letter| (first..=last).contains(letter));
            if let Some(letter) = among {
                node.at = children + 4 * usize::from(letter - first);
                child = node.number()?;
            }
            node.at = children + 4 * (usize::from(last) + 1).saturating_sub(usize::from(first));
        }
        if letter.is_some() {
            if child & PLACE == 0 {
                return Ok(None);
            }
            place = child;
        } else if place & HAS_VALUES != 0 && node.number()? > 0 {
            node.number()?;
            return node.text().map(Some);
        } else {
            return Ok(None);
        }
    }
}

struct IndexReader<'a> {
    index: &'a [u8],
    at: usize,
}

const CUT: &str = "is truncated";

impl<'a> IndexReader<'a> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let byte = self.index.get(self.at).ok_or(CUT)?;
        self.at += 1;
        Ok(*byte)
    }

    fn number(&mut self) -> Result<u32, &'static str> {
        let bytes = self.index.get(self.at..).and_then(|rest| rest.first_chunk()).ok_or(CUT)?;
        self.at += 4;
        Ok(u32::from_be_bytes(*bytes))
    }

    fn text(&mut self) -> Result<&'a [u8], &'static str> {
        let rest = self.index.get(self.at..).ok_or(CUT)?;
        let text = &rest[..memchr::memchr(0, rest).ok_or(CUT)?];
        self.at += text.len() + 1;
        Ok(text)
    }
}

/// Whether a file name is that of a module. As in modprobe, `-` and `_` are equal.
pub fn is_file_of(file: &[u8], module: &str) -> bool {
    file.len() > module.len()
        && file.iter().zip(module.as_bytes()).all(|(a, b)| folded(*a) == folded(*b))
        && ENDINGS.iter().any(|ending| &file[module.len()..] == ending.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] =
        b"kernel/a/hello.ko.zst:\nupdates/dkms/snd-x.ko: kernel/a/hello.ko.zst b.ko\nkernel/hell.ko:";

    /// The three names of [`TEXT`], assembled by hand: `hell` with a child `o`, next to `snd_x`.
    fn binary() -> Vec<u8> {
        let mut index = vec![0; 12];
        let mut node = |flags: u32, prefix: &[u8], children: &[(u8, u32)], value: Option<&[u8]>| {
            let place = u32::try_from(index.len()).unwrap_or(0);
            index.extend(prefix.iter().copied().chain(Some(0)));
            if let [(first, _), .., (last, _)] | [(first, last)] =
                &children.iter().map(|c| (c.0, c.0)).collect::<Vec<_>>()[..]
            {
                index.extend([*first, *last]);
                for letter in *first..=*last {
                    let child = children.iter().find(|child| child.0 == letter);
                    index.extend(child.map_or(0, |child| child.1).to_be_bytes());
                }
            }
            if let Some(value) = value {
                index.extend([0, 0, 0, 1, 0, 0, 0, 9]);
                index.extend(value.iter().copied().chain(Some(0)));
            }
            place | HAS_PREFIX | flags
        };
        let lines: Vec<&[u8]> = TEXT.split(|b| *b == b'\n').collect();
        let hello = node(HAS_VALUES, b"", &[], Some(lines[0]));
        let snd = node(HAS_VALUES, b"nd_x", &[], Some(lines[1]));
        let hell = node(HAS_VALUES | HAS_CHILDREN, b"ell", &[(b'o', hello)], Some(lines[2]));
        let top = node(HAS_CHILDREN, b"", &[(b'h', hell), (b's', snd)], None);
        for (at, number) in [MARK, (VERSION << 16) + 1, top].into_iter().enumerate() {
            index[4 * at..4 * at + 4].copy_from_slice(&number.to_be_bytes());
        }
        index
    }

    fn shown(index: &Index, name: &str) -> String {
        match index.entry(name) {
            Ok(entry) => format!("{} after {:?}", entry.path, entry.needs),
            Err(instead) => instead.unwrap_or_else(|| "nothing".to_owned()),
        }
    }

    #[test]
    fn modules_are_found_by_whole_names() {
        let index = Index::new(TEXT.to_vec(), binary());
        assert_eq!(shown(&index, "hello"), "kernel/a/hello.ko.zst after []");
        assert_eq!(shown(&index, "hell"), "kernel/hell.ko after []");
        for name in ["snd_x", "snd-x"] {
            assert_eq!(
                shown(&index, name),
                "updates/dkms/snd-x.ko after [\"kernel/a/hello.ko.zst\", \"b.ko\"]"
            );
        }
        for name in ["", "h", "hel", "hellx", "hello_", "snd", "snd_", "snd_xx", "t", "a"] {
            assert_eq!((shown(&index, name), index.modprobe(name)), ("nothing".to_owned(), None), "{name}");
        }
    }

    #[test]
    fn what_modprobe_cannot_read_or_reads_otherwise() {
        let (text, good) = (TEXT.to_vec(), binary());
        let with = |binary: Vec<u8>| shown(&Index::new(text.clone(), binary), "hello");
        let unreadable = |why: &str| format!("nothing that modprobe can read (modules.dep.bin {why})");
        assert_eq!(with(Vec::new()), unreadable("is not an index"));
        assert_eq!(with([b"XXXX", &good[4..]].concat()), unreadable("is not an index"));
        assert_eq!(
            with([&good[..4], b"\0\x03\0\x01", &good[8..]].concat()),
            unreadable("is of another version")
        );
        assert_eq!(with(good[..good.len() - 50].to_vec()), unreadable("is truncated"));
        let other = Index::new(b"kernel/hell.ko: more.ko\nnew.ko:\n".to_vec(), good);
        assert_eq!([shown(&other, "hell"), shown(&other, "new")], ["something else in modules.dep.bin"; 2]);
        assert_eq!(other.modprobe("hell").map(|e| e.path).as_deref(), Some("kernel/hell.ko"));
    }

    proptest! {
        /// Whatever the bytes are, the value is a part of them.
        #[test]
        fn any_index(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9), cut in any::<prop::sample::Index>(), key in "[a-z_]{0,6}") {
            let mut index = binary();
            for (at, byte) in changes {
                let at = at.index(index.len());
                index[at] = byte;
            }
            let whole = look_up(&index, key.as_bytes()).ok().flatten();
            prop_assert!(whole.is_none_or(|line| memchr::memmem::find(&index, line).is_some()));
            let cut = &index[..cut.index(index.len() + 1)];
            if let Ok(found) = look_up(cut, key.as_bytes()) {
                prop_assert_eq!(found, whole);
            }
        }
    }
}
