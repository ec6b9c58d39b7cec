//! Will this kernel refuse a module without a trusted signature?
//!
//! So far only what the kernel's own configuration says of it: a DKMS module is never signed by a key that a Clear
//! kernel trusts, so a kernel with `CONFIG_MODULE_SIG_FORCE` needs `module.sig_unenforce`.

/// Whether the configuration forces signatures; `config` is the text of `config-RELEASE`.
pub fn forced_by_configuration(config: &[u8]) -> bool {
    config.split(|b| *b == b'\n').any(|line| line == b"CONFIG_MODULE_SIG_FORCE=y")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_count() {
        assert!(forced_by_configuration(b"CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n"));
        assert!(!forced_by_configuration(b"# CONFIG_MODULE_SIG_FORCE is not set\nCONFIG_MODULE_SIG=y\n"));
        assert!(!forced_by_configuration(b""));
    }
}
