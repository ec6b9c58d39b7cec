//! What an evaluated `dkms.conf` says, word for word, for one kernel: what a reader who advises has to know beyond what
//! a build needs. It is not cached: who asks has just changed the file.

use std::path::{Path, PathBuf};

use super::conf::{self, ConfError};
use super::{ModuleName, is_usable_name};
use crate::limits::TEXT;
use crate::sys::{Root, Tools};

/// A `dkms.conf` larger than this is none; bash would need its whole deadline for it.
pub const SIZE_LIMIT: u64 = 1 << 20;

/// One record, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// `BUILT_MODULE_NAME`.
    pub built: String,
    /// `DEST_MODULE_NAME`.
    pub dest: String,
    /// `DEST_MODULE_LOCATION`.
    pub location: String,
}

/// Where bash cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Which of the files.
    pub file: usize,
    /// Counted from 1.
    pub line: Option<usize>,
    /// In bash's words.
    pub message: String,
}

/// What the files say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// `PACKAGE_NAME`.
    pub name: String,
    /// `PACKAGE_VERSION`.
    pub version: String,
    /// `AUTOINSTALL`.
    pub autoinstall: String,
    /// The records.
    pub records: Vec<Record>,
    /// `MAKE` is given.
    pub make: bool,
    /// `PRE_BUILD`, `POST_ADD` or `PATCH` is given: what is not in the source may come to be.
    pub prepares: bool,
    /// `BUILD_DEPENDS`.
    pub depends: Vec<String>,
    /// Directives that are given and that dkms has deprecated.
    pub deprecated: Vec<String>,
    /// Why it is not for this kernel: each reason begins with the directive.
    pub excluded: Vec<String>,
    /// Bash cannot read it to its end.
    pub syntax: Option<SyntaxError>,
}

/// The files of a module: paths inside the root and bytes. The admin's overrides count for one that is registered.
///
/// # Errors
/// When the `dkms.conf` is absent ([`ConfError::Unusable`]), or one of the files cannot be read or is too large.
pub fn files(
    root: &Root,
    directory: &Path,
    module: Option<&ModuleName>,
    release: &str,
) -> Result<Vec<(PathBuf, Vec<u8>)>, ConfError> {
    let main = directory.join("dkms.conf");
    match module {
        Some(module) => conf::files(root, directory, module, release),
        None => match root.read_within(&main, TEXT) {
            Ok(bytes) => Ok(vec![(main, bytes)]),
            Err(e) if e.is_absent() => Err(ConfError::Unusable(e.to_string())),
            Err(e) => Err(ConfError::CannotTell(e.to_string())),
        },
    }
}

/// Evaluates the files for a kernel. Without a module its name is what the file says, as it is for `dkms add`.
///
/// # Errors
/// When there is no answer.
pub fn tell(
    root: &Root,
    tools: &Tools,
    files: &[(PathBuf, Vec<u8>)],
    module: Option<&ModuleName>,
    release: &str,
) -> Result<Told, ConfError> {
    let nameless = ModuleName { name: String::new(), version: String::new() };
    let ask = |module: &ModuleName| -> Result<Told, ConfError> {
        let answer = conf::evaluate(root, tools, module, release, files)?;
        let config = conf::kernel_config(
            root,
            &format!("{}/build", crate::kernel::inventory::module_directory(release)),
        );
        from_answer(&answer, release, config.as_deref(), &display(root, files))
    };
    let told = ask(module.unwrap_or(&nameless))?;
    let asks_its_name =
        || files.iter().any(|(_, b)| [&b"$module"[..], b"${module"].iter().any(|w| contains(b, w)));
    if module.is_none() && is_usable_name(&told.name) && is_usable_name(&told.version) && asks_its_name() {
        return ask(&ModuleName { name: told.name, version: told.version });
    }
    Ok(told)
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(bytes, word).is_some()
}

/// The files as bash was told of them.
fn display(root: &Root, files: &[(PathBuf, Vec<u8>)]) -> Vec<String> {
    let shown_path = |path: &PathBuf| root.real_path(path).unwrap_or_else(|_| root.shown_path(path));
    files.iter().map(|(path, _)| shown_path(path).to_string_lossy().into_owned()).collect()
}

fn from_answer(
    answer: &[u8],
    release: &str,
    config: Option<&[u8]>,
    files: &[String],
) -> Result<Told, ConfError> {
    if !answer.starts_with(b"start=start\0") {
        return Err(ConfError::Unusable(
            "its dkms.conf has more values than a dkms.conf can have".to_owned(),
        ));
    }
    let mut told = Told::default();
    for record in answer.split(|b| *b == 0).filter(|r| !r.is_empty()) {
        let text = std::str::from_utf8(record)
            .map_err(|_| ConfError::Unusable("its dkms.conf has a value that is no text".to_owned()))?;
        let Some((key, value)) = text.split_once('=') else {
            continue;
        };
        let value = value.to_owned();
        match key {
            "package_name" => told.name = value,
            "package_version" => told.version = value,
            "autoinstall" => told.autoinstall = value,
            "built" => told.records.push(Record { built: value, ..Record::default() }),
            "dest" => told.records.last_mut().into_iter().for_each(|last| last.dest.clone_from(&value)),
            "location" => {
                told.records.last_mut().into_iter().for_each(|last| last.location.clone_from(&value))
            }
            "depends" => told.depends.push(value),
            "make" => told.make = !value.trim().is_empty(),
            "prepares" => told.prepares = !value.trim().is_empty(),
            "deprecated" => told.deprecated.push(value),
            "syntax" => told.syntax = syntax_error(&value, files),
            "excluded" => told.excluded.push(value),
            "pre_install" | "post_install" | "post_remove" => {}
            _ if value.is_empty() => {}
            _ => told.excluded.extend(conf::excluded(key, &value, release, config)),
        }
    }
    Ok(told)
}

/// Bash says `FILE: line N: what is wrong`, and more lines.
fn syntax_error(said: &str, files: &[String]) -> Option<SyntaxError> {
    let first = said.lines().find(|line| !line.is_empty())?;
    let found = files.iter().enumerate().find_map(|(file, path)| {
        let (line, message) = first.strip_prefix(path.as_str())?.strip_prefix(": line ")?.split_once(": ")?;
        Some(SyntaxError { file, line: line.parse().ok(), message: message.to_owned() })
    });
    Some(found.unwrap_or(SyntaxError { file: 0, line: None, message: first.to_owned() }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_whose_beginning_was_lost_is_none() {
        assert!(from_answer(b"built=x\0end=end\0", "6.1", None, &[]).is_err());
        let told = from_answer(b"start=start\0package_name=x\0end=end\0", "6.1", None, &[]).unwrap();
        assert_eq!(told.name, "x");
    }

    #[test]
    fn where_bash_stops() {
        let files = ["/a/dkms.conf".to_owned(), "/etc/dkms/a.conf".to_owned()];
        let error = syntax_error("/etc/dkms/a.conf: line 7: syntax error: unexpected end\n", &files).unwrap();
        assert_eq!((error.file, error.line), (1, Some(7)));
        assert_eq!(error.message, "syntax error: unexpected end");
        let error = syntax_error("broken\n", &files).unwrap();
        assert_eq!((error.file, error.line, error.message.as_str()), (0, None, "broken"));
        assert_eq!(syntax_error("", &files), None);
    }
}
