//! Rules about the files of the source, alone or together with the value for a kernel. Makefiles are not run,
//! so findings in their text are warnings at most.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::makefile::Makefile;
use super::source::SourceEntry;
use super::view::{ConfView, Hit, LintPlace};
use super::{Expected, LintSubject, Severity, command_of};
use crate::dkms::uname::asks_release;
use crate::dkms::{ModuleName, compare_versions, is_usable_name};
use crate::kernel::config_file::value;
use crate::sys::{FileKind, shell};

/// The first kernel that ignores `SUBDIRS=`.
const WITHOUT_SUBDIRS: &str = "5.3";

/// Said of a directory that contains only compiled modules.
pub(super) const PRECOMPILED: &str =
    "it holds compiled modules and no source: they fit one kernel only, and not this system's";

/// The path that a file names, relative to the source; none if it leads outside.
fn below(path: &str) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir if clean.pop() => {}
            Component::ParentDir => return None,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(clean)
}

/// Whether nothing can add files to the source: neither a script that runs before the build, nor `MAKE`
/// itself.
fn is_as_it_is(view: &ConfView<'_>) -> bool {
    !view.conf.prepares() && !view.conf.makes
}

/// The entry of a file; none if it does not exist, `Some(None)` if that is unknown.
fn entry(view: &ConfView<'_>, path: &str) -> Option<Option<SourceEntry>> {
    let source = view.subject.source;
    let Some(path) = below(path) else { return Some(None) };
    match source.entries.get(&path) {
        Some(found) if found.kind == FileKind::Link => Some(None),
        Some(found) => Some(Some(*found)),
        // Behind a symlink, which is not followed.
        None if path.ancestors().any(|p| source.entries.get(p).is_some_and(|e| e.kind == FileKind::Link)) => {
            Some(None)
        }
        None => (!source.is_whole()).then_some(None),
    }
}

pub(super) fn no_makefile(view: &ConfView<'_>) -> Vec<Hit> {
    let source = view.subject.source;
    let has_nothing = is_as_it_is(view) && !source.has_makefile() && source.is_whole();
    let what = "there is neither MAKE nor a Makefile (or Kbuild) beside it: make has nothing to do";
    has_nothing.then(|| Hit::new(LintPlace::Conf(0, None), what)).into_iter().collect()
}

pub(super) fn patch_missing(view: &ConfView<'_>) -> Vec<Hit> {
    let missing = view.conf.patches.iter().filter(|patch| entry(view, &format!("patches/{patch}")).is_none());
    let hit = |patch: &String| {
        let assigned =
            view.trace.assignments().filter(|(_, a)| a.name == "PATCH" && a.value.contains(patch.as_str()));
        let at = assigned.map(|(at, _)| view.at(Some(at))).next_back();
        let hit = Hit::new(
            at.unwrap_or_else(|| view.place("PATCH")),
            format!("PATCH names {patch}, and there is no patches/{patch}: each build fails"),
        );
        // The script runs before dkms looks for the patches.
        if view.conf.hook("POST_ADD").is_empty() { hit } else { hit.severity(Severity::Warning) }
    };
    missing.map(hit).collect()
}

/// The scripts that dkms runs, as directive and file.
fn scripts<'v>(view: &'v ConfView<'_>) -> impl Iterator<Item = (&'v str, &'v str)> {
    let file = |script: &'v String| script.split(' ').next().filter(|file| !file.is_empty());
    view.conf.hooks.iter().filter_map(move |(directive, script)| Some((directive.as_str(), file(script)?)))
}

pub(super) fn hook_missing(view: &ConfView<'_>) -> Vec<Hit> {
    let missing = scripts(view).filter(|(_, file)| entry(view, file).is_none());
    let what = |directive, file| {
        format!("{directive} names {file}, which is not there: dkms warns, and goes on without it")
    };
    missing.map(|(directive, file)| Hit::new(view.place(directive), what(directive, file))).collect()
}

pub(super) fn hook_not_executable(view: &ConfView<'_>) -> Vec<Hit> {
    let is_plain = |found: SourceEntry| found.kind == FileKind::File && found.mode & 0o111 == 0;
    let plain = scripts(view).filter(|(_, file)| entry(view, file).flatten().is_some_and(is_plain));
    let hit = |(directive, file)| {
        let what = format!("{directive} names {file}, which is not executable: dkms goes on without it");
        Hit::new(view.place(directive), what).clear(format!("chmod +x {file}"))
    };
    plain.map(hit).collect()
}

/// A `BUILT_MODULE_LOCATION` that is missing or empty, such as a git submodule that was not fetched.
pub(super) fn location_missing(view: &ConfView<'_>) -> Vec<Hit> {
    let mut hits = Vec::new();
    for (at, record) in view.conf.records.iter().enumerate() {
        let location = record.built_location.as_str();
        let Some(path) = below(location).filter(|path| !path.as_os_str().is_empty()) else { continue };
        let has_files = || view.subject.source.entries.keys().any(|p| p.starts_with(&path) && *p != path);
        let is = match entry(view, location) {
            None => "is not there",
            Some(Some(found)) if found.kind != FileKind::Directory => "is not a directory",
            Some(Some(_)) if view.subject.source.is_whole() && !has_files() => "is empty",
            Some(_) => continue,
        };
        let severity = if is_as_it_is(view) { Severity::Error } else { Severity::Warning };
        let what = format!("BUILT_MODULE_LOCATION[{at}] is {location}, which {is}");
        let at = view.place_of_element("BUILT_MODULE_LOCATION", at);
        hits.push(Hit::new(at, what).severity(severity));
    }
    hits
}

fn makefiles<'v>(view: &'v ConfView<'_>) -> impl Iterator<Item = (&'v PathBuf, &'v Makefile)> {
    view.subject.source.makefiles.iter()
}

/// The names in the records, as the build names its files.
fn wanted<'v>(view: &'v ConfView<'_>) -> impl Iterator<Item = (usize, &'v str)> {
    let name = |record: &'v crate::dkms::conf::ModuleRecord| match record.built.is_empty() {
        true => view.conf.package_name.as_str(),
        false => record.built.as_str(),
    };
    let is_file = |name: &str| is_usable_name(name) && !name.ends_with(".ko") && !name.ends_with(".o");
    view.conf.records.iter().map(name).enumerate().filter(move |(_, name)| is_file(name))
}

pub(super) fn module_not_made(view: &ConfView<'_>) -> Vec<Hit> {
    let made: BTreeSet<&str> =
        makefiles(view).flat_map(|(_, file)| &file.objects).map(|object| object.name.as_str()).collect();
    let is_all = view.subject.source.is_whole() && !makefiles(view).any(|(_, file)| file.is_partial);
    if made.is_empty() || !is_all || view.conf.prepares() {
        return Vec::new();
    }
    let missing = wanted(view).filter(|(_, name)| !made.contains(name));
    let names = made.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    let hit = |(at, name)| {
        let what = format!(
            "BUILT_MODULE_NAME[{at}] is {name}, which the Makefile does not make: obj-m names {names}"
        );
        Hit::new(view.place_of_element("BUILT_MODULE_NAME", at), what)
    };
    missing.map(hit).collect()
}

/// A module that is built only with an option that nothing sets.
pub(super) fn module_conditional(view: &ConfView<'_>) -> Vec<Hit> {
    let is_given = |option: &str| {
        let assigns = format!("{option}=");
        let is_in_make = view.conf.make.split_ascii_whitespace().any(|word| word.starts_with(&assigns));
        is_in_make || makefiles(view).any(|(_, file)| file.gives(option) || file.is_partial)
    };
    let config = view.answer.config.as_deref().unwrap_or_default();
    let is_in_kernel = |option: &str| value(config, option) == Some(b"m");
    let mut hits = Vec::new();
    for (at, name) in wanted(view) {
        let objects =
            makefiles(view).flat_map(|(path, file)| file.objects.iter().map(move |object| (path, object)));
        let objects: Vec<_> = objects.filter(|(_, object)| object.name == name).collect();
        let depends =
            |option: &Option<String>| option.as_ref().is_some_and(|o| !is_given(o) && !is_in_kernel(o));
        let Some((path, object)) =
            objects.first().filter(|_| objects.iter().all(|(_, o)| depends(&o.option)))
        else {
            continue;
        };
        let option = object.option.as_deref().unwrap_or_default();
        let what = format!(
            "{name} is made only with {option}, which neither MAKE nor the kernel sets ({}:{})",
            path.display(),
            object.line
        );
        hits.push(Hit::new(view.place_of_element("BUILT_MODULE_NAME", at), what));
    }
    hits
}

/// A Makefile that uses the running kernel, and a `MAKE` that does not pass another one.
pub(super) fn make_running_kernel(view: &ConfView<'_>) -> Vec<Hit> {
    let make = view.conf.make.as_str();
    if asks_release(make) || asks_release(&view.conf.make_written) {
        let what =
            "MAKE builds for the kernel that runs, by `uname -r`, and not for the one that is asked for";
        return vec![Hit::new(view.place("MAKE"), what)];
    }
    let release = view.answer.release.as_str();
    // Without MAKE, or with -C, the Makefile of the kernel is read first.
    let is_kernels = make.is_empty() || make.split_ascii_whitespace().any(|word| word.starts_with("-C"));
    let Some((path, file)) = makefiles(view).find(|(path, _)| path.as_os_str() == "Makefile") else {
        return Vec::new();
    };
    let Some((line, variable)) = file.running_kernel.first().filter(|_| !is_kernels) else {
        return Vec::new();
    };
    let given = make.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    let mut given = given.filter(|(_, value)| value.contains(release));
    if given.any(|(name, _)| file.uses(name) || variable.as_deref() == Some(name)) {
        return Vec::new();
    }
    let what = format!("it builds for the kernel that runs, by `uname -r`: MAKE does not give it {release}");
    vec![Hit::new(LintPlace::Source(path.clone(), Some(*line)), what.replace(release, "the kernel"))]
}

pub(super) fn subdirs(view: &ConfView<'_>) -> Vec<Hit> {
    if compare_versions(&view.answer.release, WITHOUT_SUBDIRS).is_lt() {
        return Vec::new();
    }
    let what = "SUBDIRS= was removed in Linux 5.3: the kernel's Makefile does not find the module";
    let words: Vec<&str> = view.conf.make.split_ascii_whitespace().collect();
    if words.iter().any(|w| w.starts_with("SUBDIRS=")) && !words.iter().any(|w| w.starts_with("M=")) {
        return vec![Hit::new(view.place("MAKE"), what)];
    }
    // Without MAKE the recipes of the Makefile are not used.
    let used = makefiles(view).filter(|(path, _)| view.conf.makes && path.as_os_str() == "Makefile");
    let lines = used.filter_map(|(path, file)| Some(LintPlace::Source(path.clone(), Some(file.subdirs?))));
    lines.map(|at| Hit::new(at, what).severity(Severity::Warning)).collect()
}

/// The values for each kernel for which bash gave an answer.
fn confs<'s>(subject: &'s LintSubject<'s>) -> impl Iterator<Item = ConfView<'s>> {
    subject.answers.iter().filter_map(|answer| ConfView::of(subject, answer))
}

pub(super) fn precompiled_only(subject: &LintSubject<'_>) -> Vec<Hit> {
    let source = subject.source;
    if source.compiled.is_empty() || !source.is_whole() || source.sources {
        return Vec::new();
    }
    // The preparation may add the source.
    let severity = match confs(subject).any(|view| view.conf.prepares()) {
        true => Severity::Warning,
        false => Severity::Error,
    };
    vec![Hit::new(LintPlace::Directory, PRECOMPILED).severity(severity)]
}

pub(super) fn precompiled_beside(subject: &LintSubject<'_>) -> Vec<Hit> {
    let source = subject.source;
    let Some(first) = source.compiled.first().filter(|_| source.sources && source.is_whole()) else {
        return Vec::new();
    };
    let what = format!(
        "compiled modules lie beside the source, {} first: a build may take one for its own",
        first.display()
    );
    vec![Hit::new(LintPlace::Directory, what)]
}

pub(super) fn no_license(subject: &LintSubject<'_>) -> Vec<Hit> {
    if subject.source.is_licensed != Some(false) || confs(subject).any(|view| view.conf.prepares()) {
        return Vec::new();
    }
    let hit = Hit::new(
        LintPlace::Directory,
        "no source file has a MODULE_LICENSE: the kernel's build refuses the module",
    );
    // MAKE may add more source.
    vec![if confs(subject).any(|view| view.conf.makes) { hit.severity(Severity::Warning) } else { hit }]
}

/// A source in `/usr/src` that dkms does not know.
pub(super) fn not_registered(subject: &LintSubject<'_>) -> Vec<Hit> {
    let Expected::Directory(directory) = &subject.expected else { return Vec::new() };
    let named = confs(subject).next().map(|view| (&view.conf.package_name, &view.conf.package_version));
    let Some((name, version)) = named.filter(|(name, version)| *directory == format!("{name}-{version}"))
    else {
        return Vec::new();
    };
    if subject.is_registered != Some(false) {
        return Vec::new();
    }
    let hit = Hit::new(LintPlace::Directory, "it is not registered with DKMS, and never built");
    let module = ModuleName { name: name.clone(), version: version.clone() };
    vec![match command_of("add", &module) {
        Some(arguments) => hit.dkms(arguments),
        None => hit.clear("give it a name and a version that dkms can take, and register it"),
    }]
}

pub(super) fn writable_by_others(subject: &LintSubject<'_>) -> Vec<Hit> {
    let source = subject.source;
    let Some(first) = source.writable.first() else { return Vec::new() };
    let who = &first.why;
    let what = match (first.path.as_os_str().is_empty(), source.writable.len()) {
        (true, 1) => format!("another user can change the source directory: {who}"),
        (true, n) => {
            format!("another user can change the source directory ({who}) and {} of its files", n - 1)
        }
        (false, 1) => format!("another user can change {}: {who}", first.path.display()),
        (false, n) => format!("another user can change {n} files, {} first: {who}", first.path.display()),
    };
    let directory = match subject.directory.starts_with('-') {
        true => shell::quoted(&format!("./{}", subject.directory)),
        false => shell::quoted(&subject.directory),
    };
    let hit = match subject.builds_here {
        true => Hit::new(LintPlace::Directory, what + "; root runs what stands there at each new kernel")
            .clear(format!(
                "`sudo chown -R root:root {directory}` and `sudo chmod -R go-w {directory}`, when the files are good"
            )),
        false => Hit::new(LintPlace::Directory, what)
            .clear(format!("`sudo chmod -R go-w {directory}`, when the files are good")),
    };
    vec![hit]
}

pub(super) fn not_all_seen(subject: &LintSubject<'_>) -> Vec<Hit> {
    let source = subject.source;
    let what = match source.unseen.first() {
        _ if source.is_whole() => return Vec::new(),
        Some(first) => format!("not all of the source could be looked at: {first}"),
        None => "the source has more files than are looked at".to_owned(),
    };
    vec![Hit::new(LintPlace::Directory, what)]
}
