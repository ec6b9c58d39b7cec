//! `modules-load.d`: the modules that systemd loads at each boot.

use super::config::{ConfigLine, files, read_of_all};
use crate::kernel::module_file::kernel_name;
use crate::limits::CONFIGURATION;
use crate::sys::Root;

/// The directories that systemd reads. Of several files with the same name the first counts.
pub const DIRECTORIES: [&str; 5] = [
    "/etc/modules-load.d",
    "/run/modules-load.d",
    "/usr/local/lib/modules-load.d",
    "/usr/lib/modules-load.d",
    "/lib/modules-load.d",
];

/// The contents of `modules-load.d`.
///
/// systemd applies `blacklist` in `modprobe.d` to these names as well: listing a blacklisted module does not
/// load it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModulesLoad {
    /// Names or aliases, as the kernel writes names, each with the position of its line.
    pub names: Vec<(ConfigLine, String)>,
    /// Why some names are unknown.
    pub unreadable: Vec<String>,
}

impl ModulesLoad {
    pub fn load(root: &Root) -> ModulesLoad {
        let mut found = ModulesLoad::default();
        let mut left = CONFIGURATION;
        for path in files(root, &DIRECTORIES, &mut found.unreadable) {
            match read_of_all(root, &path, &mut left) {
                Ok(bytes) => found.names.extend(parse(&path, &bytes.unwrap_or_default())),
                Err(e) => found.unreadable.push(e.to_string()),
            }
        }
        found
    }
}

/// Parses one file: one name per line, comments begin with `#` or `;`.
pub fn parse(path: &str, bytes: &[u8]) -> Vec<(ConfigLine, String)> {
    let text = String::from_utf8_lossy(bytes);
    let named = text.lines().enumerate().filter_map(|(at, line)| {
        let name = line.trim_matches([' ', '\t', '\n', '\r']);
        let counts = !name.is_empty() && !name.starts_with(['#', ';']);
        counts.then(|| (ConfigLine { path: path.to_owned(), line: at + 1 }, kernel_name(name)))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_file() {
        let names = parse("/f", b"# c\n; d\n\n  v4l2-loopback \nzfs\r\n");
        let names: Vec<(usize, &str)> = names.iter().map(|(at, name)| (at.line, name.as_str())).collect();
        assert_eq!(names, [(4, "v4l2_loopback"), (5, "zfs")]);
    }
}
