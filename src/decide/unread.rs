//! Which decisions a failed read blocks. A fact that was not read satisfies no requirement.
//!
//! Each path belongs to a fact, and a failed read blocks only the decisions that need this fact. A path that
//! is not listed here blocks every decision.

use std::collections::BTreeMap;
use std::path::Path;

use super::next_boot::next_boot;
use crate::kernel::inventory::{IMAGES, MODULES};
use crate::kernel::{KernelName, Running};
use crate::sys::unread::Unread;
use crate::system::System;

/// Files and directories that no decision depends on, and why.
pub const DECIDE_NOTHING: [(&str, &str); 17] = [
    ("/var/cache/clr-dkms", "a missing cache entry is read again from the file"),
    ("/var/lib/clr-dkms/in-progress.json", "it only shows that an earlier run did not finish"),
    ("/var/lib/clr-dkms/before-update.json", "it only determines which kernels a report calls new"),
    ("/var/lib/clr-dkms/metrics", "it only names the metrics file that was written last"),
    ("/run/clr-dkms", "it only contains files that clr-dkms writes for others"),
    ("/run/clr-dkms.lock", "without the lock no work starts, and the error is reported separately"),
    ("/run/motd.d", "it only contains texts that clr-dkms writes for others"),
    ("/etc/clr-dkms/motd.d", "it only contains texts for people"),
    ("/etc/clr-dkms/notify.d", "these programs run after the decisions"),
    ("/usr/share/clr-dkms", "it only contains texts for people"),
    ("/run/swupd", "the next swupd update does not affect which kernel boots next"),
    ("/etc/swupd", "the next swupd update does not affect which kernel boots next"),
    ("/usr/share/defaults/swupd", "the next swupd update does not affect which kernel boots next"),
    ("/usr/lib/os-release", "it only affects whether a failed build is tried again"),
    ("/proc/sys/kernel/tainted", "it is only reported"),
    ("/usr/src", "a module without a readable dkms.conf is unknown on every kernel"),
    ("/etc/dkms", "a module without a readable dkms.conf is unknown on every kernel"),
];

/// Directories where a loop of symlinks counts as a known fact, and why.
const LOOPS: [(&str, &str); 5] = [
    ("/etc/kernel", "clr-boot-manager cannot read a loop of symlinks either: it counts as empty"),
    (
        "/usr/share/kernel/cmdline.d",
        "clr-boot-manager cannot read a loop of symlinks either: it counts as empty",
    ),
    (MODULES, "modprobe cannot read a loop of symlinks either: only the module is unknown"),
    (
        "/lib",
        "it is a symlink to usr/lib, which is read directly; systemd and modprobe cannot read a loop either",
    ),
    ("/boot", "the boot files then count as not visible"),
];

/// The boot entries, wherever the boot partition is mounted.
const ENTRIES: &str = "/boot/loader/entries";

/// What a failed read blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocks {
    /// Nothing, and why.
    Nothing(&'static str),
    /// Decisions about this kernel release.
    Kernel(String),
    /// Every decision.
    Everything,
}

/// What all failed reads of one observation block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    /// The failed read that blocks every decision, as a sentence.
    pub everything: Option<String>,
    /// Kernel releases with a missing fact, and the failed read, as a sentence.
    pub kernels: BTreeMap<String, String>,
}

/// Collects what the failed reads of an observation block.
pub fn gaps(system: &System) -> Gaps {
    let mut gaps = Gaps::default();
    for unread in &system.unread {
        match blocks(unread, system) {
            Blocks::Nothing(_) => {}
            Blocks::Kernel(release) => {
                gaps.kernels.entry(release).or_insert_with(|| unread.what.clone());
            }
            Blocks::Everything => {
                gaps.everything.get_or_insert_with(|| unread.what.clone());
            }
        }
    }
    // A file that only its owner may read is not among the failed reads of a normal user.
    for line in &system.lines {
        if let Some(error) = line.unread() {
            gaps.kernels.entry(line.release.clone()).or_insert_with(|| error.to_string());
        }
    }
    if let Running::Unknown { reason } = &system.inventory.running {
        gaps.everything.get_or_insert_with(|| format!("the running kernel is unknown: {reason}"));
    }
    // A blacklist that is not known makes an unknown module critical.
    if let Err(why) = &system.replaced_drivers {
        gaps.everything.get_or_insert_with(|| why.clone());
    }
    // The requirements are determined on the running kernel, and the next boot must satisfy them.
    let running = system.inventory.running_kernel().map(|kernel| kernel.name.release());
    let next = next_boot(system).shown().map(str::to_owned);
    for release in [running, next].into_iter().flatten() {
        if let Some(what) = gaps.kernels.get(&release) {
            gaps.everything.get_or_insert_with(|| what.clone());
        }
    }
    gaps
}

/// The first failed read that any decision depends on, as a sentence. For callers that change files and have
/// not observed a whole system.
pub fn first_that_decides(unread: &[Unread]) -> Option<&str> {
    let decides = |unread: &&Unread| nothing(unread).is_none();
    unread.iter().find(decides).map(|unread| unread.what.as_str())
}

/// Why no decision depends on a read, whatever the system is. None if a decision depends on it.
fn nothing(unread: &Unread) -> Option<&'static str> {
    let path = unread.path.as_path();
    let known = DECIDE_NOTHING.iter().find(|(known, _)| path.starts_with(known)).map(|(_, why)| *why);
    // The file is readable only by root, and only if the kernel was built with the option.
    let is_policy = unread.is_denied && path == Path::new("/sys/kernel/security/ima/policy");
    let by_loop =
        LOOPS.iter().find(|(top, _)| unread.is_loop && path.starts_with(top) && path != Path::new(top));
    known
        .or(is_policy.then_some("a kernel without CONFIG_IMA_READ_POLICY lets no user read its policy"))
        .or(by_loop.map(|(_, why)| *why))
}

/// What one failed read blocks.
pub fn blocks(unread: &Unread, system: &System) -> Blocks {
    let path = unread.path.as_path();
    if let Some(why) = nothing(unread) {
        return Blocks::Nothing(why);
    }
    if let Some(entry) = system.boot.unread.iter().find(|entry| path == Path::new(ENTRIES).join(&entry.file))
        && system.boot.default.is_some()
    {
        return match &entry.release {
            Some(release) => Blocks::Kernel(release.clone()),
            None => Blocks::Nothing("neither the default nor the entry of an installed kernel"),
        };
    }
    if let Some(release) = of_kernel(path, system) { Blocks::Kernel(release) } else { Blocks::Everything }
}

/// The kernel release that a file belongs to, if it belongs to only one.
fn of_kernel(path: &Path, system: &System) -> Option<String> {
    let names: Vec<&str> = path.iter().map(|name| name.to_str().unwrap_or("?")).collect();
    let is_release = |name: &str| KernelName::from_release(name, &system.inventory.namespace).is_some();
    let known = |mark: &dyn Fn(&str, &str) -> bool| {
        let mut kernels = system.inventory.kernels.iter();
        kernels.find(|k| mark(&k.name.release(), &k.id)).map(|k| k.name.release())
    };
    match names.as_slice() {
        ["/", "usr", "lib", "modules", release, _, ..] if path.starts_with(MODULES) => {
            Some((*release).to_owned())
        }
        // DKMS: NAME/VERSION/KERNEL/…, and the symlink NAME/kernel-KERNEL-ARCHITECTURE.
        ["/", "var", "lib", "dkms", _, _, release, ..] if is_release(release) => Some((*release).to_owned()),
        ["/", "var", "lib", "dkms", _, link] if link.starts_with("kernel-") => {
            known(&|release, _| *link == format!("kernel-{release}-{}", crate::dkms::architecture()))
        }
        ["/", "var", "lib", "kernel", mark] => known(&|release, _| *mark == format!("k_booted_{release}")),
        // Each update writes the command line of every kernel into its entry.
        [.., file] if path.starts_with(IMAGES) => known(&|release, id| {
            ["config", "System.map", "vmlinux"].iter().any(|of| *file == format!("{of}-{release}"))
                || *file == format!("initrd-{id}")
        }),
        _ => None,
    }
}

/// Why nothing can be decided, as a sentence. None if decisions are possible.
pub fn blocked(system: &System) -> Option<String> {
    gaps(system).everything
}

/// The running kernel is unknown to clr-boot-manager, which leaves the boot default as it is. clr-dkms does
/// the same.
pub fn runs_foreign_kernel(system: &System) -> bool {
    matches!(system.inventory.running, Running::Known { .. }) && system.inventory.boot_default().is_none()
}

/// Failed reads that no decision depends on, and a running kernel about which no decision is made.
pub fn notes(system: &System) -> Vec<String> {
    let gaps = gaps(system);
    let is_reason = |what: &&String| gaps.everything.as_ref() == Some(*what);
    let mut notes: Vec<String> = gaps.kernels.values().filter(|what| !is_reason(what)).cloned().collect();
    if let (true, Running::Known { release }) = (runs_foreign_kernel(system), &system.inventory.running) {
        notes.push(format!(
            "clr-boot-manager does not know the running kernel {release}: the boot default is not changed, and \
             clr-boot-manager update is not run"
        ));
    }
    notes
}
