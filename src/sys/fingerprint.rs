//! A fingerprint of several texts: equal ones mean equal contents.

use std::io::{self, Read};

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
        hex(&self.0.finalize()[..16])
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A reader that adds up what is read.
#[derive(Debug)]
pub struct Summed<R> {
    inner: R,
    sha256: Sha256,
    size: u64,
}

impl<R: Read> Summed<R> {
    pub fn new(inner: R) -> Summed<R> {
        Summed { inner, sha256: Sha256::new(), size: 0 }
    }

    /// The size, and the SHA-256 in hexadecimal.
    pub fn finish(self) -> (u64, String) {
        (self.size, hex(&self.sha256.finalize()))
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.sha256.update(&buffer[..length]);
        self.size += length as u64;
        Ok(length)
    }
}

/// The size of what can be read, and its SHA-256 in hexadecimal.
///
/// # Errors
///
/// If it cannot be read.
pub fn sum(from: impl Read) -> io::Result<(u64, String)> {
    let mut summed = Summed::new(from);
    io::copy(&mut summed, &mut io::sink())?;
    Ok(summed.finish())
}
