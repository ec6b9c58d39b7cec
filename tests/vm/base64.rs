//! Base64, which the line to the machine carries.

use base64::prelude::{BASE64_STANDARD, Engine};

/// Encodes bytes.
pub(crate) fn encode(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Decodes a text.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    BASE64_STANDARD.decode(text.trim()).map_err(|e| format!("{e}: {text}"))
}
