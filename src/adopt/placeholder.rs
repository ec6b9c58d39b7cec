//! Placeholders in a `dkms.conf`, and what the project itself puts in their place.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::evidence::{AdoptError, Decision, Evidence};
use super::tree::{SourceTree, name_of};
use crate::dkms::lint::makefile::{assignment, logical_lines};
use crate::dkms::pattern;

/// Values that stand for a version, without a mark of their own.
const WORDS: [&str; 4] = ["DKMS_VERSION", "DRIVERVERSION", "_not_provided_", "to be filled by make dkms"];

static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"@[A-Za-z][A-Za-z0-9_]*@|#[A-Z][A-Z0-9_]*#|(^|[^A-Za-z0-9_${])(__[A-Z][A-Z0-9_]*)")
});
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\$[({]([A-Za-z_][A-Za-z0-9_]*)[)}]"));

/// A placeholder at its first place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placeholder {
    pub(super) token: String,
    pub(super) line: usize,
}

/// The placeholders in a `dkms.conf`. Comments have none.
pub(super) fn all(text: &str) -> Vec<Placeholder> {
    let mut found: Vec<Placeholder> = Vec::new();
    let mut add = |token: &str, line| {
        if !found.iter().any(|known| known.token == token) {
            found.push(Placeholder { token: token.to_owned(), line });
        }
    };
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        for groups in TOKEN.captures_iter(line) {
            if let Some(token) = groups.get(2).or_else(|| groups.get(0)) {
                add(token.as_str(), at + 1);
            }
        }
        if let Some(word) = word(line) {
            add(word, at + 1);
        }
    }
    found
}

/// The word that is the whole value of a line that sets the version. Elsewhere it may be a variable.
fn word(line: &str) -> Option<&'static str> {
    let (_, value) = line.trim_start().strip_prefix("PACKAGE_VERSION")?.split_once('=')?;
    let value = value.split(" #").next()?.trim().trim_matches(['"', '\'']);
    WORDS.into_iter().find(|word| *word == value)
}

/// The values that are known of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownValues {
    pub(super) name: String,
    pub(super) version: String,
    /// The one module that is built.
    pub(super) module: Option<String>,
}

impl Placeholder {
    /// The version, or a part of the name of the package.
    pub(super) fn is_version(&self) -> bool {
        self.token.contains("VERSION") || WORDS.contains(&self.token.as_str())
    }

    /// The text with this value in its place.
    pub(super) fn replaced(&self, text: &str, value: &str) -> String {
        let replaced = text.split_inclusive('\n').map(|line| {
            let is_there = !WORDS.contains(&self.token.as_str()) || word(line) == Some(self.token.as_str());
            if is_there { line.replace(&self.token, value) } else { line.to_owned() }
        });
        replaced.collect()
    }

    /// It also occurs in the sources: words without a mark may mean something else there.
    pub(super) fn is_marked(&self) -> bool {
        self.token.starts_with(['@', '#'])
    }

    /// What is to be put in its place.
    ///
    /// # Errors
    /// When that is unknown.
    pub(super) fn value(
        &self,
        tree: &SourceTree<'_>,
        conf: &Path,
        text: &str,
        known: &KnownValues,
    ) -> Result<(String, Decision), AdoptError> {
        let here = Evidence::of(conf, self.line, text);
        let decided = |value: &str, why: &str, evidence: Evidence| {
            let why = format!("{} is {why}", self.token);
            let evidence = Some(evidence);
            (value.to_owned(), Decision { subject: "placeholder", value: value.to_owned(), why, evidence })
        };
        if self.is_version() {
            return Ok(decided(&known.version, "the version", here));
        }
        if let Some((value, evidence)) = self.substituted(tree) {
            return Ok(decided(&value, "what the project itself puts there", evidence));
        }
        let is = |words: &[&str]| words.iter().any(|word| self.token.to_ascii_uppercase().contains(word));
        if is(&["DEST", "MODULE_LOCATION"]) {
            return Ok(decided("/updates", "where it is installed", here));
        }
        match &known.module {
            Some(module) if is(&["BUILT", "MODULE_NAME", "MODNAME", "DRIVER_NAME"]) => {
                Ok(decided(module, "the module that is built", here))
            }
            _ if is(&["PACKAGE_NAME", "PKGNAME"]) => Ok(decided(&known.name, "the name", here)),
            _ => Err(AdoptError::Placeholder { token: self.token.clone(), evidence: here }),
        }
    }

    /// The replacement in a `sed` command of the project. It is read, and never run.
    fn substituted(&self, tree: &SourceTree<'_>) -> Option<(String, Evidence)> {
        let is_script = |path: &&Path| {
            let name = name_of(path);
            name.starts_with("Makefile") || name.ends_with(".mk") || name.ends_with(".sh") || name == "rules"
        };
        for path in tree.files().filter(is_script) {
            let Some(text) = tree.text(path) else { continue };
            if !text.contains(&self.token) {
                continue;
            }
            let is_make = !name_of(path).ends_with(".sh");
            for (at, line) in text.lines().enumerate() {
                let Some(replacement) = replacement(line, &self.token) else { continue };
                if let Some(value) = expanded(replacement, &text, is_make) {
                    return Some((value, Evidence::of(path, at + 1, &text)));
                }
            }
        }
        None
    }
}

/// `REPLACEMENT` of `s/TOKEN/REPLACEMENT/`, with any delimiter.
fn replacement<'l>(line: &'l str, token: &str) -> Option<&'l str> {
    line.match_indices(token).find_map(|(at, _)| {
        let before = &line[..at];
        let delimiter = before.chars().next_back().filter(|c| c.is_ascii_punctuation())?;
        before.strip_suffix(delimiter)?.ends_with('s').then_some(())?;
        let rest = line[at + token.len()..].strip_prefix(delimiter)?;
        // A delimiter in an expansion, as in `${X//a/b}`, makes the text too complex to read.
        let end = rest.find(delimiter)?;
        Some(&rest[..end])
    })
}

/// A text with the variables that the file sets to plain values. For make an unset variable is empty.
fn expanded(text: &str, file: &str, is_make: bool) -> Option<String> {
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    let lines = logical_lines(file);
    for (_, line) in &lines {
        if let Some((name, value)) = assignment(line) {
            values.insert(name, value.trim().trim_matches('"').to_owned());
        }
    }
    let mut text = text.replace("\\/", "/");
    for _ in 0..8 {
        let Some(groups) = VARIABLE.captures(&text) else { break };
        let value = match values.get(&groups[1]) {
            Some(value) => value.clone(),
            None if is_make => String::new(),
            None => return None,
        };
        let range = groups.get(0)?.range();
        text.replace_range(range, &value);
    }
    (!text.contains(['$', '`', '\\', '&', '"', '\''])).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let text = "# @NOT@\nPACKAGE_NAME=\"@NAME@\"\nPACKAGE_VERSION=\"#MODULE_VERSION#\"\nX=$__Y ${__Z} a__B\n\
             MAKE=\"make __JOBS\" # @NAME@\nPACKAGE_VERSION=\"to be filled by make dkms\"\nE=a@b.org\n";
        let found: Vec<_> = all(text).into_iter().map(|p| (p.token, p.line)).collect();
        let expected =
            [("@NAME@", 2), ("#MODULE_VERSION#", 3), ("__JOBS", 5), ("to be filled by make dkms", 6)];
        assert_eq!(found, expected.map(|(token, line)| (token.to_owned(), line)));
    }

    #[test]
    fn words_without_a_mark() {
        let text = "DKMS_VERSION=1.2\nPACKAGE_VERSION=\"DKMS_VERSION\" # DKMS_VERSION\nX=$DKMS_VERSION\n";
        let found = all(text);
        assert_eq!(found, [Placeholder { token: "DKMS_VERSION".to_owned(), line: 2 }]);
        let replaced = "DKMS_VERSION=1.2\nPACKAGE_VERSION=\"3\" # 3\nX=$DKMS_VERSION\n";
        assert_eq!(found[0].replaced(text, "3"), replaced);
        for value in ["$DKMS_VERSION", "\"${DKMS_VERSION}\"", "DKMS_VERSION_2", "\"$(DKMS_VERSION)\""] {
            assert_eq!(all(&format!("PACKAGE_VERSION={value}\n")), [], "{value}");
        }
    }

    #[test]
    fn replacements() {
        assert_eq!(replacement("  sed -e 's/@A@/$(X)/' \\", "@A@"), Some("$(X)"));
        assert_eq!(replacement("sed s:@A@:/x/y: f", "@A@"), Some("/x/y"));
        assert_eq!(replacement("echo @A@", "@A@"), None);
        let file = "D = extra/$(S)\nS := hwmon\nC := $(shell date)\n";
        assert_eq!(expanded("/$(D)", file, true).as_deref(), Some("/extra/hwmon"));
        assert_eq!(expanded("${NO}", file, true).as_deref(), Some(""));
        assert_eq!(expanded("${NO}", file, false), None);
        assert_eq!(expanded("$(C)", file, true), None);
    }
}
