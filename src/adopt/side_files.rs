//! The side files of a source: what it has for `modprobe.d`, `udev/rules.d` and `modules-load.d`, found by
//! layout, by contents and by the lines that install them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::evidence::{AdoptError, Evidence};
use super::install_lines::{InstallLine, InstalledContents, install_lines};
use super::tree::{SourceTree, name_of};
use super::unpack::Unpacked;
use crate::modprobe::config::{self, Directive};
use crate::modprobe::modules_load;
use crate::sys::Root;

/// The largest side file.
pub(super) const LARGEST: usize = 64 << 10;
/// The most scripts that are searched for lines that install files.
const MOST_SCRIPTS: usize = 500;
/// The directories whose files and scripts are not part of the installation of a module.
const ASIDE: [&str; 12] = [
    "doc",
    "docs",
    "documentation",
    "test",
    "tests",
    "example",
    "examples",
    "extra",
    "extras",
    "contrib",
    ".github",
    "initramfs-tools",
];

/// A directory that side files are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum SideFileKind {
    /// `modprobe.d`.
    Modprobe,
    /// `udev/rules.d`.
    Udev,
    /// `modules-load.d`.
    ModulesLoad,
}

impl SideFileKind {
    pub(super) const ALL: [SideFileKind; 3] =
        [SideFileKind::Modprobe, SideFileKind::Udev, SideFileKind::ModulesLoad];

    /// The name of the directory, as it ends paths of installation.
    pub(super) fn directory_name(self) -> &'static str {
        match self {
            SideFileKind::Modprobe => "modprobe.d",
            SideFileKind::Udev => "udev/rules.d",
            SideFileKind::ModulesLoad => "modules-load.d",
        }
    }

    /// The directories that are read. An admin's files are in the first one.
    pub fn directories(self) -> &'static [&'static str] {
        match self {
            SideFileKind::Modprobe => &config::DIRECTORIES,
            SideFileKind::ModulesLoad => &modules_load::DIRECTORIES,
            SideFileKind::Udev => &[
                "/etc/udev/rules.d",
                "/run/udev/rules.d",
                "/usr/local/lib/udev/rules.d",
                "/usr/lib/udev/rules.d",
                "/lib/udev/rules.d",
            ],
        }
    }

    fn ending(self) -> &'static str {
        match self {
            SideFileKind::Modprobe | SideFileKind::ModulesLoad => ".conf",
            SideFileKind::Udev => ".rules",
        }
    }

    /// Whether a file of that name is read in the directory.
    pub(super) fn is_usable_name(self, name: &str) -> bool {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-@".contains(&b);
        name.strip_suffix(self.ending()).is_some_and(|stem| !stem.is_empty())
            && !name.starts_with(['.', '-'])
            && name.len() < 200
            && name.bytes().all(is_plain)
    }
}

/// A side file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SideFile {
    /// What it is for.
    pub kind: SideFileKind,
    /// Its name in the directory.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The file of the source, or the file with the line that writes the text.
    pub origin: PathBuf,
    /// The line that installs it, if one does.
    pub evidence: Option<Evidence>,
    /// The lines of it that run commands as root.
    pub commands: Vec<Evidence>,
}

impl SideFile {
    fn new(kind: SideFileKind, name: &str, text: &str, origin: &Path) -> SideFile {
        let commands = match kind {
            SideFileKind::Modprobe => modprobe_commands(text),
            SideFileKind::Udev => udev_commands(text),
            SideFileKind::ModulesLoad => Vec::new(),
        };
        SideFile {
            kind,
            name: name.to_owned(),
            text: text.to_owned(),
            origin: origin.to_owned(),
            evidence: None,
            commands: commands.into_iter().map(|line| Evidence::of(origin, line, text)).collect(),
        }
    }

    /// The path that it is installed to.
    pub fn path(&self) -> String {
        format!("{}/{}", self.kind.directories()[0], self.name)
    }

    /// The modules that it keeps from being loaded, as the kernel writes names.
    pub fn blacklisted(&self) -> BTreeSet<String> {
        if self.kind != SideFileKind::Modprobe {
            return BTreeSet::new();
        }
        let directives = config::parse("", self.text.as_bytes()).into_iter();
        let named = directives.filter_map(|(_, directive)| match directive {
            Directive::Blacklist { module } => Some(module),
            // The command replaces the loading of the module.
            Directive::Install { pattern, command } if !command.contains("--ignore-install") => Some(pattern),
            _ => None,
        });
        named.collect()
    }

    /// The modules that a `modules-load.d` file loads.
    pub fn loaded(&self) -> BTreeSet<String> {
        match self.kind {
            SideFileKind::ModulesLoad => {
                modules_load::parse("", self.text.as_bytes()).into_iter().map(|(_, name)| name).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

/// The lines of a `modprobe.d` file that run commands.
fn modprobe_commands(text: &str) -> Vec<usize> {
    let lines = config::wrapped_lines(text.as_bytes()).into_iter();
    let first = |line: &[u8]| String::from_utf8_lossy(line).split_whitespace().next().map(str::to_owned);
    let runs = |line: &[u8]| first(line).is_some_and(|word| ["install", "remove"].contains(&word.as_str()));
    lines.filter(|(_, line)| runs(line)).map(|(at, _)| at).collect()
}

/// The lines of udev rules that run programs. Builtin commands of udev are not programs.
fn udev_commands(text: &str) -> Vec<usize> {
    let runs = |key: &str| ["RUN", "RUN{program}", "PROGRAM", "IMPORT{program}", "IMPORT"].contains(&key);
    udev_lines(text)
        .filter(|(_, line)| udev_keys(line).iter().flatten().any(|key| runs(key)))
        .map(|(at, _)| at)
        .collect()
}

/// The rules, with the numbers of their first lines. A backslash at the end of a line continues it; elsewhere
/// it is a part of the value.
fn udev_lines(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut rules: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (at, line) in text.lines().enumerate() {
        let (part, is_continued) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match rules.last_mut().filter(|_| continues) {
            Some((_, rule)) => rule.push_str(part.trim_start()),
            None => rules.push((at + 1, part.trim_start().to_owned())),
        }
        continues = is_continued;
    }
    let rules = rules.into_iter().map(|(at, rule)| (at, rule.trim().to_owned()));
    rules.filter(|(_, rule)| !rule.is_empty() && !rule.starts_with('#'))
}

/// The keys of a rule. None if it is not one.
fn udev_keys(line: &str) -> Option<Vec<String>> {
    let mut keys = Vec::new();
    let mut rest = line.trim_start_matches([',', ' ', '\t']);
    while !rest.is_empty() {
        let end = rest.find(['=', '!', '+', '-', ':'])?;
        let key = rest[..end].trim();
        let (base, attribute) = key.split_once('{').unwrap_or((key, "}"));
        let is_key = base.len() > 1 && base.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if !is_key || !attribute.ends_with('}') {
            return None;
        }
        keys.push(key.to_owned());
        let value = rest[end..].trim_start_matches(['=', '!', '+', '-', ':']).trim_start();
        let value = value.strip_prefix(['e', 'i']).unwrap_or(value);
        // A quote inside of the value has a backslash before it.
        let mut inside = value.strip_prefix('"')?;
        loop {
            let quote = inside.find('"')?;
            let is_end = !inside[..quote].ends_with('\\');
            inside = &inside[quote + 1..];
            if is_end {
                break;
            }
        }
        rest = inside.trim_start_matches([',', ' ', '\t']);
    }
    Some(keys)
}

/// Whether a text is udev rules. Other files end in `.rules` too.
fn is_udev(text: &str) -> bool {
    let mut lines = udev_lines(text).peekable();
    lines.peek().is_some() && lines.all(|(_, line)| udev_keys(&line).is_some())
}

/// Whether a text has directives of modprobe, and nothing else.
fn is_modprobe(text: &str) -> bool {
    let known = ["alias", "blacklist", "install", "options", "remove", "softdep", "weakdep"];
    let lines = config::wrapped_lines(text.as_bytes()).into_iter();
    let lines = lines.map(|(_, line)| String::from_utf8_lossy(&line).trim().to_owned());
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    let is_directive = |line: String| {
        let mut words = line.split_whitespace();
        words.next().is_some_and(|word| known.contains(&word)) && words.next().is_some()
    };
    lines.peek().is_some() && lines.all(is_directive)
}

/// Whether a text names modules, one a line.
fn is_modules_load(text: &str) -> bool {
    let names = modules_load::parse("", text.as_bytes());
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    !names.is_empty() && names.iter().all(|(_, name)| is_name(name))
}

fn has_syntax_of(kind: SideFileKind, text: &str) -> bool {
    text.len() <= LARGEST
        && match kind {
            SideFileKind::Modprobe => is_modprobe(text),
            SideFileKind::Udev => is_udev(text),
            SideFileKind::ModulesLoad => is_modules_load(text),
        }
}

/// The side files of an unpacked source, sorted by path. `package` is the name of the module.
///
/// # Errors
/// When the source cannot be read.
pub fn side_files(scratch: &Root, unpacked: &Unpacked, package: &str) -> Result<Vec<SideFile>, AdoptError> {
    let source = SourceTree::observe(scratch, &unpacked.top)?;
    let mut found: Vec<SideFile> = Vec::new();
    // A line that installs a file names it best; the files of a package have their names.
    for (path, text) in &unpacked.beside {
        let named = of_path(path);
        let usable = named.filter(|(kind, name)| kind.is_usable_name(name) && has_syntax_of(*kind, text));
        found.extend(usable.map(|(kind, name)| SideFile::new(kind, name, text, path)));
    }
    for (path, text) in scripts(&source) {
        let is_list = path.parent().is_some_and(|parent| parent.ends_with("debian"));
        for line in install_lines(&text, is_list) {
            found.extend(installed(&source, &path, &text, &line));
        }
    }
    found.extend(source.files().filter_map(|path| by_layout(&source, path, package)));
    let mut known = BTreeSet::new();
    // The first of several wins.
    found.retain(|file| known.insert((file.kind, file.name.clone())));
    let mut texts = BTreeSet::new();
    found.retain(|file| texts.insert((file.kind, file.text.clone())));
    found.sort_by_key(SideFile::path);
    Ok(found)
}

/// The Makefiles, the shell scripts, the lists of debhelper, and the spec files of RPM.
fn scripts(source: &SourceTree<'_>) -> Vec<(PathBuf, String)> {
    let is_list = |path: &Path| {
        let name = name_of(path);
        path.parent().is_some_and(|p| p.ends_with("debian"))
            && (name == "install" || name.ends_with(".install"))
    };
    let is_named = |path: &Path| {
        let name = name_of(path);
        let ends = [".mk", ".sh", ".spec"].iter().any(|end| name.ends_with(end));
        name.starts_with("Makefile") || ends || is_list(path)
    };
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    for path in source.files().filter(|path| !is_aside(path)) {
        // Scripts often have no ending; no other small file without one begins like this.
        let may_be = is_named(path) || (path.extension().is_none() && path.components().count() < 4);
        let Some(text) = may_be.then(|| source.text(path)).flatten() else { continue };
        if is_named(path) || text.starts_with("#!") {
            found.push((path.to_owned(), text));
        }
        if found.len() == MOST_SCRIPTS {
            break;
        }
    }
    found
}

fn installed(source: &SourceTree<'_>, path: &Path, text: &str, line: &InstallLine) -> Option<SideFile> {
    let evidence = Some(Evidence::of(path, line.line, text));
    let named = |name: &str| line.kind.is_usable_name(name).then(|| name.to_owned());
    match &line.contents {
        InstalledContents::Text(text) => {
            let name = line.name.as_deref()?;
            let is_usable = has_syntax_of(line.kind, text);
            is_usable.then(|| SideFile { evidence, ..SideFile::new(line.kind, name, text, path) })
        }
        InstalledContents::File(names) => {
            let is_one = |file: &&Path| names.iter().any(|name| name == name_of(file));
            // Beside the script, or the one that is found first.
            let mut files: Vec<&Path> = source.files().filter(is_one).collect();
            files.sort_by_key(|file| (file.parent() != path.parent(), file.components().count()));
            let (file, text) = files.into_iter().find_map(|file| {
                let text = source.text(file)?;
                has_syntax_of(line.kind, &text).then_some((file, text))
            })?;
            let name = line.name.clone().or_else(|| named(name_of(file)))?;
            Some(SideFile { evidence, ..SideFile::new(line.kind, &name, &text, file) })
        }
    }
}

/// The kind and the name of a file that is in a directory of its kind.
fn of_path(path: &Path) -> Option<(SideFileKind, &str)> {
    let parent = path.parent()?;
    let kind = SideFileKind::ALL.into_iter().find(|kind| parent.ends_with(kind.directory_name()));
    let kind = kind.or(parent.ends_with("rules.d").then_some(SideFileKind::Udev))?;
    Some((kind, name_of(path)))
}

fn is_aside(path: &Path) -> bool {
    path.iter().any(|part| ASIDE.iter().any(|name| part.eq_ignore_ascii_case(name)))
}

/// A file that is a side file by where it is, what it is called and what is in it.
fn by_layout(source: &SourceTree<'_>, path: &Path, package: &str) -> Option<SideFile> {
    let name = name_of(path);
    if is_aside(path) || name == "dkms.conf" {
        return None;
    }
    let is_debian = path.parent().is_some_and(|parent| parent.ends_with("debian"));
    let (kind, name) = match (of_path(path), is_debian.then(|| name.rsplit_once('.')).flatten()) {
        (Some((kind, name)), _) => (kind, name.to_owned()),
        // The names that debhelper gives them.
        (None, Some((stem, "udev"))) => (SideFileKind::Udev, format!("60-{stem}.rules")),
        (None, Some((stem, "modprobe"))) => (SideFileKind::Modprobe, format!("{stem}.conf")),
        (None, Some((stem, "modules"))) => (SideFileKind::ModulesLoad, format!("{stem}.conf")),
        (None, _) if name.ends_with(".rules") => {
            (SideFileKind::Udev, name.trim_start_matches("udev-").to_owned())
        }
        (None, _) if name.ends_with(".conf") => {
            let name = match name.trim_start_matches("modprobe.d-") {
                "modprobe.conf" => format!("{package}.conf"),
                name => name.to_owned(),
            };
            (SideFileKind::Modprobe, name)
        }
        _ => return None,
    };
    let text = source.text(path)?;
    let is_usable = kind.is_usable_name(&name) && has_syntax_of(kind, &text);
    is_usable.then(|| SideFile::new(kind, &name, &text, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udev_rules_are_recognized_by_their_keys() {
        for (text, is_rules, commands) in [
            ("KERNEL==\"*binder\", MODE=\"0666\", SYMLINK+=\"anbox-%k\"\n", true, &[][..]),
            (
                "# c\nSUBSYSTEM==\"tt\", ATTRS{device}==\"0x401e\", ATTR{x}!=\"?*\", RUN+=\"/bin/sh -c \\\"x\\\"\"\n",
                true,
                &[2],
            ),
            ("ACTION==\"add\", \\\n  PROGRAM=\"/bin/a\", RESULT==\"b\"\nLABEL=\"end\"\n", true, &[1]),
            ("ACTION==\"add\", RUN{builtin}+=\"kmod load x\", IMPORT{builtin}=\"usb_id\"\n", true, &[]),
            ("KERNEL==\"a\", IMPORT{program}=\"/x %k\", ENV{A}:=\"b\", TAG-=\"c\"\n", true, &[1]),
            ("KERNEL==\"a\" MODE=\"0666\"\n", true, &[]),
            ("polkit.addRule(function(action, subject) {\n});\n", false, &[]),
            ("# only a comment\n", false, &[]),
            ("KERNEL==\"a\n", false, &[]),
        ] {
            assert_eq!(is_udev(text), is_rules, "{text}");
            if is_rules {
                assert_eq!(udev_commands(text), commands, "{text}");
            }
        }
    }

    #[test]
    fn files_of_modprobe_have_directives_only() {
        for (text, expected) in [
            ("# c\noptions x a=1\nblacklist y\n", true),
            ("softdep a pre: b\nalias c d\nremove x /bin/y\n", true),
            ("# options x a=1\n", false),
            ("override msi-ec * extra\n", false),
            ("[theme]\nname = x\n", false),
            ("options\n", false),
        ] {
            assert_eq!(is_modprobe(text), expected, "{text}");
        }
        let text = "install \\\n  gdrdrv /sbin/modprobe --ignore-install gdrdrv; true\nblacklist a-b\n\
                    install nouveau /bin/false\nremove x y\n";
        assert_eq!(modprobe_commands(text), [1, 4, 5]);
        let file = SideFile::new(SideFileKind::Modprobe, "x.conf", text, Path::new("x.conf"));
        assert_eq!(file.blacklisted().into_iter().collect::<Vec<_>>(), ["a_b", "nouveau"]);
        assert_eq!(file.path(), "/etc/modprobe.d/x.conf");
    }

    #[test]
    fn names_that_are_read() {
        for (kind, name, expected) in [
            (SideFileKind::Modprobe, "x.conf", true),
            (SideFileKind::Modprobe, ".conf", false),
            (SideFileKind::Modprobe, "../x.conf", false),
            (SideFileKind::Modprobe, ".x.conf", false),
            (SideFileKind::Modprobe, "x", false),
            (SideFileKind::Udev, "50-x.rules", true),
            (SideFileKind::Udev, "50-x.conf", false),
            (SideFileKind::ModulesLoad, "a b.conf", false),
        ] {
            assert_eq!(kind.is_usable_name(name), expected, "{name}");
        }
    }
}
