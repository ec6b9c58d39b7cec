//! Variables of the machine's UEFI firmware, as a root's `sys` shows them.

use std::io::{self, Write};
use std::path::PathBuf;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::root::{FileError, Root};

/// Present with UEFI firmware, absent with a BIOS.
const FIRMWARE: &str = "/sys/firmware/efi";
/// Where efivarfs is mounted.
const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// The vendor of the variables that the UEFI specification defines.
pub const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// The vendor of the variables of the Boot Loader Interface, which systemd-boot implements.
pub const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Whether the machine was started by UEFI firmware.
///
/// # Errors
/// When it is unknown.
pub fn has_firmware(root: &Root) -> Result<bool, FileError> {
    root.has(FIRMWARE)
}

/// Whether its variables can be seen: a container, or a kernel started with `noefi`, shows none.
pub fn shows_variables(root: &Root) -> bool {
    // The reason makes no difference: no variable can be read.
    root.list(VARIABLES).is_ok_and(|files| !files.is_empty())
}

/// The value of a variable, without its attributes; none when it is not set.
///
/// # Errors
/// When it is there and cannot be read.
pub fn variable(root: &Root, name: &str, vendor: &str) -> Result<Option<Vec<u8>>, FileError> {
    let path = path_of(name, vendor);
    let Some(bytes) = root.read_optional(&path)? else { return Ok(None) };
    // Left by a program that was killed before it wrote the value: the firmware has no such variable.
    if bytes.is_empty() {
        return Ok(None);
    }
    // Every value is preceded by four bytes of attributes.
    match bytes.split_at_checked(4) {
        Some((_, value)) => Ok(Some(value.to_vec())),
        None => {
            let short = io::Error::new(io::ErrorKind::InvalidData, "it is too short for a variable");
            Err(root.fail_read("read", &path, short))
        }
    }
}

/// The text of a variable, which is UTF-16 with a NUL at its end; none when it is not set, or empty.
///
/// # Errors
/// As [`variable`].
pub fn text(root: &Root, name: &str, vendor: &str) -> Result<Option<String>, FileError> {
    let value = variable(root, name, vendor)?;
    Ok(value.map(|value| decode(&value)).filter(|text| !text.is_empty()))
}

/// The texts of a variable that holds several, each with a NUL at its end; none when it is not set, or empty.
///
/// # Errors
/// As [`variable`].
pub fn texts(root: &Root, name: &str, vendor: &str) -> Result<Option<Vec<String>>, FileError> {
    let Some(value) = variable(root, name, vendor)? else { return Ok(None) };
    let mut texts = Vec::new();
    let mut rest = value.as_slice();
    while rest.len() >= 2 {
        let text = decode(rest);
        rest = rest.get(2 * (text.encode_utf16().count() + 1)..).unwrap_or_default();
        texts.push(text);
    }
    texts.retain(|text| !text.is_empty());
    Ok(Some(texts).filter(|texts| !texts.is_empty()))
}

/// The attributes of a variable that outlasts a reboot and that the boot loader can read: non-volatile, boot
/// services, runtime services.
const LASTING: [u8; 4] = [7, 0, 0, 0];

/// Sets a variable to a text, which is stored as UTF-16 with a NUL at its end.
///
/// # Errors
/// When it cannot be written. It is not set then.
pub fn set_text(root: &Root, name: &str, vendor: &str, text: &str) -> Result<(), FileError> {
    let path = path_of(name, vendor);
    let value = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
    let bytes: Vec<u8> = LASTING.into_iter().chain(value).collect();
    unset(root, name, vendor)?;
    // efivarfs takes a variable in one write, and knows neither temporary names nor renames.
    let mut file = root.create(&path)?;
    let written = file.write(&bytes).map_err(|e| root.write_failed(&path, e))?;
    match written == bytes.len() {
        true => Ok(()),
        false => Err(root.write_failed(&path, io::Error::other("only a part of it was written"))),
    }
}

/// Removes a variable. Returns whether it was there.
///
/// # Errors
/// When it cannot be removed.
pub fn unset(root: &Root, name: &str, vendor: &str) -> Result<bool, FileError> {
    let path = path_of(name, vendor);
    make_mutable(root, &path)?;
    root.remove(&path)
}

/// efivarfs marks most variables as immutable, so that no `rm -r` deletes one.
fn make_mutable(root: &Root, path: &std::path::Path) -> Result<(), FileError> {
    if root.lookup(path).is_absent() {
        return Ok(());
    }
    let file = root.open_file(path)?;
    match ioctl_getflags(&file) {
        Ok(flags) if flags.contains(IFlags::IMMUTABLE) => {
            ioctl_setflags(&file, flags - IFlags::IMMUTABLE).map_err(|e| root.write_failed(path, e.into()))
        }
        // Not every filesystem has such flags. The write reports what else is wrong.
        Ok(_) | Err(_) => Ok(()),
    }
}

pub fn path_of(name: &str, vendor: &str) -> PathBuf {
    PathBuf::from(format!("{VARIABLES}/{name}-{vendor}"))
}

/// Decodes little-endian UTF-16 up to the first NUL; invalid code units are replaced.
fn decode(value: &[u8]) -> String {
    let units = value.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units.take_while(|unit| *unit != 0)).map(|c| c.unwrap_or('\u{fffd}')).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use crate::sys::RootKind;
    use proptest::prelude::*;

    #[test]
    fn variables() {
        let directory = tempfile::tempdir().unwrap();
        let vars = directory.path().join(VARIABLES.trim_start_matches('/'));
        std::fs::create_dir_all(&vars).unwrap();
        let root = Root::open(RootKind::LiveCopy, directory.path()).unwrap();
        assert!(has_firmware(&root).unwrap() && !shows_variables(&root));
        let put =
            |name: &str, bytes: &[u8]| std::fs::write(vars.join(format!("{name}-{LOADER}")), bytes).unwrap();
        put("Text", b"\x07\0\0\0a\0\xfc\0.\0\0\0x\0");
        put("Unset", b"\x07\0\0\0");
        put("Short", b"\x07\0");
        assert!(shows_variables(&root));
        assert_eq!(text(&root, "Text", LOADER).unwrap().as_deref(), Some("aü."));
        assert_eq!(text(&root, "Unset", LOADER).unwrap(), None);
        put("Texts", b"\x07\0\0\0a\0\0\0\xfc\0b\0\0\0\0\0");
        let texts = |name: &str| texts(&root, name, LOADER).unwrap();
        assert_eq!(texts("Texts"), Some(vec!["a".to_owned(), "üb".to_owned()]));
        assert_eq!(
            (texts("Text"), texts("Unset"), texts("None")),
            (Some(vec!["aü.".to_owned(), "x".to_owned()]), None, None)
        );
        assert_eq!(variable(&root, "Unset", LOADER).unwrap().as_deref(), Some(&[][..]));
        assert_eq!(variable(&root, "Text", GLOBAL).unwrap(), None);
        assert!(variable(&root, "Short", LOADER).unwrap_err().to_string().contains("too short"));
    }

    #[test]
    fn a_variable_is_set_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let vars = directory.path().join(VARIABLES.trim_start_matches('/'));
        std::fs::create_dir_all(&vars).unwrap();
        let root = Root::open(RootKind::LiveCopy, directory.path()).unwrap();
        assert!(!unset(&root, "One", LOADER).unwrap());
        for text in ["a long name.conf", "ü.conf"] {
            set_text(&root, "One", LOADER, text).unwrap();
            assert_eq!(super::text(&root, "One", LOADER).unwrap().as_deref(), Some(text));
        }
        let bytes = std::fs::read(vars.join(format!("One-{LOADER}"))).unwrap();
        assert_eq!(bytes, b"\x07\0\0\0\xfc\0.\0c\0o\0n\0f\0\0\0");
        std::fs::write(vars.join(format!("One-{LOADER}")), "").unwrap();
        assert_eq!(super::text(&root, "One", LOADER).unwrap(), None);
        assert!(unset(&root, "One", LOADER).unwrap());
        assert_eq!(super::text(&root, "One", LOADER).unwrap(), None);
        std::fs::remove_dir(&vars).unwrap();
        std::fs::write(&vars, "").unwrap();
        assert!(set_text(&root, "One", LOADER, "x").is_err());
    }

    proptest! {
        #[test]
        fn any_value_is_decoded(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(!decode(&value).contains('\0'));
        }
    }
}
