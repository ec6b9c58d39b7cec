//! Rules about the value for one kernel.

use super::view::{ConfView, Hit, LintPlace};
use super::{Expected, KernelOwn, Severity};
use crate::dkms::conf::version::Autoinstall;
use crate::dkms::conf::{DESTINATIONS, RefusalKind, is_placeholder};
use crate::dkms::is_usable_name;
use crate::kernel::module_file::kernel_name;

/// No real module has even a tenth as many records. The limit bounds the time for a bad file.
const RECORD_LIMIT: usize = 500;

/// Reasons for dkms to refuse the file.
pub(super) fn refused(view: &ConfView<'_>, kind: RefusalKind) -> Vec<Hit> {
    let refusals = view.conf.refusals.iter().filter(|refusal| refusal.kind == kind);
    let hit = |refusal| Hit::new(view.place_of_refusal(refusal), refusal.to_string());
    refusals.take(RECORD_LIMIT).map(hit).collect()
}

/// A value that the build system of the project should have replaced.
pub(super) fn placeholder(view: &ConfView<'_>) -> Vec<Hit> {
    let conf = view.conf;
    let package = [("PACKAGE_NAME", &conf.package_name), ("PACKAGE_VERSION", &conf.package_version)];
    let what = |directive: &str, value: &str| format!("{directive} is {value:?}, which is a placeholder");
    // make treats the text after a # in a path as a comment.
    let fails = |value: &str| if value.contains('#') { Severity::Error } else { Severity::Warning };
    let package = package.into_iter().filter(|(_, value)| is_placeholder(value)).map(|(directive, value)| {
        Hit::new(view.place(directive), what(directive, value)).severity(fails(value))
    });
    let records = conf.records.iter().enumerate().take(RECORD_LIMIT).flat_map(|(at, record)| {
        let names = [("BUILT_MODULE_NAME", &record.built), ("DEST_MODULE_NAME", &record.dest)];
        let names = names.into_iter().filter(|(_, value)| is_placeholder(value));
        names.map(move |(directive, value)| {
            let what = what(&format!("{directive}[{at}]"), value);
            Hit::new(view.place_of_element(directive, at), what).severity(Severity::Error)
        })
    });
    package.chain(records).collect()
}

pub(super) fn name_unusable(view: &ConfView<'_>) -> Vec<Hit> {
    let values = [("PACKAGE_NAME", &view.conf.package_name), ("PACKAGE_VERSION", &view.conf.package_version)];
    let is_odd = |value: &str| !value.is_empty() && !is_usable_name(value) && !is_placeholder(value);
    let values = values.into_iter().filter(|(_, value)| is_odd(value));
    let what = |directive, value| {
        format!("{directive} is {value:?}, which dkms cannot use as the name of a directory")
    };
    values.map(|(directive, value)| Hit::new(view.place(directive), what(directive, value))).collect()
}

/// The expected name and version, as far as there are, and what determines them.
fn expected(view: &ConfView<'_>) -> Option<(Option<String>, String, &'static str)> {
    let (name, version) = (&view.conf.package_name, &view.conf.package_version);
    if name.is_empty() || version.is_empty() {
        return None;
    }
    match &view.subject.expected {
        Expected::Anything => None,
        Expected::Module(module) => {
            Some((Some(module.name.clone()), module.version.clone(), "it is registered as"))
        }
        Expected::Directory(directory) if *directory == format!("{name}-{version}") => None,
        Expected::Directory(directory) => Some(match directory.strip_prefix(&format!("{name}-")) {
            Some(rest) => (None, rest.to_owned(), "its directory says"),
            None => (Some(directory.clone()), version.clone(), "its directory is"),
        }),
    }
}

pub(super) fn name_differs(view: &ConfView<'_>) -> Vec<Hit> {
    let name = &view.conf.package_name;
    let Some((Some(meant), _, says)) = expected(view) else { return Vec::new() };
    let hit = || Hit::new(view.place("PACKAGE_NAME"), format!("PACKAGE_NAME is {name}, but {says} {meant}"));
    (meant != *name).then(hit).into_iter().collect()
}

pub(super) fn version_differs(view: &ConfView<'_>) -> Vec<Hit> {
    let version = &view.conf.package_version;
    let Some((_, meant, says)) = expected(view) else { return Vec::new() };
    let hit = || {
        let what = format!("PACKAGE_VERSION is {version}, but {says} {meant}");
        Hit::new(view.place("PACKAGE_VERSION"), what)
    };
    (meant != *version).then(hit).into_iter().collect()
}

fn autoinstall(view: &ConfView<'_>, is_hit: fn(&str) -> bool, what: impl Fn(&str) -> String) -> Vec<Hit> {
    let value = view.conf.autoinstall_value.as_str();
    let hit = || Hit::new(view.place("AUTOINSTALL"), what(value));
    is_hit(value).then(hit).into_iter().collect()
}

pub(super) fn autoinstall_missing(view: &ConfView<'_>) -> Vec<Hit> {
    let what = |_: &str| "AUTOINSTALL is missing: the module is not rebuilt after an update".to_owned();
    autoinstall(view, str::is_empty, what)
}

pub(super) fn autoinstall_no(view: &ConfView<'_>) -> Vec<Hit> {
    let what = |_: &str| {
        let what = "AUTOINSTALL is no: the module is not rebuilt after an update (dkms before 3.1.7 takes it \
             for yes)";
        what.to_owned()
    };
    autoinstall(view, |value| value.eq_ignore_ascii_case("no"), what)
}

/// Refused by versions that accept only yes and no.
pub(super) fn autoinstall_word(view: &ConfView<'_>) -> Vec<Hit> {
    let is_word = |value: &str| !["", "yes", "no"].iter().any(|known| value.eq_ignore_ascii_case(known));
    let what = |value: &str| format!("AUTOINSTALL is {value:?}: dkms 3.1.7 and later refuse the file");
    let is_old = view.subject.rules.autoinstall == Autoinstall::AnyWord;
    let severity = if is_old { Severity::Warning } else { Severity::Error };
    autoinstall(view, is_word, what).into_iter().map(|hit| hit.severity(severity)).collect()
}

pub(super) fn module_name_unusable(view: &ConfView<'_>) -> Vec<Hit> {
    let records = view.conf.records.iter().enumerate().take(RECORD_LIMIT);
    let names = records.flat_map(|(at, record)| {
        [("BUILT_MODULE_NAME", at, &record.built), ("DEST_MODULE_NAME", at, &record.dest)]
    });
    let is_odd = |name: &str| {
        let has_ending = name.ends_with(".ko") || name.ends_with(".o");
        !name.is_empty() && !has_ending && !is_usable_name(name) && !is_placeholder(name)
    };
    let names = names.filter(|(_, _, name)| is_odd(name));
    let what =
        |directive, at, name| format!("{directive}[{at}] is {name:?}, which is not the name of a module");
    names
        .map(|(directive, at, name)| {
            Hit::new(view.place_of_element(directive, at), what(directive, at, name))
        })
        .collect()
}

/// A destination that dkms refuses, or that it accepts although its `..` or a longer name leads elsewhere.
pub(super) fn destination(view: &ConfView<'_>) -> Vec<Hit> {
    let mut hits = refused(view, RefusalKind::Destination);
    for (at, record) in view.conf.records.iter().enumerate().take(RECORD_LIMIT) {
        let location = record.location.as_str();
        let is_taken = DESTINATIONS.iter().any(|directory| location.starts_with(directory));
        let is_inside = matches!(first_directory(location), Some("kernel" | "updates" | "extra"));
        let (severity, why) = match (is_taken, is_inside) {
            (true, false) => (Severity::Warning, "outside the directories that dkms means"),
            (true, true) if location.split('/').any(|part| part == "..") => {
                (Severity::Advice, "with .. in it, which not every version of dkms resolves")
            }
            _ => continue,
        };
        let what = format!("DEST_MODULE_LOCATION[{at}] is {location:?}, {why}");
        hits.push(Hit::new(view.place_of_element("DEST_MODULE_LOCATION", at), what).severity(severity));
    }
    hits
}

/// The first directory of a path after its `..` are resolved.
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

pub(super) fn deprecated(view: &ConfView<'_>) -> Vec<Hit> {
    let what = |directive: &String| {
        let since = if directive == "CLEAN" { "3.1.8" } else { "3.0" };
        format!("{directive} is deprecated: since {since} dkms does nothing for it")
    };
    let directives = view.conf.deprecated.iter();
    directives.map(|directive| Hit::new(view.place(directive), what(directive))).collect()
}

pub(super) fn depends_itself(view: &ConfView<'_>) -> Vec<Hit> {
    let itself = view.conf.depends.iter().find(|name| **name == view.conf.package_name);
    let what = "BUILD_DEPENDS names the module itself: dkms waits for it for ever";
    itself.map(|_| Hit::new(view.place("BUILD_DEPENDS"), what)).into_iter().collect()
}

pub(super) fn depends_unknown(view: &ConfView<'_>) -> Vec<Hit> {
    let Some(known) = view.subject.modules else { return Vec::new() };
    let is_other = |name: &&String| !known.contains(*name) && **name != view.conf.package_name;
    let what = |name| format!("BUILD_DEPENDS names {name:?}, which no DKMS module is called");
    let unknown = view.conf.depends.iter().filter(is_other);
    unknown.map(|name| Hit::new(view.place("BUILD_DEPENDS"), what(name))).collect()
}

/// The name of something in the kernel itself.
pub(super) fn kernel_module(view: &ConfView<'_>) -> Vec<Hit> {
    let records = view.conf.records.iter().enumerate().take(RECORD_LIMIT);
    let own = records.filter_map(|(at, record)| {
        let (directive, name) = match record.dest.is_empty() {
            false => ("DEST_MODULE_NAME", &record.dest),
            true => ("BUILT_MODULE_NAME", &record.built),
        };
        let own = view.answer.own_modules.get(&kernel_name(name))?;
        Some((view.place_of_element(directive, at), name, own))
    });
    let hit = |(at, name, own): (LintPlace, &String, &KernelOwn)| match own {
        KernelOwn::Module => Hit::new(at, format!("{name} replaces a module of the kernel itself")),
        KernelOwn::BuiltIn => {
            Hit::new(at, format!("{name} is built into the kernel: the module cannot be loaded"))
                .severity(Severity::Warning)
                .clear("give the module another name, or boot a kernel without it")
        }
    };
    own.map(hit).collect()
}
