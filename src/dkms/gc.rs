//! What is left of kernels that are gone, and may be removed. Pure: from what was observed to a plan.
//!
//! The rule is that of every careful collector: what is not proven to be garbage stays; what carries another name than
//! ours stays; and where anything could not be read, everything stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::{ModuleName, architecture, is_usable_name};
use crate::kernel::inventory::IMAGES;
use crate::kernel::{Inventory, KernelName, Running};

/// What kernels there are, and what names one: whatever keeps a kernel's modules.
#[derive(Debug, Clone, Default)]
pub struct KeptKernel {
    /// The namespace of this system's kernels.
    pub namespace: String,
    /// The release of the running kernel; none in an image.
    pub running: Option<String>,
    /// The installed kernels.
    pub installed: Vec<KernelName>,
    /// The names of all that lies in the directory of the images, and the texts of the links there.
    pub beside_images: Vec<String>,
    /// Everything that names a kernel to boot: the names, ids and images of the boot entries, also of those that could
    /// not be read, and what lies in `/boot`.
    pub to_boot: Vec<String>,
}

impl KeptKernel {
    /// Of the inventory, and of what else there is to read.
    pub fn new(inventory: &Inventory, beside_images: Vec<String>, to_boot: Vec<String>) -> KeptKernel {
        let running = match &inventory.running {
            Running::Known { release } => Some(release.clone()),
            // What is not known is told by `Observed::unreadable`, and stops everything.
            Running::None | Running::Unknown { .. } => None,
        };
        let installed = inventory.kernels.iter().map(|k| k.name.clone()).collect();
        KeptKernel { namespace: inventory.namespace.clone(), running, installed, beside_images, to_boot }
    }

    /// Why nothing of that kernel may be touched, as far as files beside its modules say; none when it is gone.
    ///
    /// A "booted" mark (`k_booted_…` in `/var/lib/kernel`) keeps nothing: clr-boot-manager leaves marks behind, and a
    /// kernel without an image boots no more. A kernel that is *held*, once there is such a thing, is one that a state
    /// file of ours names as the boot default to go back to: it has a boot entry, which keeps it here; the state file's
    /// names then belong into `to_boot`, so that also an entry that was lost does not cost its modules.
    pub fn why(&self, release: &str) -> Option<String> {
        let name = match KernelName::from_release(release, &self.namespace) {
            // Written in another way than clr-boot-manager writes it (a sign, something behind the number): not its.
            Some(name) if name.release() == release && is_usable_name(release) => name,
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

/// Whether a text names a kernel: as release, as id of any namespace, or as clr-boot-manager names a boot entry.
fn says(text: &str, name: &KernelName) -> bool {
    let KernelName { variant, version, .. } = name;
    // What is compared in 16 bits is meant by both numbers.
    let numbers = BTreeSet::from([name.number, i32::from(name.compared_number())]);
    // A boot partition knows no case.
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

/// Whether a text holds a word that no longer number swallows.
fn holds(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(|c| c.is_ascii_digit()) && !after.is_some_and(|c| c.is_ascii_digit())
    })
}

/// What kind of thing is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum GcLeftover {
    /// `T/M/original_module/K`: the kernel's own module of the same name, put aside by dkms.
    Original,
    /// `T/M/V/K`: what dkms built, with what a killed build left beside it.
    Build {
        /// Which module.
        #[serde(flatten)]
        module: ModuleName,
        /// `dkms unbuild` can do something about it: the module's source is there, and built files too.
        #[serde(skip)]
        dkms_can: bool,
    },
    /// `/usr/lib/modules/K`, with nothing in it but what dkms and depmod put there.
    Modules {
        /// Its files.
        #[serde(skip)]
        files: Vec<PathBuf>,
        /// Its directories, itself last, each behind those in it.
        #[serde(skip)]
        directories: Vec<PathBuf>,
    },
    /// `T/M/kernel-K-A`: the link that says which version is installed.
    Claim,
    /// `T/M/V/build`, from a build for the kernel that failed or was killed.
    Scratch,
    /// A log of ours that is long out of use.
    Log {
        /// The module is gone: then it does not matter whether the kernel is.
        #[serde(skip)]
        orphan: bool,
    },
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// The kernel release that it is of.
    pub release: String,
    /// What it is.
    pub left: GcLeftover,
    /// The path inside the root.
    pub path: String,
    /// How much room it takes, in bytes.
    pub bytes: u64,
    /// Why it is not what it seems, or must not be touched.
    pub blocker: Option<String>,
}

/// Everything that was observed.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// What could not be read.
    pub unreadable: Vec<String>,
    /// What was found of kernels that may be gone.
    pub things: Vec<Thing>,
    /// What else was found and is nobody's to remove, with the reason.
    pub odd: Vec<GcRefusal>,
}

/// Something that is left alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct GcRefusal {
    /// A kernel release, or a path inside the root.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// How something is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// `dkms unbuild`, and what that leaves by ourselves.
    DkmsUnbuild,
    /// By ourselves.
    Remove,
}

/// One thing to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GcRemoval {
    /// The release of the kernel that is gone.
    pub kernel: String,
    /// What it is.
    #[serde(flatten)]
    pub what: GcLeftover,
    /// The path inside the root.
    pub path: String,
    /// Why it is garbage.
    pub why: String,
    /// How it is removed.
    pub how: How,
    /// The room that it takes, in bytes.
    pub bytes: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcPlan {
    /// What could not be read; then there are no removals.
    pub unreadable: Vec<String>,
    /// In the order in which they are done.
    pub removals: Vec<GcRemoval>,
    /// What is left alone, and why.
    pub left_alone: Vec<GcRefusal>,
}

/// Decides.
pub fn decide(kept: &KeptKernel, observed: &Observed) -> GcPlan {
    let mut plan = GcPlan { unreadable: observed.unreadable.clone(), ..GcPlan::default() };
    if plan.unreadable.is_empty() && kept.installed.is_empty() {
        // Of a system without any kernel nothing can be told; it may be no system at all.
        plan.unreadable.push(format!("there is no kernel in {IMAGES}: is this the root of a system?"));
    }
    if !plan.unreadable.is_empty() {
        return plan;
    }
    plan.left_alone = observed.odd.clone();
    let mut releases: BTreeMap<&str, Vec<&Thing>> = BTreeMap::new();
    for thing in &observed.things {
        if let GcLeftover::Log { orphan } = thing.left {
            // A log tells nothing about its kernel, and keeps nothing.
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
        // One thing that is not as dkms leaves it makes the whole kernel one that somebody may still work with.
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
    plan.removals.sort_by(|a, b| {
        let key = |r: &GcRemoval| (r.kernel.clone(), order(&r.what), r.path.clone());
        key(a).cmp(&key(b))
    });
    plan
}

/// The order within a kernel. Originals go first: `dkms unbuild` would put them back into the kernel's directory (it does
/// outside of Debian). That directory goes before the claims, which tell what in it was dkms's; wherever a run is
/// killed, what is left is still known for what it is.
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

/// The kernel that the link `kernel-K-A` of this machine's architecture is of.
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
        // What clr-boot-manager takes for the same kernel is the same: it compares 16 bits.
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
        // The build directory is no part of the kernel's: it is left by itself.
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
