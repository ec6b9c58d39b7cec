//! A fingerprint of several texts: equal ones mean equal contents.

use sha2::{Digest, Sha256};

/// Collects texts.
#[derive(Debug, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// One text more. Its length counts too, so that no two lists of texts run into one.
    pub fn add(&mut self, text: impl AsRef<[u8]>) {
        self.0.update(text.as_ref().len().to_le_bytes());
        self.0.update(text);
    }

    /// 128 bits in hexadecimal: no secret, and nobody works on collisions here.
    pub fn finish(self) -> String {
        self.0.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}
