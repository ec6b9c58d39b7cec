//! The version of a source that does not say it in its `dkms.conf`.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::evidence::{Decision, Evidence};
use super::tree::SourceTree;
use super::unpack::Unpacked;
use crate::dkms::lint::makefile::{assignment, logical_lines};
use crate::dkms::{is_usable_name, pattern};

/// Variables of a Makefile that have the version of the project.
const VARIABLES: [&str; 5] =
    ["VERSION", "DKMS_VERSION", "DRIVER_VERSION", "MODULE_VERSION", "PACKAGE_VERSION"];

static MODULE_VERSION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"^\s*MODULE_VERSION\s*\(\s*(?:"([^"]*)"|(\w+))\s*\)"#));
static CHANGELOG: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\S+ \(([^)]+)\)"));
static AC_INIT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"AC_INIT\s*\(\s*\[?[^,\]]*\]?\s*,\s*\[?([^,\])\s]+)"));

/// A version that dkms takes, from the text where it is written; none if it is not one.
pub(super) fn usable(text: &str) -> Option<String> {
    let text = text.trim().trim_matches(['"', '\'']).trim();
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let begins = text.starts_with(|c: char| c.is_ascii_digit());
    (begins && is_usable_name(text) && !text.contains(['#', '@', '%', '='])).then(|| text.to_owned())
}

/// The version in `NAME-VERSION`.
fn of_directory(name: &str) -> Option<String> {
    let (at, _) = name.match_indices('-').find(|(at, _)| {
        let rest = &name[at + 1..];
        let digits = rest.strip_prefix('v').unwrap_or(rest);
        digits.starts_with(|c: char| c.is_ascii_digit()) && digits.contains('.')
    })?;
    usable(&name[at + 1..])
}

/// The version in a tag: `1.0`, `v1.0`, `name-1.0`, `name_v1.0`.
fn of_tag(tag: &str) -> Option<String> {
    if let Some(version) = usable(tag) {
        return Some(version);
    }
    let (at, _) = tag.match_indices(['-', '_', '/']).find(|(at, _)| {
        let rest = &tag[at + 1..];
        usable(rest).is_some_and(|rest| rest.contains('.'))
    })?;
    usable(&tag[at + 1..])
}

/// The first of the places that has a version. `base` is the directory of the module.
pub(super) fn find(tree: &SourceTree<'_>, unpacked: &Unpacked, base: &Path) -> Option<Decision> {
    let decision = |value: String, why: &str, evidence| Decision::new("version", value, why, evidence);
    if unpacked.git.is_none()
        && let Some(version) = of_directory(&unpacked.name)
    {
        return Some(decision(version, "the name of the top directory", None));
    }
    let here = |name: &str| {
        let places = [base.join(name), Path::new(name).to_owned()];
        places.into_iter().find_map(|path| Some((tree.text(&path)?, path)))
    };
    if let Some((text, path)) = here("VERSION")
        && text.lines().filter(|line| !line.trim().is_empty()).count() == 1
        && let Some(version) = usable(&text)
    {
        return Some(decision(version, "the file VERSION", Some(Evidence::of(&path, 1, &text))));
    }
    for name in ["Makefile", "Kbuild"] {
        let Some((text, path)) = here(name) else { continue };
        for (line, logical) in logical_lines(&text) {
            let Some((variable, value)) = assignment(&logical) else { continue };
            if VARIABLES.contains(&variable)
                && let Some(version) = usable(value)
            {
                return Some(decision(version, "the Makefile", Some(Evidence::of(&path, line, &text))));
            }
        }
    }
    if let Some((tag, commits)) = unpacked.git.as_ref().and_then(|git| git.tag.as_ref())
        && let Some(version) = of_tag(tag)
    {
        let commit = unpacked.git.as_ref().map_or("", |git| &git.commit);
        let after = if *commits > 0 { format!("+{commits}.g{commit}") } else { String::new() };
        return Some(decision(format!("{version}{after}"), &format!("the git tag {tag}"), None));
    }
    if let Some((text, path)) = here("debian/changelog")
        && let Some(found) = text.lines().next().and_then(|line| CHANGELOG.captures(line))
    {
        // What follows the last `-` is Debian's own revision.
        let upstream = found[1].rsplit_once('-').map_or(&found[1], |(upstream, _)| upstream);
        let upstream = upstream.split_once(':').map_or(upstream, |(_, version)| version);
        if let Some(version) = usable(upstream) {
            let evidence = Evidence::of(&path, 1, &text);
            return Some(decision(version, "debian/changelog", Some(evidence)));
        }
    }
    if let Some((version, evidence)) = of_module(tree, base) {
        return Some(decision(version, "MODULE_VERSION", Some(evidence)));
    }
    for name in ["configure.ac", "configure.in"] {
        let Some((text, path)) = here(name) else { continue };
        let found = text.lines().enumerate().find_map(|(at, line)| Some((at + 1, AC_INIT.captures(line)?)));
        if let Some((line, found)) = found
            && let Some(version) = usable(&found[1])
        {
            return Some(decision(version, name, Some(Evidence::of(&path, line, &text))));
        }
    }
    let commit = &unpacked.git.as_ref()?.commit;
    Some(decision(format!("0+g{commit}"), "the git commit, since nothing else has a version", None))
}

/// The value of `MODULE_VERSION`, if all files below `base` agree.
fn of_module(tree: &SourceTree<'_>, base: &Path) -> Option<(String, Evidence)> {
    let mut found: Option<(String, Evidence)> = None;
    for path in tree.c_files(base) {
        let Some(text) = tree.text(path) else { continue };
        for (at, line) in text.lines().enumerate() {
            let Some(groups) = MODULE_VERSION.captures(line) else { continue };
            let value = match (groups.get(1), groups.get(2)) {
                (Some(literal), _) => {
                    usable(literal.as_str()).map(|v| (v, Evidence::of(path, at + 1, &text)))
                }
                (_, Some(name)) => defined(tree, base, name.as_str()),
                _ => None,
            };
            match (&found, value) {
                (Some((known, _)), Some((other, _))) if *known != other => return None,
                (None, Some(value)) => found = Some(value),
                _ => {}
            }
        }
    }
    found
}

/// The text that a macro is defined as.
fn defined(tree: &SourceTree<'_>, base: &Path, name: &str) -> Option<(String, Evidence)> {
    tree.c_files(base).find_map(|path| {
        let text = tree.text(path)?;
        let (line, value) = text.lines().enumerate().find_map(|(at, line)| {
            let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("define")?;
            let value = rest.trim_start().strip_prefix(name)?;
            let quoted = value.trim_start().strip_prefix('"')?.split_once('"')?.0;
            value.starts_with(char::is_whitespace).then(|| (at + 1, quoted.to_owned()))
        })?;
        Some((usable(&value)?, Evidence::of(path, line, &text)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("1.0", Some("1.0")),
            ("\"v0.11-pre\"", Some("0.11-pre")),
            ("5.3.9~20221105", Some("5.3.9~20221105")),
            ("#VERSION#", None),
            ("DRIVERVERSION", None),
            ("_not_provided_", None),
            ("$(shell git describe)", None),
            ("", None),
        ] {
            assert_eq!(usable(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn tags_and_directories() {
        for (tag, expected) in [
            ("v0.8", Some("0.8")),
            ("ttkmd-2.10.0", Some("2.10.0")),
            ("sgx_diver_2.14", Some("2.14")),
            ("Core74-6", None),
            ("B7", None),
        ] {
            assert_eq!(of_tag(tag).as_deref(), expected, "{tag}");
        }
        for (name, expected) in
            [("hello-1.0", Some("1.0")), ("x-y-v2.1-rc1", Some("2.1-rc1")), ("88x2bu-20210702", None)]
        {
            assert_eq!(of_directory(name).as_deref(), expected, "{name}");
        }
        assert!(MODULE_VERSION.is_match("MODULE_VERSION(X);") && CHANGELOG.is_match("a (1.0) x; y"));
        assert_eq!(&AC_INIT.captures("AC_INIT([a b], [1.2])").unwrap()[1], "1.2");
    }
}
