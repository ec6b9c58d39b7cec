//! The boot partition in every condition.

use super::{run, scene};
use crate::scene::Fact::{BootMounted, Default, Route, Runs, Verdict, WholeEntries};
use crate::scene::Step::{Do, Is, Reboot, RebootAsUser, Settle, Update};
use crate::scene::{A, B, Scene};

/// The boot partition, mounted, full, or with an empty entry.
pub(super) fn partition() -> Vec<Scene> {
    let mounted = "echo 'PARTLABEL=ESP /boot vfat umask=0077 0 0' >>/etc/fstab && systemctl daemon-reload && mount /boot";
    let read_only = "echo 'PARTLABEL=ESP /boot vfat ro,umask=0077 0 0' >>/etc/fstab && systemctl daemon-reload && mount /boot";
    let fill = "mount /dev/disk/by-partlabel/ESP /mnt && { dd if=/dev/zero of=/mnt/filler bs=1M 2>/dev/null; umount /mnt; }";
    let empty = format!(
        "mount /dev/disk/by-partlabel/ESP /mnt && : >/mnt/loader/entries/Clear-linux-native-{}.conf && umount /mnt",
        "6.1.192-1592"
    );
    vec![
        scene(
            "esp-mounted",
            "the boot partition mounted at /boot",
            vec![
                run("/boot mounted by fstab", mounted),
                Update(B),
                Reboot,
                Is(Runs(B)),
                Is(BootMounted(true)),
                Is(Verdict("healthy")),
            ],
        ),
        scene(
            "esp-automounted",
            "the boot partition mounted by systemd-gpt-auto-generator",
            vec![
                run("/boot automounted", "rm /etc/systemd/system-generators/systemd-gpt-auto-generator"),
                Reboot,
                Is(Runs(A)),
                run("", "systemctl is-active boot.automount || systemctl is-active efi.automount"),
                Update(B),
                Reboot,
                Is(Runs(B)),
                Is(Verdict("healthy")),
            ],
        ),
        scene(
            "esp-read-only",
            "the boot partition mounted read-only",
            vec![
                run("/boot mounted read-only", read_only),
                Update(B),
                Is(Default(A)),
                Reboot,
                Is(Runs(A)),
                Is(Route(true)),
            ],
        ),
        scene(
            "esp-full",
            "the boot partition full, then with room",
            vec![
                run("the partition filled", fill),
                Update(B),
                Is(Default(A)),
                Is(WholeEntries),
                Reboot,
                Is(Runs(A)),
                Is(Route(true)),
                run(
                    "the partition has room again",
                    "mount /dev/disk/by-partlabel/ESP /mnt && rm /mnt/filler && umount /mnt && clr-dkms-post-update",
                ),
                Settle,
                Reboot,
                Is(Runs(B)),
                Is(WholeEntries),
            ],
        ),
        scene(
            "empty-entry",
            "an entry of 0 bytes before the update",
            vec![
                Do("an empty entry for 1592", empty),
                Update(B),
                Is(WholeEntries),
                Reboot,
                Is(Runs(B)),
                Is(Verdict("healthy")),
            ],
        ),
    ]
}

/// A user who cannot read the boot partition.
pub(super) fn partition_as_user() -> Vec<Scene> {
    vec![scene(
        "as-user",
        "predictions that a user without rights gets",
        vec![Update(B), RebootAsUser, Is(Runs(B))],
    )]
}
