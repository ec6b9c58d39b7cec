//! The configuration that a kernel was built with: `/usr/lib/kernel/config-RELEASE`.

use std::collections::BTreeMap;

/// The options that were set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelConfig {
    set: BTreeMap<String, String>,
    unset: std::collections::BTreeSet<String>,
}

impl KernelConfig {
    /// Reads the text; none when it names no option at all: an empty or foreign file says nothing.
    pub fn parse(text: &[u8]) -> Option<KernelConfig> {
        let mut config = KernelConfig::default();
        for line in text.split(|b| *b == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            let line = line.trim();
            if let Some((name, value)) = line.strip_prefix("CONFIG_").and_then(|l| l.split_once('=')) {
                config.unset.remove(name);
                config.set.insert(name.to_owned(), value.to_owned());
            } else if let Some(name) =
                line.strip_prefix("# CONFIG_").and_then(|l| l.strip_suffix(" is not set"))
            {
                config.set.remove(name);
                config.unset.insert(name.to_owned());
            }
        }
        (!config.set.is_empty() || !config.unset.is_empty()).then_some(config)
    }

    /// The option is built in.
    pub fn has(&self, option: &str) -> bool {
        self.set.get(option).is_some_and(|v| v == "y" || v == "m")
    }

    /// The configuration says in words that the option is not set; most say nothing of options that they cannot have.
    pub fn denies(&self, option: &str) -> bool {
        self.unset.contains(option) || self.set.get(option).is_some_and(|v| v == "n")
    }

    /// The text of an option, without its quotes.
    pub fn text(&self, option: &str) -> Option<String> {
        let value = self.set.get(option)?;
        let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        Some(inner.replace("\\\"", "\"").replace("\\\\", "\\"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options() {
        let text = b"#\n# Linux\n#\nCONFIG_MODULE_SIG=y\n# CONFIG_MODULE_SIG_FORCE is not set\nCONFIG_LSM=\"a,b\"\n\xff\xfe\n";
        let config = KernelConfig::parse(text).unwrap();
        assert!(config.has("MODULE_SIG") && !config.has("MODULE_SIG_FORCE") && !config.has("MODULE"));
        assert!(config.denies("MODULE_SIG_FORCE") && !config.denies("OTHER"));
        assert_eq!(config.text("LSM").as_deref(), Some("a,b"));
        for nothing in [b"".as_slice(), b"garbage\0\n", b"# a comment\n"] {
            assert_eq!(KernelConfig::parse(nothing), None);
        }
    }
}
