//! Finds out how a source is built: its `dkms.conf`, made complete, and the directory that it belongs to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::base::{self, Places};
use super::conf_text::{with_last, with_literal};
use super::evidence::{AdoptError, Decision, Evidence};
use super::generate::generate;
use super::placeholder::{self, KnownValues};
use super::tree::{SourceTree, name_of, plain};
use super::unpack::Unpacked;
use super::{substitute, version};
use crate::dkms::conf::{ConfError, Trace, traced};
use crate::dkms::{DkmsConf, is_usable_name, tree};
use crate::sys::{Root, Tools};

/// What the search needs.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// The system, which the scratch directory is a part of.
    pub root: &'a Root,
    /// The programs.
    pub tools: &'a Tools,
    /// The scratch directory.
    pub scratch: &'a Root,
    /// The unpacked source.
    pub unpacked: &'a Unpacked,
    /// The name that was asked for.
    pub name: Option<&'a str>,
    /// The version that was asked for.
    pub version: Option<&'a str>,
    /// The paths, relative to the top of the source, that may be meant by the `dkms.conf` that was asked for.
    pub confs: &'a [PathBuf],
    /// The kernel that the `dkms.conf` is evaluated for.
    pub release: &'a str,
}

/// A source that can be adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoptable {
    /// The name of the module.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The directory of the build, relative to the top of the source.
    pub base: PathBuf,
    /// The path and the text of the project's own file; none if the file was generated.
    pub original: Option<(PathBuf, String)>,
    /// The resulting `dkms.conf`.
    pub text: String,
    /// Its value.
    pub conf: DkmsConf,
    /// Other files with new contents, relative to the top of the source.
    pub changed: BTreeMap<PathBuf, String>,
    /// What was decided.
    pub decisions: Vec<Decision>,
}

/// Does it.
///
/// # Errors
/// When the source cannot be adopted, with the cause.
pub fn find(search: &Search<'_>) -> Result<Adoptable, AdoptError> {
    let source = SourceTree::observe(search.scratch, &search.unpacked.top)?;
    let found = match chosen_conf(search, &source)? {
        Some(conf) => Finder { search, source: &source, decisions: Vec::new() }.with_conf(&conf),
        None => Finder { search, source: &source, decisions: Vec::new() }.without_conf(),
    };
    let empty = substitute::empty_submodules(&source, &search.unpacked.empty_submodules);
    source.is_read()?;
    match (found, empty.into_iter().next()) {
        (Err(AdoptError::NoSource | AdoptError::Conf { evidence: None, .. }), Some((path, evidence))) => {
            Err(AdoptError::EmptySubmodule { path, evidence })
        }
        (Ok(found), Some(_)) => match substitute::needed_submodule(&source, search.unpacked, &found.base) {
            Some((path, evidence)) => Err(AdoptError::EmptySubmodule { path, evidence }),
            None => Ok(found),
        },
        (found, _) => found,
    }
}

/// The file to start from: the one that was asked for, else the shallowest.
fn chosen_conf(search: &Search<'_>, source: &SourceTree<'_>) -> Result<Option<PathBuf>, AdoptError> {
    if let [asked, ..] = search.confs {
        // Also the directory of it.
        let mut places = search.confs.iter().flat_map(|path| [plain(path), plain(&path.join("dkms.conf"))]);
        let found = places.find(|path| source.files().any(|file| file == path.as_path()));
        return found.map(Some).ok_or_else(|| {
            let confs = source.files().filter(|path| name_of(path).starts_with("dkms.conf"));
            let confs: Vec<String> = confs.map(|path| path.display().to_string()).collect();
            let confs = if confs.is_empty() { "no dkms.conf".to_owned() } else { confs.join(", ") };
            AdoptError::Unknown(format!("there is no {} in the source, which has {confs}", asked.display()))
        });
    }
    // A complete file counts before a template, and before the one of a package.
    let rank = |path: &Path| match name_of(path) {
        "dkms.conf" => Some(0),
        "dkms.conf.in" | "dkms.conf.am" | "dkms.conf.template" => Some(1),
        name if name.ends_with(".dkms") && path.parent().is_some_and(|p| p.ends_with("debian")) => Some(2),
        _ => None,
    };
    let mut all: Vec<((bool, usize, u8), &Path)> = source
        .files()
        .filter_map(|path| {
            let is_debian = path.iter().any(|part| part == "debian");
            Some(((is_debian, path.components().count(), rank(path)?), path))
        })
        .collect();
    all.sort();
    match all.as_slice() {
        [] => Ok(None),
        [(first, path), rest @ ..] => {
            let alike: Vec<&Path> =
                rest.iter().filter(|(other, _)| other == first).map(|(_, path)| *path).collect();
            match alike.is_empty() {
                true => Ok(Some((*path).to_owned())),
                false => Err(AdoptError::Ambiguous {
                    what: "several dkms.conf files are there",
                    choices: std::iter::once(*path).chain(alike).map(|p| p.display().to_string()).collect(),
                    option: "choose one with --conf",
                    by_conf: true,
                }),
            }
        }
    }
}

struct Finder<'a> {
    search: &'a Search<'a>,
    source: &'a SourceTree<'a>,
    decisions: Vec<Decision>,
}

impl Finder<'_> {
    fn decide(&mut self, subject: &'static str, value: &str, why: &str, evidence: Option<Evidence>) {
        self.decisions.push(Decision::new(subject, value, why, evidence));
    }

    /// Completes the project's own file.
    fn with_conf(mut self, path: &Path) -> Result<Adoptable, AdoptError> {
        let original = self.source.read(path).map_err(|why| AdoptError::Conf {
            reason: format!("{}: {why}", path.display()),
            evidence: None,
        })?;
        let (first, trace) = self.evaluate(path, &original)?;
        self.decide("dkms.conf", &path.display().to_string(), "the project's own", None);
        let own = path.parent().unwrap_or(Path::new(""));
        if first.hook("PRE_BUILD").is_empty() && name_of(path) != "dkms.conf" {
            substitute::check_build_system(self.source, own)?;
        }
        let guess =
            base::find(self.source, path, &self.places(&first)).map_or(own.to_owned(), |(base, _)| base);
        let version = self.version(path, &original, &first, &trace, &guess)?;
        if !can_be_built(&version) {
            return Err(AdoptError::BadName(version, "version"));
        }
        let known = self.known(&version, &guess);
        let mut text = original.clone();
        let mut replaced = BTreeMap::new();
        for found in placeholder::all(&original) {
            let (value, decision) = found.value(self.source, path, &original, &known)?;
            text = found.replaced(&text, &value);
            self.decisions.push(decision);
            if found.is_marked() {
                replaced.insert(found.token, value);
            }
        }
        let (second, trace) = self.evaluate(path, &text)?;
        let name = self.name(path, &text, &second, &trace)?;
        if second.package_name != name {
            text = with_literal(&text, "PACKAGE_NAME", &name, line_of(&trace, "PACKAGE_NAME"));
        }
        let (_, trace) = self.evaluate(path, &text)?;
        let line = line_of(&trace, "PACKAGE_VERSION");
        let is_literal =
            line.is_some_and(|line| text.lines().nth(line - 1).is_some_and(|text| text.contains(&version)));
        if second.package_version != version || !is_literal {
            let evidence = line.map(|line| Evidence::of(path, line, &text));
            self.decide("PACKAGE_VERSION", &version, "written literally", evidence);
            text = with_literal(&text, "PACKAGE_VERSION", &version, line);
        }
        if trace.line_of("AUTOINSTALL").is_none() {
            let why = "added: without it the module is not built for new kernels";
            self.decide("AUTOINSTALL", "yes", why, None);
            text = with_last(&text, "AUTOINSTALL", "yes");
        }
        let (third, trace) = self.evaluate(path, &text)?;
        let (base, decision) = base::find(self.source, path, &self.places(&third))?;
        self.decisions.push(decision);
        self.check(path, &text, &third, &trace, (&name, &version))?;
        substitute::check_recipe(self.source, &base, &third)?;
        let changed = substitute::in_sources(self.source, &base, &replaced, &version);
        // The source keeps what its author wrote; the result goes into the copy.
        self.search.scratch.write(self.source.path(path), original.as_bytes(), 0o644)?;
        for file in changed.keys() {
            self.decide("placeholder", &file.display().to_string(), "filled in as in the dkms.conf", None);
        }
        Ok(Adoptable {
            name,
            version,
            base,
            original: Some((path.to_owned(), original)),
            text,
            conf: third,
            changed,
            decisions: self.decisions,
        })
    }

    /// Generates a file.
    fn without_conf(mut self) -> Result<Adoptable, AdoptError> {
        let generated = generate(self.source)?;
        self.decide("dkms.conf", "generated", "the source has none", None);
        self.decisions.extend(generated.decisions.clone());
        let version = match self.search.version {
            Some(version) => version.to_owned(),
            None => {
                let found = version::find(self.source, self.search.unpacked, &generated.base);
                let found = found.ok_or(AdoptError::NoVersion)?;
                let value = found.value.clone();
                self.decisions.push(found);
                value
            }
        };
        let project = project_name(&self.search.unpacked.name);
        let name = self.search.name.map(str::to_owned).or(generated.module.clone()).unwrap_or(project);
        for (value, what) in [(&name, "name"), (&version, "version")] {
            if !can_be_built(value) {
                return Err(AdoptError::BadName(value.clone(), what));
            }
        }
        let text = generated.text(&name, &version);
        let path = generated.base.join("dkms.conf");
        let (conf, trace) = self.evaluate(&path, &text)?;
        self.check(&path, &text, &conf, &trace, (&name, &version))?;
        let changed = substitute::in_sources(self.source, &generated.base, &BTreeMap::new(), &version);
        Ok(Adoptable {
            name,
            version,
            base: generated.base,
            original: None,
            text,
            conf,
            changed,
            decisions: self.decisions,
        })
    }

    /// Evaluates a text in the place of that file, as bash would run it there.
    fn evaluate(&self, path: &Path, text: &str) -> Result<(DkmsConf, Trace), AdoptError> {
        let elsewhere = || AdoptError::Unknown("the scratch directory is in another root".to_owned());
        let Search { root, tools, scratch, release, .. } = *self.search;
        let inside = self.source.path(path);
        scratch.write(&inside, text.as_bytes(), 0o644)?;
        let host = scratch.real_path(&inside)?;
        let file = root.inside(&host).ok_or_else(elsewhere)?;
        let evaluated = traced(root, tools, &[(file, text.as_bytes().to_owned())], None, release);
        let (conf, trace) = evaluated.map_err(|e| match e {
            ConfError::Unusable(reason) => AdoptError::Conf { reason, evidence: None },
            unknown => AdoptError::Unknown(unknown.to_string()),
        })?;
        match &conf.syntax {
            Some(error) => Err(AdoptError::Conf {
                reason: format!("bash cannot read it: {}", error.message),
                evidence: error.quote.or(error.line).map(|line| Evidence::of(path, line, text)),
            }),
            None => Ok((conf, trace)),
        }
    }

    fn places(&self, conf: &DkmsConf) -> Places {
        // As the evaluation gives it the directory of the tree.
        let tree = self.search.root.resolved_or_joined(tree::TREE);
        let build = tree.join(&conf.package_name).join(&conf.package_version).join("build");
        Places::of(conf, &build.display().to_string())
    }

    fn version(
        &mut self,
        path: &Path,
        text: &str,
        conf: &DkmsConf,
        trace: &Trace,
        base: &Path,
    ) -> Result<String, AdoptError> {
        if let Some(asked) = self.search.version {
            self.decide("version", asked, "given by --version", None);
            return Ok(asked.to_owned());
        }
        let evidence = line_of(trace, "PACKAGE_VERSION").map(|line| Evidence::of(path, line, text));
        let value = &conf.package_version;
        let has_placeholder = evidence.as_ref().is_some_and(|line| !placeholder::all(&line.text).is_empty());
        if !has_placeholder && let Some(version) = version::usable(value) {
            self.decide("version", &version, "PACKAGE_VERSION", evidence);
            return Ok(version);
        }
        let found = version::find(self.source, self.search.unpacked, base).ok_or(AdoptError::NoVersion)?;
        let value = found.value.clone();
        self.decisions.push(found);
        Ok(value)
    }

    fn name(
        &mut self,
        path: &Path,
        text: &str,
        conf: &DkmsConf,
        trace: &Trace,
    ) -> Result<String, AdoptError> {
        let evidence = line_of(trace, "PACKAGE_NAME").map(|line| Evidence::of(path, line, text));
        let (name, why) = match self.search.name {
            Some(asked) => (asked.to_owned(), "given by --name"),
            None if conf.package_name.is_empty() => (
                project_name(&self.search.unpacked.name),
                "the name of the directory: PACKAGE_NAME is not set",
            ),
            None => (conf.package_name.clone(), "PACKAGE_NAME"),
        };
        if !can_be_built(&name) {
            return Err(AdoptError::BadName(name, "name"));
        }
        self.decide("name", &name, why, evidence);
        Ok(name)
    }

    fn known(&self, version: &str, base: &Path) -> KnownValues {
        let objects = self.source.kbuild.iter().filter(|file| file.path.starts_with(base));
        let mut names: Vec<&str> =
            objects.flat_map(|file| &file.makefile.objects).map(|object| object.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let module = match names.as_slice() {
            [one] => Some((*one).to_owned()),
            _ => None,
        };
        let name = module.clone().unwrap_or_else(|| project_name(&self.search.unpacked.name));
        KnownValues { name, version: version.to_owned(), module }
    }

    /// Checks that dkms accepts the result.
    fn check(
        &self,
        path: &Path,
        text: &str,
        conf: &DkmsConf,
        trace: &Trace,
        (name, version): (&str, &str),
    ) -> Result<(), AdoptError> {
        if let Some(refusal) = conf.refusals.first() {
            let line = refusal.at.map(|(_, line)| line).or_else(|| line_of(trace, &refusal.directive));
            return Err(AdoptError::Conf {
                reason: refusal.to_string(),
                evidence: line.map(|line| Evidence::of(path, line, text)),
            });
        }
        if conf.package_name != name || conf.package_version != version {
            return Err(AdoptError::Conf {
                reason: format!(
                    "it still names {} {} and not {name} {version}",
                    conf.package_name, conf.package_version
                ),
                evidence: line_of(trace, "PACKAGE_VERSION").map(|line| Evidence::of(path, line, text)),
            });
        }
        Ok(())
    }
}

/// Whether dkms takes a name or a version, and the kernel builds in a directory of that name.
fn can_be_built(text: &str) -> bool {
    // A colon ends a target of a Makefile: kbuild refuses a path that has one.
    is_usable_name(text) && !text.contains(':')
}

fn line_of(trace: &Trace, directive: &str) -> Option<usize> {
    trace.line_of(directive).map(|(_, line)| line)
}

/// The name of a directory without a version or a branch at its end.
fn project_name(directory: &str) -> String {
    let mut name = directory;
    while let Some((before, after)) = name.rsplit_once(['-', '_']) {
        let is_version = after.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
        if before.is_empty() || !(is_version || ["main", "master"].contains(&after)) {
            break;
        }
        name = before;
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::project_name;

    #[test]
    fn names_of_projects() {
        for (directory, name) in [
            ("hello-1.0", "hello"),
            ("x-main", "x"),
            ("a-b", "a-b"),
            ("hid-tminit-master", "hid-tminit"),
            ("y", "y"),
        ] {
            assert_eq!(project_name(directory), name);
        }
    }
}
