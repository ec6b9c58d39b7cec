//! The restricted update: it updates the boot loader, microcode, freestanding initrds and the entries of some
//! kernels while another kernel is held back. It deletes nothing and does not change the boot default.
//!
//! `clr-boot-manager update` is run in native mode once for each kernel. Each run has a mount namespace in
//! which `/usr/lib/kernel` contains only that kernel and no `default-TYPE`
//! ([`sys::sandbox`](crate::sys::sandbox)). Thus it has nothing to delete and nothing to make the default.
//! Freestanding initrds without a source are masked, because an entry that is not rewritten may still name
//! them. The root filesystem is not written to, except that `/etc/kernel/initrd.d` may be created for the
//! duration of the run. Tested with clr-boot-manager 3.3.1 and with 3.6.0 of Solus.
//!
//! For a copy of a live system the same is done. There the real clr-boot-manager runs in image mode and makes
//! the visible kernel the default, so the boot default comes last. Nothing boots from a copy in the meantime.

use std::collections::BTreeSet;
use std::time::Duration;

use super::entries::{self, LOADER};
use super::files::ExpectedEntry;
use super::foresee::UpdateInput;
use super::initrds::{self, FREESTANDING};
use super::menu::EntryPlace;
use super::{BootFiles, Loader, blocker, files, preflight, write_ahead};
use crate::kernel::inventory::{IMAGES, MARKS, MODULES};
use crate::kernel::{Installed, Inventory};
use crate::sys::sandbox::{Sandbox, SandboxView, Shown, ShownDirectory};
use crate::sys::{Ended, FileError, FileKind, Listed, Root, Tools, compare, lock, processes};

/// The file that swupd locks with fcntl(2) while it works. (Version 7.0.0; `state_dir` is fixed at build
/// time.)
pub const SWUPD_LOCK: &str = "/var/lib/swupd/swupd_lock";
/// The parent of the headers, which `update` deletes together with a kernel.
const SOURCES: &str = "/usr/src";

/// The input of a restricted update.
#[derive(Debug)]
pub struct RestrictedUpdate<'a> {
    pub root: &'a Root,
    pub tools: &'a Tools,
    /// The time limit for each run of clr-boot-manager.
    pub deadline: Duration,
    pub inventory: &'a Inventory,
    /// The contents of the boot partition.
    pub files: &'a BootFiles,
    /// The kernels whose entries are written, the boot default last.
    pub kernels: &'a [&'a Installed],
    /// The expected entries.
    pub lines: &'a [ExpectedEntry],
}

/// Why a restricted update did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestrictedError {
    /// It cannot be used here, and nothing was run.
    #[error("{0}")]
    NotRun(String),
    /// clr-boot-manager was run, and the result is not as expected.
    #[error("{0}")]
    Failed(String),
}

/// Why clr-boot-manager must not be run beside swupd, which may change kernels at any time. None if no
/// process holds the lock. How long a process has held it makes no difference.
pub fn swupd_at_work(root: &Root) -> Option<String> {
    match lock::is_held(root, SWUPD_LOCK) {
        Ok(false) => None,
        Ok(true) => Some("swupd is running".to_owned()),
        Err(e) => Some(format!("whether swupd is running is unknown: {e}")),
    }
}

fn not_run(why: impl ToString) -> RestrictedError {
    RestrictedError::NotRun(why.to_string())
}

/// Facts that must be equal before and after, or must not appear.
#[derive(Debug, PartialEq, Eq)]
struct KeptFiles {
    loader_conf: Option<Vec<u8>>,
    on_disk: Vec<(&'static str, Vec<Listed>)>,
    /// Files that entries name and that are missing or empty.
    dangling: BTreeSet<String>,
    half_written: BTreeSet<String>,
}

impl RestrictedUpdate<'_> {
    /// Runs the update.
    ///
    /// # Errors
    ///
    /// Why it was not run, or what is wrong afterwards.
    pub fn run(&self) -> Result<(), RestrictedError> {
        let input = UpdateInput::observe(self.root, self.inventory, self.files).map_err(not_run)?;
        if let Some(why) = super::unprivileged(self.root).or_else(|| self.refusal(&input)) {
            return Err(not_run(why));
        }
        let program = self.tools.find("clr-boot-manager").map_err(not_run)?;
        let repaired = preflight::prepare_for(self.root, self.inventory, self.kernels).map_err(not_run)?;
        repaired.iter().for_each(|what| tracing::warn!("{what}"));
        write_ahead::report(write_ahead::before_update_of(
            self.root,
            self.inventory,
            self.files,
            self.kernels,
        ));
        let before = self.kept().map_err(not_run)?;
        let stale: Vec<&String> = input.initrds_installed.difference(&input.initrd_sources).collect();
        let is_made = !stale.is_empty() && self.root.lookup(FREESTANDING[0]).is_absent();
        if is_made {
            self.root.make_directories(FREESTANDING[0]).map_err(not_run)?;
        }
        let done = self.run_each(&program, &stale);
        if is_made && let Err(e) = self.root.remove_empty_directory(FREESTANDING[0]) {
            tracing::warn!("{e}");
        }
        let said = done?;
        let wrong = self.wrong_since(&before);
        match (wrong.is_empty(), said) {
            (true, Some(said)) => tracing::warn!("{said}; the boot files are correct nevertheless"),
            (true, None) => {}
            (false, said) => {
                return Err(RestrictedError::Failed(
                    wrong.into_iter().chain(said).collect::<Vec<_>>().join("; "),
                ));
            }
        }
        Ok(())
    }

    /// Runs clr-boot-manager for each kernel. Returns the first error that it reported.
    fn run_each(
        &self,
        program: &std::path::Path,
        stale: &[&String],
    ) -> Result<Option<String>, RestrictedError> {
        let mut said = None;
        let mut arguments = vec!["update".to_owned()];
        if let Some(image) = self.root.image_path() {
            arguments.push(format!("--path={}", image.display()));
        }
        for (at, kernel) in self.kernels.iter().enumerate() {
            let failed = |why: String| match at {
                0 => RestrictedError::NotRun(why),
                _ => RestrictedError::Failed(why),
            };
            let view = self.view(kernel, stale).map_err(|e| failed(e.to_string()))?;
            let child = self.tools.child_at(program, self.deadline).args(&arguments);
            let child = child.confined(Sandbox::view(view));
            tracing::info!("running clr-boot-manager update with kernel {} alone", kernel.name);
            let done = super::ran(child);
            match done.map_err(|e| failed(format!("clr-boot-manager cannot be started: {e}")))? {
                (Ended::Exit(0), _) => {}
                (ended, cause) => {
                    let kernel = &kernel.name;
                    let what =
                        format!("clr-boot-manager update with kernel {kernel} alone: {ended}: {cause}");
                    said.get_or_insert(what);
                }
            }
        }
        Ok(said)
    }

    /// Why root would not run the update now. None if it would be run.
    pub fn blocker(&self) -> Option<String> {
        match UpdateInput::observe(self.root, self.inventory, self.files) {
            Ok(input) => self.refusal(&input),
            Err(e) => Some(e.to_string()),
        }
    }

    /// Why it must not be tried.
    fn refusal(&self, input: &UpdateInput) -> Option<String> {
        if let Some(blocker) = blocker(self.root) {
            return Some(blocker.to_string());
        }
        match self.files.loader {
            Some(Loader::SystemdBoot) => {}
            // Their menu is written only when a default is set.
            Some(Loader::Grub | Loader::Syslinux) => {
                return Some(
                    "with this boot loader a menu is written only together with its default".to_owned(),
                );
            }
            None => {
                let why = self.files.invisible.as_deref().unwrap_or("there is no kernel");
                return Some(format!("the boot files cannot be seen: {why}"));
            }
        }
        if self.kernels.is_empty() {
            return Some("no kernel is to be refreshed".to_owned());
        }
        let mut alone = self.kernels.iter().map(|kernel| input.can_refresh_alone(&kernel.image));
        if let Some(why) = alone.find_map(Result::err) {
            return Some(why.to_string());
        }
        if let Some(why) = swupd_at_work(self.root) {
            return Some(why);
        }
        if !self.root.is_live() {
            return None;
        }
        match processes::is_running("clr-boot-manager") {
            Ok(false) => None,
            Ok(true) => Some("clr-boot-manager is already running".to_owned()),
            Err(e) => Some(format!("whether clr-boot-manager is running is unknown: {e}")),
        }
    }

    /// What clr-boot-manager sees of the system.
    fn view(&self, kernel: &Installed, stale: &[&String]) -> Result<SandboxView, FileError> {
        let real = |path: &str| self.root.real_path(path);
        let mut images = ShownDirectory { path: real(IMAGES)?, entries: Vec::new() };
        let release = kernel.name.release();
        let beside = ["cmdline", "config", "System.map", "vmlinux"].map(|part| format!("{part}-{release}"));
        let (initrd, more) = (format!("initrd-{}", kernel.id), format!("initrd-{}.", kernel.id));
        for entry in self.root.list(IMAGES)? {
            let Some(name) = entry.text() else { continue };
            let is_of_it = name == kernel.image || name == initrd || name.starts_with(&more);
            if is_of_it || beside.iter().any(|file| file == name) {
                images.entries.push(self.shown(IMAGES, &entry, name)?);
            }
        }
        let mut view = SandboxView { directories: vec![images], ..SandboxView::default() };
        // A directory that does not exist needs no protection.
        let kept = [MODULES, SOURCES, MARKS].into_iter().filter(|path| self.root.lookup(path).is_there());
        for path in kept {
            view.read_only.push(real(path)?);
        }
        if !stale.is_empty() {
            let directory = FREESTANDING[0];
            let mut masks = ShownDirectory { path: real(directory)?, entries: Vec::new() };
            for entry in self.root.list_optional(directory)? {
                let Some(name) = entry.text() else { continue };
                if matches!(entry.kind, FileKind::File | FileKind::Link) {
                    masks.entries.push(match entry.kind {
                        FileKind::Link => (name.to_owned(), self.symlink(directory, name)?),
                        _ => self.shown(directory, &entry, name)?,
                    });
                }
            }
            masks
                .entries
                .extend(stale.iter().map(|name| ((*name).clone(), Shown::Symlink("/dev/null".to_owned()))));
            view.directories.push(masks);
        }
        Ok(view)
    }

    fn symlink(&self, directory: &str, name: &str) -> Result<Shown, FileError> {
        let text = self.root.read_link(format!("{directory}/{name}"))?;
        Ok(Shown::Symlink(text.to_string_lossy().into_owned()))
    }

    /// A file under its own name, with symlinks resolved. A symlink that leads to nothing is kept.
    fn shown(&self, directory: &str, entry: &Listed, name: &str) -> Result<(String, Shown), FileError> {
        let shown = match (self.root.real_path(format!("{directory}/{name}")), entry.kind) {
            (Ok(path), _) => Shown::File(path),
            (Err(e), FileKind::Link) if !e.leaves_open() || e.is_no_file() => {
                self.symlink(directory, name)?
            }
            (Err(e), _) => return Err(e),
        };
        Ok((name.to_owned(), shown))
    }

    fn kept(&self) -> anyhow::Result<KeptFiles> {
        let mut on_disk = Vec::new();
        for path in [IMAGES, MODULES, MARKS] {
            on_disk.push((path, self.root.list_optional(path)?));
        }
        let namespace = &self.inventory.namespace;
        files::look_into(self.root, |place| {
            let menu = entries::read(place, namespace, None)?;
            let directory = format!("EFI/{namespace}");
            let has = |name: &str| {
                let paths = [format!("{directory}/{name}"), name.to_owned()];
                // What cannot be read counts as missing. Only what is missing since the start is a fault.
                let size = |path: &String| place.root.lookup(place.path(path)).stat().map(|s| s.size);
                paths.iter().filter_map(size).any(|size| size > 0)
            };
            let ours = menu.entries.iter().filter(|entry| entry.id.is_some());
            let named = ours.flat_map(|entry| {
                let image = entry.image.iter().flat_map(|image| [format!("kernel-{image}"), image.clone()]);
                // An image is at one of two places, with a different name in each.
                let image: Vec<String> = image.collect();
                let found = image.iter().any(|name| has(name));
                let missing = image.into_iter().take(1).filter(move |_| !found);
                missing.chain(entry.initrds.iter().filter(|name| !has(name)).cloned())
            });
            let dangling = named.collect();
            let listed = place.list(&directory)?;
            let half_written =
                listed.iter().filter_map(Listed::text).filter(|n| n.ends_with(preflight::HALF_WRITTEN));
            Ok(KeptFiles {
                loader_conf: place.read(LOADER)?,
                on_disk,
                half_written: half_written.map(str::to_owned).collect(),
                dangling,
            })
        })?
    }

    /// What is not as expected after the runs.
    fn wrong_since(&self, before: &KeptFiles) -> Vec<String> {
        let mut wrong = Vec::new();
        match self.kept() {
            Err(why) => wrong.push(why.to_string()),
            Ok(after) => {
                if after.loader_conf != before.loader_conf && self.root.is_live() {
                    wrong.push("loader.conf was changed".to_owned());
                }
                for ((path, was), (_, is)) in before.on_disk.iter().zip(&after.on_disk) {
                    let gone = was.iter().filter(|entry| !is.contains(entry));
                    wrong
                        .extend(gone.map(|entry| format!("{path}/{} is gone", entry.name.to_string_lossy())));
                }
                let new = after.dangling.difference(&before.dangling);
                wrong.extend(new.map(|name| format!("a boot entry names {name}, which is missing or empty")));
                let new = after.half_written.difference(&before.half_written);
                wrong.extend(new.map(|name| format!("{name} was left half-written")));
            }
        }
        let seen = BootFiles::observe(self.root, self.inventory);
        for kernel in self.kernels {
            let line = self.lines.iter().find(|of| of.id == kernel.id);
            wrong.extend(line.and_then(|of| seen.differs(of)).map(|fault| fault.to_string()));
        }
        let compared = files::look_into(self.root, |place| {
            self.kernels.iter().flat_map(|kernel| self.unlike(place, kernel)).collect::<Vec<_>>()
        });
        match compared {
            Ok(unlike) => wrong.extend(unlike),
            Err(why) => wrong.push(why.to_string()),
        }
        wrong
    }

    /// The files of a kernel, and freestanding initrds, whose copy on the boot partition differs from the
    /// source.
    fn unlike(&self, place: &EntryPlace, kernel: &Installed) -> Vec<String> {
        let mut files = vec![(format!("kernel-{}", kernel.image), format!("{IMAGES}/{}", kernel.image))];
        // What cannot be listed was not copied either, and clr-boot-manager has reported it.
        files.extend(initrds::of_kernel(self.root, &kernel.id).unwrap_or_default());
        let freestanding = initrds::freestanding(self.root).unwrap_or_default().into_iter();
        files.extend(
            freestanding.filter_map(|(name, origin)| Some((format!("freestanding-{name}"), origin?))),
        );
        let directory = format!("EFI/{}", self.inventory.namespace);
        let differs = |(name, source): &(String, String)| {
            let copy = place.root.open_file(place.path(&format!("{directory}/{name}")));
            let (Ok(copy), Ok(source)) = (copy, self.root.open_file(source)) else { return true };
            // Files that cannot be compared are not proven to be equal.
            !compare::have_same_contents(copy, source).unwrap_or(false)
        };
        let unlike = files.into_iter().filter(differs);
        unlike.map(|(name, source)| format!("{name} on the boot partition differs from {source}")).collect()
    }
}
