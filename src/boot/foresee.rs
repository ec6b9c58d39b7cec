//! What `clr-boot-manager update` would install, delete and make the boot default, without running it. Pure.
//!
//! The rules are those of clr-boot-manager 3.3.1 as Clear Linux builds it. Natively it installs the running kernel, and
//! of each type the tip and the last one that was marked as booted; if it knows the running kernel, it deletes all
//! others. Where two files compare equal to it (a copy beside its original, release numbers that wrap), the result
//! depends on the order of a directory: then each of them is possible, and none is counted as kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::BootFiles;
use super::initrds;
use crate::kernel::inventory::{IMAGES, There};
use crate::kernel::{Inventory, KernelName, Running};
use crate::sys::{FileKind, Root, RootKind};

/// A file that clr-boot-manager takes for a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFile {
    /// Its name in `/usr/lib/kernel`. What follows the number in it is not part of [`KernelFile::name`].
    pub file: String,
    /// The kernel that it is taken for.
    pub name: KernelName,
    /// `/var/lib/kernel/k_booted_…` of it exists.
    pub marked: bool,
}

/// What uname(2) says to clr-boot-manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uname {
    /// The release of a kernel of its naming scheme, installed or not.
    Parsed(KernelName),
    /// A release of another scheme.
    Unparsable,
    /// We could not read it; clr-boot-manager can.
    Unknown,
}

/// Which of its two ways an update goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateMode {
    /// On the system that runs.
    Native(Uname),
    /// On an image: all kernels are installed and none is deleted.
    Image,
}

/// What an update reads, as far as it decides what is installed, deleted and made the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateInput {
    /// Native, or for an image.
    pub mode: UpdateMode,
    /// The kernels, in any order.
    pub kernels: Vec<KernelFile>,
    /// The texts of the symlinks `default-TYPE`, by type.
    pub default_links: BTreeMap<String, String>,
    /// The names in the directories of freestanding initrds, masked ones included.
    pub initrd_sources: BTreeSet<String>,
    /// The names of the freestanding initrds on the boot partition, without `freestanding-`.
    pub initrds_installed: BTreeSet<String>,
}

/// What an update would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreseen {
    /// The kernel files whose image and entry are certainly written or refreshed.
    pub installs: BTreeSet<String>,
    /// The kernel files that are, or may be, deleted: with modules, headers, mark, image and entry of their kernel.
    pub deletes: BTreeSet<String>,
    /// The kernel files of which one becomes the boot default; empty where the default is not touched.
    pub default: BTreeSet<String>,
    /// The freestanding initrds that are deleted from the boot partition, without `freestanding-`.
    pub removes_initrds: BTreeSet<String>,
}

/// Why an update must not be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// What it would do cannot be determined.
    Unforeseeable(String),
    /// It would delete, or could delete, a kernel that must boot: its release.
    Deletes(String),
    /// It would make this kernel the default, if only for a moment: its release.
    MakesDefault(String),
    /// It would delete initrds that the entry of this kernel, which it does not refresh, names: its release.
    Strands(String),
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::Unforeseeable(why) => write!(f, "what it would do cannot be determined: {why}"),
            Objection::Deletes(release) => write!(f, "it would delete kernel {release}"),
            Objection::MakesDefault(release) => write!(f, "it would make {release} the boot default"),
            Objection::Strands(release) => {
                write!(f, "it would delete initrds that the boot entry of {release} names")
            }
        }
    }
}

impl UpdateInput {
    /// Reads it from a root. A copy of a live system counts as that system.
    ///
    /// # Errors
    /// When something that decides cannot be read.
    pub fn observe(root: &Root, inventory: &Inventory, boot: &BootFiles) -> Result<UpdateInput, String> {
        if let Some(why) = inventory.unreadable() {
            return Err(why.to_owned());
        }
        let mode = match (root.kind(), &inventory.running) {
            (RootKind::Image, _) | (_, Running::None) => UpdateMode::Image,
            (_, Running::Unknown { .. }) => UpdateMode::Native(Uname::Unknown),
            (_, Running::Known { release }) => {
                let name = KernelName::from_release(release, &inventory.namespace);
                UpdateMode::Native(name.map_or(Uname::Unparsable, Uname::Parsed))
            }
        };
        let files = inventory.kernels.iter().flat_map(|kernel| {
            let file = |file: &String| KernelFile {
                file: file.clone(),
                name: kernel.name.clone(),
                // A mark that cannot be read protects no kernel.
                marked: kernel.booted == There::Yes,
            };
            [&kernel.image].into_iter().chain(&kernel.copies).map(file)
        });
        let mut default_links = BTreeMap::new();
        for entry in root.list_optional(IMAGES).map_err(|e| e.to_string())? {
            let Some(kind) = entry.text().and_then(|name| name.strip_prefix("default-")) else { continue };
            if entry.kind == FileKind::Link {
                let text = root.read_link(format!("{IMAGES}/default-{kind}")).map_err(|e| e.to_string())?;
                default_links.insert(kind.to_owned(), text.to_string_lossy().into_owned());
            }
        }
        Ok(UpdateInput {
            mode,
            kernels: files.collect(),
            default_links,
            initrd_sources: initrds::freestanding(root).map_err(|e| e.to_string())?.into_keys().collect(),
            initrds_installed: boot.freestanding.clone(),
        })
    }

    /// The same update where only one kernel and no `default-TYPE` can be seen, as [`super::restricted`] shows it, with all
    /// freestanding initrds of the boot partition masked that have no source.
    pub fn only(&self, file: &str) -> UpdateInput {
        UpdateInput {
            kernels: self.kernels.iter().filter(|k| k.file == file).cloned().collect(),
            default_links: BTreeMap::new(),
            initrd_sources: self.initrd_sources.union(&self.initrds_installed).cloned().collect(),
            ..self.clone()
        }
    }

    /// Checks that an update of [`UpdateInput::only`] this kernel does no more than install or refresh it.
    ///
    /// # Errors
    /// Why it does not, or that it is unknown.
    pub fn can_refresh_alone(&self, file: &str) -> Result<(), String> {
        let foreseen = foresee(&self.only(file))?;
        let is_all = foreseen.installs.iter().eq([file]);
        match is_all && foreseen.deletes.is_empty() && foreseen.removes_initrds.is_empty() {
            true => Ok(()),
            false => Err(format!("kernel {} cannot be run alone", self.release_of(file))),
        }
    }

    /// An update makes no kernel the boot default.
    pub fn leaves_default(&self) -> bool {
        foresee(self).is_ok_and(|foreseen| foreseen.default.is_empty())
    }

    fn release_of(&self, file: &str) -> String {
        let kernel = self.kernels.iter().find(|k| k.file == file);
        kernel.map_or_else(|| file.to_owned(), |k| k.name.release())
    }

    /// What speaks against an update: all that it would do to a kernel of `must_boot`, or to the boot default when that
    /// is to be `default`.
    pub fn objections(&self, must_boot: &[&KernelName], default: Option<&KernelName>) -> Vec<Objection> {
        let foreseen = match foresee(self) {
            Ok(foreseen) => foreseen,
            Err(why) => return vec![Objection::Unforeseeable(why)],
        };
        let deleted: Vec<&KernelFile> =
            self.kernels.iter().filter(|k| foreseen.deletes.contains(&k.file)).collect();
        let mut objections = Vec::new();
        for kernel in must_boot {
            // A copy takes modules and entry of its original along, and so does one with the same wrapped number.
            if deleted.iter().any(|k| k.name.is_same_to_boot_manager(kernel)) {
                objections.push(Objection::Deletes(kernel.release()));
            } else if !foreseen.removes_initrds.is_empty() && !foreseen.installs.contains(&kernel.id()) {
                objections.push(Objection::Strands(kernel.release()));
            }
        }
        if let Some(default) = default {
            let wrong = foreseen.default.iter().filter(|file| **file != default.id());
            objections.extend(wrong.map(|file| Objection::MakesDefault(self.release_of(file))));
        }
        objections
    }
}

/// The types that Clear's build moves to `default-ltsprev`, and whose tips it does not keep.
fn is_old_lts(kind: &str) -> bool {
    kind == "lts2020" || kind == "lts2021" || kind.starts_with("lts201")
}

/// The kernel with that text as its file name, as `default-TYPE` is read.
fn linked<'k>(input: &UpdateInput, kernels: &[&'k KernelFile], kind: &str) -> Option<&'k KernelFile> {
    let text = input.default_links.get(kind)?;
    kernels.iter().find(|k| k.file == *text).copied()
}

/// Those of the highest release number: of several each may be taken.
fn highest<'k>(kernels: impl Iterator<Item = &'k KernelFile>) -> Vec<&'k KernelFile> {
    let kernels: Vec<&KernelFile> = kernels.collect();
    let top = kernels.iter().map(|k| k.name.compared_number()).max();
    kernels.into_iter().filter(|k| Some(k.name.compared_number()) == top).collect()
}

/// The installed kernels that can be taken for the running one: the same name, else the same type and number.
fn running<'k>(kernels: &[&'k KernelFile], uname: &Uname) -> Vec<&'k KernelFile> {
    let Uname::Parsed(uname) = uname else { return Vec::new() };
    let exact: Vec<&KernelFile> =
        kernels.iter().filter(|k| k.name.is_same_to_boot_manager(uname)).copied().collect();
    if !exact.is_empty() {
        return exact;
    }
    let alike = |k: &&&KernelFile| {
        k.name.variant == uname.variant && k.name.compared_number() == uname.compared_number()
    };
    kernels.iter().filter(alike).copied().collect()
}

/// Says what an update would do. Without any kernel it does nothing.
///
/// # Errors
/// When it depends on what could not be read.
pub fn foresee(input: &UpdateInput) -> Result<Foreseen, String> {
    let kernels: Vec<&KernelFile> = input.kernels.iter().collect();
    let mut foreseen = Foreseen::default();
    if kernels.is_empty() {
        return Ok(foreseen);
    }
    let names = |files: &[&KernelFile]| files.iter().map(|k| k.file.clone()).collect::<Vec<_>>();
    let certain = |files: &[&KernelFile]| names(files).pop().filter(|_| files.len() == 1);
    let uname = match &input.mode {
        UpdateMode::Image => {
            foreseen.installs.extend(names(&kernels));
            foreseen.default.extend(names(&highest(kernels.iter().copied())));
            return Ok(foreseen);
        }
        UpdateMode::Native(Uname::Unknown) => {
            return Err("the release of the running kernel cannot be read".to_owned());
        }
        UpdateMode::Native(uname) => uname,
    };
    foreseen.removes_initrds = input.initrds_installed.difference(&input.initrd_sources).cloned().collect();
    let running = running(&kernels, uname);
    foreseen.installs.extend(certain(&running));
    let types: BTreeSet<&str> = kernels.iter().map(|k| k.name.variant.as_str()).collect();
    for kind in types {
        let typed: Vec<&KernelFile> = kernels.iter().filter(|k| k.name.variant == kind).copied().collect();
        let tip = match linked(input, &typed, kind) {
            Some(tip) => vec![tip],
            None => highest(typed.iter().copied()),
        };
        // It looks for the highest one from -1 on: a number that wraps below is never found.
        let good = highest(typed.iter().filter(|k| k.marked && k.name.compared_number() >= -1).copied());
        foreseen.installs.extend(certain(&tip).into_iter().chain(certain(&good)));
        if running.is_empty() {
            continue;
        }
        let mut kept = vec![&running, &good];
        if !is_old_lts(kind) {
            kept.push(&tip);
        }
        let certainly = |k: &KernelFile| kept.iter().any(|of| of.len() == 1 && of[0].file == k.file);
        foreseen.deletes.extend(typed.iter().filter(|k| !certainly(k)).map(|k| k.file.clone()));
    }
    if let Uname::Parsed(uname) = uname {
        let named = linked(input, &kernels, &uname.variant);
        let moved = || {
            linked(input, &kernels, "ltsprev").filter(|_| named.is_some_and(|k| is_old_lts(&k.name.variant)))
        };
        foreseen.default.extend(moved().or(named).map(|k| k.file.clone()));
    }
    Ok(foreseen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NS: &str = "org.clearlinux";

    fn file(id: &str, marked: bool) -> KernelFile {
        let file = format!("{NS}.{id}");
        let (name, _) = KernelName::from_id(&file, NS).unwrap();
        KernelFile { file, name, marked }
    }

    fn native(uname: &str) -> UpdateInput {
        let name = KernelName::from_release(uname, NS);
        UpdateInput {
            mode: UpdateMode::Native(name.map_or(Uname::Unparsable, Uname::Parsed)),
            kernels: Vec::new(),
            default_links: BTreeMap::new(),
            initrd_sources: BTreeSet::new(),
            initrds_installed: BTreeSet::new(),
        }
    }

    /// Five kernels of which the first runs, the second was marked as booted, and the fifth is the tip.
    fn five() -> UpdateInput {
        let kernels = (1..=5).map(|n| file(&format!("native.6.1.{n}-{n}"), n == 2)).collect();
        let link = ("native".to_owned(), format!("{NS}.native.6.1.5-5"));
        UpdateInput { kernels, default_links: [link].into(), ..native("6.1.1-1.native") }
    }

    fn short(files: &BTreeSet<String>) -> String {
        let names = files.iter().map(|f| f.trim_start_matches("org.clearlinux.").to_owned());
        names.collect::<Vec<_>>().join(" ")
    }

    fn said(input: &UpdateInput) -> [String; 3] {
        let foreseen = foresee(input).unwrap();
        [short(&foreseen.installs), short(&foreseen.deletes), short(&foreseen.default)]
    }

    #[test]
    fn running_tip_and_last_good_are_kept() {
        assert_eq!(
            said(&five()),
            [
                "native.6.1.1-1 native.6.1.2-2 native.6.1.5-5",
                "native.6.1.3-3 native.6.1.4-4",
                "native.6.1.5-5"
            ]
        );
        let mut image = five();
        image.mode = UpdateMode::Image;
        assert_eq!(said(&image)[1..], ["".to_owned(), "native.6.1.5-5".to_owned()]);
        assert_eq!(foresee(&image).unwrap().installs.len(), 5);
    }

    #[test]
    fn a_running_kernel_that_is_not_installed_keeps_all() {
        let mut input = five();
        for (uname, default) in
            [("6.1.9-9.native", "native.6.1.5-5"), ("6.1.9-custom", ""), ("6.1.9-9.other", "")]
        {
            input.mode = native(uname).mode;
            assert_eq!(
                said(&input),
                ["native.6.1.2-2 native.6.1.5-5".to_owned(), String::new(), default.to_owned()],
                "{uname}"
            );
        }
        // The same type and number are enough.
        input.mode = native("9.9.9-1.native").mode;
        assert_eq!(said(&input)[1], "native.6.1.3-3 native.6.1.4-4");
        input.mode = UpdateMode::Native(Uname::Unknown);
        assert!(foresee(&input).is_err());
    }

    #[test]
    fn without_a_usable_link_the_default_is_not_touched() {
        let mut input = five();
        for text in
            ["./org.clearlinux.native.6.1.3-3", "gone", "/usr/lib/kernel/org.clearlinux.native.6.1.3-3"]
        {
            input.default_links.insert("native".to_owned(), text.to_owned());
            assert_eq!(said(&input)[2], "", "{text}");
            assert_eq!(said(&input)[1], "native.6.1.3-3 native.6.1.4-4", "{text}: the highest is the tip");
        }
        input.default_links.insert("native".to_owned(), format!("{NS}.native.6.1.3-3"));
        assert_eq!(said(&input)[1..], ["native.6.1.4-4 native.6.1.5-5", "native.6.1.3-3"]);
    }

    #[test]
    fn wrapped_numbers_and_copies_are_counted_as_lost() {
        let mut input = five();
        input.kernels.push(file("native.6.1.5-5.bak", false));
        // The link is exact: the copy goes, and takes the modules of its original along.
        assert_eq!(said(&input)[1], "native.6.1.3-3 native.6.1.4-4 native.6.1.5-5.bak");
        let tip = file("native.6.1.5-5", false).name;
        assert_eq!(input.objections(&[&tip], Some(&tip)), [Objection::Deletes("6.1.5-5.native".to_owned())]);
        // Without a link each of the two may be taken for the tip.
        input.default_links.clear();
        assert_eq!(said(&input)[1], "native.6.1.3-3 native.6.1.4-4 native.6.1.5-5 native.6.1.5-5.bak");
        let mut input = five();
        input.kernels.push(file("native.7.0.0-40000", true));
        assert_eq!(said(&input)[1], "native.6.1.3-3 native.6.1.4-4 native.7.0.0-40000");
        let old = file("native.7.0.0-65537", false).name;
        assert!(old.is_same_to_boot_manager(&file("native.7.0.0-1", false).name));
    }

    #[test]
    fn old_long_term_kernels_move_to_ltsprev() {
        let mut input = native("5.10.1-21.lts2020");
        input.kernels = ["lts2020.5.10.1-20", "lts2020.5.10.1-21", "lts2022.5.15.1-22", "ltsprev.6.6.1-30"]
            .map(|id| file(id, false))
            .into();
        for (kind, id) in [
            ("lts2020", "lts2020.5.10.1-20"),
            ("lts2022", "lts2022.5.15.1-22"),
            ("ltsprev", "ltsprev.6.6.1-30"),
        ] {
            input.default_links.insert(kind.to_owned(), format!("{NS}.{id}"));
        }
        assert_eq!(said(&input)[1..], ["lts2020.5.10.1-20", "ltsprev.6.6.1-30"]);
        input.default_links.remove("ltsprev");
        assert_eq!(said(&input)[2], "lts2020.5.10.1-20");
    }

    #[test]
    fn what_speaks_against_an_update() {
        let input = five();
        let name = |n: u32| file(&format!("native.6.1.{n}-{n}"), false).name;
        let (one, three, five) = (name(1), name(3), name(5));
        assert_eq!(input.objections(&[&one, &five], Some(&five)), []);
        assert_eq!(
            input.objections(&[&one, &three], Some(&three)),
            [
                Objection::Deletes("6.1.3-3.native".to_owned()),
                Objection::MakesDefault("6.1.5-5.native".to_owned())
            ]
        );
        let mut unknown = input.clone();
        unknown.mode = UpdateMode::Native(Uname::Unknown);
        assert!(matches!(unknown.objections(&[], None)[..], [Objection::Unforeseeable(_)]));
        // Nothing is deleted and the entry of the third is not refreshed, but its initrd goes.
        let mut foreign = input.clone();
        foreign.mode = native("6.1.9-custom").mode;
        foreign.initrds_installed.insert("old.cpio".to_owned());
        assert_eq!(foreign.objections(&[&three], None), [Objection::Strands("6.1.3-3.native".to_owned())]);
        assert_eq!(foreign.objections(&[&five], None), []);
    }

    #[test]
    fn one_kernel_at_a_time_deletes_nothing_and_leaves_the_default() {
        let mut input = five();
        input.initrds_installed.insert("old.cpio".to_owned());
        for kernel in input.kernels.clone() {
            let foreseen = foresee(&input.only(&kernel.file)).unwrap();
            assert_eq!(
                foreseen,
                Foreseen { installs: [kernel.file.clone()].into(), ..Foreseen::default() },
                "{}",
                kernel.file
            );
        }
    }
}
