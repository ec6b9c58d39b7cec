//! The metadata in a kernel module file, independent of its location and of the program that installed it.

use anyhow::{Context, anyhow, bail};
use object::read::ReadRef;
use object::{Object, ObjectSection};
use serde::{Deserialize, Serialize};

use crate::sys::fingerprint::hex;

/// The largest `.modinfo` section. The alias lists of the largest drivers have a tenth of this size.
const LARGEST_INFO: usize = 1 << 20;

/// The suffixes of module files, in the order in which they are looked for.
pub const ENDINGS: [&str; 4] = [".ko", ".ko.zst", ".ko.xz", ".ko.gz"];

/// The module name in a file name: `snd-x` for `kernel/sound/snd-x.ko.zst`. None if it is not a module file.
pub fn stem(path: &str) -> Option<&str> {
    let base = path.rsplit('/').next().unwrap_or(path);
    ENDINGS.iter().find_map(|ending| base.strip_suffix(ending)).filter(|stem| !stem.is_empty())
}

/// A byte of a name in which `-` and `_` are equal: module names, and the names of kernel parameters.
pub fn folded(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte }
}

/// A module name as the kernel writes it, with `_` for `-`.
pub fn kernel_name(name: &str) -> String {
    name.replace('-', "_")
}

/// The used fields of the `.modinfo` section, and the build id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    /// The release and the build options of the kernel that it was built for. None if the section has no such
    /// field.
    pub vermagic: Option<String>,
    /// The modules that it depends on.
    pub depends: Vec<String>,
    /// Patterns of the devices, filesystems and protocols that it serves.
    pub aliases: Vec<String>,
    /// The firmware files that it may ask for.
    pub firmware: Vec<String>,
    pub build: BuildIdentity,
}

/// What identifies a build of a module, however the file is compressed, stripped or signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildIdentity {
    /// The hash of the sources. It exists if the kernel configuration enables it, or if the module has a
    /// version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srcversion: Option<String>,
    /// The build id of the linker, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
}

impl BuildIdentity {
    /// Whether both are the same build. None if they have no field in common. The hash of the sources is
    /// compared first, because the build id also changes with the compiler and the build directory.
    pub fn same_as(&self, other: &BuildIdentity) -> Option<bool> {
        let equal = |a: &Option<String>, b: &Option<String>| Some(a.as_ref()? == b.as_ref()?);
        equal(&self.srcversion, &other.srcversion).or_else(|| equal(&self.build_id, &other.build_id))
    }
}

/// The kernel release in a vermagic.
pub fn made_for(vermagic: &str) -> Option<&str> {
    vermagic.split_ascii_whitespace().next()
}

/// Reads an uncompressed module.
///
/// # Errors
///
/// If it is not an ELF file with a `.modinfo` section.
pub fn info<'a>(plain: impl ReadRef<'a>) -> anyhow::Result<ModuleInfo> {
    let file = object::File::parse(plain).map_err(|e| anyhow!("it is not an ELF file ({e})"))?;
    let section = file.section_by_name(".modinfo").context("it has no .modinfo section")?;
    let data = section.data().map_err(|e| anyhow!("its .modinfo cannot be read ({e})"))?;
    if data.len() > LARGEST_INFO {
        bail!("its .modinfo is larger than 1 MiB");
    }
    let mut info = fields(data.split(|b| *b == 0));
    // A damaged note does not make the module unusable.
    info.build.build_id = file.build_id().ok().flatten().map(hex);
    Ok(info)
}

/// Reads the `key=value` entries of one module. As in kmod, the first entry of a key counts, except for
/// `alias` and `firmware`.
pub fn fields<'a>(entries: impl Iterator<Item = &'a [u8]>) -> ModuleInfo {
    let mut info = ModuleInfo::default();
    let mut depends = None;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    for entry in entries {
        let Some(at) = memchr::memchr(b'=', entry) else { continue };
        let (key, value) = (&entry[..at], &entry[at + 1..]);
        match key {
            b"vermagic" if info.vermagic.is_none() => info.vermagic = Some(text(value)),
            b"depends" if depends.is_none() => depends = Some(text(value)),
            b"srcversion" if info.build.srcversion.is_none() => info.build.srcversion = Some(text(value)),
            b"alias" => info.aliases.push(text(value)),
            b"firmware" => info.firmware.push(text(value)),
            _ => {}
        }
    }
    let depends = depends.unwrap_or_default();
    info.depends = depends.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_modinfo() {
        let text = b"license=GPL\0alias=fs-x\0vermagic=6.1 SMP \0depends=a,b-c\0alias=pci:v*\0srcversion=AB\0vermagic=z\0x";
        let info = fields(text.split(|b| *b == 0));
        assert_eq!(info.vermagic.as_deref(), Some("6.1 SMP"));
        assert_eq!(info.depends, ["a", "b-c"]);
        assert_eq!(info.aliases, ["fs-x", "pci:v*"]);
        assert_eq!(info.build.srcversion.as_deref(), Some("AB"));
    }

    #[test]
    fn builds_are_compared_by_what_both_have() {
        let build = |src: &str, id: &str| BuildIdentity {
            srcversion: Some(src.to_owned()).filter(|s| !s.is_empty()),
            build_id: Some(id.to_owned()).filter(|s| !s.is_empty()),
        };
        let table = [
            (("A", "1"), ("A", "2"), Some(true)),
            (("A", "1"), ("B", "1"), Some(false)),
            (("", "1"), ("B", "1"), Some(true)),
            (("A", "1"), ("", "2"), Some(false)),
            (("A", ""), ("", "2"), None),
            (("", ""), ("", ""), None),
        ];
        for (one, other, expected) in table {
            assert_eq!(build(one.0, one.1).same_as(&build(other.0, other.1)), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn names_of_files() {
        for (path, name) in [
            ("kernel/a/snd-x.ko", Some("snd-x")),
            ("x.ko.zst", Some("x")),
            ("a.ko.xz", Some("a")),
            (".ko", None),
            ("a.ko.bak", None),
            ("a", None),
        ] {
            assert_eq!(stem(path), name, "{path}");
        }
    }
}
