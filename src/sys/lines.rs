//! Text line by line, however long it and its lines are.

use std::io::{self, BufRead};

/// Passes each line, without its end, to `take`; a line is cut after `longest` bytes.
///
/// # Errors
/// When the text cannot be read.
pub fn each_line(mut text: impl BufRead, longest: usize, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut line = Vec::new();
    let mut is_open = false;
    loop {
        let block = match text.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if block.is_empty() {
            if is_open {
                take(&line);
            }
            return Ok(());
        }
        let end = memchr::memchr(b'\n', block);
        let part = &block[..end.unwrap_or(block.len())];
        let read = part.len() + usize::from(end.is_some());
        if line.is_empty() && end.is_some() && part.len() <= longest {
            take(part);
        } else {
            line.extend_from_slice(&part[..part.len().min(longest - line.len())]);
            is_open = true;
            if end.is_some() {
                take(&line);
                line.clear();
            }
        }
        is_open &= end.is_none();
        text.consume(read);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_as_the_library_has_them(text in "[ab\n]{0,40}", room in 1usize..9) {
            let mut lines = Vec::new();
            let reader = io::BufReader::with_capacity(room, text.as_bytes());
            each_line(reader, 5, |line| lines.push(String::from_utf8(line.to_vec()).unwrap())).unwrap();
            let expected: Vec<String> = text.lines().map(|line| line.chars().take(5).collect()).collect();
            prop_assert_eq!(lines, expected);
        }
    }
}
