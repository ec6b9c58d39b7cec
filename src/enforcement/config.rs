//! The configuration that a kernel was built with: `/usr/lib/kernel/config-RELEASE`.

use std::collections::BTreeMap;

use crate::kernel::config_file;

/// The prefixes of the options that are used. The other options, about ten thousand, are not kept.
const ASKED_FOR: [&str; 9] = [
    "MODULE_SIG",
    "SECURITY_LOCKDOWN_LSM",
    "LOCK_DOWN_",
    "LSM",
    "IMA",
    "CMDLINE",
    "BOOT_CONFIG",
    "SYSTEM_TRUSTED_KEYS",
    "SECONDARY_TRUSTED_KEYRING",
];

/// The options that are used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// Options with their values as written. None for options that are listed as not set.
    options: BTreeMap<String, Option<String>>,
}

impl KernelConfig {
    /// Parses the text. None if it has no option at all, because an empty or foreign file proves nothing.
    pub fn parse(text: &[u8]) -> Option<KernelConfig> {
        let mut config = KernelConfig::default();
        let mut any = false;
        for (name, value) in config_file::options(text) {
            any = true;
            if is_asked_for(name) {
                // Bytes that are not valid UTF-8 are in no value that is used.
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                config.options.insert(text(name), value.map(text));
            }
        }
        any.then_some(config)
    }

    /// Whether the option is built in.
    pub fn has(&self, option: &str) -> bool {
        self.value(option).is_some_and(|v| v == "y" || v == "m")
    }

    /// Whether the configuration lists the option as not set. Options that depend on others are often not
    /// listed at all.
    pub fn denies(&self, option: &str) -> bool {
        self.options.get(option).is_some_and(|v| v.as_ref().is_none_or(|v| v == "n"))
    }

    /// The text value of an option, without its quotes.
    pub fn text(&self, option: &str) -> Option<String> {
        let value = self.value(option)?;
        let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        Some(inner.replace("\\\"", "\"").replace("\\\\", "\\"))
    }

    fn value(&self, option: &str) -> Option<&str> {
        debug_assert!(is_asked_for(option.as_bytes()), "{option} is not kept");
        self.options.get(option)?.as_deref()
    }
}

fn is_asked_for(name: &[u8]) -> bool {
    ASKED_FOR.iter().any(|start| name.starts_with(start.as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options() {
        let text = b"#\n# Linux\n#\nCONFIG_MODULE_SIG=y\n# CONFIG_MODULE_SIG_FORCE is not set\nCONFIG_LSM=\"a,b\"\n\xff\xfe\n";
        let config = KernelConfig::parse(text).unwrap();
        assert!(config.has("MODULE_SIG") && !config.has("MODULE_SIG_FORCE") && !config.has("MODULE_SIG_ALL"));
        assert!(config.denies("MODULE_SIG_FORCE") && !config.denies("MODULE_SIG_ALL"));
        assert_eq!(config.text("LSM").as_deref(), Some("a,b"));
        // The last occurrence counts. A file without any used option is a configuration nevertheless.
        let config =
            KernelConfig::parse(b"CONFIG_IMA=y\n# CONFIG_IMA is not set\nCONFIG_LSM=\"x\\\"\\\\\"").unwrap();
        assert!(config.denies("IMA") && config.text("LSM").as_deref() == Some("x\"\\"));
        assert_eq!(KernelConfig::parse(b"CONFIG_X=y\n"), Some(KernelConfig::default()));
        for nothing in [b"".as_slice(), b"garbage\0\n", b"# a comment\n"] {
            assert_eq!(KernelConfig::parse(nothing), None);
        }
    }
}
