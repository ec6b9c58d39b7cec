//! Symbols: what a module takes from the kernel and from other modules, in which version, and whether that
//! exists.
//!
//! A module that loads must never be reported as broken. A version is therefore wrong only in comparison with
//! the actual exporter of the symbol, and a symbol is missing only if all possible exporters were asked.

use std::collections::{BTreeMap, HashMap};
use std::io;

use anyhow::anyhow;
use object::read::ReadRef;
use object::{Endianness, File, Object, ObjectSection, ObjectSymbol};
use serde::{Deserialize, Serialize};

use crate::kernel::module_file::kernel_name;
use crate::sys::lines::each_line;

/// Symbols that the linkers of some architectures leave undefined. The kernel skips them.
const SPECIAL: [&[u8]; 2] = [b"_GLOBAL_OFFSET_TABLE_", b".TOC."];
/// The version of this symbol represents the layout of the kernel's own structures. The kernel checks it
/// first.
const LAYOUT: &[u8] = b"module_layout";
/// The size of a record of `__versions`: a long, followed by the name.
const RECORD: usize = 64;
/// The longest line of System.map. A name has at most 512 characters.
const LONGEST_LINE: usize = 4096;
/// The maximum number of symbols that a module takes or exports. The largest drivers have a few thousand.
const MOST: usize = 1 << 16;

/// A symbol that a module takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SymbolUse {
    /// The version (CRC) that it was built with; none for a module without versions.
    version: Option<u32>,
    /// The module works without it.
    weak: bool,
}

/// The symbols of one module file.
#[derive(Debug, Default)]
pub struct Symbols<'a> {
    needs: BTreeMap<&'a [u8], SymbolUse>,
    exports: HashMap<&'a [u8], Option<u32>>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// This symbol has another version.
    #[error("was built against other symbol versions: {0}")]
    Version(String),
    /// This symbol is not exported.
    #[error("needs symbol {0}, which nothing exports")]
    Missing(String),
}

/// A symbol that the kernel itself does not export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSymbol<'a> {
    name: &'a [u8],
    need: SymbolUse,
    /// `Module.symvers` lists it as a symbol of a module.
    known: bool,
}

impl OpenSymbol<'_> {
    /// Its name.
    pub fn name(&self) -> String {
        text(self.name)
    }

    /// Whether a version of it is that which the module was built with.
    pub fn agrees_with(&self, version: u32) -> bool {
        agree(self.need.version, Some(version))
    }
}

/// Reads an uncompressed module.
///
/// # Errors
///
/// If it cannot be parsed.
pub fn read<'a, R: ReadRef<'a>>(plain: R) -> anyhow::Result<Symbols<'a>> {
    let file = File::parse(plain)?;
    let many = || anyhow!("it has more than {MOST} symbols that are taken or given");
    let mut symbols = Symbols::default();
    let versions = versions(&file)?;
    for symbol in file.symbols() {
        let name = symbol.name_bytes()?;
        if symbol.is_undefined() && !name.is_empty() && !SPECIAL.contains(&name) {
            let need = SymbolUse { version: versions.get(name).copied(), weak: symbol.is_weak() };
            symbols.needs.insert(name, need);
        } else if let Some(name) = name.strip_prefix(b"__crc_") {
            symbols.exports.insert(name, version_of(&file, &symbol));
        } else if let Some(name) = name.strip_prefix(b"__ksymtab_") {
            symbols.exports.entry(name).or_default();
        }
        if symbols.needs.len() > MOST || symbols.exports.len() > MOST {
            return Err(many());
        }
    }
    if let Some(version) = versions.get(LAYOUT) {
        symbols.needs.insert(LAYOUT, SymbolUse { version: Some(*version), weak: true });
    }
    // The section also has the names of namespaces. Additional exports cause no false alarm.
    if let Some(section) = file.section_by_name("__ksymtab_strings") {
        for name in section.data()?.split(|b| *b == 0).filter(|name| !name.is_empty()) {
            symbols.exports.entry(name).or_default();
            if symbols.exports.len() > MOST {
                return Err(many());
            }
        }
    }
    Ok(symbols)
}

/// The version of an export: the value itself, or the four bytes that it points to.
fn version_of<'a, R: ReadRef<'a>>(file: &File<'a, R>, symbol: &impl ObjectSymbol<'a>) -> Option<u32> {
    // Without a version an export agrees with every version: see `agree`. A CRC has 32 bits.
    let Some(index) = symbol.section_index() else { return u32::try_from(symbol.address()).ok() };
    // Without a version an export agrees with every version: see `agree`.
    let data = file.section_by_index(index).ok()?.data().ok()?;
    let start = usize::try_from(symbol.address()).ok()?;
    number(data.get(start..)?, file.endianness())
}

fn number(bytes: &[u8], endianness: Endianness) -> Option<u32> {
    let bytes = *bytes.first_chunk()?;
    Some(if endianness == Endianness::Little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
}

/// Reads `__versions`, and the two sections for longer names.
fn versions<'a, R: ReadRef<'a>>(file: &File<'a, R>) -> Result<HashMap<&'a [u8], u32>, object::Error> {
    let data = |name: &str| -> Result<&'a [u8], object::Error> {
        file.section_by_name(name).map_or(Ok(&[][..]), |section| section.data())
    };
    let endianness = file.endianness();
    let long = if file.is_64() { 8 } else { 4 };
    // The low half of the long, which comes last in big-endian files.
    let low = if endianness == Endianness::Little { 0 } else { long - 4 };
    let mut versions = HashMap::new();
    let until_zero = |name: &'a [u8]| name.split(|b| *b == 0).next().unwrap_or_default();
    // The limit is checked where the symbols are taken.
    for record in data("__versions")?.chunks_exact(RECORD).take(MOST) {
        versions.extend(number(&record[low..], endianness).map(|crc| (until_zero(&record[long..]), crc)));
    }
    let crcs = data("__version_ext_crcs")?.chunks_exact(4).filter_map(|crc| number(crc, endianness));
    versions.extend(data("__version_ext_names")?.split(|b| *b == 0).zip(crcs).take(MOST));
    Ok(versions)
}

impl<'a> Symbols<'a> {
    /// Compares with the `Module.symvers` of the kernel. `own` returns for a module, with underscores in its
    /// name, whether the file that is loaded for that name is the kernel's own. Returns the symbols that only
    /// other modules can export; none if the list is unusable.
    ///
    /// # Errors
    ///
    /// The first symbol that the kernel itself exports in another version.
    pub fn against_kernel(
        &self,
        list: &[u8],
        own: impl Fn(&str) -> bool,
    ) -> Result<Option<Vec<OpenSymbol<'a>>>, Wrong> {
        let (mut left, mut open, mut whole) = (self.needs.clone(), Vec::new(), false);
        let mut wrong = None;
        for line in list.split(|b| *b == b'\n') {
            let mut columns = line.split(|b| *b == b'\t');
            let (Some(crc), Some(name), Some(module)) = (columns.next(), columns.next(), columns.next())
            else {
                continue;
            };
            whole |= module == b"vmlinux";
            let Some(need) = left.remove(name) else { continue };
            // What is not a number is not a version: see `agree`.
            let crc = crc.strip_prefix(b"0x").and_then(|hex| str::from_utf8(hex).ok());
            let crc = crc.and_then(|hex| u32::from_str_radix(hex, 16).ok());
            let same = agree(need.version, crc);
            if module == b"vmlinux" {
                wrong = wrong.or_else(|| (!same).then(|| Wrong::Version(text(name))));
            } else if !same || !own(&module_name(module)) {
                open.push(OpenSymbol { name: borrowed(&self.needs, name), need, known: true });
            }
        }
        if !whole {
            return Ok(None);
        }
        open.extend(left.into_iter().map(|(name, need)| OpenSymbol { name, need, known: false }));
        wrong.map_or(Ok(Some(open)), Err)
    }
}

impl Symbols<'_> {
    /// The symbols that the module takes, by name, with their versions.
    pub fn taken(&self) -> impl Iterator<Item = (String, Option<u32>)> {
        self.needs.iter().map(|(name, need)| (text(name), need.version))
    }

    /// The symbols that the module exports, by name, with their versions.
    pub fn given(&self) -> impl Iterator<Item = (String, Option<u32>)> {
        self.exports.iter().map(|(name, version)| (text(name), *version))
    }

    /// What the module takes, each with its version; none if one has no version.
    pub fn with_versions(&self) -> Option<Vec<OpenSymbol<'_>>> {
        let open = self.needs.iter().map(|(name, need)| OpenSymbol { name, need: *need, known: false });
        self.needs.values().all(|need| need.version.is_some()).then(|| open.collect())
    }

    /// The module takes no symbol from the kernel or from other modules.
    pub fn takes_nothing(&self) -> bool {
        self.needs.is_empty()
    }

    /// Compares with the names of the symbols that a kernel exports, as listed in its System.map.
    /// `of_modules` returns whether a module exports a name. Returns whether the module was built without
    /// versions; none if the map lists no export.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn against_names(
        &self,
        map: impl io::BufRead,
        of_modules: impl Fn(&str) -> bool,
    ) -> io::Result<Option<Result<bool, Wrong>>> {
        let (mut left, mut any) = (self.needs.clone(), false);
        each_line(map, LONGEST_LINE, |line| {
            let name = line.split(|b| *b == b' ').nth(2).and_then(|name| name.strip_prefix(b"__ksymtab_"));
            if let Some(name) = name {
                any = true;
                left.remove(name);
            }
        })?;
        if !any {
            return Ok(None);
        }
        let is_missing = |(name, need): &(&&[u8], &SymbolUse)| !need.weak && !of_modules(&text(name));
        if let Some((name, _)) = left.iter().find(is_missing) {
            return Ok(Some(Err(Wrong::Missing(text(name)))));
        }
        Ok(Some(Ok(self.needs.values().all(|need| need.version.is_none()))))
    }
}

/// The key of the map that equals a name: it lives as long as the file.
fn borrowed<'a>(needs: &BTreeMap<&'a [u8], SymbolUse>, name: &[u8]) -> &'a [u8] {
    needs.get_key_value(name).map_or(&[], |(key, _)| *key)
}

/// The exports of the modules that a module depends on, collected one after the other.
#[derive(Debug)]
pub struct Answers<'o, 'a> {
    open: &'o [OpenSymbol<'a>],
    /// For each symbol: whether one of them exports it, and whether in the right version.
    found: Vec<(bool, bool)>,
}

impl<'o, 'a> Answers<'o, 'a> {
    /// Before any module was asked.
    pub fn new(open: &'o [OpenSymbol<'a>]) -> Answers<'o, 'a> {
        Answers { open, found: vec![(false, false); open.len()] }
    }

    /// Adds the exports of a module.
    pub fn ask(&mut self, exporter: &Symbols<'_>) {
        for (symbol, (is_there, agrees)) in self.open.iter().zip(&mut self.found) {
            if let Some(version) = exporter.exports.get(symbol.name) {
                *is_there = true;
                *agrees |= agree(symbol.need.version, *version);
            }
        }
    }

    /// The symbols that none of these modules exports, and no other one by `listed`: the kernel itself does.
    ///
    /// # Errors
    ///
    /// The first symbol that they export in another version.
    pub fn unanswered(&self, listed: impl Fn(&str) -> bool) -> Result<Vec<&'o OpenSymbol<'a>>, Wrong> {
        let wrong = self.open.iter().zip(&self.found).find(|(_, found)| matches!(found, (true, false)));
        if let Some((symbol, _)) = wrong {
            return Err(Wrong::Version(text(symbol.name)));
        }
        let left = self.open.iter().zip(&self.found).filter(|(_, (is_there, _))| !is_there);
        Ok(left.map(|(symbol, _)| symbol).filter(|symbol| !listed(&text(symbol.name))).collect())
    }

    /// The result, after all modules were asked. `listed` returns whether the kernel's list of all symbols of
    /// modules has a symbol.
    ///
    /// # Errors
    ///
    /// The first symbol with another version, or that nothing exports.
    pub fn verdict(&self, listed: impl Fn(&str) -> bool) -> Result<(), Wrong> {
        for (symbol, found) in self.open.iter().zip(&self.found) {
            let name = text(symbol.name);
            match found {
                (_, true) => {}
                (true, false) => return Err(Wrong::Version(name)),
                (false, false) if !symbol.known && !symbol.need.weak && !listed(&name) => {
                    return Err(Wrong::Missing(name));
                }
                (false, false) => {}
            }
        }
        Ok(())
    }
}

/// Whether two versions agree. Zero means that there is none.
fn agree(one: Option<u32>, other: Option<u32>) -> bool {
    match (one.filter(|v| *v != 0), other.filter(|v| *v != 0)) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    }
}

/// The name of the module in a file, with underscores as in the kernel. `path` may lack the ending.
pub fn module_name(path: &[u8]) -> String {
    let file = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let end = memchr::memmem::find(file, b".ko").unwrap_or(file.len());
    kernel_name(&text(&file[..end]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
