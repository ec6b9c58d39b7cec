//! What concerns the rest of a source: placeholders in its code, empty submodules, and preparations that
//! cannot be made here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

use super::evidence::{AdoptError, Evidence};
use super::tree::{KbuildFile, SourceTree, plain};
use super::unpack::Unpacked;
use crate::dkms::lint::makefile::logical_lines;
use crate::dkms::{DkmsConf, pattern};

static VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r##""[#@][A-Z_]*VERSION[A-Z_]*[#@]""##));
/// What stands in a Makefile for the directory of the source.
const OF_SOURCE: [&str; 9] =
    ["$(src)/", "${src}/", "$(obj)/", "$(M)/", "$(PWD)/", "${PWD}/", "$(CURDIR)/", "$(srcdir)/", "pwd)/"];
/// Programs that fetch something.
const DOWNLOADS: [&str; 4] = ["wget ", "curl ", "git clone", "git fetch"];

/// The files below the base with placeholders, and their new texts.
pub(super) fn in_sources(
    source: &SourceTree<'_>,
    base: &Path,
    replaced: &BTreeMap<String, String>,
    version: &str,
) -> BTreeMap<PathBuf, String> {
    let mut changed = BTreeMap::new();
    let makefiles = source.kbuild.iter().map(|file| file.path.as_path());
    let makefiles = makefiles.filter(|path| path.starts_with(base));
    for path in source.c_files(base).chain(makefiles) {
        let Some(text) = source.text(path) else { continue };
        let mut new =
            VERSION.replace_all(&text, |_: &regex::Captures<'_>| format!("\"{version}\"")).into_owned();
        for (token, value) in replaced.iter().filter(|(token, _)| token.starts_with('@')) {
            new = new.replace(token, value);
        }
        if new != text {
            changed.insert(path.to_owned(), new);
        }
    }
    changed
}

/// The submodules without files, with the line of `.gitmodules` that names each.
pub(super) fn empty_submodules(
    source: &SourceTree<'_>,
    known: &[PathBuf],
) -> Vec<(PathBuf, Option<Evidence>)> {
    let file = Path::new(".gitmodules");
    let text = source.text(file).unwrap_or_default();
    let named = text.lines().enumerate().filter_map(|(at, line)| {
        let path = line.trim().strip_prefix("path")?.trim_start().strip_prefix('=')?.trim();
        Some((plain(Path::new(path)), Evidence::of(file, at + 1, &text)))
    });
    let named: BTreeMap<PathBuf, Evidence> = named.collect();
    let has_files = |path: &Path| source.files().any(|file| file.starts_with(path));
    let all = named.keys().chain(known.iter().filter(|path| !named.contains_key(*path)));
    all.filter(|path| !has_files(path)).map(|path| (path.clone(), named.get(path).cloned())).collect()
}

/// An empty submodule that the build needs: the base itself, a directory above it, or one that a Makefile
/// below the base names.
pub(super) fn needed_submodule(
    source: &SourceTree<'_>,
    unpacked: &Unpacked,
    base: &Path,
) -> Option<(PathBuf, Option<Evidence>)> {
    let empty = empty_submodules(source, &unpacked.empty_submodules);
    empty.into_iter().find_map(|(path, evidence)| {
        // A submodule outside of the base is not used by its recipe.
        let below = path.strip_prefix(base).ok()?;
        let names = |file: &KbuildFile| {
            // The kernel runs make in the base, and the paths may be relative to that or to the Makefile.
            let places = [base, file.directory()].map(|place| place.strip_prefix(base).unwrap_or(place));
            let lines = logical_lines(&file.text);
            let mut words = lines.iter().flat_map(|(_, line)| line.split_whitespace());
            words.any(|word| places.iter().any(|place| names_directory(word, place, below)))
        };
        let mut makefiles = source.kbuild.iter().filter(|file| file.path.starts_with(base));
        let is_needed = below.as_os_str().is_empty() || makefiles.any(names);
        is_needed.then_some((path, evidence))
    })
}

/// Whether a word of a Makefile has a path in this directory of the source. `/lib/modules` is not in `lib`.
fn names_directory(word: &str, place: &Path, directory: &Path) -> bool {
    let is_below = |text: &str| {
        let text = text.strip_prefix("-I").unwrap_or(text).split([')', ',', ';', '"', '\'']).next();
        plain(&place.join(text.unwrap_or_default())).starts_with(directory)
    };
    let marks = word.match_indices(['=', ',', '"', '\'']).map(|(at, mark)| at + mark.len());
    let tops = OF_SOURCE.iter().flat_map(|top| word.match_indices(top)).map(|(at, top)| at + top.len());
    std::iter::once(0).chain(marks).chain(tops).any(|at| is_below(&word[at..]))
}

/// Refuses a source whose preparation downloads something, or is a build system of its own.
pub(super) fn check_recipe(source: &SourceTree<'_>, base: &Path, conf: &DkmsConf) -> Result<(), AdoptError> {
    let script = conf.hook("PRE_BUILD").split_ascii_whitespace().next().unwrap_or_default();
    let path = plain(&base.join(script));
    if !script.is_empty()
        && let Some(text) = source.text(&path)
    {
        for (at, line) in text.lines().enumerate() {
            if downloads(line.trim()) {
                return Err(AdoptError::NeedsRecipe {
                    why: format!("its PRE_BUILD script {script} downloads something while it builds"),
                    evidence: Some(Evidence::of(&path, at + 1, &text)),
                });
            }
        }
    }
    match script.is_empty() {
        true => check_build_system(source, base),
        false => Ok(()),
    }
}

/// A line of a script that fetches something. To look for the program, or to speak of it, is not to run it.
fn downloads(line: &str) -> bool {
    let only_names_it = ["command -v", "which ", "type ", "echo ", "printf "];
    !line.starts_with('#')
        && DOWNLOADS.iter().any(|word| line.contains(word))
        && !only_names_it.iter().any(|word| line.contains(word))
}

/// Refuses a directory whose Makefile is made by cmake or configure.
pub(super) fn check_build_system(source: &SourceTree<'_>, base: &Path) -> Result<(), AdoptError> {
    let here = |name: &str| source.text(&base.join(name)).map(|text| (base.join(name), text));
    if source.has_makefile(base) || !["Makefile.in", "Makefile.am"].iter().any(|name| here(name).is_some()) {
        return Ok(());
    }
    let evidence = [("CMakeLists.txt", "configure_file"), ("configure.ac", "Makefile"), ("Makefile.in", "@")];
    let evidence = evidence.iter().find_map(|(name, word)| {
        let (path, text) = here(name)?;
        let line = text.lines().position(|line| line.contains(word))?;
        Some(Evidence::of(&path, line + 1, &text))
    });
    let why = "its Makefile is made by a build system of its own (cmake or configure)".to_owned();
    Err(AdoptError::NeedsRecipe { why, evidence })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_fetch() {
        assert!(
            downloads("curl -fL \"$url\" -o x")
                && downloads("wget -c https://x")
                && downloads("a && git clone b")
        );
        for line in ["if command -v curl >/dev/null; then", "# wget x", "echo \"wget is missing\"", "make"] {
            assert!(!downloads(line), "{line}");
        }
    }

    #[test]
    fn directories_in_makefiles() {
        for word in [
            "lib",
            "lib/",
            "lib/a.o",
            "-Ilib",
            "./lib/a.c",
            "-I$(src)/lib",
            "M=lib",
            "M=$(PWD)/lib",
            "pwd)/lib",
            "lib/*.c)",
            "CFLAGS=\"-Ilib\"",
            "$(addprefix,lib/a",
        ] {
            assert!(names_directory(word, Path::new(""), Path::new("lib")), "{word}");
        }
        for word in [
            "/lib/modules/$(KVER)/build",
            "mylib",
            "lib.o",
            "zlib/a.o",
            "a/lib",
            "../lib",
            "$(lib)",
            "$(DESTDIR)/lib",
            "lib-objs",
            "-L/usr/lib",
            "KDIR=/lib/modules",
        ] {
            assert!(!names_directory(word, Path::new(""), Path::new("lib")), "{word}");
        }
    }

    #[test]
    fn directories_in_makefiles_of_subdirectories() {
        let names = |word| names_directory(word, Path::new("src"), Path::new("lib"));
        assert!(names("../lib") && names("-I$(src)/../lib/a.h") && !names("lib"));
    }

    #[test]
    fn versions_in_code() {
        let found = |text: &str| VERSION.is_match(text);
        assert!(found("MODULE_VERSION(\"@VERSION@\");") && found("#define V \"#MODULE_VERSION#\""));
        assert!(!found("#define A(X) #X##_VERSION#") && !found("\"VERSION\""));
    }
}
