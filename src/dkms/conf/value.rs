//! The value of an evaluated `dkms.conf` for one kernel, and why dkms refuses it. Builds and lint use the
//! same value.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ConfError;
use super::early_end::EarlyEnd;
use super::trace::{FileLine, Trace};
use super::version::DkmsRules;
use crate::dkms::compare_versions;
use crate::kernel::config_file::is_set;

/// A record of `BUILT_MODULE_NAME` and the related directives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltModule {
    /// The installed file's name, without `.ko`.
    pub name: String,
    /// `DEST_MODULE_LOCATION`, relative to the module directory. The dkms of Clear Linux and of Debian uses
    /// `updates/dkms` instead.
    pub location: String,
}

/// The same record as written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModuleRecord {
    /// `BUILT_MODULE_NAME`.
    pub built: String,
    /// `BUILT_MODULE_LOCATION`.
    pub built_location: String,
    /// `DEST_MODULE_NAME`.
    pub dest: String,
    /// `DEST_MODULE_LOCATION`.
    pub location: String,
}

/// Why a module excludes a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// The directive.
    pub directive: String,
    /// The condition, as text that follows the name.
    pub condition: String,
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.directive, self.condition)
    }
}

/// A syntax error that ends the evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyntaxError {
    /// The index of the file.
    pub file: usize,
    /// The line number, from 1.
    pub line: Option<usize>,
    /// The message of bash.
    pub message: String,
    /// The line of the unclosed quote, if that is the cause. Only an evaluation with a trace determines it.
    pub quote: Option<usize>,
}

/// A kind of refusal by dkms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// A file ends early, and what is missing then is not set.
    EndsEarly,
    /// `PACKAGE_NAME` has no value.
    NameMissing,
    /// `PACKAGE_VERSION` has no value.
    VersionMissing,
    /// There is no record.
    NoModule,
    /// A record without a name.
    ModuleNameMissing,
    /// A name that ends in `.ko` or `.o`.
    ModuleNameEnding,
    /// A record without `DEST_MODULE_LOCATION`.
    DestinationMissing,
    /// A `DEST_MODULE_LOCATION` that begins with none of the three allowed directories.
    Destination,
    /// A word in `AUTOINSTALL` other than yes and no; only some versions refuse it.
    AutoinstallWord,
}

/// Why dkms refuses a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind.
    pub kind: RefusalKind,
    /// The directive in error.
    pub directive: String,
    /// The index of the element.
    pub element: Option<usize>,
    /// Its value.
    pub value: String,
    /// The place where the directive is set; none if nothing sets it, or without a trace.
    pub at: Option<FileLine>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { directive, element, value, .. } = self;
        let index = element.map(|index| format!("[{index}]")).unwrap_or_default();
        match self.kind {
            RefusalKind::EndsEarly => {
                write!(f, "{value}: nothing that the file sets counts, and dkms refuses it")
            }
            RefusalKind::NameMissing | RefusalKind::VersionMissing | RefusalKind::DestinationMissing => {
                write!(f, "{directive}{index} is missing: dkms refuses the file")
            }
            RefusalKind::NoModule => {
                f.write_str("it names no module: BUILT_MODULE_NAME and DEST_MODULE_LOCATION are missing")
            }
            RefusalKind::ModuleNameMissing => {
                write!(f, "record {} has no {directive}: dkms refuses the file", element.unwrap_or_default())
            }
            RefusalKind::ModuleNameEnding => {
                write!(f, "{directive}{index} is {value}: dkms refuses a name with an ending")
            }
            RefusalKind::Destination => write!(f, "{directive}{index} is {value:?}: dkms refuses the file"),
            RefusalKind::AutoinstallWord => {
                write!(f, "{directive} is {value:?}: dkms 3.1.7 and later refuse the file")
            }
        }
    }
}

/// An evaluated `dkms.conf`, for one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DkmsConf {
    /// `PACKAGE_NAME`.
    pub package_name: String,
    /// `PACKAGE_VERSION`.
    pub package_version: String,
    /// `AUTOINSTALL` is set, by the rules of the installed dkms.
    #[serde(skip)]
    pub autoinstall: bool,
    /// The value of `AUTOINSTALL`.
    pub autoinstall_value: String,
    /// The files of a build: the records that have a name.
    pub built: Vec<BuiltModule>,
    /// The records as written in the file.
    pub records: Vec<ModuleRecord>,
    /// `BUILD_DEPENDS`: names of modules.
    pub depends: Vec<String>,
    /// `MAKE` is set, for this kernel or for others.
    pub makes: bool,
    /// The value of `MAKE` for this kernel.
    pub make: String,
    /// The same as the file sets it, before dkms evaluates it once more: `$(uname -r)` is still seen in it.
    pub make_written: String,
    /// The values of `PATCH` for this kernel.
    pub patches: Vec<String>,
    /// The scripts, with their arguments, by directive: `PRE_BUILD` and the like.
    pub hooks: BTreeMap<String, String>,
    /// Directives in the file that dkms has deprecated.
    pub deprecated: Vec<String>,
    /// Why the module is not for this kernel.
    pub excluded: Vec<Exclusion>,
    /// A syntax error: the rest of the file has no effect.
    pub syntax: Option<SyntaxError>,
    /// The files that end early.
    pub early: Vec<EarlyEnd>,
    /// Why dkms refuses the file.
    pub refusals: Vec<Refusal>,
}

impl DkmsConf {
    /// Parses the answer of bash: the records after the trace.
    pub(super) fn of_answer(
        records: &[u8],
        release: &str,
        config: Option<&[u8]>,
        files: &[String],
    ) -> Result<DkmsConf, ConfError> {
        let mut conf = DkmsConf::default();
        for record in records.split(|b| *b == 0).filter(|r| !r.is_empty()) {
            let text = std::str::from_utf8(record)
                .map_err(|_| ConfError::Unusable("its dkms.conf has a value that is not text".to_owned()))?;
            if let Some((key, value)) = text.split_once('=') {
                conf.take(key, value, files);
                conf.excluded.extend(excluded(key, value, release, config));
            }
        }
        conf.resolve();
        Ok(conf)
    }

    fn take(&mut self, key: &str, value: &str, files: &[String]) {
        let owned = value.to_owned();
        match key {
            "package_name" => self.package_name = owned,
            "package_version" => self.package_version = owned,
            "autoinstall" => self.autoinstall_value = owned,
            "built" => self.records.push(ModuleRecord { built: owned, ..ModuleRecord::default() }),
            "built_location" | "dest" | "location" => {
                let Some(last) = self.records.last_mut() else { return };
                *match key {
                    "built_location" => &mut last.built_location,
                    "dest" => &mut last.dest,
                    _ => &mut last.location,
                } = owned;
            }
            "depends" => self.depends.push(owned),
            "makes" => self.makes = !value.trim().is_empty(),
            "make" => self.make = owned,
            "make_written" => self.make_written = owned,
            "patch" => self.patches.push(owned),
            "hook" => {
                if let Some((directive, script)) = value.split_once(' ') {
                    self.hooks.insert(directive.to_owned(), script.to_owned());
                }
            }
            "deprecated" => self.deprecated.push(owned),
            "early" => self.early.extend(EarlyEnd::of_record(value)),
            "again" => {
                // Empty, if no value ends the shell.
                let end = value.parse().ok().map(|file| EarlyEnd {
                    file,
                    line: None,
                    message: String::new(),
                    ends_dkms: true,
                });
                self.early.extend(end);
            }
            "syntax" => self.syntax = syntax_error(value, files),
            "quote" => {
                if let Some(error) = &mut self.syntax {
                    // It is only for the message, which does without the line.
                    error.quote = value.parse().ok();
                }
            }
            _ => {}
        }
    }

    /// Computes what follows from the records.
    fn resolve(&mut self) {
        let is_only = self.records.len() == 1;
        for record in &self.records {
            let written = [&record.dest, &record.built].into_iter().find(|name| !name.is_empty());
            let name = written.or(is_only.then_some(&self.package_name));
            // A record without a name cannot be searched for.
            if let Some(name) = name.filter(|name| !name.is_empty()) {
                self.built.push(BuiltModule { name: name.clone(), location: record.location.clone() });
            }
        }
        self.refusals = self.refused();
    }

    /// Whether a script, a patch or `MAKE` may add files to the source.
    pub fn prepares(&self) -> bool {
        !self.patches.is_empty()
            || ["PRE_BUILD", "POST_ADD"].iter().any(|hook| self.hooks.contains_key(*hook))
    }

    /// The script of a directive, with its arguments; empty without one.
    pub fn hook(&self, directive: &str) -> &str {
        self.hooks.get(directive).map_or("", String::as_str)
    }

    /// The value by the rules of the installed dkms. The rules are not part of the cached value, because the
    /// next dkms may have others.
    #[must_use]
    pub fn under(mut self, rules: DkmsRules) -> DkmsConf {
        self.autoinstall = rules.autoinstall.asks(&self.autoinstall_value);
        if !rules.autoinstall.refuses(&self.autoinstall_value) {
            self.refusals.retain(|refusal| refusal.kind != RefusalKind::AutoinstallWord);
        }
        if !rules.knows_ranges {
            self.excluded.retain(|e| !RANGES.contains(&e.directive.as_str()));
        }
        self
    }

    /// Whether a trace is useful: to find the place of a fault.
    pub(super) fn has_faults(&self) -> bool {
        !self.refusals.is_empty() || self.syntax.is_some()
    }

    /// Adds the places of the faults.
    pub(super) fn locate(&mut self, trace: &Trace) {
        for end in &mut self.early {
            end.locate(trace);
        }
        self.refusals = self.refused();
        for refusal in &mut self.refusals {
            if refusal.kind == RefusalKind::EndsEarly {
                continue;
            }
            refusal.at = match refusal.element {
                Some(element) => trace.line_of_element(&refusal.directive, element),
                None => trace.line_of(&refusal.directive),
            };
        }
    }

    /// Everything for which dkms refuses the file: the checks of its `read_conf` in 3.0.10 and 3.4.3.
    fn refused(&self) -> Vec<Refusal> {
        use RefusalKind::*;
        let mut refusals = Vec::new();
        let mut add = |kind, directive: &str, element, value: &str| {
            let (directive, value) = (directive.to_owned(), value.to_owned());
            refusals.push(Refusal { kind, directive, element, value, at: None });
        };
        if self.package_name.is_empty() {
            add(NameMissing, "PACKAGE_NAME", None, "");
        }
        if self.package_version.is_empty() {
            add(VersionMissing, "PACKAGE_VERSION", None, "");
        }
        let word = self.autoinstall_value.as_str();
        if !["", "yes", "no"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
            add(AutoinstallWord, "AUTOINSTALL", None, word);
        }
        if self.records.is_empty() {
            add(NoModule, "BUILT_MODULE_NAME", None, "");
        }
        let destinations = self.records.iter().filter(|r| !r.location.is_empty()).count();
        for (at, record) in self.records.iter().enumerate() {
            if record.built.is_empty() && destinations != 1 {
                add(ModuleNameMissing, "BUILT_MODULE_NAME", Some(at), "");
            }
            for (directive, name) in
                [("BUILT_MODULE_NAME", &record.built), ("DEST_MODULE_NAME", &record.dest)]
            {
                if name.ends_with(".ko") || name.ends_with(".o") {
                    add(ModuleNameEnding, directive, Some(at), name);
                }
            }
            let location = record.location.as_str();
            if location.is_empty() {
                add(DestinationMissing, "DEST_MODULE_LOCATION", Some(at), "");
            } else if !DESTINATIONS.iter().any(|directory| location.starts_with(directory)) {
                add(Destination, "DEST_MODULE_LOCATION", Some(at), location);
            }
        }
        // Another file may set what the one that ends early does not.
        let is_missing = |refusal: &Refusal| {
            let kinds = [NameMissing, VersionMissing, NoModule, ModuleNameMissing, DestinationMissing];
            kinds.contains(&refusal.kind)
        };
        let end = self.early.iter().find(|end| end.ends_dkms).or(self.early.first());
        if let Some(end) = end.filter(|end| end.ends_dkms || refusals.iter().any(is_missing)) {
            refusals.retain(|refusal| !is_missing(refusal));
            let (directive, value, at) = (String::new(), end.to_string(), end.at());
            refusals.insert(0, Refusal { kind: EndsEarly, directive, element: None, value, at });
        }
        refusals
    }
}

/// The allowed beginnings of a destination.
pub const DESTINATIONS: [&str; 3] = ["/kernel", "/updates", "/extra"];
/// Directives that are unknown to old versions of dkms.
const RANGES: [&str; 2] = ["BUILD_EXCLUSIVE_KERNEL_MIN", "BUILD_EXCLUSIVE_KERNEL_MAX"];

/// The exclusion that results from a record of the answer.
fn excluded(key: &str, value: &str, release: &str, config: Option<&[u8]>) -> Option<Exclusion> {
    let is = |directive: &str| {
        Some(Exclusion { directive: directive.to_owned(), condition: format!("is {value}") })
    };
    let is_older = || compare_versions(release, value).is_lt();
    match key {
        _ if value.is_empty() => None,
        "excluded" => {
            let (directive, condition) = value.split_once(' ')?;
            Some(Exclusion { directive: directive.to_owned(), condition: condition.to_owned() })
        }
        "exclusive_config" => {
            // As dkms, skip the check of the configuration if the file is missing.
            let config = config?;
            let unmet = value.split_ascii_whitespace().find(|word| match word.strip_prefix('!') {
                Some(name) => is_set(config, name),
                None => !is_set(config, word),
            })?;
            let condition = format!("wants {unmet}");
            Some(Exclusion { directive: "BUILD_EXCLUSIVE_CONFIG".to_owned(), condition })
        }
        "kernel_min" if is_older() => is(RANGES[0]),
        "kernel_max" if compare_versions(release, value).is_gt() => is(RANGES[1]),
        // dkms does not report this during the build. It then refuses to install on that kernel and on later
        // ones, whatever the highest version is.
        "obsolete_by" if !is_older() => is("OBSOLETE_BY"),
        _ => None,
    }
}

/// Parses a message of bash, `FILE: line N: MESSAGE`, which may have more lines.
fn syntax_error(said: &str, files: &[String]) -> Option<SyntaxError> {
    let first = said.lines().find(|line| !line.is_empty())?;
    let found = files.iter().enumerate().find_map(|(file, path)| {
        let (line, message) = first.strip_prefix(path.as_str())?.strip_prefix(": line ")?.split_once(": ")?;
        // As above: without a number the message has no line.
        Some(SyntaxError { file, line: line.parse().ok(), message: message.to_owned(), quote: None })
    });
    Some(found.unwrap_or(SyntaxError { file: 0, line: None, message: first.to_owned(), quote: None }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RELEASE: &str = "6.15.8-1592.native";

    fn conf(records: &[&str], config: Option<&[u8]>) -> DkmsConf {
        let answer: Vec<u8> = records.iter().flat_map(|r| [r.as_bytes(), b"\0"].concat()).collect();
        let files = ["/a/dkms.conf".to_owned(), "/etc/dkms/a.conf".to_owned()];
        DkmsConf::of_answer(&answer, RELEASE, config, &files).unwrap()
    }

    #[test]
    fn one_record_takes_the_package_name() {
        let conf = conf(
            &[
                "package_name=hello",
                "package_version=1",
                "autoinstall=yes",
                "built=",
                "dest=",
                "location=/extra",
                "end=end",
            ],
            None,
        );
        assert_eq!(conf.built, [BuiltModule { name: "hello".to_owned(), location: "/extra".to_owned() }]);
        assert!(conf.autoinstall_value == "yes" && !conf.has_faults() && conf.excluded.is_empty());
    }

    #[test]
    fn exclusions() {
        let config = b"CONFIG_A=y\nCONFIG_AB=m\n# CONFIG_C is not set\n".as_slice();
        let is =
            |key: &str, value: &str| !conf(&[&format!("{key}={value}")], Some(config)).excluded.is_empty();
        assert!(!is("exclusive_config", "CONFIG_A CONFIG_AB !CONFIG_C"));
        assert!(is("exclusive_config", "CONFIG_C"));
        assert!(is("exclusive_config", "!CONFIG_AB"));
        assert!(is("kernel_min", "6.16") && !is("kernel_min", "6.15"));
        assert!(is("kernel_max", "6.14") && !is("kernel_max", "6.16"));
        assert!(is("obsolete_by", "6.15.8-1592.native") && !is("obsolete_by", "6.15.8-1593"));
        assert!(is("obsolete_by", "6.15.8") && !is("obsolete_by", "6.16"));
        assert!(conf(&["exclusive_config=CONFIG_C"], None).excluded.is_empty());
    }

    #[test]
    fn what_old_versions_do_not_know() {
        let old = DkmsRules::of_version(Some("3.0.10"));
        let written = conf(&["autoinstall=maybe", "kernel_min=7"], None);
        assert!(written.clone().under(DkmsRules::of_version(Some("3.2.1"))) == written);
        let read = written.under(old);
        assert!(read.autoinstall && read.excluded.is_empty());
        assert!(!read.refusals.iter().any(|r| r.kind == RefusalKind::AutoinstallWord));
    }

    #[test]
    fn an_early_end_explains_what_is_missing() {
        let kinds = |conf: &DkmsConf| conf.refusals.iter().map(|r| r.kind).collect::<Vec<_>>();
        let complete = ["package_name=a", "package_version=1", "built=a", "dest=", "location=/extra"];
        let early = conf(&["early=0 6: 1 + : syntax error", "again="], None);
        assert_eq!(kinds(&early), [RefusalKind::EndsEarly]);
        assert_eq!(early.refusals[0].at, Some((0, 6)));
        assert!(early.refusals[0].to_string().contains("(1 + : syntax error)"), "{}", early.refusals[0]);
        // An override that ends early, and a value that ends dkms itself.
        let with = |record: &str| conf(&[&complete[..], &[record]].concat(), None);
        assert_eq!((kinds(&with("early=1 ")), with("early=1 ").early.len()), (vec![], 1));
        assert_eq!(kinds(&with("again=1")), [RefusalKind::EndsEarly]);
        assert_eq!((kinds(&with("again=")), with("again=").early), (vec![], vec![]));
        // Other faults stay.
        let mut other = complete;
        other[4] = "location=/x";
        let other = conf(&[&other[..], &["early=1 "]].concat(), None);
        assert_eq!(kinds(&other), [RefusalKind::Destination]);
    }

    #[test]
    fn where_bash_stops() {
        let error = |said: &str| conf(&[&format!("syntax={said}")], None).syntax;
        let found = error("/etc/dkms/a.conf: line 7: syntax error: unexpected end\n").unwrap();
        assert_eq!((found.file, found.line), (1, Some(7)));
        assert_eq!(found.message, "syntax error: unexpected end");
        let found = error("broken\n").unwrap();
        assert_eq!((found.file, found.line, found.message.as_str()), (0, None, "broken"));
        assert_eq!(error(""), None);
        let quote = conf(&["syntax=broken", "quote=4"], None).syntax.unwrap().quote;
        assert_eq!(quote, Some(4));
    }
}
