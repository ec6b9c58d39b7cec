//! The configuration that a kernel was built with: `/usr/lib/kernel/config-RELEASE`.

use std::collections::BTreeMap;

use crate::kernel::config_file;

/// How the names of the options begin that anybody asks for; the others, some ten thousand, are not kept.
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

/// The options that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// With the value as it is written; none for those of which the text says that they are not set.
    options: BTreeMap<String, Option<String>>,
}

impl KernelConfig {
    /// Reads the text; none when it names no option at all: an empty or foreign file says nothing.
    pub fn parse(text: &[u8]) -> Option<KernelConfig> {
        let mut config = KernelConfig::default();
        let mut any = false;
        for (name, value) in config_file::options(text) {
            any = true;
            if is_asked_for(name) {
                // Bytes that are no text are in no value that anybody asks for.
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                config.options.insert(text(name), value.map(text));
            }
        }
        any.then_some(config)
    }

    /// The option is built in.
    pub fn has(&self, option: &str) -> bool {
        self.value(option).is_some_and(|v| v == "y" || v == "m")
    }

    /// The configuration says in words that the option is not set; most say nothing of options that they cannot have.
    pub fn denies(&self, option: &str) -> bool {
        self.options.get(option).is_some_and(|v| v.as_ref().is_none_or(|v| v == "n"))
    }

    /// The text of an option, without its quotes.
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
        // The last one counts, and a file without any that matters is a configuration all the same.
        let config =
            KernelConfig::parse(b"CONFIG_IMA=y\n# CONFIG_IMA is not set\nCONFIG_LSM=\"x\\\"\\\\\"").unwrap();
        assert!(config.denies("IMA") && config.text("LSM").as_deref() == Some("x\"\\"));
        assert_eq!(KernelConfig::parse(b"CONFIG_X=y\n"), Some(KernelConfig::default()));
        for nothing in [b"".as_slice(), b"garbage\0\n", b"# a comment\n"] {
            assert_eq!(KernelConfig::parse(nothing), None);
        }
    }
}
