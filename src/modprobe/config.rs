//! `modprobe.d`: the directives that change what is loaded for a name.

use std::collections::BTreeMap;

use super::pattern;
use crate::limits::CONFIGURATION;
use crate::sys::{FileError, FileKind, Presence, Root};

/// The directories that modprobe reads. Of several files with the same name the first counts.
pub const DIRECTORIES: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// The position of a directive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigLine {
    /// The path inside the root.
    pub path: String,
    /// The line number, from 1. For a continued line, the number of the first line.
    pub line: usize,
}

/// A directive that has an effect, with names as kmod stores them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// `blacklist MODULE`: the module's own aliases do not load it.
    Blacklist { module: String },
    /// `install PATTERN COMMAND`: the command runs instead of loading the module.
    Install { pattern: String, command: String },
    /// `alias PATTERN MODULE`: another name, which takes precedence over the names of modules.
    Alias { pattern: String, module: String },
    /// `options MODULE TEXT`, where MODULE may be an alias.
    Options { module: String, text: String },
    /// `softdep PATTERN pre: … post: …`: other modules that are loaded together with it.
    SoftDependency { pattern: String, others: Vec<String> },
}

/// All directives, in the order in which kmod reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModprobeConfig {
    pub directives: Vec<(ConfigLine, Directive)>,
    /// Why some directives are unknown.
    pub unreadable: Vec<String>,
}

impl ModprobeConfig {
    /// The modules to which `alias` directives map an alias. If there are any, the aliases of the modules are
    /// not used.
    pub fn leads(&self, alias: &str) -> impl Iterator<Item = (&ConfigLine, &str)> {
        let alias = pattern::normalized(alias).unwrap_or_else(|| alias.to_owned());
        self.directives.iter().filter_map(move |(at, directive)| match directive {
            Directive::Alias { pattern, module } if pattern::matches(pattern, &alias) => {
                Some((at, module.as_str()))
            }
            _ => None,
        })
    }

    pub fn load(root: &Root) -> ModprobeConfig {
        let mut config = ModprobeConfig::default();
        let files = files(root, &DIRECTORIES, &mut config.unreadable);
        let mut left = CONFIGURATION;
        for path in files {
            match read_of_all(root, &path, &mut left) {
                Ok(Some(bytes)) => config.directives.extend(parse(&path, &bytes)),
                Ok(None) => {}
                Err(e) => config.unreadable.push(e.to_string()),
            }
        }
        config
    }

    /// The names of the modules that are loaded together with `module`.
    pub fn soft_dependencies(&self, module: &str) -> impl Iterator<Item = &str> {
        self.directives
            .iter()
            .filter_map(move |(_, directive)| match directive {
                Directive::SoftDependency { pattern, others } if pattern::matches(pattern, module) => {
                    Some(others)
                }
                _ => None,
            })
            .flatten()
            .map(String::as_str)
    }
}

/// Reads one of several files whose total size is limited; `left` is the remaining size in bytes.
pub(super) fn read_of_all(root: &Root, path: &str, left: &mut u64) -> Result<Option<Vec<u8>>, FileError> {
    let bytes = root.read_optional(path)?;
    match left.checked_sub(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)) {
        Some(rest) => *left = rest,
        None => return Err(root.too_large_with_others(path, CONFIGURATION)),
    }
    Ok(bytes)
}

/// The `*.conf` files of several directories, sorted by name. Of several files with the same name the first
/// counts. What cannot be read is added to `unreadable`.
pub(super) fn files(root: &Root, directories: &[&str], unreadable: &mut Vec<String>) -> Vec<String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut dangling: BTreeMap<String, String> = BTreeMap::new();
    for directory in directories {
        let listed = match root.list_optional(directory) {
            Ok(listed) => listed,
            // kmod and systemd ignore a directory that is a file or a loop of symlinks.
            Err(e) if e.is_absent() || e.is_no_file() => Vec::new(),
            Err(e) => {
                unreadable.push(e.to_string());
                continue;
            }
        };
        for entry in &listed {
            let Some(name) = entry.text() else { continue };
            if name.starts_with('.') || !name.ends_with(".conf") || files.contains_key(name) {
                continue;
            }
            let path = format!("{directory}/{name}");
            match (entry.kind, root.lookup(&path)) {
                // The device does not need to exist in an image.
                (FileKind::Link, _) if is_null(root, &path) => {}
                (FileKind::Link, Presence::Absent) => {
                    dangling.insert(name.to_owned(), path);
                    continue;
                }
                (_, Presence::There(stat)) if stat.kind == FileKind::Directory => continue,
                (_, Presence::Unreadable(e)) if e.is_no_file() => continue,
                _ => {}
            }
            // For a dangling symlink, kmod 30 reads an empty file and kmod 34 skips it.
            if let Some(symlink) = dangling.get(name) {
                let (symlink, path) = (root.shown_path(symlink), root.shown_path(&path));
                let (symlink, path) = (symlink.display(), path.display());
                let why = format!(
                    "{symlink} leads nowhere: whether it hides {path} depends on the version of kmod"
                );
                unreadable.push(why);
                continue;
            }
            files.insert(name.to_owned(), path);
        }
    }
    files.into_values().filter(|path| !is_null(root, path)).collect()
}

/// Whether a path is a symlink to `/dev/null`, which masks other files of that name. The device need not
/// exist below an image.
fn is_null(root: &Root, path: &str) -> bool {
    root.read_link(path).is_ok_and(|text| text == std::path::Path::new("/dev/null"))
}

/// Parses one file.
pub fn parse(path: &str, bytes: &[u8]) -> Vec<(ConfigLine, Directive)> {
    let mut directives = Vec::new();
    for (line, text) in wrapped_lines(bytes) {
        // A comment can be continued as well.
        if text.starts_with(b"#") {
            continue;
        }
        let text = String::from_utf8_lossy(&text);
        if let Some(directive) = directive(&text) {
            directives.push((ConfigLine { path: path.to_owned(), line }, directive));
        }
    }
    directives
}

/// Joined lines with the number of their first line. A backslash at the end of a line joins the next line;
/// before any other character it is removed.
pub fn wrapped_lines(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines = Vec::new();
    let (mut line, mut first) = (Vec::new(), 1);
    let mut number = 1;
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        let byte = if *byte == b'\\' { bytes.next().map(|next| (true, *next)) } else { Some((false, *byte)) };
        match byte {
            None => break,
            Some((true, b'\n')) => number += 1,
            Some((false, b'\n')) => {
                number += 1;
                lines.push((first, std::mem::take(&mut line)));
                first = number;
            }
            Some((_, byte)) => line.push(byte),
        }
    }
    lines.push((first, line));
    lines
}

fn directive(text: &str) -> Option<Directive> {
    // kmod ends a string at a NUL byte.
    let text = text.split('\0').next()?;
    let (command, rest) = word(text)?;
    let (name, rest) = word(rest)?;
    let name = pattern::normalized(name)?;
    // After the separator everything counts, including further blanks. kmod requires at least one character.
    let tail = || rest.get(1..).filter(|tail| !tail.is_empty()).map(str::to_owned);
    Some(match command {
        "alias" => Directive::Alias { pattern: name, module: pattern::normalized(word(rest)?.0)? },
        "blacklist" => Directive::Blacklist { module: name },
        "install" => Directive::Install { pattern: name, command: tail()? },
        "options" => Directive::Options { module: name, text: tail()? },
        "softdep" => {
            let tail = tail()?;
            let others = tail.split_ascii_whitespace().filter(|w| !matches!(*w, "pre:" | "post:"));
            let others = others.map(crate::kernel::module_file::kernel_name).collect();
            Directive::SoftDependency { pattern: name, others }
        }
        _ => return None,
    })
}

/// The first word, and the rest.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_lines() {
        let lines: Vec<(usize, String)> =
            parse("/f", b"# a \\\nb\n\nblacklist x-y\ninstall a\\\nb /bin/\\true\nblacklist z")
                .into_iter()
                .map(|(at, what)| (at.line, format!("{what:?}")))
                .collect();
        assert_eq!(
            lines,
            [
                (4, "Blacklist { module: \"x_y\" }".to_owned()),
                (5, "Install { pattern: \"ab\", command: \"/bin/true\" }".to_owned()),
                (7, "Blacklist { module: \"z\" }".to_owned()),
            ]
        );
    }

    proptest! {
        #[test]
        fn any_file(bytes in prop::collection::vec(prop_oneof![
            4 => prop::sample::select(b"blacklist install alias softdep\n\n\\ \t#[]-\0\xff".to_vec()),
            1 => any::<u8>(),
        ], 0..200)) {
            let lines = bytes.iter().filter(|b| **b == b'\n').count() + 1;
            prop_assert!(parse("/f", &bytes).iter().all(|(at, _)| at.line <= lines));
        }
    }
}
