//! The facts of a root that verdicts are based on.

use crate::cmdline::parameter::{Dialect, KernelArguments};
use crate::cmdline::{PARAMETER, Switch};
use crate::dkms::Cache;
use crate::kernel::inventory::{IMAGES, module_directory};
use crate::kernel::module_file::kernel_name;
use crate::limits::{KERNEL_LIST, TEXT};
use crate::sys::root::READ_LIMIT;
use crate::sys::{FileKind, Presence, Root, RootKind, efi};

use super::verdict::dialect_of;
use super::{Boot, KernelConfig, Patch, Runtime, SecureBoot, patch};

/// The parameters of the kernel's module loader.
const PARAMETERS: &str = "/sys/module/module/parameters";
/// The directory of the security modules.
const SECURITY: &str = "/sys/kernel/security";
/// The IMA policy that systemd loads at boot.
const IMA_POLICY: &str = "/etc/ima/ima-policy";
/// The runtime copy of shim's variable that disables verification.
const MOK_STATE: &str = "MokSBStateRT";
/// The vendor GUID of shim's variables.
const SHIM: &str = "605dab50-e046-4300-abb6-3dd810dd8b23";

/// Facts that do not depend on the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub secure_boot: SecureBoot,
    /// The admin has an IMA policy that appraises modules.
    pub ima_policy: bool,
    /// What the running kernel reports. None for an image.
    pub runtime: Option<Runtime>,
    /// The command line of the running kernel.
    pub line: Option<Vec<u8>>,
    /// The taint flags of the running kernel, as letters.
    pub taint: Option<String>,
}

impl Machine {
    /// Observes a root.
    pub fn observe(root: &Root) -> Machine {
        let live = root.kind() != RootKind::Image;
        let appraises = |policy: &[u8]| {
            policy.split(|b| *b == b'\n').any(|rule| {
                let has = |word: &[u8]| rule.split(u8::is_ascii_whitespace).any(|w| w == word);
                has(b"appraise") && (has(b"func=MODULE_CHECK") || !contains(rule, b"func="))
            })
        };
        let ima_policy = match root.read_optional(IMA_POLICY) {
            Ok(policy) => policy.as_deref().is_some_and(appraises),
            // An unreadable policy counts as one that appraises modules. Such policies are rare.
            Err(_) => true,
        };
        Machine {
            secure_boot: if live { secure_boot(root) } else { SecureBoot::Unknown },
            ima_policy,
            runtime: live.then(|| runtime(root, appraises)),
            line: if live { pseudo_file(root, "/proc/cmdline") } else { None },
            taint: if live { taint(root) } else { None },
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// The contents of a file in which the kernel reports a value, without the newline. None if it cannot be
/// read.
fn pseudo_file(root: &Root, path: &str) -> Option<Vec<u8>> {
    file_within(root, path, READ_LIMIT)
}

fn file_within(root: &Root, path: &str, limit: u64) -> Option<Vec<u8>> {
    match root.read_within(path, limit) {
        Ok(bytes) => Some(bytes.strip_suffix(b"\n").unwrap_or(&bytes).to_vec()),
        Err(e) => {
            // The verdict names the missing fact.
            tracing::debug!("{e}");
            None
        }
    }
}

fn flag(root: &Root, path: &str) -> Option<bool> {
    match pseudo_file(root, path)?.as_slice() {
        b"Y" | b"1" => Some(true),
        b"N" | b"0" => Some(false),
        _ => None,
    }
}

fn runtime(root: &Root, appraises: impl Fn(&[u8]) -> bool) -> Runtime {
    let sig_enforce = flag(root, &format!("{PARAMETERS}/sig_enforce"));
    let unenforce = format!("{PARAMETERS}/sig_unenforce");
    let sig_unenforce = match root.lookup(&unenforce) {
        Presence::There(_) => flag(root, &unenforce).map(Some),
        // Only if `sig_enforce` exists does a missing file prove that the parameter does not exist.
        Presence::Absent => sig_enforce.map(|_| None),
        Presence::Unreadable(_) => None,
    };
    let modules: Option<Vec<u8>> = pseudo_file(root, &format!("{SECURITY}/lsm"));
    let has_lockdown = modules.map(|list| list.split(|b| *b == b',').any(|name| name == b"lockdown"));
    let level = pseudo_file(root, &format!("{SECURITY}/lockdown"));
    let raised = level.as_deref().and_then(|text| {
        let chosen = text.split(|b| *b == b'[').nth(1)?.split(|b| *b == b']').next()?;
        Some(chosen != b"none")
    });
    let locked = match (raised, has_lockdown) {
        // The file shows a level even if the security module never started.
        (_, Some(false)) | (Some(false), _) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    };
    let no_ima = has_lockdown.is_some() && matches!(root.lookup(format!("{SECURITY}/ima")), Presence::Absent);
    let policy = pseudo_file(root, &format!("{SECURITY}/ima/policy"));
    Runtime {
        sig_enforce,
        sig_unenforce,
        modules_disabled: flag(root, "/proc/sys/kernel/modules_disabled"),
        locked,
        ima: if no_ima { Some(false) } else { policy.as_deref().map(appraises) },
    }
}

/// Secure Boot, as the kernel's EFI stub determines it: the firmware reports it, unless the firmware is in
/// setup mode or shim is configured not to verify.
fn secure_boot(root: &Root) -> SecureBoot {
    if matches!(efi::has_firmware(root), Ok(false)) {
        // A machine without UEFI has no Secure Boot.
        return SecureBoot::Off;
    }
    let byte = |name: &str, guid: &str| match efi::variable(root, name, guid) {
        Ok(value) => Ok(value.and_then(|v| v.first().copied())),
        Err(e) => {
            tracing::debug!("{e}");
            Err(e)
        }
    };
    match (byte("SecureBoot", efi::GLOBAL), byte("SetupMode", efi::GLOBAL)) {
        (Ok(Some(1)), Ok(Some(1))) | (Ok(Some(0)), _) => SecureBoot::Off,
        (Ok(Some(1)), Ok(_)) => match byte(MOK_STATE, SHIM) {
            Ok(Some(1)) => SecureBoot::Off,
            Ok(_) => SecureBoot::On,
            // `byte` has logged the reason, which makes no difference.
            Err(_) => SecureBoot::Unknown,
        },
        // If EFI variables are visible and this one is absent, the firmware does not support Secure Boot.
        (Ok(None), _) if efi::shows_variables(root) => SecureBoot::Off,
        _ => SecureBoot::Unknown,
    }
}

/// The letters of the taint flags, by bit.
const TAINT_LETTERS: &str = "PFSRMBUDAWCIOELKXTNJ";

fn taint(root: &Root) -> Option<String> {
    let text = pseudo_file(root, "/proc/sys/kernel/tainted")?;
    // The kernel writes a number. Anything else leaves the taint unknown.
    let bits: u64 = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
    Some(TAINT_LETTERS.chars().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, c)| c).collect())
}

/// The taint letters of a loaded module. None if it is not loaded.
pub fn module_taint(root: &Root, module: &str) -> Option<String> {
    if root.kind() == RootKind::Image {
        return None;
    }
    let directory = format!("/sys/module/{}", kernel_name(module));
    // A built-in module has no `initstate`.
    if !root.lookup(format!("{directory}/initstate")).is_there() {
        return None;
    }
    // This is only reported. A failed read is in `Root::unread`.
    let letters = pseudo_file(root, &format!("{directory}/taint")).unwrap_or_default();
    Some(String::from_utf8_lossy(&letters).trim().to_owned())
}

/// Facts about one kernel, whether or not it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    pub version: Option<[u32; 3]>,
    /// Its build configuration. None if it cannot be read.
    pub config: Option<KernelConfig>,
    /// Whether it knows `module.sig_unenforce`.
    pub patch: Patch,
}

impl KernelFacts {
    /// Reads the facts. `image` is the file of the kernel in `/usr/lib/kernel`. It is searched only if
    /// `modules.builtin.modinfo` does not decide, because that takes a second.
    pub fn observe(root: &Root, cache: &mut Cache, release: &str, image: Option<&str>) -> KernelFacts {
        let version = patch::version(release);
        let config = file_within(root, &format!("{IMAGES}/config-{release}"), TEXT);
        let modinfo = format!("{}/modules.builtin.modinfo", module_directory(release));
        let modinfo = file_within(root, &modinfo, KERNEL_LIST);
        let known = modinfo.map_or(Patch::Unknown, |bytes| patch::from_modinfo(&bytes, version));
        KernelFacts {
            version,
            config: config.as_deref().and_then(KernelConfig::parse),
            patch: match (known, image) {
                (Patch::Unknown, Some(image)) => from_image(root, cache, image, version),
                (known, _) => known,
            },
        }
    }
}

impl KernelFacts {
    /// Whether the kernel can trust keys of others, either built in or enrolled later. The kernels of Clear
    /// Linux cannot, and the private key of each kernel is deleted after its build.
    pub fn takes_foreign_keys(&self) -> bool {
        self.config.as_ref().is_none_or(|c| {
            c.has("SECONDARY_TRUSTED_KEYRING")
                || c.text("SYSTEM_TRUSTED_KEYS").is_some_and(|keys| !keys.is_empty())
        })
    }

    /// The value of `module.sig_unenforce` for this kernel on a command line.
    pub fn switch(&self, line: &[u8]) -> Switch {
        KernelArguments::read(line).switch(PARAMETER, self.dialect())
    }

    /// How it reads its command line.
    pub fn dialect(&self) -> Dialect {
        dialect_of(self.config.as_ref(), self.version)
    }

    /// These facts together with a command line and a machine.
    pub fn boot<'a>(&'a self, line: &'a [u8], machine: &Machine) -> Boot<'a> {
        Boot {
            line,
            config: self.config.as_ref(),
            patch: self.patch,
            secure_boot: machine.secure_boot,
            version: self.version,
            ima_policy: machine.ima_policy,
        }
    }
}

fn from_image(root: &Root, cache: &mut Cache, image: &str, version: Option<[u32; 3]>) -> Patch {
    let path = format!("{IMAGES}/{image}");
    let Some(stat) = root.lookup(&path).stat().filter(|s| s.kind == FileKind::File) else {
        return Patch::Unknown;
    };
    let look = || {
        let read = root.open_watched(&path, u64::MAX).map_err(anyhow::Error::from);
        let found = read.and_then(|file| patch::from_image(std::io::BufReader::new(file)));
        found.or_else(|error| {
            tracing::debug!("{}: {error}", root.shown_path(&path).display());
            // A failed read must not be kept in the cache. An image in an unknown format proves nothing,
            // which is kept.
            if root.has_unread(&path) { Err(error) } else { Ok(None) }
        })
    };
    Patch::found(cache.image(&path, &stat, look), version)
}
