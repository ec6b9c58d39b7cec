//! The smallest file that is a kernel module to everybody who only reads its `.modinfo`.

/// An ELF64 object for x86-64 with the sections `.modinfo` and `.shstrtab`; `vermagic` is that of `release`.
pub(crate) fn module(release: &str) -> Vec<u8> {
    with_modinfo(format!("license=GPL\0vermagic={release} SMP preempt mod_unload \0").as_bytes())
}

/// The same with any `.modinfo`.
pub(crate) fn with_modinfo(modinfo: &[u8]) -> Vec<u8> {
    const HEADER: usize = 64;
    let names = b"\0.modinfo\0.shstrtab\0";
    let sections = (HEADER + modinfo.len() + names.len()).next_multiple_of(8);
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [1u16, 62] {
        file.extend(half.to_le_bytes()); // ET_REL, EM_X86_64
    }
    file.extend(1u32.to_le_bytes());
    file.extend([0; 16]); // entry, program headers
    file.extend((sections as u64).to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [HEADER as u16, 0, 0, 64, 3, 2] {
        file.extend(half.to_le_bytes());
    }
    file.extend(modinfo);
    file.extend(names);
    file.resize(sections, 0);
    file.extend([0; 64]);
    let mut section = |name: u32, kind: u32, offset: usize, size: usize| {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend([0; 16]); // flags, address
        file.extend((offset as u64).to_le_bytes());
        file.extend((size as u64).to_le_bytes());
        file.extend([0; 8]); // link, info
        file.extend(1u64.to_le_bytes());
        file.extend([0; 8]);
    };
    section(1, 1, HEADER, modinfo.len());
    section(10, 3, HEADER + modinfo.len(), names.len());
    file
}
