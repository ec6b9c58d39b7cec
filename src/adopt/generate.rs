//! A `dkms.conf` for a source that has none, from its Makefiles.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::evidence::{AdoptError, Decision, Evidence};
use super::find::Adoptable;
use super::tree::{KbuildFile, SourceTree, name_of, plain};
use super::unpack::Unpacked;
use crate::dkms::lint::makefile::{assignment, logical_lines};
use crate::kernel::module_file;
use crate::sys::Root;

/// Directories whose modules are not the ones that are wanted.
const ASIDE: [&str; 8] = ["test", "tests", "example", "examples", "tools", "samples", "doc", "scripts"];
/// The build directory, as dkms names it.
const BUILD: &str = "${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build";

/// A module, its directory below the base, and its option.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundModule {
    name: String,
    place: PathBuf,
    option: Option<String>,
}

/// What the Makefiles say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generated {
    /// The directory of the build.
    pub(super) base: PathBuf,
    /// The one module, if there is one.
    pub(super) module: Option<String>,
    /// What was decided.
    pub(super) decisions: Vec<Decision>,
    modules: Vec<FoundModule>,
    make: String,
}

impl Generated {
    /// The text for a name and a version.
    pub(super) fn text(&self, name: &str, version: &str) -> String {
        let mut text = format!(
            "# Made by clr-dkms add from the Makefile of the source\n\
             PACKAGE_NAME=\"{name}\"\nPACKAGE_VERSION=\"{version}\"\nMAKE=\"{}\"\nCLEAN=true\n",
            self.make
        );
        for (at, module) in self.modules.iter().enumerate() {
            let place = module.place.display().to_string();
            // Writing to a String cannot fail.
            writeln!(text, "BUILT_MODULE_NAME[{at}]=\"{}\"", module.name).ok();
            if !place.is_empty() {
                // As above.
                writeln!(text, "BUILT_MODULE_LOCATION[{at}]=\"{place}/\"").ok();
            }
            // As above.
            writeln!(text, "DEST_MODULE_LOCATION[{at}]=\"/updates\"").ok();
        }
        text + "AUTOINSTALL=\"yes\"\n"
    }
}

/// Reads the Makefiles.
///
/// # Errors
/// When they name no module, or several independent ones.
pub(super) fn generate(tree: &SourceTree<'_>) -> Result<Generated, AdoptError> {
    let is_aside = |path: &Path| path.iter().any(|part| ASIDE.iter().any(|aside| part == *aside));
    let mut files: Vec<&KbuildFile> = tree
        .kbuild
        .iter()
        .filter(|file| !is_aside(file.directory()) && file.makefile.objects.iter().any(is_wanted))
        .collect();
    files.sort_by_key(|file| file.directory().components().count());
    let Some(first) = files.first() else { return Err(nothing(tree)) };
    let depth = first.directory().components().count();
    let level: Vec<&&KbuildFile> =
        files.iter().filter(|file| file.directory().components().count() == depth).collect();
    let mut directories: Vec<&Path> = level.iter().map(|file| file.directory()).collect();
    directories.dedup();
    // A Makefile above may enter all of them.
    let parent = tree.kbuild.iter().find(|file| {
        let enters = |below: &&Path| enters(file, below);
        !directories.contains(&file.directory()) && directories.iter().all(enters)
    });
    if directories.len() > 1 && parent.is_none() {
        return Err(AdoptError::Ambiguous {
            what: "several directories have a Makefile with obj-m",
            choices: directories.iter().map(|path| path.display().to_string()).collect(),
            option: "give one of them as the source",
            by_conf: false,
        });
    }
    let main = parent.unwrap_or(first);
    let base = main.directory().to_owned();
    let mut decisions = Vec::new();
    let mut modules: Vec<FoundModule> = Vec::new();
    for file in level {
        for object in file.makefile.objects.iter().filter(|object| is_wanted(object)) {
            if modules.iter().any(|known| known.name == object.name) {
                continue;
            }
            let place = file.place(object);
            let evidence = Some(file.evidence(object.line));
            decisions.push(Decision::new("module", &object.name, "a Makefile makes it", evidence));
            modules.push(FoundModule {
                name: object.name.clone(),
                place: plain(place.strip_prefix(&base).unwrap_or(&place)),
                option: object.option.clone(),
            });
        }
        if file.makefile.is_partial && modules.is_empty() {
            return Err(AdoptError::NeedsRecipe {
                why: "its Makefile computes the names of the modules".to_owned(),
                evidence: None,
            });
        }
    }
    let (make, decision) = make_line(tree, main, &modules);
    decisions.push(decision);
    let module = match modules.as_slice() {
        [one] => Some(one.name.clone()),
        _ => None,
    };
    Ok(Generated { base, module, decisions, modules, make })
}

/// A module that is not only for tests.
fn is_wanted(object: &crate::dkms::lint::makefile::KbuildObject) -> bool {
    let name = object.name.as_str();
    !["_test", "-test", "dummy"].iter().any(|ending| name.ends_with(ending)) && !name.is_empty()
}

/// Whether `obj-y` or `obj-m` of a Makefile enters a directory.
fn enters(file: &KbuildFile, directory: &Path) -> bool {
    let Ok(below) = directory.strip_prefix(file.directory()) else { return false };
    let wanted = format!("{}/", below.display());
    let lists = |line: &str| {
        assignment(line).is_some_and(|(name, value)| {
            name.starts_with("obj-") && value.split_ascii_whitespace().any(|word| word == wanted)
        })
    };
    logical_lines(&file.text).iter().any(|(_, line)| lists(line))
}

/// Why there is nothing to build.
fn nothing(tree: &SourceTree<'_>) -> AdoptError {
    let has_c = tree.files().any(|path| path.extension().is_some_and(|ending| ending == "c"));
    let built = tree.files().find(|path| module_file::stem(&path.to_string_lossy()).is_some());
    match built {
        Some(path) if !has_c => AdoptError::Precompiled(path.to_owned()),
        _ => AdoptError::NoSource,
    }
}

/// The command that builds it. A Makefile that distinguishes the call by kbuild is left to kbuild; others
/// know best how to call it, and get the kernel by their own variables.
fn make_line(tree: &SourceTree<'_>, main: &KbuildFile, modules: &[FoundModule]) -> (String, Decision) {
    let mut options: Vec<&str> = modules.iter().filter_map(|module| module.option.as_deref()).collect();
    options.sort_unstable();
    options.dedup();
    let options: String = options.iter().map(|option| format!(" {option}=m")).collect();
    let for_kbuild = |why: &str, evidence: Option<Evidence>| {
        let make = format!("make -C ${{kernel_source_dir}} M={BUILD}{options} modules");
        (make.clone(), Decision::new("command", make, why, evidence))
    };
    let outer = match name_of(&main.path) {
        "Kbuild" => tree
            .kbuild
            .iter()
            .find(|file| file.directory() == main.directory() && name_of(&file.path) != "Kbuild"),
        _ => Some(main),
    };
    let Some(outer) = outer else { return for_kbuild("the source has a Kbuild file", None) };
    let lines = logical_lines(&outer.text);
    let branch = lines.iter().find(|(_, line)| {
        let line = line.trim_start();
        line.starts_with("if") && line.contains("KERNELRELEASE") && !line.contains("origin")
    });
    if let Some((line, _)) = branch {
        return for_kbuild("the Makefile has a part for kbuild", Some(outer.evidence(*line)));
    }
    let variables = kernel_variables(&outer.text);
    let calls = lines.iter().any(|(_, line)| line.starts_with('\t') && line.contains("-C"));
    match variables.first() {
        Some((_, _, line)) if calls => {
            let given: String = variables.iter().map(|(name, value, _)| format!(" {name}={value}")).collect();
            let make = format!("make{given}{options}");
            let why = "the Makefile calls kbuild, for the kernel in its variables";
            let evidence = Some(outer.evidence(*line));
            (make.clone(), Decision::new("command", make, why, evidence))
        }
        _ => for_kbuild("kbuild reads obj-m in the Makefile", None),
    }
}

/// The variables of a Makefile that select the kernel, what they are to be, and their lines.
fn kernel_variables(text: &str) -> Vec<(String, &'static str, usize)> {
    let mut found: Vec<(String, &'static str, usize)> = Vec::new();
    for (line, logical) in logical_lines(text) {
        let Some((name, value)) = assignment(&logical) else { continue };
        let value = value.trim();
        let wanted = if value.starts_with("/lib/modules/") && value.trim_end_matches('/').ends_with("/build")
        {
            "${kernel_source_dir}"
        } else if ["$(shell uname -r)", "`uname -r`", "$(shell uname --kernel-release)"].contains(&value) {
            "${kernelver}"
        } else {
            continue;
        };
        // kbuild sets this one itself.
        if name != "KERNELRELEASE" && !found.iter().any(|(known, _, _)| known == name) {
            found.push((name.to_owned(), wanted, line));
        }
    }
    found
}

/// The same with the kernel in the variables of the Makefile, for a MAKE that does not give it; none where
/// there is nothing to give. The decision has the variables as its value.
///
/// # Errors
/// When the source cannot be read.
pub fn with_kernel(
    scratch: &Root,
    unpacked: &Unpacked,
    found: &Adoptable,
) -> Result<Option<(Adoptable, Decision)>, AdoptError> {
    let source = SourceTree::observe(scratch, &unpacked.top)?;
    Ok(given_kernel(&source, found))
}

fn given_kernel(source: &SourceTree<'_>, found: &Adoptable) -> Option<(Adoptable, Decision)> {
    let makes = |file: &&KbuildFile| file.directory() == found.base && name_of(&file.path) != "Kbuild";
    let file = source.kbuild.iter().find(makes)?;
    let is_given = |name: &str| {
        found.conf.make.split_ascii_whitespace().any(|word| word.split('=').next() == Some(name))
    };
    let mut variables = kernel_variables(&file.text);
    variables.retain(|(name, _, _)| !is_given(name));
    let (_, _, line) = variables.first().filter(|_| !found.conf.make.trim().is_empty())?;
    let given: Vec<String> = variables.iter().map(|(name, value, _)| format!("{name}={value}")).collect();
    let given = given.join(" ");
    let why = "added to MAKE: without it make builds for the running kernel";
    let decision = Decision::new("command", &given, why, Some(file.evidence(*line)));
    let end = if found.text.ends_with('\n') { "" } else { "\n" };
    let text = format!("{}{end}MAKE[0]=\"${{MAKE[0]}} {given}\"\n", found.text);
    Some((Adoptable { text, ..found.clone() }, decision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_select_the_kernel() {
        let text = "KVER ?= $(shell uname -r)\nKDIR  := /lib/modules/$(KVER)/build\nPWD := $(shell pwd)\n\
            MDIR := /lib/modules/$(KVER)/kernel\nKERNELRELEASE ?= $(shell uname -r)\n";
        let found = kernel_variables(text);
        let expected =
            [("KVER".to_owned(), "${kernelver}", 1), ("KDIR".to_owned(), "${kernel_source_dir}", 2)];
        assert_eq!(found, expected);
    }
}
