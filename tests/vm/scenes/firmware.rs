//! What the firmware holds: variables of the boot loader, and the keys of Secure Boot.

use super::{run, scene};
use crate::scene::Fact::{
    Data, Default, Error, LoadedByItself, OnTrial, Route, Runs, SecureBoot, Trusted, Variable,
};
use crate::scene::Step::{Do, Exits, Is, Reboot, Settle, Update};
use crate::scene::{A, B, C, Scene};

/// Writes an EFI variable of the boot loader: the entry of a kernel, in UTF-16. One that is there is
/// immutable.
fn variable(name: &str, release: &str) -> String {
    format!(
        "for file in /sys/firmware/efi/efivars/{name}-*; do [ ! -e $file ] || chattr -i $file; done
python3 - <<'PY'
text = 'Clear-linux-native-{}.conf\\0'.encode('utf-16-le')
with open('/sys/firmware/efi/efivars/{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f', 'wb', buffering=0) as file:
    file.write(b'\\7\\0\\0\\0' + text)
PY",
        release.trim_end_matches(".native"),
    )
}

/// What overrides `loader.conf`.
pub(super) fn variables() -> Vec<Scene> {
    vec![
        scene(
            "one-shot",
            "LoaderEntryOneShot names the older kernel",
            vec![
                Update(B),
                Do("LoaderEntryOneShot", variable("LoaderEntryOneShot", A)),
                Reboot,
                Is(Runs(A)),
                // The trial of the newer kernel has waited for that boot.
                Is(OnTrial(B, A)),
                Reboot,
                Is(Runs(B)),
                Is(Variable("LoaderEntryOneShot", None)),
            ],
        ),
        scene(
            "default-variable",
            "LoaderEntryDefault names the older kernel",
            vec![
                Do("LoaderEntryDefault", variable("LoaderEntryDefault", A)),
                Update(B),
                Reboot,
                Is(Runs(A)),
                Is(Default(B)),
                run(
                    "LoaderEntryDefault removed",
                    "chattr -i /sys/firmware/efi/efivars/LoaderEntryDefault-*; rm /sys/firmware/efi/efivars/LoaderEntryDefault-*",
                ),
                Reboot,
                Is(Runs(B)),
            ],
        ),
    ]
}

/// What the firmware lets through.
pub(super) fn secure_boot() -> Vec<Scene> {
    // By hand: clr-dkms does not write an entry that loses critical modules.
    let locked = "mkdir -p /etc/kernel/cmdline.d &&
echo module.sig_unenforce lockdown=integrity >/etc/kernel/cmdline.d/lockdown.conf && clr-boot-manager update";
    vec![
        scene(
            "secure-boot",
            "Secure Boot switched on, with a key of the test's own",
            vec![
                Is(SecureBoot(false)),
                run("a key enrolled", "vm-enroll"),
                Reboot,
                Is(SecureBoot(true)),
                Is(LoadedByItself("e100")),
                Is(Route(true)),
                Update(B),
                Reboot,
                Is(Runs(B)),
                Is(Data(true)),
                Exits(
                    "clr-dkms-cmdline disable",
                    "clr-dkms-cmdline disable --force && clr-dkms check".into(),
                    2,
                ),
                Reboot,
                Is(Error("hello", "EKEYREJECTED")),
            ],
        ),
        scene(
            "lockdown",
            "lockdown=integrity under Secure Boot",
            vec![
                run("a key enrolled", "vm-enroll"),
                Exits("a fragment with lockdown=integrity", format!("{locked}; clr-dkms check"), 2),
                Reboot,
                Is(SecureBoot(true)),
                Is(Error("hello", "EPERM")),
                Is(Error("e100", "EPERM")),
                Is(Route(false)),
                run("the fragment removed", "rm /etc/kernel/cmdline.d/lockdown.conf; clr-dkms-post-update"),
                Settle,
                Reboot,
                Is(LoadedByItself("e100")),
                Is(Route(true)),
            ],
        ),
        scene(
            "owner-key",
            "modules signed with the key of the machine's owner, which shim passes to the kernel",
            vec![
                run(
                    "dkms signs with this key",
                    "cp /usr/share/vm/owner/mok.key /usr/share/vm/owner/mok.pub /var/lib/dkms/",
                ),
                run("shim; Secure Boot switched on", "vm-shim && vm-enroll"),
                Update(C),
                Reboot,
                Is(Runs(C)),
                Is(SecureBoot(true)),
                Is(Trusted("e100")),
                run("clr-dkms-cmdline disable", "clr-dkms-cmdline disable --force; clr-dkms check; true"),
                Reboot,
                Is(Trusted("hello")),
                Is(Trusted("e100")),
                Is(Route(true)),
                run("a fragment with lockdown=integrity", &format!("{locked}; true")),
                Reboot,
                Is(Trusted("e100")),
                Is(Data(true)),
            ],
        ),
    ]
}
