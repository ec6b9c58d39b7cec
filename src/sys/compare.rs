//! Comparing large files without reading them into memory.

use std::fs::File;
use std::io::{self, Read};

/// The number of bytes that are compared at a time.
const BLOCK: usize = 256 << 10;

/// Whether two files have the same bytes from their current positions.
///
/// # Errors
/// When one of them cannot be read.
pub fn have_same_contents(one: File, other: File) -> io::Result<bool> {
    // BLOCK is a small constant.
    let block = u64::try_from(BLOCK).unwrap_or(u64::MAX);
    let (mut first, mut second) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    loop {
        first.clear();
        second.clear();
        (&one).take(block).read_to_end(&mut first)?;
        (&other).take(block).read_to_end(&mut second)?;
        if first != second {
            return Ok(false);
        }
        if first.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn files_are_compared_to_their_ends() {
        let scratch = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = scratch.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            File::open(path).unwrap()
        };
        let long = vec![7; BLOCK + 5];
        let mut other = long.clone();
        assert!(have_same_contents(file("a", &long), file("b", &other)).unwrap());
        *other.last_mut().unwrap() = 8;
        assert!(!have_same_contents(file("a", &long), file("b", &other)).unwrap());
        assert!(!have_same_contents(file("a", &long), file("b", &long[1..])).unwrap());
        assert!(have_same_contents(file("a", b""), file("b", b"")).unwrap());
    }
}
