//! A model of clr-boot-manager in memory: what it does to a disk, as a list of steps between any two of which
//! it can be interrupted.

use std::collections::{BTreeMap, BTreeSet};

use clr_dkms::boot::foresee::{KernelFile, Uname, UpdateInput, UpdateMode};
use clr_dkms::kernel::KernelName;

pub(super) const NS: &str = "org.clearlinux";
/// The only freestanding initrd there is.
pub(super) const INITRD: &str = "extra.cpio";

/// What a boot entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryText {
    /// Counts the changes of the configured command line.
    pub(super) version: u8,
    /// It has `module.sig_unenforce`.
    pub(super) parameter: bool,
    /// It names the freestanding initrd.
    pub(super) initrd: bool,
}

#[derive(Debug, Clone)]
pub(super) struct DiskKernel {
    pub(super) name: KernelName,
    pub(super) id: String,
    pub(super) release: String,
    /// Its image is in `/usr/lib/kernel`.
    pub(super) source: bool,
    /// `cmdline-RELEASE` is there.
    pub(super) cmdline: bool,
    pub(super) modules: bool,
    pub(super) marked: bool,
    /// Its image is on the boot partition.
    pub(super) copied: bool,
    pub(super) entry: Option<EntryText>,
}

impl DiskKernel {
    pub(super) fn new(kind: &str, number: i32) -> DiskKernel {
        let name = KernelName {
            namespace: NS.to_owned(),
            variant: kind.to_owned(),
            version: format!("6.{number}.0"),
            number,
        };
        DiskKernel {
            id: name.id(),
            release: name.release(),
            name,
            source: true,
            cmdline: true,
            modules: true,
            marked: false,
            copied: false,
            entry: None,
        }
    }

    pub(super) fn is_installed(&self) -> bool {
        self.source && self.cmdline
    }
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    /// By number, ascending. Nothing leaves the list: what is deleted has no files any more.
    pub(super) kernels: Vec<DiskKernel>,
    /// The kernels of the symlinks `default-TYPE`.
    pub(super) links: BTreeMap<String, usize>,
    /// The kernel that runs; none for one of another naming scheme.
    pub(super) running: Option<usize>,
    /// The default in loader.conf; none where that file is missing.
    pub(super) default: Option<usize>,
    /// What an entry that is written now says.
    pub(super) configured: EntryText,
    /// The freestanding initrd is on the boot partition.
    pub(super) initrd_copied: bool,
}

/// A change of one file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    CopyInitrd,
    CopyImage(usize),
    DropEntry(usize),
    WriteEntry(usize),
    DropDefault,
    WriteDefault(usize),
    RemoveImage(usize),
    RemoveModules(usize),
    RemoveCmdline(usize),
    RemoveMark(usize),
    RemoveSource(usize),
    RemoveEntry(usize),
    RemoveInitrd,
}

impl Step {
    /// The kernel of which it deletes something for good.
    pub(super) fn deletes(self) -> Option<usize> {
        match self {
            Step::RemoveImage(k)
            | Step::RemoveModules(k)
            | Step::RemoveCmdline(k)
            | Step::RemoveMark(k)
            | Step::RemoveSource(k)
            | Step::RemoveEntry(k) => Some(k),
            _ => None,
        }
    }
}

fn is_old_lts(kind: &str) -> bool {
    ["lts2020", "lts2021"].contains(&kind) || kind.starts_with("lts201")
}

impl Disk {
    pub(super) fn apply(&mut self, step: Step) {
        match step {
            Step::CopyInitrd => self.initrd_copied = true,
            Step::RemoveInitrd => self.initrd_copied = false,
            Step::CopyImage(k) => self.kernels[k].copied = true,
            Step::RemoveImage(k) => self.kernels[k].copied = false,
            Step::DropEntry(k) | Step::RemoveEntry(k) => self.kernels[k].entry = None,
            Step::WriteEntry(k) => self.kernels[k].entry = Some(self.configured),
            Step::DropDefault => self.default = None,
            Step::WriteDefault(k) => self.default = Some(k),
            Step::RemoveModules(k) => self.kernels[k].modules = false,
            Step::RemoveCmdline(k) => self.kernels[k].cmdline = false,
            Step::RemoveMark(k) => self.kernels[k].marked = false,
            Step::RemoveSource(k) => self.kernels[k].source = false,
        }
    }

    pub(super) fn of_kind<'d>(&'d self, kind: &'d str) -> impl DoubleEndedIterator<Item = usize> + 'd {
        let is_it = move |k: &usize| self.kernels[*k].is_installed() && self.kernels[*k].name.variant == kind;
        (0..self.kernels.len()).filter(is_it)
    }

    pub(super) fn linked(&self, kind: &str) -> Option<usize> {
        self.links.get(kind).copied().filter(|k| self.kernels[*k].is_installed())
    }

    pub(super) fn tip(&self, kind: &str) -> Option<usize> {
        self.linked(kind)
            .filter(|k| self.kernels[*k].name.variant == kind)
            .or_else(|| self.of_kind(kind).last())
    }

    pub(super) fn running_is_installed(&self) -> bool {
        self.running.is_some_and(|k| self.kernels[k].is_installed())
    }

    fn install(&self, kernel: usize, steps: &mut Vec<Step>) {
        if !self.kernels[kernel].copied {
            steps.push(Step::CopyImage(kernel));
        }
        match self.kernels[kernel].entry {
            Some(entry) if entry == self.configured => {}
            Some(_) => steps.extend([Step::DropEntry(kernel), Step::WriteEntry(kernel)]),
            None => steps.push(Step::WriteEntry(kernel)),
        }
    }

    /// `clr-boot-manager set-kernel`.
    pub(super) fn set_default(&self, kernel: usize) -> Vec<Step> {
        match self.default {
            Some(default) if default == kernel => Vec::new(),
            Some(_) => vec![Step::DropDefault, Step::WriteDefault(kernel)],
            None => vec![Step::WriteDefault(kernel)],
        }
    }

    /// `clr-boot-manager update`, natively.
    pub(super) fn update(&self) -> Vec<Step> {
        let kinds: BTreeSet<&str> =
            self.kernels.iter().filter(|k| k.is_installed()).map(|k| k.name.variant.as_str()).collect();
        if kinds.is_empty() {
            return Vec::new();
        }
        let running = self.running.filter(|_| self.running_is_installed());
        let (mut install, mut remove) = (Vec::from_iter(running), Vec::new());
        for kind in kinds {
            let tip = self.tip(kind);
            let good = self.of_kind(kind).rev().find(|k| self.kernels[*k].marked);
            for kernel in [tip, good].into_iter().flatten() {
                if !install.contains(&kernel) {
                    install.push(kernel);
                }
            }
            let kept = [running, good, tip.filter(|_| !is_old_lts(kind))];
            if running.is_some() {
                remove.extend(self.of_kind(kind).rev().filter(|k| !kept.contains(&Some(*k))));
            }
        }
        let mut steps = Vec::new();
        if self.configured.initrd && !self.initrd_copied {
            steps.push(Step::CopyInitrd);
        }
        install.iter().for_each(|k| self.install(*k, &mut steps));
        let mut default = self.running.and_then(|k| self.linked(&self.kernels[k].name.variant));
        if default.is_some_and(|k| is_old_lts(&self.kernels[k].name.variant)) {
            default = self.linked("ltsprev").or(default);
        }
        steps.extend(default.into_iter().flat_map(|k| self.set_default(k)));
        for kernel in remove {
            for part in [
                Step::RemoveCmdline,
                Step::RemoveImage,
                Step::RemoveModules,
                Step::RemoveMark,
                Step::RemoveSource,
                Step::RemoveEntry,
            ] {
                steps.push(part(kernel));
            }
        }
        if !self.configured.initrd && self.initrd_copied {
            steps.push(Step::RemoveInitrd);
        }
        steps
    }

    /// The same where only one kernel and no `default-TYPE` can be seen, and a stale freestanding initrd is
    /// masked.
    pub(super) fn update_alone(&self, kernel: usize) -> Vec<Step> {
        let mut seen = self.clone();
        for (at, other) in seen.kernels.iter_mut().enumerate() {
            other.source &= at == kernel;
        }
        seen.links.clear();
        let mut steps = seen.update();
        steps.retain(|step| *step != Step::RemoveInitrd);
        steps
    }

    /// What [`UpdateInput::observe`] reads of it.
    pub(super) fn input(&self) -> UpdateInput {
        let name = |installed: bool| -> BTreeSet<String> {
            Some(INITRD.to_owned()).filter(|_| installed).into_iter().collect()
        };
        let running = self.running.map(|k| self.kernels[k].name.clone());
        let installed = self.kernels.iter().filter(|k| k.is_installed());
        UpdateInput {
            mode: UpdateMode::Native(running.map_or(Uname::Unparsable, Uname::Parsed)),
            kernels: installed
                .map(|k| KernelFile { file: k.id.clone(), name: k.name.clone(), marked: k.marked })
                .collect(),
            default_links: self
                .links
                .iter()
                .map(|(kind, k)| (kind.clone(), self.kernels[*k].id.clone()))
                .collect(),
            initrd_sources: name(self.configured.initrd),
            initrds_installed: name(self.initrd_copied),
        }
    }
}
