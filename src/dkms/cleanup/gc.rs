//! Finds what is left of removed kernels and may be deleted. Pure: computes a plan from observations.
//!
//! The rule is that of a conservative garbage collector: everything stays unless it is proven to be garbage,
//! foreign names are never touched, and if anything could not be read, everything stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use crate::dkms::{ModuleName, architecture, is_usable_name};
use crate::kernel::inventory::IMAGES;
use crate::kernel::{Inventory, KernelName, Running};

/// The kernels that exist, and all references to kernels: each of them keeps the modules of a kernel.
#[derive(Debug, Clone, Default)]
pub struct KeptKernel {
    /// The namespace of the kernels of this system.
    pub namespace: String,
    /// The release of the running kernel; none for an image.
    pub running: Option<String>,
    /// The installed kernels.
    pub installed: Vec<KernelName>,
    /// The names of all files in the directory of the kernel images, and the targets of the symlinks there.
    pub beside_images: Vec<String>,
    /// Everything that refers to a bootable kernel: names, ids and images of the boot entries, including
    /// those that could not be read, and the files in `/boot`.
    pub to_boot: Vec<String>,
}

impl KeptKernel {
    /// Collects the kernels from the inventory and from the other sources.
    pub fn new(inventory: &Inventory, beside_images: Vec<String>, to_boot: Vec<String>) -> KeptKernel {
        let running = match &inventory.running {
            Running::Known { release } => Some(release.clone()),
            // Unknown facts are in `Observed::unreadable` and prevent all removals.
            Running::None | Running::Unknown { .. } => None,
        };
        let installed = inventory.kernels.iter().map(|k| k.name.clone()).collect();
        KeptKernel { namespace: inventory.namespace.clone(), running, installed, beside_images, to_boot }
    }

    /// Why nothing of this kernel may be touched, judging by files other than its modules; none if the kernel
    /// is gone.
    ///
    /// A "booted" mark (`k_booted_…` in `/var/lib/kernel`) keeps nothing: clr-boot-manager does not remove
    /// all marks, and a kernel without an image cannot boot. A kernel that a state file names as the default
    /// to return to has a boot entry, which keeps it.
    pub fn why(&self, release: &str) -> Option<String> {
        let name = match KernelName::from_release(release, &self.namespace) {
            // Not as clr-boot-manager writes it (a sign, or characters after the number), so not one of its
            // kernels.
            Some(name) if name.is_release(release) && is_usable_name(release) => name,
            _ => return Some("it is not named as clr-boot-manager names its kernels".to_owned()),
        };
        let is_it = |text: &str| {
            KernelName::from_release(text, &self.namespace).is_some_and(|n| n.is_same_to_boot_manager(&name))
        };
        if self.running.as_deref().is_some_and(|running| running == release || is_it(running)) {
            return Some("it is running".to_owned());
        }
        if self.installed.iter().any(|k| k.is_same_to_boot_manager(&name)) {
            return Some("it is installed".to_owned());
        }
        if let Some(file) = self.beside_images.iter().find(|text| says(text, &name)) {
            return Some(format!("{IMAGES} holds or names {file}"));
        }
        if let Some(entry) = self.to_boot.iter().find(|text| says(text, &name)) {
            return Some(format!("a boot entry may need it: {entry}"));
        }
        None
    }
}

/// Whether a text refers to a kernel: by its release, by an id in any namespace, or by the name that
/// clr-boot-manager gives to a boot entry.
fn says(text: &str, name: &KernelName) -> bool {
    let KernelName { variant, version, .. } = name;
    // clr-boot-manager compares numbers in 16 bits, so both numbers refer to the same kernel.
    let numbers = BTreeSet::from([name.number, i32::from(name.compared_number())]);
    // Names on a boot partition ignore case.
    let text = text.to_lowercase();
    numbers.iter().any(|number| {
        [
            format!("{version}-{number}.{variant}"),
            format!("{variant}.{version}-{number}"),
            format!("{variant}-{version}-{number}"),
        ]
        .iter()
        .any(|spelling| holds(&text, &spelling.to_lowercase()))
    })
}

/// Whether a text contains a word that is not part of a longer number.
fn holds(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(|c| c.is_ascii_digit()) && !after.is_some_and(|c| c.is_ascii_digit())
    })
}

/// The kind of a leftover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum GcLeftover {
    /// `T/M/original_module/K`: the kernel's own module with the same name, archived by dkms.
    Original,
    /// `T/M/V/K`: what dkms has built, and the remains of a killed build next to it.
    Build {
        /// The module.
        #[serde(flatten)]
        module: ModuleName,
        /// `dkms unbuild` can handle it: the source of the module and built files exist.
        #[serde(skip)]
        dkms_can: bool,
    },
    /// `/usr/lib/modules/K` that contains only files of dkms and depmod.
    Modules {
        /// Its files.
        #[serde(skip)]
        files: Vec<PathBuf>,
        /// Its directories, the innermost first and itself last.
        #[serde(skip)]
        directories: Vec<PathBuf>,
    },
    /// `T/M/kernel-K-A`: the link that shows the installed version.
    Claim,
    /// `T/M/V/build` of a build that failed or was killed.
    Scratch,
    /// A log of clr-dkms that was not used for a long time.
    Log {
        /// The module is gone, so the kernel does not matter.
        #[serde(skip)]
        orphan: bool,
    },
}

/// A leftover that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// The release of its kernel.
    pub release: String,
    /// The kind.
    pub left: GcLeftover,
    /// The path inside the root.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Why it is not what it seems to be, or must not be touched.
    pub blocker: Option<String>,
}

/// All observations.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// What could not be read.
    pub unreadable: Vec<String>,
    /// Leftovers of kernels that may be gone.
    pub things: Vec<Thing>,
    /// Other things that must not be removed, with the reason.
    pub odd: Vec<GcRefusal>,
}

/// Something that is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct GcRefusal {
    /// A kernel release, or a path inside the root.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// The way to remove a leftover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// With `dkms unbuild`; clr-dkms removes what that leaves.
    DkmsUnbuild,
    /// By clr-dkms itself.
    Remove,
}

/// A leftover that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GcRemoval {
    /// The release of the kernel that is gone.
    pub kernel: String,
    /// The kind.
    #[serde(flatten)]
    pub what: GcLeftover,
    /// The path inside the root.
    pub path: String,
    /// Why it is garbage.
    pub why: String,
    /// How it is removed.
    pub how: How,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcPlan {
    /// What could not be read. Then there are no removals.
    pub unreadable: Vec<String>,
    /// The removals, in order.
    pub removals: Vec<GcRemoval>,
    /// What is kept, and why.
    pub left_alone: Vec<GcRefusal>,
}

/// Computes the plan.
pub fn decide(kept: &KeptKernel, observed: &Observed) -> GcPlan {
    let mut plan = GcPlan { unreadable: observed.unreadable.clone(), ..GcPlan::default() };
    if plan.unreadable.is_empty() && kept.installed.is_empty() {
        // Without any kernel nothing can be concluded; the directory may not be a system at all.
        plan.unreadable.push(format!("there is no kernel in {IMAGES}: is this the root of a system?"));
    }
    if !plan.unreadable.is_empty() {
        return plan;
    }
    plan.left_alone = observed.odd.clone();
    let mut releases: BTreeMap<&str, Vec<&Thing>> = BTreeMap::new();
    for thing in &observed.things {
        if let GcLeftover::Log { orphan } = thing.left {
            // A log neither proves anything about its kernel nor keeps it.
            if orphan || kept.why(&thing.release).is_none() {
                plan.removals.push(removal(thing));
            }
            continue;
        }
        releases.entry(&thing.release).or_default().push(thing);
    }
    for (release, things) in releases {
        if let Some(why) = kept.why(release) {
            plan.left_alone.push(GcRefusal { what: release.to_owned(), why });
            continue;
        }
        // If one thing is not as dkms leaves it, somebody may still work with this kernel, and all of it
        // stays.
        let of_kernel = |thing: &&&Thing| thing.left != GcLeftover::Scratch && thing.blocker.is_some();
        if let Some((thing, why)) = things.iter().find(of_kernel).and_then(|t| Some((t, t.blocker.clone()?)))
        {
            plan.left_alone
                .push(GcRefusal { what: release.to_owned(), why: format!("{} {why}", thing.path) });
            continue;
        }
        for thing in things {
            match &thing.blocker {
                Some(why) => {
                    plan.left_alone.push(GcRefusal { what: thing.path.clone(), why: why.clone() });
                }
                None => plan.removals.push(removal(thing)),
            }
        }
    }
    plan.left_alone.sort();
    plan.left_alone.dedup();
    plan.removals.sort_by_cached_key(|r| (r.kernel.clone(), order(&r.what), r.path.clone()));
    plan
}

/// The order within a kernel. Originals go first, because `dkms unbuild` would copy them back to the kernel's
/// directory (except on Debian). That directory goes before the claims, which identify the files of dkms in
/// it. So if a run is killed, the next run still recognises what is left.
fn order(left: &GcLeftover) -> u8 {
    match left {
        GcLeftover::Original => 0,
        GcLeftover::Build { dkms_can: true, .. } => 1,
        GcLeftover::Modules { .. } => 2,
        GcLeftover::Claim => 3,
        GcLeftover::Build { dkms_can: false, .. } => 4,
        GcLeftover::Scratch => 5,
        GcLeftover::Log { .. } => 6,
    }
}

fn removal(thing: &Thing) -> GcRemoval {
    let gone = "the kernel is gone: no image, no boot entry, no file of its own";
    let (what, how) = match &thing.left {
        GcLeftover::Original => ("a module of the kernel's own that dkms had put aside", How::Remove),
        GcLeftover::Build { dkms_can: true, .. } => ("built for it", How::DkmsUnbuild),
        GcLeftover::Build { .. } => ("built for it, and `dkms unbuild` would do nothing", How::Remove),
        GcLeftover::Modules { .. } => ("holds only what dkms and depmod put there", How::Remove),
        GcLeftover::Claim => ("says what is installed on it", How::Remove),
        GcLeftover::Scratch => ("the remains of a build for it", How::Remove),
        GcLeftover::Log { .. } => ("a log of more than 90 days", How::Remove),
    };
    let gone = if thing.left == (GcLeftover::Log { orphan: true }) { "the module is gone" } else { gone };
    GcRemoval {
        kernel: thing.release.clone(),
        what: thing.left.clone(),
        path: thing.path.clone(),
        why: format!("{what}; {gone}"),
        how,
        bytes: thing.bytes,
    }
}

/// The kernel of a link `kernel-K-A` for the architecture of this machine.
pub fn claimed_release(name: &str) -> Option<String> {
    let rest = name.strip_prefix("kernel-")?.strip_suffix(&architecture())?;
    rest.strip_suffix('-').map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: &str = "6.15.8-1592.native";

    fn kept() -> KeptKernel {
        let name = |release: &str| KernelName::from_release(release, "org.clearlinux");
        KeptKernel {
            namespace: "org.clearlinux".to_owned(),
            running: Some("6.15.7-1591.native".to_owned()),
            installed: name("6.15.7-1591.native").into_iter().collect(),
            ..KeptKernel::default()
        }
    }

    fn thing(left: GcLeftover, path: &str) -> Thing {
        Thing { release: GONE.to_owned(), left, path: path.to_owned(), bytes: 7, blocker: None }
    }

    fn build(dkms_can: bool) -> GcLeftover {
        GcLeftover::Build { module: ModuleName { name: "a".to_owned(), version: "1".to_owned() }, dkms_can }
    }

    #[test]
    fn what_names_a_kernel_keeps_it() {
        for (text, keeps) in [
            ("cmdline-6.15.8-1592.native", true),
            ("org.clearlinux.native.6.15.8-1592", true),
            ("com.solus-project.native.6.15.8-1592.bak", true),
            ("kernel-org.clearlinux.NATIVE.6.15.8-1592", true),
            ("Clear-linux-native-6.15.8-1592.conf", true),
            ("Clear-linux-native-6.15.8-1592+3-1.conf", true),
            ("default-native -> org.clearlinux.native.6.15.8-1592", true),
            ("the boot entry x is of the kernel org.clearlinux.native.6.15.8-1592, which", true),
            ("org.clearlinux.native.6.15.8-15920", false),
            ("cmdline-16.15.8-1592.native", false),
            ("org.clearlinux.ltscurrent.6.15.8-1592", false),
            ("cmdline-6.15.7-1591.native", false),
            ("", false),
        ] {
            let beside = KeptKernel { beside_images: vec![text.to_owned()], ..kept() };
            let to_boot = KeptKernel { to_boot: vec![text.to_owned()], ..kept() };
            assert_eq!(beside.why(GONE).is_some(), keeps, "{text}");
            assert_eq!(to_boot.why(GONE).is_some(), keeps, "{text}");
        }
        // clr-boot-manager compares 16 bits, so it treats both as the same kernel.
        assert_eq!(kept().why("6.15.7-67127.native").as_deref(), Some("it is running"));
        let wrapped =
            KeptKernel { to_boot: vec!["Clear-linux-native-6.15.8-1592.conf".to_owned()], ..kept() };
        assert!(wrapped.why("6.15.8-67128.native").is_some());
    }

    #[test]
    fn namings_of_others() {
        for other in [
            "",
            "6.15.8",
            "6.1.0-50-amd64",
            "6.15.8-1592x.native",
            "6.15.8-01592.native",
            "6.15.8- 1592.native",
        ] {
            let why = kept().why(other);
            assert_eq!(
                why.as_deref(),
                Some("it is not named as clr-boot-manager names its kernels"),
                "{other}"
            );
        }
        assert_eq!(kept().why(GONE), None);
    }

    #[test]
    fn the_order_of_removals() {
        let modules = GcLeftover::Modules { files: Vec::new(), directories: Vec::new() };
        let things = vec![
            thing(GcLeftover::Scratch, "/s"),
            thing(build(false), "/b"),
            thing(GcLeftover::Claim, "/c"),
            thing(modules, "/m"),
            thing(build(true), "/u"),
            thing(GcLeftover::Original, "/o"),
        ];
        let plan = decide(&kept(), &Observed { things, ..Observed::default() });
        let paths: Vec<&str> = plan.removals.iter().map(|r| r.path.as_str()).collect();
        assert_eq!(paths, ["/o", "/u", "/m", "/c", "/b", "/s"]);
        let by_dkms: Vec<&str> =
            plan.removals.iter().filter(|r| r.how == How::DkmsUnbuild).map(|r| r.path.as_str()).collect();
        assert_eq!(by_dkms, ["/u"]);
    }

    #[test]
    fn one_odd_thing_keeps_its_kernel() {
        let odd = |left| Thing { blocker: Some("is a link".to_owned()), ..thing(left, "/odd") };
        let decided = |left| {
            let things = vec![thing(build(true), "/b"), odd(left)];
            decide(&kept(), &Observed { things, ..Observed::default() })
        };
        let plan = decided(GcLeftover::Claim);
        let refusal = GcRefusal { what: GONE.to_owned(), why: "/odd is a link".to_owned() };
        assert_eq!((plan.removals.len(), plan.left_alone), (0, vec![refusal]));
        // The build directory does not belong to the kernel, so it is kept without effect on the rest.
        let plan = decided(GcLeftover::Scratch);
        assert_eq!((plan.removals.len(), plan.left_alone.len()), (1, 1));
    }

    #[test]
    fn an_empty_set_of_kernels_is_no_reason_to_remove_all() {
        let observed = Observed { things: vec![thing(build(true), "/b")], ..Observed::default() };
        let none = KeptKernel { installed: Vec::new(), ..kept() };
        let plan = decide(&none, &observed);
        assert_eq!((plan.removals.len(), plan.unreadable.len()), (0, 1));
        assert_eq!(decide(&kept(), &observed).removals.len(), 1);
    }
}
