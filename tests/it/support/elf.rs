//! The smallest files that are kernel modules to everything that only reads what they say of themselves.

/// A module with only a `.modinfo`; `vermagic` is that of `release`.
pub(crate) fn module(release: &str) -> Vec<u8> {
    with_modinfo(format!("license=GPL\0vermagic={release} SMP preempt mod_unload \0").as_bytes())
}

/// The same with any `.modinfo`.
pub(crate) fn with_modinfo(modinfo: &[u8]) -> Vec<u8> {
    object(vec![Section::plain(".modinfo", modinfo.to_vec())])
}

/// The same with so many bytes of code in front of it.
pub(crate) fn with_filling(release: &str, bytes: usize) -> Vec<u8> {
    let modinfo = format!("license=GPL\0vermagic={release} SMP preempt mod_unload \0");
    object(vec![
        Section::plain(".text", vec![0x90; bytes.next_multiple_of(8)]),
        Section::plain(".modinfo", modinfo.into_bytes()),
    ])
}

/// The same on top of other modules: what it takes (name, version, weak) and what it gives (name, version).
pub(crate) fn with_symbols(
    release: &str,
    depends: &str,
    takes: &[(&str, u32, bool)],
    gives: &[(&str, u32)],
) -> Vec<u8> {
    let (mut versions, mut crcs) = (Vec::new(), Vec::new());
    let (mut table, mut names) = (vec![0; 24], vec![0]);
    let mut symbol = |name: &str, bind: u8, section: u16, value: u64| {
        table.extend(u32::try_from(names.len()).unwrap().to_le_bytes());
        table.extend([bind << 4, 0]);
        table.extend(section.to_le_bytes());
        table.extend(value.to_le_bytes());
        table.extend([0; 8]);
        names.extend(name.bytes().chain([0]));
    };
    for (name, version, weak) in takes {
        symbol(name, if *weak { 2 } else { 1 }, 0, 0);
        versions.extend(u64::from(*version).to_le_bytes());
        versions.extend(name.bytes());
        versions.resize(versions.len().next_multiple_of(64), 0);
    }
    for (name, version) in gives {
        symbol(&format!("__crc_{name}"), 0, 3, crcs.len() as u64);
        symbol(&format!("__ksymtab_{name}"), 0, 3, 0);
        crcs.extend(version.to_le_bytes());
    }
    let modinfo = format!("depends={depends}\0vermagic={release} SMP preempt mod_unload modversions \0");
    object(vec![
        Section::plain(".modinfo", modinfo.into_bytes()),
        Section::plain("__versions", versions),
        Section::plain("__kcrctab", crcs),
        Section { name: ".symtab", kind: 2, bytes: table, link: 5, entry: 24 },
        Section { name: ".strtab", kind: 3, bytes: names, link: 0, entry: 0 },
    ])
}

/// The same without versions: only the names of what it takes.
pub(crate) fn with_plain_symbols(release: &str, takes: &[&str]) -> Vec<u8> {
    let (mut table, mut names) = (vec![0; 24], vec![0]);
    for name in takes {
        table.extend(u32::try_from(names.len()).unwrap().to_le_bytes());
        table.extend([1 << 4, 0]);
        table.extend([0; 18]);
        names.extend(name.bytes().chain([0]));
    }
    let modinfo = format!("depends=\0vermagic={release} SMP preempt mod_unload \0");
    object(vec![
        Section::plain(".modinfo", modinfo.into_bytes()),
        Section { name: ".symtab", kind: 2, bytes: table, link: 3, entry: 24 },
        Section { name: ".strtab", kind: 3, bytes: names, link: 0, entry: 0 },
    ])
}

struct Section {
    name: &'static str,
    kind: u32,
    bytes: Vec<u8>,
    link: u32,
    entry: u64,
}

impl Section {
    fn plain(name: &'static str, bytes: Vec<u8>) -> Section {
        Section { name, kind: 1, bytes, link: 0, entry: 0 }
    }
}

/// An ELF64 object for x86-64 with these sections and `.shstrtab`.
fn object(mut sections: Vec<Section>) -> Vec<u8> {
    const HEADER: usize = 64;
    let mut names = vec![0];
    let mut starts = Vec::new();
    for name in sections.iter().map(|s| s.name).chain([".shstrtab"]) {
        starts.push(names.len());
        names.extend(name.bytes().chain([0]));
    }
    sections.push(Section { name: ".shstrtab", kind: 3, bytes: names, link: 0, entry: 0 });
    let end = HEADER + sections.iter().map(|s| s.bytes.len()).sum::<usize>();
    let table = end.next_multiple_of(8);
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [1u16, 62] {
        file.extend(half.to_le_bytes()); // ET_REL, EM_X86_64
    }
    file.extend(1u32.to_le_bytes());
    file.extend([0; 16]); // entry, program headers
    file.extend((table as u64).to_le_bytes());
    file.extend(0u32.to_le_bytes());
    let count = sections.len() as u16;
    for half in [HEADER as u16, 0, 0, 64, count + 1, count] {
        file.extend(half.to_le_bytes());
    }
    let mut heads = vec![0; 64];
    for (section, start) in sections.iter().zip(starts) {
        heads.extend((start as u32).to_le_bytes());
        heads.extend(section.kind.to_le_bytes());
        heads.extend([0; 16]); // flags, address
        heads.extend((file.len() as u64).to_le_bytes());
        heads.extend((section.bytes.len() as u64).to_le_bytes());
        heads.extend(section.link.to_le_bytes());
        heads.extend(1u32.to_le_bytes()); // of a symbol table: the first that is not local
        heads.extend(1u64.to_le_bytes());
        heads.extend(section.entry.to_le_bytes());
        file.extend(&section.bytes);
    }
    file.resize(table, 0);
    file.extend(heads);
    file
}
