//! The rules on the values that bash finds for one kernel.

use super::{Expected, Found, Place, Severity};
use crate::dkms::is_usable_name;
use crate::dkms::script::Script;
use crate::dkms::told::{Record, SyntaxError, Told};

/// No module has a tenth as many records; a file that has is not to keep anybody waiting.
const RECORD_LIMIT: usize = 500;

/// Place, severity, id, what is wrong, what clears it.
pub(super) type Judged = (Place, Severity, &'static str, String, String);

/// What is wrong with the values for one kernel.
pub(super) fn judge(found: &Found<'_>, told: &Told) -> Vec<Judged> {
    let mut rules = Rules { found, findings: Vec::new() };
    rules.judge(told);
    rules.findings
}

/// The line of the quote that bash stumbles over, when it is one. Text that a wrong quote has laid bare may look like
/// any other error; a quote with a directive in it then tells.
fn open_quote(script: &Script, error: &SyntaxError) -> Option<usize> {
    if ["matching `\"'", "matching `''", "matching ``'"].iter().any(|m| error.message.contains(m)) {
        return script.unclosed;
    }
    let first = script.swallows.first().map(|s| s.opened)?;
    error.line.is_none_or(|line| first <= line).then_some(first)
}

/// The directory that a path means, without its `..`.
fn first_directory(path: &str) -> Option<&str> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        match part {
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    parts.first().copied()
}

struct Rules<'f, 'a> {
    found: &'f Found<'a>,
    findings: Vec<Judged>,
}

impl Rules<'_, '_> {
    fn add(
        &mut self,
        place: Place,
        severity: Severity,
        id: &'static str,
        what: impl Into<String>,
        clear: &str,
    ) {
        self.findings.push((place, severity, id, what.into(), clear.to_owned()));
    }

    fn judge(&mut self, told: &Told) {
        if self.broken(told) {
            // All else that is missing comes of it.
            return;
        }
        let records = told.records.iter().flat_map(|r| [&r.built, &r.dest, &r.location]);
        if [&told.name, &told.version, &told.autoinstall]
            .into_iter()
            .chain(records)
            .any(|v| v.ends_with('\r'))
        {
            let texts = self.found.subject.texts.iter().enumerate();
            let line = texts.filter_map(|(at, t)| Some((at, Some(t.script.carriage_return?)))).next();
            let what = "lines end with a carriage return, which becomes part of the values";
            let clear = "take them out: sed -i 's/\\r$//'";
            self.add(line.unwrap_or((0, None)), Severity::Error, "carriage-return", what, clear);
            return;
        }
        self.name(told);
        self.autoinstall(told);
        self.records(told);
        self.build(told);
    }

    fn broken(&mut self, told: &Told) -> bool {
        let Some(error) = &told.syntax else {
            return false;
        };
        let rest = [
            (told.name.is_empty(), "PACKAGE_NAME"),
            (told.version.is_empty(), "PACKAGE_VERSION"),
            (told.records.iter().all(|r| r.location.is_empty()), "DEST_MODULE_LOCATION"),
            (told.autoinstall.is_empty(), "AUTOINSTALL"),
        ];
        let rest: Vec<&str> = rest.iter().filter(|(gone, _)| *gone).map(|(_, name)| *name).collect();
        let rest = match rest.as_slice() {
            [] => "what stands behind it does not count".to_owned(),
            gone => format!("what stands behind it does not count; without a value: {}", gone.join(", ")),
        };
        let script = self.found.subject.texts.get(error.file).map(|t| &t.script);
        match script.and_then(|s| open_quote(s, error)) {
            Some(line) => {
                let what = format!("the quote that opens here is never closed: {rest}");
                self.add(
                    (error.file, Some(line)),
                    Severity::Error,
                    "unterminated-quote",
                    what,
                    "close the quote",
                );
            }
            None => {
                let what = format!("{}: {rest}", error.message);
                let clear = "repair the line, and ask `bash -n` whether it is well";
                // Bash counts a line more than there is when the file ends too early; the file then has no such line.
                let line = error.line.map(|line| line.min(script.map_or(1, |s| s.lines)).max(1));
                self.add((error.file, line), Severity::Error, "syntax-error", what, clear);
            }
        }
        true
    }

    fn name(&mut self, told: &Told) {
        let (name, version) = (&told.name, &told.version);
        for (directive, value, id) in
            [("PACKAGE_NAME", name, "name-missing"), ("PACKAGE_VERSION", version, "version-missing")]
        {
            let place = self.found.place(directive);
            if value.is_empty() {
                let what = format!("{directive} is missing: dkms refuses the file");
                self.add(place, Severity::Error, id, what, &format!("give {directive} a value"));
            } else if !is_usable_name(value) {
                let what =
                    format!("{directive} is {value:?}, which dkms cannot use as the name of a directory");
                self.add(
                    place,
                    Severity::Warning,
                    "name-unusable",
                    what,
                    "use letters, digits, dots and dashes only",
                );
            }
        }
        if name.is_empty() || version.is_empty() {
            return;
        }
        let meant = match &self.found.subject.expected {
            Expected::Anything => return,
            Expected::Module(module) => {
                (Some(module.name.clone()), module.version.clone(), "it is registered as")
            }
            Expected::Directory(directory) if *directory == format!("{name}-{version}") => return,
            Expected::Directory(directory) => match directory.strip_prefix(&format!("{name}-")) {
                Some(rest) => (None, rest.to_owned(), "its directory says"),
                None => (Some(directory.clone()), version.clone(), "its directory is"),
            },
        };
        let (meant_name, meant_version, says) = meant;
        if let Some(meant) = meant_name.filter(|meant| meant != name) {
            let what = format!("PACKAGE_NAME is {name}, but {says} {meant}");
            let clear = "make them the same: directory /usr/src/PACKAGE_NAME-PACKAGE_VERSION";
            self.add(self.found.place("PACKAGE_NAME"), Severity::Warning, "name-differs", what, clear);
        }
        if meant_version != *version {
            let what = format!("PACKAGE_VERSION is {version}, but {says} {meant_version}");
            let clear = "make them the same: directory /usr/src/PACKAGE_NAME-PACKAGE_VERSION";
            self.add(self.found.place("PACKAGE_VERSION"), Severity::Warning, "version-differs", what, clear);
        }
    }

    fn autoinstall(&mut self, told: &Told) {
        let place = self.found.place("AUTOINSTALL");
        let value = &told.autoinstall;
        let clear = "write AUTOINSTALL=\"yes\"";
        if value.is_empty() {
            let what = "AUTOINSTALL is missing: the module is not rebuilt after an update";
            self.add(place, Severity::Warning, "autoinstall-missing", what, clear);
        } else if value.eq_ignore_ascii_case("no") {
            let what = "AUTOINSTALL is no: the module is not rebuilt after an update (dkms before 3.1.7 takes it for yes)";
            self.add(
                place,
                Severity::Warning,
                "autoinstall-no",
                what,
                "none when that is meant; else write yes",
            );
        } else if !value.eq_ignore_ascii_case("yes") {
            let what = format!("AUTOINSTALL is {value:?}: dkms 3.1.7 and later refuse the file");
            self.add(place, Severity::Error, "autoinstall-word", what, clear);
        }
    }

    fn records(&mut self, told: &Told) {
        if told.records.is_empty() {
            let what = "it names no module: BUILT_MODULE_NAME and DEST_MODULE_LOCATION are missing";
            let clear =
                "write BUILT_MODULE_NAME[0] (the file without .ko) and DEST_MODULE_LOCATION[0]=\"/extra\"";
            self.add((0, None), Severity::Error, "no-module", what, clear);
            return;
        }
        let one_place = told.records.iter().filter(|r| !r.location.is_empty()).count() == 1;
        for (at, record) in told.records.iter().take(RECORD_LIMIT).enumerate() {
            self.module_name(at, record, one_place);
            self.destination(at, &record.location);
        }
    }

    fn module_name(&mut self, at: usize, record: &Record, one_place: bool) {
        if record.built.is_empty() && !one_place {
            let what = format!("record {at} has no BUILT_MODULE_NAME: dkms refuses the file");
            let place = self.found.place_of_element("DEST_MODULE_LOCATION", at);
            self.add(
                place,
                Severity::Error,
                "module-name-missing",
                what,
                &format!("write BUILT_MODULE_NAME[{at}]"),
            );
        }
        for (directive, value) in [("BUILT_MODULE_NAME", &record.built), ("DEST_MODULE_NAME", &record.dest)] {
            let place = self.found.place_of_element(directive, at);
            if value.ends_with(".ko") || value.ends_with(".o") {
                let what = format!("{directive}[{at}] is {value}: dkms refuses a name with an ending");
                self.add(place, Severity::Error, "module-name-ending", what, "take the ending away");
            } else if !value.is_empty() && !is_usable_name(value) {
                let what = format!("{directive}[{at}] is {value:?}, which is no name of a module");
                let clear = "write the file's name alone; its directory belongs in BUILT_MODULE_LOCATION";
                self.add(place, Severity::Warning, "module-name-unusable", what, clear);
            }
        }
    }

    fn destination(&mut self, at: usize, location: &str) {
        let clear = "use /extra, /updates, or a directory below /kernel";
        let place = self.found.place_of_element("DEST_MODULE_LOCATION", at);
        let (severity, id, what) = if location.is_empty() {
            let what = format!("DEST_MODULE_LOCATION[{at}] is missing: dkms refuses the file");
            (Severity::Error, "destination-missing", what)
        } else if !["/kernel", "/updates", "/extra"].iter().any(|directory| location.starts_with(directory)) {
            let what = format!("DEST_MODULE_LOCATION[{at}] is {location:?}: dkms refuses the file");
            (Severity::Error, "destination", what)
        } else if !matches!(first_directory(location), Some("kernel" | "updates" | "extra")) {
            let what = format!(
                "DEST_MODULE_LOCATION[{at}] is {location:?}, outside the directories that dkms means"
            );
            (Severity::Warning, "destination", what)
        } else {
            return;
        };
        self.add(place, severity, id, what, clear);
    }

    fn build(&mut self, told: &Told) {
        let source = self.found.subject.source;
        // What comes of PRE_BUILD, POST_ADD or a patch cannot be seen; nor what was not looked at.
        if !told.make && !source.makefile && !told.prepares && source.is_whole() {
            let what = "there is neither MAKE nor a Makefile (or Kbuild) beside it: make has nothing to do";
            self.add((0, None), Severity::Error, "no-makefile", what, "write a Makefile, or MAKE[0]");
        }
        for directive in &told.deprecated {
            let since = if directive == "CLEAN" { "3.1.8" } else { "3.0" };
            let what = format!("{directive} is deprecated: since {since} dkms does nothing for it");
            self.add(self.found.place(directive), Severity::Advice, "deprecated", what, "take it out");
        }
        for name in &told.depends {
            let place = self.found.place("BUILD_DEPENDS");
            if *name == told.name {
                let what = "BUILD_DEPENDS names the module itself: dkms waits for it for ever";
                self.add(place, Severity::Error, "depends-itself", what, "take it out of BUILD_DEPENDS");
            } else if self.found.subject.modules.is_some_and(|known| !known.contains(name)) {
                let what = format!("BUILD_DEPENDS names {name:?}, which no DKMS module is called");
                let clear = "install that module first, or take it out of BUILD_DEPENDS";
                self.add(place, Severity::Warning, "depends-unknown", what, clear);
            }
        }
    }
}
