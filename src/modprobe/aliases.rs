//! Which modules of a kernel serve an alias, according to `modules.alias` and, for built-in modules,
//! `modules.builtin.modinfo`.

use std::collections::BTreeSet;

use super::pattern;
use crate::kernel::module_file::{folded, kernel_name};

/// The modules that `modules.alias` lists for an alias.
pub fn listed(text: &[u8], alias: &str) -> BTreeSet<String> {
    matching(lines(text), alias)
}

/// The patterns in `modules.alias` with their modules.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = text.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(b"alias "));
    lines.filter_map(|line| {
        let (pattern, module) = line.split_at_checked(memchr::memrchr(b' ', line)?)?;
        Some((pattern, &module[1..]))
    })
}

/// The modules whose entries in `modules.builtin.modinfo` (`MODULE.alias=PATTERN`, separated by NUL) match an
/// alias.
pub fn built_in(info: &[u8], alias: &str) -> BTreeSet<String> {
    matching(built_in_entries(info), alias)
}

/// The patterns in `modules.builtin.modinfo` with their modules.
pub(super) fn built_in_entries(info: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    const KEY: &[u8] = b".alias=";
    info.split(|b| *b == 0).filter_map(|entry| {
        let (module, rest) = entry.split_at_checked(memchr::memmem::find(entry, KEY)?)?;
        Some((&rest[KEY.len()..], module))
    })
}

fn matching<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>, alias: &str) -> BTreeSet<String> {
    let alias = pattern::normalized(alias).unwrap_or_else(|| alias.to_owned());
    let serves = |pattern: &[u8]| {
        // Comparing the beginning first is fast: there are tens of thousands of patterns, and few begin like
        // the alias.
        begins_alike(pattern, alias.as_bytes())
            && pattern::normalized(&String::from_utf8_lossy(pattern))
                .is_some_and(|pattern| pattern::matches(&pattern, &alias))
    };
    let found = pairs.filter(|(pattern, _)| serves(pattern));
    found.map(|(_, module)| kernel_name(String::from_utf8_lossy(module).trim())).collect()
}

/// Whether the text before the first special character of a pattern is the beginning of the alias.
fn begins_alike(pattern: &[u8], alias: &[u8]) -> bool {
    let plain = pattern.iter().take_while(|b| !b"*?[\\".contains(b));
    let mut alias = alias.iter();
    plain.into_iter().all(|b| alias.next().is_some_and(|of| folded(*of) == folded(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &BTreeSet<String>) -> Vec<&str> {
        found.iter().map(String::as_str).collect()
    }

    #[test]
    fn every_module_that_is_listed_for_an_alias() {
        let text = b"# Aliases extracted from modules themselves.\nalias fs-ext3 ext4\nalias fs-ext4 ext4\n\
            alias pci:v000010ECd00008125sv*sd*bc*sc*i* r8169\nalias pci:v000010ECd0000812[3-6]sv* r8125-x\n\
            alias pci:v*d*sv*sd*bc02sc00i* any\nalias rtnl_link_wireguard wireguard\nalias fs\nalias ";
        let of = |alias: &str| listed(text, alias);
        assert_eq!(names(&of("fs-ext4")), ["ext4"]);
        assert_eq!(names(&of("fs_ext3")), ["ext4"]);
        assert_eq!(names(&of("rtnl-link-wireguard")), ["wireguard"]);
        let card = "pci:v000010ECd00008125sv00001458sd0000E000bc02sc00i00";
        assert_eq!(names(&of(card)), ["any", "r8125_x", "r8169"]);
        for alias in ["fs-ext", "fs-ext44", "pci:v000010ECd00009999sv0", "", "alias"] {
            assert_eq!(names(&of(alias)), [""; 0], "{alias}");
        }
        assert_eq!(names(&listed(b"", "fs-ext4")), [""; 0]);
    }

    #[test]
    fn what_is_built_in() {
        let info =
            b"ext4.license=GPL\0ext4.alias=fs-ext4\0snd-x.alias=pci:v*\0x.parm=a.alias=fs-ext4\0.alias";
        assert_eq!(names(&built_in(info, "fs-ext4")), ["ext4", "x.parm=a"]);
        assert_eq!(names(&built_in(info, "pci:v00001234")), ["snd_x"]);
        assert_eq!(names(&built_in(info, "fs-xfs")), [""; 0]);
    }
}
