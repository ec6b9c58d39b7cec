//! The configuration that a kernel was built with, as kconfig writes it: `CONFIG_NAME=value`, and
//! `# CONFIG_NAME is not set`.

/// The options that a text names, without `CONFIG_`: the value as it is written, none for one that the text
/// says is not set.
pub fn options(text: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter_map(|line| {
        if let Some(unset) = line.strip_prefix(b"# CONFIG_") {
            return Some((unset.strip_suffix(b" is not set")?, None));
        }
        let set = line.strip_prefix(b"CONFIG_")?;
        let at = memchr::memchr(b'=', set)?;
        Some((&set[..at], Some(&set[at + 1..])))
    })
}

/// The value of an option, named with or without `CONFIG_`.
pub fn value<'t>(text: &'t [u8], option: &str) -> Option<&'t [u8]> {
    let name = option.strip_prefix("CONFIG_").unwrap_or(option).as_bytes();
    options(text).find(|(found, _)| *found == name)?.1
}

/// Whether an option is `y` or `m`.
pub fn is_set(text: &[u8], option: &str) -> bool {
    matches!(value(text, option), Some([b'y' | b'm', ..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_kernel() {
        let text = b"#\n# Linux\n#\nCONFIG_A=y\r\nCONFIG_AB=m\n# CONFIG_C is not set\nCONFIG_T=\"a=b\"\nCONFIG_\nX=y\n";
        assert_eq!(options(text).count(), 4);
        assert_eq!(value(text, "CONFIG_T"), Some(&b"\"a=b\""[..]));
        assert_eq!(value(text, "A"), Some(&b"y"[..]));
        assert!(is_set(text, "CONFIG_AB") && !is_set(text, "CONFIG_C") && !is_set(text, "CONFIG_X"));
    }
}
