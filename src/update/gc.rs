//! Removes what DKMS has left of kernels that are not installed any more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::boot::{BootFiles, entries, grub, syslinux};
use crate::context::Context;
use crate::dkms::gc::{GcLeftover, GcPlan, GcRefusal, GcRemoval, How, KeptKernel, decide};
use crate::dkms::log::LOGS;
use crate::dkms::{Cache, ModuleName, Tree, architecture, leftovers, old_logs, unbuild};
use crate::kernel::inventory::IMAGES;
use crate::kernel::{Inventory, Running};
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::sys::{FileError, FileKind, Presence, Root, interrupt};

/// Directories that may have boot files, in addition to the entries.
const BOOT: [&str; 5] = ["/boot", "/boot/loader", "/boot/loader/entries", "/boot/grub", "/boot/syslinux"];

/// The plan and result of a clean-up.
#[derive(Debug, Serialize)]
pub struct GcDocument {
    /// The schema of this document.
    pub schema: u32,
    /// Whether this was a dry run, which changes nothing.
    pub dry_run: bool,
    /// What is (or would be) removed, and what is kept.
    #[serde(flatten)]
    pub plan: GcPlan,
    /// What could not be removed, and why.
    pub failed: Vec<GcRefusal>,
    /// The number of freed bytes. In a dry run, of those that would be freed.
    pub freed: u64,
}

/// Returns what a run would remove.
pub fn dry_run(context: &Context) -> GcDocument {
    let plan = look(context);
    GcDocument { schema: 1, dry_run: true, freed: room(&plan.removals), failed: Vec::new(), plan }
}

/// Observes and decides, without changing anything.
fn look(context: &Context) -> GcPlan {
    let (kept, unreadable) = kept(context);
    let now = context.clock.now().as_nanosecond();
    let mut observed = leftovers::observe(&context.root, &kept, now);
    if observed.unreadable.is_empty() {
        old_logs::observe(&context.root, now, &mut observed);
    }
    observed.unreadable.splice(0..0, unreadable);
    decide(&kept, &observed)
}

/// The times of the last change of the files in a module directory.
fn times(root: &Root, plan: &GcPlan) -> BTreeMap<PathBuf, i128> {
    let of_directories = plan.removals.iter().filter_map(|r| match &r.what {
        GcLeftover::Modules { files, .. } => Some(files),
        _ => None,
    });
    // A file without a readable time counts as changed later, and is kept.
    let time = |file: &PathBuf| Some((file.clone(), root.lookup_link(file).stat()?.ctime_ns));
    of_directories.flatten().filter_map(time).collect()
}

/// Why something must be kept after all: its kernel is installed again, or it was changed after it was
/// observed.
fn come_back(context: &Context, seen: &BTreeMap<PathBuf, i128>, removal: &GcRemoval) -> Option<String> {
    let (kept, unreadable) = kept(context);
    let of_kernel = removal.what != GcLeftover::Log { orphan: true };
    let kernel = || kept.why(&removal.kernel).filter(|_| of_kernel);
    if let Some(why) = unreadable.into_iter().next().or_else(kernel) {
        return Some(format!("{why}; this changed during the clean-up"));
    }
    let GcLeftover::Modules { files, .. } = &removal.what else { return None };
    // dkms may have removed it meanwhile, as intended.
    let changed = files.iter().find(|file| match context.root.lookup_link(file) {
        Presence::Absent => false,
        Presence::There(stat) => Some(&stat.ctime_ns) != seen.get(*file),
        // What cannot be examined is not removed either.
        Presence::Unreadable(_) => true,
    })?;
    Some(format!("{} was changed during the clean-up", changed.display()))
}

/// The kernels that must be kept, and the errors of reading them.
fn kept(context: &Context) -> (KeptKernel, Vec<String>) {
    let root = &context.root;
    let inventory = Inventory::observe(root);
    let mut unreadable: Vec<String> = inventory.unreadable().map(str::to_owned).into_iter().collect();
    if let Running::Unknown { reason } = &inventory.running {
        unreadable.push(reason.clone());
    }
    let mut keep = |names: Result<Vec<String>, FileError>| {
        names.unwrap_or_else(|e| {
            unreadable.push(e.to_string());
            Vec::new()
        })
    };
    let beside_images = keep(names_in(root, IMAGES));
    let mut to_boot: Vec<String> =
        BOOT.iter().flat_map(|directory| keep(names_in(root, directory))).collect();
    let boot = BootFiles::observe(root, &inventory);
    // If no kernel is installed, the clean-up is refused for that reason.
    if !inventory.kernels.is_empty() {
        to_boot.extend(named_by(&boot));
        unreadable.extend(blind(root, &boot));
    }
    (KeptKernel::new(&inventory, beside_images, to_boot), unreadable)
}

/// The names in a directory, and the targets of its symlinks.
fn names_in(root: &Root, directory: &str) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in root.list_optional(directory)? {
        let name = entry.name.to_string_lossy().into_owned();
        if entry.kind == FileKind::Link {
            let target = root.read_link(format!("{directory}/{name}"))?;
            names.push(format!("{name} -> {}", target.display()));
        } else {
            names.push(name);
        }
    }
    Ok(names)
}

/// Every text in the boot files that may name a kernel. Unreadable entries are listed in the problems.
fn named_by(boot: &BootFiles) -> Vec<String> {
    let of_entries = boot.entries.iter().flat_map(|e| {
        // If the kernel line of an entry is not understood, its file may still be named after its kernel.
        [Some(e.file.clone()), e.id.clone(), e.image.clone()].into_iter().flatten()
    });
    let of_default = boot.default.iter().flat_map(|d| [Some(d.entry.clone()), d.id.clone()]).flatten();
    of_entries.chain(of_default).chain(boot.problems.iter().map(|p| p.what.clone())).collect()
}

/// Why it cannot be determined which kernels the boot entries name.
fn blind(root: &Root, boot: &BootFiles) -> Option<String> {
    let Some(why) = &boot.invisible else {
        // An unreadable entry may belong to any kernel, and damaged boot files may need every kernel for
        // their repair.
        let broken = boot.problems.iter().find(|p| p.breaks);
        return broken.map(|p| format!("the boot files are damaged: {p}"));
    };
    // A live system always has boot entries. An image is often prepared before it has any.
    let files = [entries::ENTRIES, entries::LOADER, syslinux::CONFIGURATION, grub::CONFIGURATION];
    let any = || files.iter().any(|file| !matches!(root.lookup(format!("/boot/{file}")), Presence::Absent));
    (root.is_live() || any()).then(|| why.clone())
}

/// Removes what is planned, and checks what remains.
pub fn collect(context: &Context) -> GcDocument {
    super::adopt::remove_abandoned(context);
    let plan = look(context);
    let seen = times(&context.root, &plan);
    let mut cache = Cache::load(&context.root);
    let tree = Tree::observe(&context.root);
    let mut failed: Vec<GcRefusal> = Vec::new();
    // The build remains of dkms are removed last, because they identify the other files.
    let mut after: Vec<&GcRemoval> = Vec::new();
    for (at, removal) in plan.removals.iter().enumerate() {
        if interrupt::asked() {
            break;
        }
        // An update may reinstall the kernel during the clean-up.
        if let Some(why) = come_back(context, &seen, removal) {
            failed.push(refusal(removal, why));
            continue;
        }
        tracing::info!("removing {}: {}", removal.path, removal.why);
        match &removal.what {
            GcLeftover::Build { module, .. } if removal.how == How::DkmsUnbuild => {
                let done =
                    unbuild::run(&context.root, &context.tools, &mut cache, &tree, module, &removal.kernel);
                if let Err(why) = done {
                    tracing::info!("{module} on {}: {why:#}; removed without dkms", removal.kernel);
                }
                after.push(removal);
            }
            _ => failed.extend(remove(&context.root, removal).err().map(|e| refusal(removal, e))),
        }
        let last = plan.removals.get(at + 1).is_none_or(|next| next.kernel != removal.kernel);
        if last {
            for removal in after.drain(..) {
                // Checked again, because dkms takes time.
                let why = match come_back(context, &seen, removal) {
                    None => remove(&context.root, removal).err().map(|e| e.to_string()),
                    why => why,
                };
                failed.extend(why.map(|why| refusal(removal, why)));
            }
        }
    }
    if plan.removals.is_empty() {
        return GcDocument { schema: 1, dry_run: false, plan, failed, freed: 0 };
    }
    // Only what is gone from disk counts as removed.
    let left = look(context);
    for removal in left.removals.iter().chain(&plan.removals) {
        let known = failed.iter().any(|f| f.what == removal.path);
        if !known && !matches!(context.root.lookup_link(&removal.path), Presence::Absent) {
            let why = if interrupt::asked() { "the run was asked to stop" } else { "it is still there" };
            failed.push(refusal(removal, why));
        }
    }
    for (removal, module) in plan.removals.iter().filter_map(|r| Some((r, module_of(r)?))) {
        failed.extend(unregistered(&context.root, &tree, module).map(|why| refusal(removal, why)));
    }
    let gone: Vec<GcRemoval> =
        plan.removals.iter().filter(|r| failed.iter().all(|f| f.what != r.path)).cloned().collect();
    GcDocument { schema: 1, dry_run: false, freed: room(&gone), plan, failed }
}

fn module_of(removal: &GcRemoval) -> Option<&ModuleName> {
    if let GcLeftover::Build { module, .. } = &removal.what { Some(module) } else { None }
}

/// A message if a module that was registered no longer is.
fn unregistered(root: &Root, before: &Tree, module: &ModuleName) -> Option<String> {
    let knows = |tree: &Tree| tree.modules.iter().any(|m| m.module == *module);
    (knows(before) && !knows(&Tree::observe(root))).then(|| {
        let add = AdminCommand::change("dkms", &["add", &module.to_string()]);
        format!("{module} is no longer registered: {}", add.text(&CommandTarget::of_root(root)))
    })
}

fn refusal(removal: &GcRemoval, why: impl ToString) -> GcRefusal {
    GcRefusal { what: removal.path.clone(), why: why.to_string() }
}

/// Removes one thing, and the directories above it that become empty.
fn remove(root: &Root, removal: &GcRemoval) -> Result<(), FileError> {
    match &removal.what {
        GcLeftover::Modules { files, directories } => {
            // File by file: files that were added meanwhile must stay.
            for file in files {
                root.remove(file)?;
            }
            for directory in directories {
                root.remove_empty_directory(directory)?;
            }
        }
        GcLeftover::Claim => {
            root.remove(&removal.path)?;
        }
        GcLeftover::Build { .. } => {
            let own = architecture();
            for entry in root.list_optional(&removal.path)? {
                let name = entry.name.to_string_lossy();
                if name == own.as_str() || name.starts_with(&format!(".tmp_{own}_")) {
                    root.remove_tree(format!("{}/{name}", removal.path))?;
                }
            }
            root.remove_empty_directory(&removal.path)?;
        }
        GcLeftover::Original => {
            root.remove_tree(&removal.path)?;
            let around = removal.path.rsplit_once('/').map_or("", |(around, _)| around);
            root.remove_empty_directory(around)?;
        }
        GcLeftover::Scratch => {
            root.remove_tree(&removal.path)?;
        }
        GcLeftover::Log { .. } => {
            root.remove(&removal.path)?;
            let around = Path::new(&removal.path).ancestors().skip(1);
            for directory in around.take_while(|directory| *directory != Path::new(LOGS)) {
                root.remove_empty_directory(directory)?;
            }
        }
    }
    Ok(())
}

fn room(removals: &[GcRemoval]) -> u64 {
    removals.iter().map(|r| r.bytes).sum()
}
