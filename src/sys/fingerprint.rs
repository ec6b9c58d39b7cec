//! A fingerprint of several texts: equal ones mean equal contents.

use sha2::{Digest, Sha256};

/// Collects texts.
#[derive(Debug, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a text. Its length is included, so that different lists of texts cannot produce the same input.
    pub fn add(&mut self, text: impl AsRef<[u8]>) {
        self.0.update(text.as_ref().len().to_le_bytes());
        self.0.update(text);
    }

    /// 128 bits in hexadecimal. They detect changes; they need not resist an attacker.
    pub fn finish(self) -> String {
        self.0.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}
