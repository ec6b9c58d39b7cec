//! The directory of a source that a build starts in.

use std::path::{Path, PathBuf};

use super::evidence::{AdoptError, Decision, Evidence};
use super::tree::{SourceTree, plain};
use crate::dkms::DkmsConf;

/// What a `dkms.conf` says of the places in its build directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Directories that make or a shell enters.
    entered: Vec<PathBuf>,
    /// The directories and names of the modules.
    built: Vec<(PathBuf, String)>,
    /// A script may make what is not there yet.
    is_prepared: bool,
}

impl Places {
    /// `build` is the build directory that the value of MAKE contains.
    pub(super) fn of(conf: &DkmsConf, build: &str) -> Places {
        let below = |word: &str| {
            let word = word.trim_matches(['"', '\'', ';']);
            let inside = word.strip_prefix(build).map(|rest| rest.trim_start_matches('/'));
            let path = Path::new(inside.unwrap_or(word));
            (path.is_relative() && !word.contains(['$', '`'])).then(|| plain(path))
        };
        let words: Vec<&str> = conf.make.split_ascii_whitespace().collect();
        let after = words.windows(2).filter(|pair| ["-C", "cd"].contains(&pair[0])).map(|pair| pair[1]);
        let given = words.iter().filter_map(|word| {
            ["M=", "-C", "SUBDIRS=", "KBUILD_EXTMOD="].iter().find_map(|prefix| word.strip_prefix(prefix))
        });
        let entered = after.chain(given).filter(|word| !word.is_empty()).filter_map(below).collect();
        let built = conf.records.iter().map(|record| {
            let name = if record.built.is_empty() { &conf.package_name } else { &record.built };
            (plain(Path::new(&record.built_location)), name.clone())
        });
        Places { entered, built: built.collect(), is_prepared: conf.hooks.contains_key("PRE_BUILD") }
    }

    fn exist(&self, tree: &SourceTree<'_>, base: &Path) -> bool {
        let built = self.built.iter().map(|(place, _)| place).filter(|_| !self.is_prepared);
        self.entered.iter().chain(built).all(|place| tree.is_directory(&plain(&base.join(place))))
    }

    /// The line of a Makefile that names the first of the modules, when Makefiles name all of them where they
    /// are expected.
    fn named(&self, tree: &SourceTree<'_>, base: &Path) -> Option<Evidence> {
        let line_of = |place: &Path, name: &str| {
            let place = plain(&base.join(place));
            tree.kbuild.iter().filter(|file| file.path.starts_with(base)).find_map(|file| {
                let object =
                    file.makefile.objects.iter().find(|o| o.name == name && file.place(o) == place)?;
                Some(file.evidence(object.line))
            })
        };
        let lines: Option<Vec<Evidence>> =
            self.built.iter().map(|(place, name)| line_of(place, name)).collect();
        lines?.into_iter().next()
    }

    fn has_makefile(&self, tree: &SourceTree<'_>, base: &Path) -> bool {
        self.entered.iter().any(|place| tree.has_makefile(&plain(&base.join(place))))
            || tree.has_makefile(base)
    }
}

const NAMES: &str = "its Makefile names the modules of the dkms.conf";

/// Finds it for a `dkms.conf`: the nearest directory, from that of the file upwards, in which everything
/// exists that it names; else one elsewhere whose Makefile names all of its modules.
pub(super) fn find(
    tree: &SourceTree<'_>,
    conf: &Path,
    places: &Places,
) -> Result<(PathBuf, Decision), AdoptError> {
    let own = conf.parent().unwrap_or(Path::new(""));
    let decided = |base: &Path, why: &str, evidence| {
        let value = if base.as_os_str().is_empty() { Path::new(".") } else { base };
        Ok((base.to_owned(), Decision::new("directory", value.display().to_string(), why, evidence)))
    };
    let named = |base: &Path| {
        let works = places.exist(tree, base) && places.has_makefile(tree, base);
        places.named(tree, base).filter(|_| works)
    };
    for base in own.ancestors() {
        if let Some(evidence) = named(base) {
            return decided(base, NAMES, Some(evidence));
        }
    }
    // Where the file stands counts for more than a directory elsewhere, unless it cannot be built there.
    let fits = |base: &&Path| places.exist(tree, base) && places.has_makefile(tree, base);
    if fits(&own) && !own.starts_with("debian") {
        return decided(own, "the dkms.conf is there, with a Makefile", None);
    }
    let all = tree.entries.keys().filter(|path| tree.is_directory(path));
    let mut elsewhere: Vec<(&PathBuf, Evidence)> =
        all.filter_map(|path| Some((path, named(path)?))).collect();
    elsewhere.sort_by_key(|(path, _)| path.components().count());
    match elsewhere.as_slice() {
        [first, second, ..] if first.0.components().count() == second.0.components().count() => {
            return Err(AdoptError::Ambiguous {
                what: "several directories have a Makefile for the modules of the dkms.conf",
                choices: elsewhere.iter().map(|(path, _)| path.display().to_string()).collect(),
                option: "give one of them as the source, and the dkms.conf by --conf",
                by_conf: false,
            });
        }
        [(base, evidence), ..] => return decided(base, NAMES, Some(evidence.clone())),
        [] => {}
    }
    if let Some(base) = own.ancestors().find(|base| fits(base)) {
        return decided(base, "a Makefile is there, and what the dkms.conf names", None);
    }
    if places.is_prepared && places.exist(tree, own) {
        return decided(own, "the dkms.conf is there; its PRE_BUILD script makes the Makefile", None);
    }
    Err(AdoptError::Conf {
        reason: "no directory has a Makefile and everything that the dkms.conf names".to_owned(),
        evidence: None,
    })
}
