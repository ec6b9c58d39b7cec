//! `syslinux.cfg`, which syslinux and extlinux read.
//!
//! Source: the manual of syslinux 6.

use super::menu::{BootEntry, DefaultEntry, EntryPlace, Menu, MenuFault, SetBy, base_name, image_name};
use crate::sys::FileError;

/// The configuration, at the top of the boot partition.
pub const CONFIGURATION: &str = "syslinux.cfg";

/// Reads the boot files.
///
/// # Errors
///
/// If they cannot be read.
pub(super) fn read(place: &EntryPlace, namespace: &str) -> Result<Menu, FileError> {
    Ok(match place.configuration(CONFIGURATION, None)? {
        Ok(text) => parse(&text.unwrap_or_default(), namespace, &place.shown_path(CONFIGURATION)),
        Err(fault) => Menu { problems: vec![fault], ..Menu::default() },
    })
}

/// The lines below one LABEL.
#[derive(Debug, Default)]
struct Label {
    name: String,
    image: Option<String>,
    options: Option<Vec<u8>>,
    initrds: Vec<String>,
}

/// Parses the file at `path`. Keywords are matched without case. The last occurrence in an entry counts, and
/// the last `DEFAULT`.
pub fn parse(text: &[u8], namespace: &str, path: &str) -> Menu {
    let mut menu = Menu::default();
    let mut default = None;
    let mut label: Option<Label> = None;
    // An APPEND before the first LABEL applies to each entry without its own.
    let mut common = Vec::new();
    let mut entry_of = |label: Option<Label>, common: &[u8]| {
        let Some(Label { name, image, options, initrds }) = label else { return };
        let options = options.unwrap_or_else(|| common.to_vec());
        // Without KERNEL the label is the name of the file.
        let image = image.unwrap_or_else(|| image_name(name.as_bytes()));
        menu.entries.push(BootEntry::new(&name, Some(image), namespace, options).with_initrds(initrds));
    };
    for line in text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii) {
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (key, value) = (line[..end].to_ascii_lowercase(), line[end..].trim_ascii());
        match (key.as_slice(), &mut label) {
            (b"label", _) => {
                let name = String::from_utf8_lossy(value).into_owned();
                entry_of(label.replace(Label { name, ..Label::default() }), &common);
            }
            (b"kernel" | b"linux", Some(label)) => label.image = Some(image_name(value)),
            (b"initrd", Some(label)) => {
                label.initrds.extend(value.split(|b| *b == b',').map(base_name));
            }
            // A single dash means no parameters, not even the common ones.
            (b"append", Some(label)) => {
                label.options = Some(if value == b"-" { Vec::new() } else { value.to_vec() })
            }
            (b"append", None) => common = value.to_vec(),
            (b"default", _) => default = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
    }
    entry_of(label, &common);
    match default {
        Some(name) => match menu.entries.iter().find(|e| e.file == name) {
            Some(entry) => {
                let (entry, id) = (entry.file.clone(), entry.id.clone());
                menu.default = Some(DefaultEntry { entry, id, set_by: SetBy::SyslinuxDefault });
            }
            None => {
                let what = format!("the DEFAULT of {path} is {name}, which is not a LABEL");
                // A menu program is not a kernel, and only it knows its default.
                let menu_program = name.ends_with(".c32");
                menu.problems.push(MenuFault { breaks: !menu_program, ..MenuFault::odd(what, None) });
            }
        },
        None if !menu.entries.is_empty() => {
            let what = format!("{path} names no DEFAULT: somebody must choose at the boot prompt");
            menu.problems.push(MenuFault::odd(what, None));
        }
        None => {}
    }
    menu
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const NS: &str = "org.clearlinux";
    const A: &str = "org.clearlinux.native.6.15.7-1591";
    const B: &str = "org.clearlinux.native.6.15.8-1592";

    /// A file as clr-boot-manager writes it for two kernels.
    fn file() -> String {
        format!(
            "TIMEOUT 5\nLABEL {A}\n  KERNEL {A}\nAPPEND root=PARTUUID=1 quiet  rw \nDEFAULT {B}\nLABEL {B}\n  KERNEL {B}\n  \
             INITRD initrd-{B}\nAPPEND root=PARTUUID=1 quiet\n"
        )
    }

    #[test]
    fn clr_boot_managers_file() {
        let menu = parse(file().as_bytes(), NS, "P");
        let found: Vec<_> =
            menu.entries.iter().map(|e| (e.file.as_str(), e.id.as_deref(), e.options.as_slice())).collect();
        assert_eq!(
            found,
            [(A, Some(A), &b"root=PARTUUID=1 quiet  rw"[..]), (B, Some(B), &b"root=PARTUUID=1 quiet"[..])]
        );
        assert_eq!(menu.entries[1].initrds, [format!("initrd-{B}")]);
        let default = menu.default.unwrap();
        assert_eq!((default.entry.as_str(), default.set_by), (B, SetBy::SyslinuxDefault));
        assert_eq!(menu.problems, []);
    }

    #[test]
    fn files_of_others() {
        let entry = |text: &str| parse(text.as_bytes(), NS, "P").entries[0].clone();
        assert_eq!(entry(&format!("append a\nlabel {A}\n")).options, b"a");
        assert_eq!(entry(&format!("append a\nlabel {A}\n")).id.as_deref(), Some(A));
        assert_eq!(entry("append a\nlabel x\nappend -\nlinux ../y").options, b"");
        let bak = entry(&format!("LABEL x\nKERNEL /{A}.bak\nAPPEND b\n"));
        assert_eq!((bak.id.as_deref(), bak.copy), (Some(A), true));
        let shown = |text: &str| {
            parse(text.as_bytes(), NS, "P").problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            shown("DEFAULT vesamenu.c32\nLABEL x\n"),
            ["the DEFAULT of P is vesamenu.c32, which is not a LABEL"]
        );
        assert_eq!(shown("LABEL x\n"), ["P names no DEFAULT: somebody must choose at the boot prompt"]);
        assert_eq!(shown(""), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_bytes(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&text, NS, "P");
        }

        #[test]
        fn any_words(text in "((label|kernel|append|default|org.clearlinux.native.1-1|-| |\n){0,4}\n){0,10}") {
            parse(text.as_bytes(), NS, "P");
        }
    }
}
