//! The installed kernels and the running kernel, as clr-boot-manager sees them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::KernelName;
use super::headers::{Headers, headers};
use crate::sys::printable::printable;
use crate::sys::{FileKind, Listed, Presence, Root, RootKind};

/// The directory of the kernel images.
pub const IMAGES: &str = "/usr/lib/kernel";
/// The word of an admin for the kernel that runs now.
pub const RUNNING: &str = "running";
/// The parent of the module directories.
pub const MODULES: &str = "/usr/lib/modules";
/// The directory of the "booted" marks.
pub const MARKS: &str = "/var/lib/kernel";
/// The namespace of Clear Linux, used if no kernel shows another one.
pub const DEFAULT_NAMESPACE: &str = "org.clearlinux";

/// The running kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Running {
    /// The root is an image: no kernel runs.
    None,
    /// The output of `uname -r`.
    Known { release: String },
    /// It cannot be determined.
    Unknown { reason: String },
}

impl Running {
    /// The release of the kernel that is known to run.
    pub fn release(&self) -> Option<&str> {
        match self {
            Running::Known { release } => Some(release),
            Running::None | Running::Unknown { .. } => None,
        }
    }
}

/// Whether a file that belongs to a kernel exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum There {
    Yes,
    No,
    /// It cannot be determined.
    Unknown,
}

impl From<&Presence> for There {
    fn from(p: &Presence) -> There {
        match p {
            Presence::There(_) => There::Yes,
            Presence::Absent => There::No,
            Presence::Unreadable(_) => There::Unknown,
        }
    }
}

/// The optional files beside an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Companions {
    /// `config-RELEASE`.
    pub config: There,
    /// `System.map-RELEASE`.
    pub system_map: There,
    /// `vmlinux-RELEASE`.
    pub vmlinux: There,
    /// `initrd-ID`, in the same directory or in `/etc/kernel`.
    pub initrd: There,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installed {
    #[serde(rename = "release")]
    pub name: KernelName,
    pub id: String,
    /// The file name of the image.
    pub image: String,
    /// Other files that clr-boot-manager also takes for this kernel, such as `….bak`.
    pub copies: Vec<String>,
    pub companions: Companions,
    pub headers: Headers,
    /// The module directory.
    pub modules: There,
    /// It has reached multi-user.target at least once.
    pub booted: There,
    /// `default-VARIANT` points to it, or no such symlink exists and it is the newest kernel of its variant.
    pub tip: bool,
    /// `default-VARIANT` points to it. clr-boot-manager then makes it the boot default while a kernel of its
    /// variant runs.
    #[serde(skip)]
    pub is_named: bool,
    pub running: bool,
}

impl Installed {
    /// The module directory inside the root.
    pub fn module_directory(&self) -> String {
        module_directory(&self.name.release())
    }
}

/// A kernel that a user has named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKernel<'a> {
    pub release: String,
    pub id: String,
    /// The installed kernel. None if only other files of the kernel exist, which clr-boot-manager does not
    /// see.
    pub installed: Option<&'a Installed>,
}

impl<'a> NamedKernel<'a> {
    pub fn of(kernel: &'a Installed) -> NamedKernel<'a> {
        NamedKernel { release: kernel.name.release(), id: kernel.id.clone(), installed: Some(kernel) }
    }
}

/// The module directory of a kernel release, inside the root.
pub fn module_directory(release: &str) -> String {
    format!("{MODULES}/{release}")
}

/// Something unusual. It is reported, and nothing is concluded from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Oddity {
    /// The path inside the root.
    pub path: String,
    /// The description, which continues a sentence that begins with the path.
    pub what: String,
}

/// Whether the directory of the images could be listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Images {
    /// Each of them was seen.
    Listed,
    /// The directory does not exist: clr-boot-manager does not manage this system.
    Absent,
    /// It could not be listed. Nothing may be concluded from the absence of a kernel.
    Unreadable { reason: String },
}

/// A name that no installed kernel has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not an installed kernel; `clr-dkms status` lists them", printable(.0))]
pub struct NoSuchKernel(pub String);

/// All kernels of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// The namespace of the kernel ids.
    pub namespace: String,
    pub running: Running,
    /// The newest kernel first.
    pub kernels: Vec<Installed>,
    pub oddities: Vec<Oddity>,
    pub images: Images,
}

impl Inventory {
    /// Observes a root. What cannot be read is recorded in the result.
    pub fn observe(root: &Root) -> Inventory {
        let mut oddities = Vec::new();
        let (entries, images) = match root.list(IMAGES) {
            Ok(entries) => (entries, Images::Listed),
            Err(e) if e.is_absent() => (Vec::new(), Images::Absent),
            Err(e) => (Vec::new(), Images::Unreadable { reason: e.to_string() }),
        };
        let links = default_links(root, &entries, &mut oddities);
        let namespace = namespace(&entries, &links);
        let mut kernels = read_images(root, &entries, &namespace, &mut oddities);
        mark_tips(&mut kernels, &links, &mut oddities);
        let running = running(root);
        mark_running(&mut kernels, &running, &namespace);
        Inventory { namespace, running, kernels, oddities, images }
    }

    /// Why the installed kernels are unknown. None if they are known, even if there are none.
    pub fn unreadable(&self) -> Option<&str> {
        match &self.images {
            Images::Unreadable { reason } => Some(reason),
            Images::Listed | Images::Absent => None,
        }
    }

    /// The kernel of that id or release. For the name of a variant, its tip. For [`RUNNING`], the running
    /// kernel.
    pub fn find(&self, asked: &str) -> Option<&Installed> {
        if asked == RUNNING {
            return self.running_kernel();
        }
        self.kernels
            .iter()
            .find(|k| k.tip && k.name.variant == asked)
            .or_else(|| {
                // What is not a name of a kernel names none of them.
                let name = KernelName::parse(asked, &self.namespace).ok()?;
                self.kernels.iter().find(|k| k.name == name)
            })
            .or_else(|| self.of_release(asked))
    }

    pub fn of_release(&self, release: &str) -> Option<&Installed> {
        self.kernels.iter().find(|k| k.name.is_release(release))
    }

    /// The kernel of that id or release. For the name of a variant, its tip.
    ///
    /// # Errors
    ///
    /// If none is installed.
    pub fn require(&self, asked: &str) -> Result<&Installed, NoSuchKernel> {
        self.find(asked).ok_or_else(|| NoSuchKernel(asked.to_owned()))
    }

    /// The same as [`Inventory::find`], also for a kernel without an image: any other file of it is enough.
    pub fn named(&self, root: &Root, asked: &str) -> Option<NamedKernel<'_>> {
        if let Some(kernel) = self.find(asked) {
            return Some(NamedKernel::of(kernel));
        }
        // The release of a kernel that clr-boot-manager does not manage has another form, and no kernel id.
        let name = KernelName::parse(asked, &self.namespace).ok();
        let (release, id) = name.map_or((asked.to_owned(), asked.to_owned()), |n| (n.release(), n.id()));
        if ["", ".", ".."].contains(&release.as_str()) || release.contains(['/', '\0']) {
            return None;
        }
        let config = format!("{IMAGES}/config-{release}");
        let files = [format!("{IMAGES}/cmdline-{release}"), config, module_directory(&release)];
        let any = files.iter().any(|file| root.lookup_link(file).is_there());
        any.then_some(NamedKernel { release, id, installed: None })
    }

    /// Whether the kernel of that release is the tip of its variant.
    pub fn is_tip(&self, release: &str) -> bool {
        self.of_release(release).is_some_and(|kernel| kernel.tip)
    }

    pub fn runs(&self, release: &str) -> bool {
        matches!(&self.running, Running::Known { release: running } if running == release)
    }

    /// The running kernel, if it is installed.
    pub fn running_kernel(&self) -> Option<&Installed> {
        self.kernels.iter().find(|k| k.running)
    }

    /// The kernel that `clr-boot-manager update` makes the boot default: the tip of the running variant. For
    /// an image, the newest kernel.
    pub fn boot_default(&self) -> Option<&Installed> {
        let variant = match &self.running {
            Running::None => return self.kernels.first(),
            Running::Known { release } => match self.running_kernel() {
                Some(kernel) => kernel.name.variant.clone(),
                None => KernelName::from_release(release, &self.namespace)?.variant,
            },
            Running::Unknown { .. } => return None,
        };
        self.kernels.iter().find(|k| k.tip && k.name.variant == variant)
    }

    /// The tips in the order in which they are worked on: the next boot first, then by number.
    pub fn tips(&self) -> Vec<&Installed> {
        let next = self.boot_default().map(|k| &k.name);
        let mut tips: Vec<_> = self.kernels.iter().filter(|k| k.tip).collect();
        tips.sort_by_key(|k| (Some(&k.name) != next, Reverse(k.name.compared_number())));
        tips
    }
}

/// The `default-VARIANT` symlinks: variants and link texts.
fn default_links(root: &Root, entries: &[Listed], oddities: &mut Vec<Oddity>) -> BTreeMap<String, String> {
    let mut links = BTreeMap::new();
    for entry in entries {
        let Some(variant) = entry.text().and_then(|n| n.strip_prefix("default-")) else {
            continue;
        };
        let path = format!("{IMAGES}/default-{variant}");
        if entry.kind != FileKind::Link {
            oddities.push(Oddity { path, what: "is not a symlink; clr-boot-manager ignores it".to_owned() });
            continue;
        }
        match root.read_link(&path) {
            Ok(text) => {
                links.insert(variant.to_owned(), text.to_string_lossy().into_owned());
            }
            Err(e) => oddities.push(Oddity { path, what: format!("cannot be read: {}", e.cause) }),
        }
    }
    links
}

/// The namespace in the targets of `default-*`, or in the name of an image that has a command line file.
fn namespace(entries: &[Listed], links: &BTreeMap<String, String>) -> String {
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    let vote = |id: &'_ str, variant: &str| -> Option<usize> {
        let base = Path::new(id).file_name()?.to_str()?.len();
        Some(id.len() - base + id[id.len() - base..].find(&format!(".{variant}."))?)
    };
    for (variant, target) in links {
        if let Some(end) = vote(target, variant) {
            let start = target.rfind('/').map_or(0, |at| at + 1);
            *votes.entry(&target[start..end]).or_default() += 1;
        }
    }
    if votes.is_empty() {
        for entry in entries {
            let Some(release) = entry.text().and_then(|n| n.strip_prefix("cmdline-")) else {
                continue;
            };
            let Some(name) = KernelName::from_release(release, "") else {
                continue;
            };
            // With an empty namespace the id is ".VARIANT.VERSION-NUMBER", which is the end of the name of
            // the image.
            let end = name.id();
            for image in entries.iter().filter_map(Listed::text) {
                if let Some(space) = image.strip_suffix(end.as_str()) {
                    *votes.entry(space).or_default() += 1;
                }
            }
        }
        // The name of an initrd ends like the name of an image.
        votes.retain(|space, _| !space.starts_with("initrd-"));
    }
    let best = votes.into_iter().max_by_key(|(space, count)| (*count, Reverse(*space)));
    best.map_or_else(|| DEFAULT_NAMESPACE.to_owned(), |(space, _)| space.to_owned())
}

fn read_images(
    root: &Root,
    entries: &[Listed],
    namespace: &str,
    oddities: &mut Vec<Oddity>,
) -> Vec<Installed> {
    let mut kernels: Vec<Installed> = Vec::new();
    for entry in entries {
        let path = format!("{IMAGES}/{}", entry.name.to_string_lossy());
        let mut odd = |what: &str| oddities.push(Oddity { path: path.clone(), what: what.to_owned() });
        let Some(text) = entry.text() else {
            odd("has a name that is not valid UTF-8; it is ignored");
            continue;
        };
        let Some((name, rest)) = KernelName::from_id(text, namespace) else {
            if !is_companion(text) {
                let what = match KernelName::from_any_id(text) {
                    Some(_) => "is a kernel of another namespace; clr-boot-manager ignores it",
                    None => "is not part of a kernel; it is ignored",
                };
                odd(what);
            }
            continue;
        };
        if entry.kind != FileKind::File {
            odd("is named like a kernel but is not a regular file; clr-boot-manager ignores it");
            continue;
        }
        if root.lookup_link(&path).stat().is_some_and(|s| s.size == 0) {
            odd("is empty; clr-boot-manager ignores it");
            continue;
        }
        // clr-boot-manager requires a directory entry of that name, which may be empty or a dangling symlink.
        if let Presence::Absent = root.lookup_link(format!("{IMAGES}/cmdline-{}", name.release())) {
            odd(&format!("has no cmdline-{}; clr-boot-manager ignores it", name.release()));
            continue;
        }
        if !rest.is_empty() || name.id() != text {
            odd(&format!(
                "is taken by clr-boot-manager for the kernel {} and can take over its boot entry; move it away",
                name.id()
            ));
        }
        match kernels.iter_mut().find(|k| k.name == name) {
            // Of several files for a kernel, the one with the exact name is the image. Names are sorted, so
            // it comes first.
            Some(kernel) => kernel.copies.push(text.to_owned()),
            None => kernels.push(describe(root, name, text)),
        }
    }
    kernels.sort_by(|a, b| {
        let number = |k: &Installed| Reverse(k.name.compared_number());
        number(a).cmp(&number(b)).then_with(|| b.name.cmp(&a.name))
    });
    kernels
}

/// Files beside the images that are not images. `install.conf` and `install.d` belong to kernel-install of
/// systemd.
fn is_companion(name: &str) -> bool {
    const PREFIXES: [&str; 6] = ["cmdline-", "config-", "System.map-", "vmlinux-", "initrd-", "default-"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || ["install.conf", "install.d"].contains(&name)
}

fn describe(root: &Root, name: KernelName, image: &str) -> Installed {
    let release = name.release();
    let id = name.id();
    let beside = |prefix: &str| There::from(&root.lookup(format!("{IMAGES}/{prefix}-{release}")));
    let initrd = match There::from(&root.lookup(format!("{IMAGES}/initrd-{id}"))) {
        There::No => There::from(&root.lookup(format!("/etc/kernel/initrd-{id}"))),
        other => other,
    };
    Installed {
        companions: Companions {
            config: beside("config"),
            system_map: beside("System.map"),
            vmlinux: beside("vmlinux"),
            initrd,
        },
        headers: headers(root, &release),
        modules: There::from(&root.lookup(module_directory(&release))),
        booted: There::from(&root.lookup(format!("{MARKS}/{}", name.booted_mark()))),
        image: image.to_owned(),
        copies: Vec::new(),
        tip: false,
        is_named: false,
        running: false,
        id,
        name,
    }
}

fn mark_tips(kernels: &mut [Installed], links: &BTreeMap<String, String>, oddities: &mut Vec<Oddity>) {
    for (variant, target) in links {
        let path = format!("{IMAGES}/default-{variant}");
        let mut odd = |what: String| oddities.push(Oddity { path: path.clone(), what });
        let named = kernels.iter_mut().find(|k| k.image == *target || k.copies.contains(target));
        match named {
            Some(kernel) if kernel.name.variant == *variant => {
                (kernel.tip, kernel.is_named) = (true, true);
            }
            Some(kernel) => {
                odd(format!("points to {}, a kernel of another variant", kernel.id));
            }
            None if target.contains('/') => {
                odd(format!("points to {target:?}; clr-boot-manager requires the bare file name"));
            }
            None => odd(format!("points to {target:?}, which is not a usable kernel")),
        }
    }
    // Kernels are sorted, so the first of a variant is its newest.
    for at in 0..kernels.len() {
        let variant = kernels[at].name.variant.clone();
        if !kernels.iter().any(|k| k.tip && k.name.variant == variant) {
            kernels[at].tip = true;
        }
    }
}

fn running(root: &Root) -> Running {
    if root.kind() == RootKind::Image {
        return Running::None;
    }
    // This is the same text as from uname(2), and also exists below the root of a copied system.
    match root.read("/proc/sys/kernel/osrelease") {
        Ok(text) => Running::Known { release: String::from_utf8_lossy(&text).trim().to_owned() },
        Err(e) => Running::Unknown { reason: e.to_string() },
    }
}

fn mark_running(kernels: &mut [Installed], running: &Running, namespace: &str) {
    let Running::Known { release } = running else {
        return;
    };
    let Some(name) = KernelName::from_release(release, namespace) else {
        return;
    };
    if let Some(kernel) = kernels.iter_mut().find(|k| k.name.is_same_to_boot_manager(&name)) {
        kernel.running = true;
    }
}
