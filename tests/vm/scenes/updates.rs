//! New kernels, whose modules build or do not.

use super::{breaks, run, scene};
use crate::scene::Fact::{Data, Default, Held, NoFailedUnit, Route, Runs, Verdict};
use crate::scene::Step::{Do, Is, PowerCut, Reboot, Settle, Update};
use crate::scene::{A, B, Scene};

/// New kernels, whose modules build or do not.
pub(super) fn updates() -> Vec<Scene> {
    vec![
        scene(
            "new-kernel",
            "a new kernel whose modules build",
            vec![
                Update(B),
                Is(Verdict("reboot-pending")),
                Reboot,
                Is(Runs(B)),
                Is(Verdict("healthy")),
                Is(NoFailedUnit),
            ],
        ),
        scene(
            "wanted-fails",
            "a new kernel for which a wanted module does not build",
            vec![
                breaks("hello does not compile for 1592", B, "hello"),
                Update(B),
                Is(Held(B)),
                Is(Default(A)),
                Reboot,
                Is(Runs(A)),
                Is(Held(B)),
                Do(
                    "hello is repaired",
                    format!(
                        "cp -r /usr/share/vm/objects/{A}/hello /usr/share/vm/objects/{B}/ && sed -i s/{A}/{B}/g /usr/share/vm/objects/{B}/hello/*.ko && echo >>/usr/src/hello-1.0/hello.c"
                    ),
                ),
                run("a run", "clr-dkms-post-update"),
                Settle,
                Is(Verdict("reboot-pending")),
                Reboot,
                Is(Runs(B)),
                Is(Verdict("healthy")),
            ],
        ),
        scene(
            "card-fails",
            "a new kernel for which the network card's module does not build",
            vec![
                breaks("e100 does not compile for 1592", B, "e100"),
                Update(B),
                Is(Held(B)),
                Is(Default(A)),
                Reboot,
                Is(Runs(A)),
                Is(Route(true)),
            ],
        ),
        scene(
            "data-fails",
            "a new kernel for which the module of a mounted filesystem does not build",
            vec![
                breaks("cramfs does not compile for 1592", B, "cramfs"),
                Update(B),
                Is(Held(B)),
                Is(Default(A)),
                PowerCut,
                Is(Runs(A)),
                Is(Data(true)),
            ],
        ),
    ]
}
