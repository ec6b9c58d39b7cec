//! `clr-dkms-pre-update`: takes a snapshot before the update, and warns about problems that it would cause.
//! It is fast, because it runs no other program.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::Common;
use crate::boot::deferral::{self, CONFIG, Deferral};
use crate::boot::preflight::no_room_for_another;
use crate::context::Context;
use crate::decide::unread::first_that_decides;
use crate::dkms::proof::INSTALLED;
use crate::dkms::tree::TREE;
use crate::dkms::{Source, Tree, conf};
use crate::exit;
use crate::kernel::inventory::{MODULES, module_directory};
use crate::kernel::{Headers, Inventory};
use crate::limits::TEXT;
use crate::report::packages::Packages;
use crate::report::problem::Problem;
use crate::report::remedies::leave_boot_files;
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::state::{self, SCHEMA, SNAPSHOT, Snapshot};
use crate::sys::{FileKind, Root, RootKind, users};
use crate::update::boot_files::defers;

/// The hook that swupd runs in an image, and the program that the hook runs.
const HOOK: &str = "/usr/libexec/updater/50-clr-dkms-hook.sh";
const PROGRAM: &str = "/usr/bin/clr-dkms-post-update";
/// The space in bytes that one build may need temporarily, in addition to its result. Measured with small
/// modules: 3 to 30 MB.
const BUILD_SPACE: u64 = 64 << 20;
/// The size of a large module's build directory, as a multiple of its result.
const BUILD_FACTOR: u64 = 16;

/// Take a snapshot of kernels and modules before an update, and warn about what would make it fail.
///
/// swupd calls it. The causes of its warnings can be repaired before the update begins.
///
/// Exit code 0: always, except for wrong usage: it never stops an update.
#[derive(Debug, Parser)]
#[command(
    name = "clr-dkms-pre-update",
    version,
    after_help = "Examples:\n  clr-dkms-pre-update\n  \
    clr-dkms-pre-update --dry-run"
)]
pub struct PreUpdateArguments {
    /// Only warn; write no snapshot
    #[arg(long, short = 'n')]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs `clr-dkms-pre-update`. Every error is logged.
///
/// # Errors
/// Never.
pub fn run(arguments: PreUpdateArguments) -> anyhow::Result<u8> {
    match arguments.common.context("clr-dkms-pre-update") {
        Ok((context, config_errors)) => {
            config_errors.iter().for_each(|e| tracing::warn!("{e}"));
            look(&context, arguments.dry_run);
        }
        Err(e) => tracing::error!("{e:#}"),
    }
    Ok(exit::OK)
}

/// The directory that swupd was called with as `--path`, if it is not the running system.
fn image_of(words: &[OsString]) -> Option<PathBuf> {
    let mut words = words.iter().skip(1);
    let mut image = None;
    while let Some(word) = words.next() {
        let bytes = word.as_encoded_bytes();
        let joined = bytes.strip_prefix(b"--path=").or_else(|| bytes.strip_prefix(b"-p"));
        image = match joined {
            _ if word == "-p" || word == "--path" => words.next().map(PathBuf::from),
            Some(path) => Some(PathBuf::from(OsStr::from_bytes(path))),
            None => continue,
        };
    }
    image.filter(|path| path.is_absolute() && path != Path::new("/"))
}

/// With `--path` swupd uses the settings and hooks of the running system. If clr-dkms configured it to leave
/// the boot files alone here, it leaves those of the image alone too. If the image has the hook of clr-dkms,
/// the hook writes them.
fn boot_files_of_image(root: &Root, words: &[OsString]) -> Option<String> {
    let path = image_of(words)?;
    if deferral::observe(root) != Deferral::Armed {
        return None;
    }
    // swupd reports an image that cannot be opened.
    let image = Root::open(RootKind::Image, &path).ok()?;
    let has_hook = [HOOK, PROGRAM].iter().all(|file| image.lookup(file).is(FileKind::File));
    (!has_hook).then(|| {
        let update = AdminCommand::change("clr-boot-manager", &["update"]);
        format!(
            "swupd leaves the boot files of {} alone too, as on this system ({CONFIG}), and the image has no \
             clr-dkms to write them: after this update {}",
            path.display(),
            update.text(&CommandTarget::image(&path))
        )
    })
}

fn look(context: &Context, dry_run: bool) {
    let inventory = Inventory::observe(&context.root);
    let tree = Tree::observe(&context.root);
    for reason in inventory.unreadable().into_iter().chain(tree.unreadable.as_deref()) {
        tracing::warn!("{reason}; it cannot be determined what this update means for DKMS modules");
    }
    let caller = if context.root.kind() == RootKind::Image { None } else { users::caller("swupd") };
    let of_image = caller.and_then(|words| boot_files_of_image(&context.root, &words));
    for warning in warnings(context, &inventory, &tree).into_iter().chain(of_image) {
        tracing::warn!("{warning}");
    }
    let is_reported = inventory.unreadable().is_some() || tree.unreadable.is_some();
    if let Some(unread) = first_that_decides(&context.root.unread()).filter(|_| !is_reported) {
        tracing::warn!("{unread}; what this update means for DKMS modules is not fully known");
    }
    if dry_run || inventory.kernels.is_empty() {
        return;
    }
    let snapshot = Snapshot {
        schema: SCHEMA,
        taken: context.clock.now(),
        running: inventory.running.release().map(str::to_owned),
        kernels: inventory
            .kernels
            .iter()
            .map(|k| k.name.release())
            .map(|release| (release.clone(), installed_on(&tree, &release)))
            .collect(),
    };
    // An unchanged snapshot is not written again.
    let old = state::load::<Snapshot>(&context.root, SNAPSHOT).good();
    if old.is_some_and(|old| old.kernels == snapshot.kernels && old.running == snapshot.running) {
        return;
    }
    if let Err(e) = context.root.write_json(SNAPSHOT, &snapshot) {
        tracing::warn!("no snapshot was taken: {e}");
    }
}

fn installed_on(tree: &Tree, release: &str) -> Vec<String> {
    let on = tree.installed.iter().filter(|((_, on), _)| on == release);
    on.map(|((name, _), version)| format!("{name}/{version}")).collect()
}

fn warnings(context: &Context, inventory: &Inventory, tree: &Tree) -> Vec<String> {
    let (mut warnings, target) = (Vec::new(), CommandTarget::of_root(&context.root));
    if tree.modules.is_empty() {
        return warnings;
    }
    for kernel in inventory.tips().iter().filter(|k| k.headers == Headers::Absent) {
        let release = kernel.name.release();
        let step = Packages::of(&release, inventory).install_headers(&release).text(&target);
        warnings.push(format!(
            "kernel {} has no headers, so no DKMS module can be built for it or its successor; {step}",
            kernel.name
        ));
    }
    if let Some(running) = inventory.running_kernel().or_else(|| inventory.boot_default()) {
        let release = running.name.release();
        for registered in tree.newest() {
            let name = &registered.module.name;
            if tree.installed_version(name, &release).is_none() {
                continue;
            }
            match &registered.source {
                Source::Broken { reason } | Source::Unknown { reason } => warnings.push(format!(
                    "{} is in use on {release} and cannot be built for another kernel: {reason}",
                    registered.module
                )),
                Source::Directory { path, .. } => {
                    // There is no time to ask bash, and the text is good enough for advice.
                    let text = match context.root.read_within(path.join("dkms.conf"), TEXT) {
                        Ok(text) => text,
                        Err(e) => {
                            warnings.push(format!(
                                "{} is in use on {release}, and whether it will be built for a new kernel is \
                                 unknown: {e}",
                                registered.module
                            ));
                            continue;
                        }
                    };
                    if conf::seems_autoinstall(&String::from_utf8_lossy(&text)) != Some(true) {
                        warnings.push(format!(
                            "{} is in use on {release}, but its dkms.conf does not say AUTOINSTALL=yes: it will not be \
                             built for a new kernel",
                            registered.module
                        ));
                    }
                }
            }
        }
    }
    // Files in /run that are missing are written again after this update, and the boot default is corrected
    // if needed.
    if let (true, Deferral::Off { overridden_by: Some(by), .. }) =
        (defers(context), deferral::observe(&context.root))
    {
        let step = leave_boot_files(&by).text(&target);
        warnings.push(format!("{}; {step}", Problem::SwupdOverrides(by)));
    }
    warnings.extend(too_little_space(context, inventory, tree));
    if context.settings.boot_update {
        warnings.extend(no_room_for_another(&context.root, inventory));
    }
    warnings
}

/// Compares the free space with an estimate of the space for building every installed module for one more
/// kernel.
fn too_little_space(context: &Context, inventory: &Inventory, tree: &Tree) -> Vec<String> {
    let root = &context.root;
    let (mut sum, mut largest) = (0, 0);
    for kernel in inventory.tips() {
        let directory = format!("{}/{INSTALLED}", module_directory(&kernel.name.release()));
        // In an estimate, an unreadable directory counts as empty.
        let files = root.list_optional(&directory).unwrap_or_default();
        let sizes = files
            .iter()
            .filter_map(|f| root.lookup(format!("{directory}/{}", f.name.to_string_lossy())).stat());
        let of_kernel: Vec<u64> = sizes.map(|s| s.size).collect();
        sum = of_kernel.iter().sum::<u64>().max(sum);
        largest = of_kernel.iter().copied().max().unwrap_or(0).max(largest);
    }
    if tree.modules.iter().all(|m| m.builds.is_empty()) {
        return Vec::new();
    }
    let build = BUILD_SPACE.max(largest.saturating_mul(BUILD_FACTOR));
    [(MODULES, sum), (TREE, sum + build)]
        .into_iter()
        .filter_map(|(directory, need)| {
            // An unknown amount of free space causes no warning.
            let free = root.free_space(directory).ok()?;
            (free < need).then(|| {
                format!(
                    "{} has {} MiB free, and building the modules for a new kernel takes about {} MiB; free some space",
                    root.shown_path(directory).display(),
                    free >> 20,
                    need.div_ceil(1 << 20),
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_that_swupd_works_on() {
        let image = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            image_of(&words).map(|path| path.display().to_string())
        };
        for (line, expected) in [
            ("swupd update", None),
            ("swupd update --path /mnt", Some("/mnt")),
            ("swupd update --path=/mnt --quiet", Some("/mnt")),
            ("/usr/bin/swupd -p /mnt update", Some("/mnt")),
            ("swupd update -p/mnt", Some("/mnt")),
            ("swupd update --path /", None),
            ("swupd update --path", None),
            ("swupd update --path /mnt --path /", None),
            ("swupd update --path mnt", None),
        ] {
            assert_eq!(image(line).as_deref(), expected, "{line}");
        }
    }
}
