//! The rules of `clr-dkms lint`, for a source that is about to be registered.

use std::path::Path;

use super::evidence::AdoptError;
use crate::dkms::conf::{ConfError, DkmsRules, traced};
use crate::dkms::lint::source::{SourceFiles, Trust};
use crate::dkms::lint::{Answer, Expected, Finding, LintSubject, lint, own_modules};
use crate::kernel::inventory::module_directory;
use crate::limits::TEXT;
use crate::sys::{Root, Tools};

/// The findings in the source at `directory` of the scratch root, which will have that name.
///
/// # Errors
/// When it cannot be read or evaluated.
pub fn inspect(
    (root, tools): (&Root, &Tools),
    (scratch, directory, name): (&Root, &Path, &str),
    releases: &[String],
    rules: DkmsRules,
) -> Result<Vec<Finding>, AdoptError> {
    let elsewhere = || AdoptError::Unknown("the scratch directory is in another root".to_owned());
    let inside = root.inside(&scratch.real_path(directory)?).ok_or_else(elsewhere)?;
    let source = SourceFiles::observe(root, &inside, &Trust::Owner);
    let name = name.to_owned();
    let mut subject = LintSubject {
        texts: Vec::new(),
        directory: name.clone(),
        expected: Expected::Directory(name.clone()),
        builds_here: true,
        answers: Vec::new(),
        // It is about to be.
        is_registered: Some(true),
        modules: None,
        rules,
        source: &source,
    };
    let show = |path: &Path| path.strip_prefix(&inside).unwrap_or(path).display().to_string();
    let conf = inside.join("dkms.conf");
    for release in releases {
        let files = vec![(conf.clone(), root.read_within(&conf, TEXT)?)];
        let evaluated = match traced(root, tools, &files, None, release) {
            Ok((conf, trace)) => Ok((conf.under(rules), trace)),
            Err(ConfError::Unusable(reason)) => Err(reason),
            Err(unknown) => return Err(AdoptError::Unknown(unknown.to_string())),
        };
        let answer = Answer {
            release: release.clone(),
            matters: true,
            texts: Vec::new(),
            // Without them the configuration is not known.
            config: root.read_within(format!("{}/build/.config", module_directory(release)), TEXT).ok(),
            own_modules: own_modules(root, release),
            evaluated,
        };
        subject.take(answer, files, show);
    }
    Ok(lint(&subject))
}
