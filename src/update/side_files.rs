//! Writes the side files of an adopted module, each recorded in the manifest before it is written.

use std::collections::BTreeSet;
use std::path::Path;

use super::side_offer::{STEP, blacklist_path, complete, installed};
use crate::adopt::SideFileKind;
use crate::context::Context;
use crate::decide::blacklisting::{BlacklistBlocker, blacklist_blockers};
use crate::dkms::{ModuleName, modfile};
use crate::kernel::Inventory;
use crate::report::add::{AddDocument, StepResult};
use crate::report::side_files::{AutoloadNeed, SideFileResult};
use crate::state::added::{AddedFileKind, AddedManifest, ManifestError};
use crate::state::{self, RECORD, RunRecord};
use crate::sys::{FileError, FileKind, Root, Written};
use crate::usage::Usage;

/// What an admin has agreed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SideConsent {
    /// The side files of the source.
    pub side_files: bool,
    /// A blacklist of the drivers that claim the same devices.
    pub blacklist: bool,
    /// A file in `modules-load.d`.
    pub autoload: bool,
    /// Blacklist a driver that the machine depends on.
    pub force: bool,
}

/// A file that is about to be written.
struct WantedFile<'w> {
    path: &'w str,
    kind: AddedFileKind,
    text: &'w str,
    drivers: BTreeSet<String>,
}

struct Writer<'w> {
    context: &'w Context,
    module: &'w ModuleName,
    force: bool,
    in_use: Usage,
    record: Option<RunRecord>,
}

/// Writes what was agreed to, after the module was installed. Each file has a step in the document.
pub fn write_side_files(
    context: &Context,
    module: &ModuleName,
    consent: SideConsent,
    document: &mut AddDocument,
) {
    let running = Inventory::observe(&context.root).running;
    let in_use = Usage::observe(&context.root, &running, context.clock.now());
    let record = state::load::<RunRecord>(&context.root, RECORD).good();
    if document.side.autoload.is_none() {
        let modules = record.iter().flat_map(|record| record.modules.iter());
        let proven = modules.filter(|on| on.module == *module && on.state.is_proven());
        let kernels: Vec<String> = proven.map(|on| on.kernel.clone()).collect();
        match installed(context, &document.modules, &kernels) {
            Ok(built) => complete(context, &module.name, &built, document),
            Err(why) => document.steps.add(STEP, StepResult::Warning, why),
        }
    }
    let writer = Writer { context, module, force: consent.force, in_use, record };
    writer.files_of_source(consent.side_files, document);
    writer.blacklist(consent.blacklist, document);
    writer.autoload(consent.autoload, document);
}

impl Writer<'_> {
    fn files_of_source(&self, is_agreed: bool, document: &mut AddDocument) {
        for at in 0..document.side.side_files.len() {
            let offered = document.side.side_files[at].clone();
            if !is_agreed {
                let text = format!("{}: --side-files installs it", self.shown(&offered.path));
                document.steps.add(STEP, StepResult::Skipped, text);
                continue;
            }
            let kind = match offered.file.kind {
                SideFileKind::Modprobe => AddedFileKind::Modprobe,
                SideFileKind::Udev => AddedFileKind::Udev,
                SideFileKind::ModulesLoad => AddedFileKind::ModulesLoad,
            };
            let (path, text) = (offered.path.as_str(), offered.file.text.as_str());
            let wanted = WantedFile { path, kind, text, drivers: offered.blacklists };
            document.side.side_files[at].result = self.write(&wanted, document);
        }
    }

    fn blacklist(&self, is_agreed: bool, document: &mut AddDocument) {
        let mut drivers: BTreeSet<String> =
            document.side.to_blacklist().into_iter().map(|driver| driver.driver.clone()).collect();
        if drivers.is_empty() {
            return;
        }
        let names = drivers.iter().cloned().collect::<Vec<_>>().join(", ");
        if !is_agreed {
            let text = format!("{names} may claim the devices first: --side-files blacklists it");
            document.steps.add(STEP, StepResult::Skipped, text);
            return;
        }
        let name = &self.module.name;
        let path = blacklist_path(name);
        // Those that an earlier version replaced are in the same file. `write` reports an unusable manifest.
        if let Ok(manifest) = AddedManifest::load(&self.context.root) {
            drivers.extend(manifest.file(&path).into_iter().flat_map(|(_, file)| file.drivers.clone()));
        }
        let lines: String = drivers.iter().map(|driver| format!("blacklist {driver}\n")).collect();
        let text = format!(
            "# clr-dkms add: {name} drives the devices of these drivers.\n\
             # clr-dkms remove {name} removes this file.\n{lines}"
        );
        let kind = AddedFileKind::Blacklist;
        self.write(&WantedFile { path: &path, kind, text: &text, drivers }, document);
    }

    fn autoload(&self, is_agreed: bool, document: &mut AddDocument) {
        let Some(need) = document.side.autoload.clone() else { return };
        if let Some(alias) = &need.alias {
            if is_agreed {
                let text =
                    format!("modules-load.d is not needed: udev loads the module by the alias {alias}");
                document.steps.add(STEP, StepResult::Skipped, text);
            }
            return;
        }
        let modules = need.modules.join(", ");
        if !is_agreed {
            let text = format!("no device loads {modules}: --autoload loads it at each boot");
            document.steps.add(STEP, StepResult::Skipped, text);
            return;
        }
        let text: String = need.modules.iter().map(|name| format!("{name}\n")).collect();
        let wanted = WantedFile {
            path: &need.path,
            kind: AddedFileKind::ModulesLoad,
            text: &text,
            drivers: BTreeSet::new(),
        };
        let result = self.write(&wanted, document);
        document.side.autoload = Some(AutoloadNeed { result, ..need });
    }

    fn shown(&self, path: &str) -> String {
        self.context.root.shown_path(path).display().to_string()
    }

    /// Writes one file, unless something prevents it.
    fn write(&self, wanted: &WantedFile<'_>, document: &mut AddDocument) -> SideFileResult {
        let shown = self.shown(wanted.path);
        let (result, step, text) = match self.written(wanted) {
            Ok(Written::Changed) => (SideFileResult::Written, StepResult::Done, shown),
            Ok(Written::Same) => {
                (SideFileResult::Present, StepResult::Skipped, format!("{shown} is there already"))
            }
            Err(why) => {
                (SideFileResult::Refused, StepResult::Failed, format!("{shown} is not written: {why}"))
            }
        };
        document.steps.add(STEP, step, text);
        result
    }

    fn written(&self, wanted: &WantedFile<'_>) -> Result<Written, String> {
        let (root, bytes) = (&self.context.root, wanted.text.as_bytes());
        let mut manifest = AddedManifest::load(root).map_err(|e| e.to_string())?;
        let recorded = manifest.file(wanted.path).map(|(_, file)| file.sha256.clone());
        let is_new = recorded.is_some_and(|recorded| recorded != modfile::digest_of(bytes));
        let is_there = root.lookup_link(wanted.path).is(FileKind::File);
        let now = if is_there { root.read(wanted.path).map_err(|e| e.to_string())? } else { Vec::new() };
        if is_there && now == bytes && !is_new {
            return Ok(Written::Same);
        }
        if let Some(other) = hidden(root, wanted.path).map_err(|e| e.to_string())? {
            return Err(format!("it would hide {}", self.shown(&other)));
        }
        if let Some(blocker) = self.blocker(&wanted.drivers) {
            return Err(blocker.to_string());
        }
        let file = (wanted.path, wanted.kind);
        let written = manifest.write_file(root, self.module, file, bytes, wanted.drivers.clone());
        written.map(|()| Written::Changed).map_err(|e| match e {
            ManifestError::Occupied(_) => {
                "a file is there that clr-dkms did not write, or that was edited since".to_owned()
            }
            e => e.to_string(),
        })
    }

    fn blocker(&self, drivers: &BTreeSet<String>) -> Option<BlacklistBlocker> {
        if drivers.is_empty() {
            return None;
        }
        let is_of_use = |path: &Path| ["/proc", "/sys"].iter().any(|directory| path.starts_with(directory));
        let unread = self.context.root.unread().into_iter().find(|unread| is_of_use(&unread.path));
        let unread = unread.as_ref().map(|unread| unread.what.as_str());
        let blockers = blacklist_blockers(drivers, self.module, &self.in_use, unread, self.record.as_ref());
        blockers.into_iter().find(|blocker| !(self.force && blocker.may_be_forced()))
    }
}

/// The file in another directory that a file in `/etc` hides, because it has the same name.
///
/// # Errors
/// When it cannot be determined.
fn hidden(root: &Root, path: &str) -> Result<Option<String>, FileError> {
    let (directory, name) = path.rsplit_once('/').unwrap_or_default();
    let kinds = [SideFileKind::Modprobe, SideFileKind::Udev, SideFileKind::ModulesLoad];
    let kind = kinds.into_iter().find(|kind| kind.directories()[0] == directory);
    for directory in kind.into_iter().flat_map(|kind| &kind.directories()[1..]) {
        let other = format!("{directory}/{name}");
        if root.lookup_link(&other).known()?.is_some() {
            return Ok(Some(other));
        }
    }
    Ok(None)
}
