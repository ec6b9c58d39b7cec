//! What `clr-boot-manager update` would install, delete and make the boot default, without running it. Pure.
//!
//! The rules are those of clr-boot-manager 3.3.1 as built for Clear Linux. In native mode it installs the
//! running kernel and, of each type, the tip and the newest kernel that is marked as booted. If it recognizes
//! the running kernel, it deletes all others. If two files compare equal (a copy next to its original, or
//! wrapped release numbers), the result depends on the order of the directory. Then each of them is possible,
//! and none counts as kept.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{bail, ensure};

use super::{BootFiles, initrds};
use crate::kernel::inventory::{IMAGES, There};
use crate::kernel::{Inventory, KernelName, Running};
use crate::sys::{FileKind, Root, RootKind};

/// A file that clr-boot-manager takes for a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFile {
    /// The file name in `/usr/lib/kernel`. What follows the number is not part of [`KernelFile::name`].
    pub file: String,
    /// The kernel that it is taken for.
    pub name: KernelName,
    /// The mark `/var/lib/kernel/k_booted_…` exists.
    pub marked: bool,
}

/// The release that uname(2) returns to clr-boot-manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uname {
    /// A release of its naming scheme, whether or not the kernel is installed.
    Parsed(KernelName),
    /// A release of another scheme.
    Unparsable,
    /// clr-dkms could not read it. clr-boot-manager can.
    Unknown,
}

/// The mode of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateMode {
    /// For the running system.
    Native(Uname),
    /// For an image: all kernels are installed and none is deleted.
    Image,
}

/// What an update reads, as far as it determines what is installed, deleted and made the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateInput {
    pub mode: UpdateMode,
    /// The kernels, in any order.
    pub kernels: Vec<KernelFile>,
    /// The texts of the symlinks `default-TYPE`, by type.
    pub default_links: BTreeMap<String, String>,
    /// The names in the directories of freestanding initrds, including masks.
    pub initrd_sources: BTreeSet<String>,
    /// The names of the freestanding initrds on the boot partition, without the prefix `freestanding-`.
    pub initrds_installed: BTreeSet<String>,
}

/// What an update would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreseen {
    /// The kernel files whose image and entry are certainly written.
    pub installs: BTreeSet<String>,
    /// The kernel files that are or may be deleted, together with the modules, headers, mark, image and entry
    /// of their kernel.
    pub deletes: BTreeSet<String>,
    /// The kernel files of which one becomes the boot default. Empty if the default does not change.
    pub default: BTreeSet<String>,
    /// The freestanding initrds that are deleted from the boot partition, without the prefix `freestanding-`.
    pub removes_initrds: BTreeSet<String>,
}

/// Why an update must not be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// It cannot be determined what it would do.
    #[error("what it would do cannot be determined: {0}")]
    Unforeseeable(String),
    /// It would or could delete a kernel that must boot. The value is its release.
    #[error("it would delete kernel {0}")]
    Deletes(String),
    /// It would make this kernel the default, at least for a moment. The value is its release.
    #[error("it would make {0} the boot default")]
    MakesDefault(String),
    /// It would delete initrds that the entry of this kernel names, and would not rewrite the entry. The
    /// value is the release.
    #[error("it would delete initrds that the boot entry of {0} names")]
    Strands(String),
}

impl UpdateInput {
    /// Reads the input from a root. A copy of a live system counts as that system.
    ///
    /// # Errors
    ///
    /// If an input cannot be read.
    pub fn observe(root: &Root, inventory: &Inventory, boot: &BootFiles) -> anyhow::Result<UpdateInput> {
        if let Some(why) = inventory.unreadable() {
            bail!(why.to_owned());
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
                // An unreadable mark protects no kernel.
                marked: kernel.booted == There::Yes,
            };
            [&kernel.image].into_iter().chain(&kernel.copies).map(file)
        });
        let mut default_links = BTreeMap::new();
        for entry in root.list_optional(IMAGES)? {
            let Some(kind) = entry.text().and_then(|name| name.strip_prefix("default-")) else { continue };
            if entry.kind == FileKind::Link {
                let text = root.read_link(format!("{IMAGES}/default-{kind}"))?;
                default_links.insert(kind.to_owned(), text.to_string_lossy().into_owned());
            }
        }
        Ok(UpdateInput {
            mode,
            kernels: files.collect(),
            default_links,
            initrd_sources: initrds::freestanding(root)?.into_keys().collect(),
            initrds_installed: boot.freestanding.clone(),
        })
    }

    /// The input of an update that sees only one kernel and no `default-TYPE`, as [`super::restricted`] shows
    /// it. Freestanding initrds on the boot partition without a source are masked.
    pub fn only(&self, file: &str) -> UpdateInput {
        UpdateInput {
            kernels: self.kernels.iter().filter(|k| k.file == file).cloned().collect(),
            default_links: BTreeMap::new(),
            initrd_sources: self.initrd_sources.union(&self.initrds_installed).cloned().collect(),
            ..self.clone()
        }
    }

    /// Checks that an update with [`UpdateInput::only`] this kernel only writes its image and entry.
    ///
    /// # Errors
    ///
    /// What else it does, or that it is unknown.
    pub fn can_refresh_alone(&self, file: &str) -> anyhow::Result<()> {
        let foreseen = foresee(&self.only(file))?;
        let is_all = foreseen.installs.iter().eq([file]);
        let is_alone = is_all && foreseen.deletes.is_empty() && foreseen.removes_initrds.is_empty();
        ensure!(is_alone, "kernel {} cannot be run alone", self.release_of(file));
        Ok(())
    }

    /// Whether an update leaves the boot default as it is.
    pub fn leaves_default(&self) -> bool {
        // The reason makes no difference: what cannot be foreseen may change the default.
        foresee(self).is_ok_and(|foreseen| foreseen.default.is_empty())
    }

    fn release_of(&self, file: &str) -> String {
        let kernel = self.kernels.iter().find(|k| k.file == file);
        kernel.map_or_else(|| file.to_owned(), |k| k.name.release())
    }

    /// The objections to an update: what it would do to a kernel of `must_boot`, and to the boot default if
    /// that must be `default`.
    pub fn objections(&self, must_boot: &[&KernelName], default: Option<&KernelName>) -> Vec<Objection> {
        let foreseen = match foresee(self) {
            Ok(foreseen) => foreseen,
            Err(why) => return vec![Objection::Unforeseeable(why.to_string())],
        };
        let deleted: Vec<&KernelFile> =
            self.kernels.iter().filter(|k| foreseen.deletes.contains(&k.file)).collect();
        let mut objections = Vec::new();
        for kernel in must_boot {
            // Deleting a copy also deletes the modules and the entry of its original. The same holds for a
            // kernel with the same wrapped number.
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

/// The types that clr-boot-manager of Clear Linux moves to `default-ltsprev`, and whose tips it does not
/// keep.
fn is_old_lts(kind: &str) -> bool {
    kind == "lts2020" || kind == "lts2021" || kind.starts_with("lts201")
}

/// The kernel whose file name equals the text of `default-TYPE`.
fn linked<'k>(input: &UpdateInput, kernels: &[&'k KernelFile], kind: &str) -> Option<&'k KernelFile> {
    let text = input.default_links.get(kind)?;
    kernels.iter().find(|k| k.file == *text).copied()
}

/// The kernels with the highest release number. If there are several, each may be taken.
fn highest<'k>(kernels: impl Iterator<Item = &'k KernelFile>) -> Vec<&'k KernelFile> {
    let kernels: Vec<&KernelFile> = kernels.collect();
    let top = kernels.iter().map(|k| k.name.compared_number()).max();
    kernels.into_iter().filter(|k| Some(k.name.compared_number()) == top).collect()
}

/// The installed kernels that may be taken for the running one: those of the same name, otherwise those of
/// the same type and number.
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

/// Determines what an update would do. Without any kernel it does nothing.
///
/// # Errors
///
/// If it depends on something that could not be read.
pub fn foresee(input: &UpdateInput) -> anyhow::Result<Foreseen> {
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
            bail!("the release of the running kernel cannot be read");
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
        // clr-boot-manager starts its search at -1, so it never finds a number that wraps below it.
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

    /// Five kernels. The first runs, the second is marked as booted, and the fifth is the tip.
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
        // The symlink names the original, so the copy is deleted together with the modules of the original.
        assert_eq!(said(&input)[1], "native.6.1.3-3 native.6.1.4-4 native.6.1.5-5.bak");
        let tip = file("native.6.1.5-5", false).name;
        assert_eq!(input.objections(&[&tip], Some(&tip)), [Objection::Deletes("6.1.5-5.native".to_owned())]);
        // Without a symlink each of the two may be taken for the tip.
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
        // Nothing is deleted. The entry of the third kernel is not rewritten, but its initrd is deleted.
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
