//! The effective command line, byte for byte as clr-boot-manager 3.3.1 writes it into a boot entry (behind
//! `root=…`, which is not part of it).
//!
//! `tests/data/cmdline-vectors.jsonl` holds what the real program made of 401 sets of files.

use super::sources::{Fragment, Sources};

/// The line.
pub fn effective(sources: &Sources) -> Vec<u8> {
    let mut line = cut_at_nul(contents(&sources.kernel));
    line.push(b' ');
    if sources.glob_blind {
        let admin = sources.admin.as_deref().map(contents).unwrap_or_default();
        line.extend(cut_at_nul(admin));
        return line;
    }
    line.extend(cut_at_nul(global(sources)));
    remove(line, sources)
}

/// What all kernels share: vendor fragments, the admin's line, the admin's fragments.
fn global(sources: &Sources) -> Vec<u8> {
    let mut line = Vec::new();
    let mut bump = folder(&sources.vendor, false, &mut line) >= 1;
    if let Some(admin) = &sources.admin {
        if bump {
            line.push(b' ');
        }
        let content = contents(admin);
        bump |= !content.is_empty();
        line.extend(content);
    }
    folder(&sources.local, bump, &mut line);
    line
}

/// Appends a folder; gives the number of its files that had content. `bump` says that something came before.
fn folder(fragments: &[Fragment], mut bump: bool, line: &mut Vec<u8>) -> usize {
    let mut with_content = 0;
    for fragment in fragments.iter().filter(|f| f.mask.is_none()) {
        if with_content > 0 || bump {
            line.push(b' ');
            bump = false;
        }
        let content = contents(&fragment.bytes);
        with_content += usize::from(!content.is_empty());
        line.extend(content);
    }
    with_content
}

/// The lines of a file that count, joined with one blank.
pub fn contents(bytes: &[u8]) -> Vec<u8> {
    lines(bytes).collect::<Vec<_>>().join(&b' ')
}

/// The lines of a file that count: stripped, not empty, no comment.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(|b| *b == b'\n')
        .map(|line| {
            let start = line.iter().position(|b| !is_blank(*b)).unwrap_or(line.len());
            strip_end(&line[start..])
        })
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r' | b'\n')
}

fn strip_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|b| !is_blank(*b)).map_or(0, |at| at + 1);
    &line[..end]
}

fn cut_at_nul(mut line: Vec<u8>) -> Vec<u8> {
    if let Some(end) = line.iter().position(|b| *b == 0) {
        line.truncate(end);
    }
    line
}

/// Takes the removals out. The line is held in a buffer with a length beside it, as clr-boot-manager holds it: a
/// removal file that cannot be opened strips the buffer but not the length, and leaves a NUL behind.
fn remove(line: Vec<u8>, sources: &Sources) -> Vec<u8> {
    let mut buffer = line;
    let mut length = buffer.len();
    buffer.push(0);
    for removal in &sources.removals {
        let stripped = strip_end(&buffer[..length]).len();
        // An empty line has no end to strip.
        if length > 0 {
            buffer[stripped] = 0;
        }
        let Some(bytes) = &removal.bytes else { continue };
        length = stripped;
        for word in lines(bytes) {
            length = remove_one(&mut buffer, length, word);
        }
    }
    cut_at_nul(buffer)
}

/// Takes the first occurrence of `word` out, when it ends there; gives the new length.
fn remove_one(buffer: &mut [u8], length: usize, word: &[u8]) -> usize {
    let Some(start) = buffer[..length].windows(word.len()).position(|w| w == word) else {
        return length;
    };
    let mut size = word.len();
    // The character after it is looked at, the one before it is not; later occurrences are not tried.
    if !matches!(buffer[start + size], 0 | b' ') {
        return length;
    }
    if size == length {
        buffer[0] = 0;
        return 0;
    }
    if buffer[start + size] == b' ' {
        size += 1;
    }
    let rest = (length - start).saturating_sub(size);
    buffer.copy_within(start + size..start + size + rest, start);
    buffer[start + rest] = 0;
    length.saturating_sub(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(kernel: &str) -> Sources {
        Sources { kernel: kernel.as_bytes().to_vec(), ..Sources::default() }
    }

    #[test]
    fn the_blank_is_always_there() {
        assert_eq!(effective(&line_of("")), b" ");
        assert_eq!(effective(&line_of("quiet\nrw\n")), b"quiet rw ");
    }

    #[test]
    fn a_root_with_glob_characters_loses_all_fragments() {
        let mut sources = line_of("quiet");
        sources.vendor.push(Fragment {
            name: "a.conf".into(),
            path: "/usr/share/kernel/cmdline.d/a.conf".into(),
            bytes: b"word".to_vec(),
            mask: None,
        });
        assert_eq!(effective(&sources), b"quiet word");
        sources.glob_blind = true;
        assert_eq!(effective(&sources), b"quiet ");
    }
}
