//! What an admin decides, and does by hand.

use super::{breaks, run, scene};
use crate::scene::Fact::{
    Data, Default, Error, Held, Loaded, LoadedByItself, OnTrial, Route, Runs, WholeEntries,
};
use crate::scene::Step::{Exits, Is, PowerCut, Reboot, Settle, Update};
use crate::scene::{A, B, Scene};

/// What an admin decides.
pub(super) fn decisions() -> Vec<Scene> {
    vec![
        scene(
            "masked",
            "the fragment with module.sig_unenforce masked, and unmasked",
            vec![
                Exits(
                    "clr-dkms-cmdline disable",
                    "clr-dkms-cmdline disable --force && clr-dkms check".into(),
                    2,
                ),
                Reboot,
                Is(Error("hello", "EKEYREJECTED")),
                Is(Route(false)),
                run("clr-dkms-cmdline default", "clr-dkms-cmdline default"),
                Reboot,
                Is(LoadedByItself("hello")),
                Is(Route(true)),
                Is(Data(true)),
            ],
        ),
        scene(
            "hold",
            "hold, unhold",
            vec![
                run("clr-dkms hold", &format!("clr-dkms hold {A}")),
                Update(B),
                Is(Held(B)),
                Is(Default(A)),
                Reboot,
                Is(Runs(A)),
                run("clr-dkms unhold", "clr-dkms unhold"),
                Settle,
                Is(OnTrial(B, A)),
                Reboot,
                Is(Runs(B)),
                Is(Default(B)),
            ],
        ),
        scene(
            "allow",
            "a kernel allowed without its wanted module",
            vec![
                breaks("hello does not compile for 1592", B, "hello"),
                Update(B),
                Is(Held(B)),
                // The module still does not build.
                Exits("clr-dkms allow", format!("clr-dkms allow {B} --without hello --yes"), 1),
                Settle,
                Is(OnTrial(B, A)),
                Reboot,
                Is(Runs(B)),
                Is(Default(B)),
                Is(Route(true)),
                Is(Error("hello", "ENOENT")),
            ],
        ),
        scene(
            "restricted-update",
            "the entry of the kernel that runs is refreshed while a newer one is held",
            vec![
                breaks("e100 does not compile for 1592", B, "e100"),
                Update(B),
                Is(Held(B)),
                run(
                    "a fragment",
                    "mkdir -p /etc/kernel/cmdline.d && echo vm.word=1 >/etc/kernel/cmdline.d/vm.conf; clr-dkms-post-update; [ $? = 1 ]",
                ),
                Settle,
                Is(Default(A)),
                Is(WholeEntries),
                Reboot,
                Is(Runs(A)),
                run("", "grep -q vm.word=1 /proc/cmdline"),
                Is(Route(true)),
            ],
        ),
    ]
}

/// What an admin does by hand while a kernel is held.
pub(super) fn by_hand() -> Vec<Scene> {
    let by_hand = "clr-boot-manager update";
    vec![
        scene(
            "by-hand",
            "clr-boot-manager run by hand while a kernel is held, then an orderly reboot",
            vec![
                breaks("e100 does not compile for 1592", B, "e100"),
                Update(B),
                Is(Held(B)),
                run(by_hand, by_hand),
                Reboot,
                Is(Default(A)),
                Is(Route(true)),
            ],
        ),
        scene(
            "by-hand-power-cut",
            "clr-boot-manager run by hand while a kernel is held, then a power cut",
            vec![
                breaks("e100 does not compile for 1592", B, "e100"),
                Update(B),
                Is(Held(B)),
                run(by_hand, by_hand),
                PowerCut,
                Is(Runs(B)),
                Is(Route(false)),
                Is(Loaded("hello")),
            ],
        ),
    ]
}
