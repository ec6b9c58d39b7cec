//! What firmware, kernels and the running system say about modules without a trusted signature.

use std::io::Write;

use super::TestRoot;

/// The configuration of a Clear Linux kernel, as far as it matters here.
pub(crate) const CLEAR: &str = "CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n\
     # CONFIG_SECURITY_LOCKDOWN_LSM is not set\n# CONFIG_INTEGRITY is not set\nCONFIG_SYSTEM_TRUSTED_KEYS=\"\"\n\
     # CONFIG_SECONDARY_TRUSTED_KEYRING is not set\n# CONFIG_BOOT_CONFIG is not set\n";

/// The configuration of a kernel of Debian.
pub(crate) const DEBIAN: &str = "CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\n# CONFIG_MODULE_SIG_FORCE is not set\n\
     CONFIG_SECURITY_LOCKDOWN_LSM=y\nCONFIG_SECURITY_LOCKDOWN_LSM_EARLY=y\nCONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y\n\
     CONFIG_LOCK_DOWN_KERNEL_FORCE_NONE=y\nCONFIG_SECONDARY_TRUSTED_KEYRING=y\nCONFIG_IMA=y\n\
     # CONFIG_BOOT_CONFIG is not set\n";

/// The vendor of the variables that the UEFI specification defines.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// The vendor of systemd-boot's variables.
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

impl TestRoot {
    /// `modules.builtin.modinfo` of a kernel that knows `module.sig_unenforce`, or of one that does not.
    pub(crate) fn modinfo(&self, release: &str, patched: bool) -> &TestRoot {
        let mut text = "ext4.license=GPL\0signing.parmtype=sig_enforce:bool_enable_only\0".to_owned();
        if patched {
            text += "signing.parmtype=sig_unenforce:bool_enable_only\0";
        }
        self.file(&format!("usr/lib/modules/{release}/modules.builtin.modinfo"), text)
    }

    pub(crate) fn config(&self, release: &str, text: &str) -> &TestRoot {
        self.file(&format!("usr/lib/kernel/config-{release}"), text)
    }

    fn variable(&self, name: &str, vendor: &str, value: &[u8]) -> &TestRoot {
        let bytes = [&[6, 0, 0, 0], value].concat();
        self.file(&format!("sys/firmware/efi/efivars/{name}-{vendor}"), bytes)
    }

    /// UEFI firmware with Secure Boot on or off.
    pub(crate) fn secure_boot(&self, on: bool) -> &TestRoot {
        self.variable("SecureBoot", GLOBAL, &[u8::from(on)]).variable("SetupMode", GLOBAL, &[0])
    }

    /// systemd-boot can boot an entry once.
    pub(crate) fn boots_once(&self) -> &TestRoot {
        self.variable("LoaderFeatures", LOADER, &0b111_u64.to_le_bytes())
    }

    /// A variable of systemd-boot.
    pub(crate) fn loader_variable(&self, name: &str, text: &str) -> &TestRoot {
        let text: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        self.variable(name, LOADER, &text)
    }

    /// What the running kernel says: its command line, and the two parameters as `Y`, `N` or not there.
    pub(crate) fn booted(&self, line: &str, enforce: &str, unenforce: Option<&str>) -> &TestRoot {
        self.file("proc/cmdline", format!("initrd=\\x {line}\n"))
            .file("proc/sys/kernel/modules_disabled", "0\n")
            .file("sys/kernel/security/lsm", "capability,landlock,yama,bpf")
            .file("sys/module/module/parameters/sig_enforce", format!("{enforce}\n"));
        if !self.has("proc/sys/kernel/tainted") {
            self.file("proc/sys/kernel/tainted", "0\n");
        }
        if let Some(unenforce) = unenforce {
            self.file("sys/module/module/parameters/sig_unenforce", format!("{unenforce}\n"));
        }
        self
    }

    /// A running kernel with lockdown at that level.
    pub(crate) fn locked_down(&self, level: &str) -> &TestRoot {
        let levels = "none integrity confidentiality".replace(level, &format!("[{level}]"));
        self.file("sys/kernel/security/lsm", "lockdown,capability,landlock,yama,bpf")
            .file("sys/kernel/security/lockdown", levels + "\n")
    }

    /// A module that is loaded now.
    pub(crate) fn loaded(&self, name: &str, taint: &str) -> &TestRoot {
        self.file("proc/modules", format!("{name} 16384 0 - Live 0x0000000000000000 ({taint})\n"))
            .file(&format!("sys/module/{name}/initstate"), "live\n")
            .file(&format!("sys/module/{name}/taint"), format!("{taint}\n"))
            .file("proc/sys/kernel/tainted", if taint.contains('E') { "12288\n" } else { "4096\n" })
    }

    /// A boot entry as clr-boot-manager writes it; `default` makes it the next boot's.
    pub(crate) fn entry(&self, id: &str, words: &str, default: bool) -> &TestRoot {
        self.entry_of("org.clearlinux", "Clear-linux", id, words, default)
    }

    /// The same for another namespace, whose entries begin with another word.
    pub(crate) fn entry_of(
        &self,
        namespace: &str,
        prefix: &str,
        id: &str,
        words: &str,
        default: bool,
    ) -> &TestRoot {
        let rest = id.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('.')).unwrap();
        let (variant, version) = rest.split_once('.').unwrap();
        let file = format!("{prefix}-{variant}-{version}.conf");
        if default {
            self.file("boot/loader/loader.conf", format!("default {file}\n"));
        }
        self.file(
            &format!("boot/loader/entries/{file}"),
            format!("title X\nlinux /EFI/{namespace}/kernel-{id}\noptions root=PARTUUID=1 {words}\n"),
        )
    }

    /// Somebody has written into every boot entry: what clr-boot-manager makes of it is not foreseen then,
    /// and not written ahead of it.
    pub(crate) fn entries_edited(&self) -> &TestRoot {
        for entry in std::fs::read_dir(self.at("boot/loader/entries")).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, format!("# edited\n{text}")).unwrap();
        }
        self
    }

    /// A kernel image (x86 boot protocol) with a kernel in it that holds these bytes, packed with gzip.
    pub(crate) fn image(&self, name: &str, inside: &[u8]) -> &TestRoot {
        self.file(&format!("usr/lib/kernel/{name}"), bz_image(inside))
    }
}

/// Such an image, as bytes.
pub(crate) fn bz_image(inside: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(inside).unwrap();
    let payload = encoder.finish().unwrap();
    // One setup sector behind the boot sector, and some code in front of the payload.
    let mut image = vec![0; 2 * 512 + 0x40];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x248..0x24c].copy_from_slice(&0x40u32.to_le_bytes());
    // The four bytes of the size behind it belong to it.
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len() + 4).unwrap().to_le_bytes());
    image.extend(payload);
    image.extend(u32::try_from(inside.len()).unwrap().to_le_bytes());
    image
}
