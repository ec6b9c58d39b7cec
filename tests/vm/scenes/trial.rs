//! New kernels on trial: some do not work, although their modules are built and proven.

use super::{run, scene};
use crate::scene::Fact::{Default, Held, Marked, NoFailedUnit, OnTrial, Route, Runs, Variable, Verdict};
use crate::scene::Step::{Do, Is, Reboot, Settle, TrialFails, Update};
use crate::scene::{A, B, Failing, Scene};

/// A module of a package on B is proven, and fails when it is loaded.
fn does_not_work(what: &'static str, package: &str) -> crate::scene::Step {
    Do(what, format!("cp /usr/share/vm/broken/{B}/{package}/*.ko /usr/share/vm/objects/{B}/{package}/"))
}

/// B gets more words on its command line.
fn words(what: &'static str, words: &str) -> crate::scene::Step {
    Do(what, format!("echo {words} >>/srv/update/{B}/usr/lib/kernel/cmdline-{B}"))
}

/// A setting in section `[boot]`.
fn setting(what: &'static str) -> crate::scene::Step {
    Do(
        what,
        format!("mkdir -p /etc/clr-dkms && printf '[boot]\\n%s\\n' '{what}' >/etc/clr-dkms/clr-dkms.conf"),
    )
}

/// The new kernel boots, and works or not.
pub(super) fn trial() -> Vec<Scene> {
    let disk = "cp -a /usr/share/vm/later/. / && clr-dkms-post-update";
    let initrd = format!(
        "cp /usr/share/vm/initrd-broken /srv/update/{B}/usr/lib/kernel/initrd-org.clearlinux.native.{}",
        B.trim_end_matches(".native")
    );
    vec![
        scene(
            "trial-passed",
            "a new kernel on trial becomes the default when it works",
            vec![
                Update(B),
                Is(OnTrial(B, A)),
                Is(Marked(B, false)),
                Reboot,
                Is(Runs(B)),
                Is(Default(B)),
                Is(Marked(B, true)),
                Is(Verdict("healthy")),
                Is(NoFailedUnit),
            ],
        ),
        scene(
            "trial-root",
            "the module of the root's disk does not work on the new kernel, which panics",
            vec![
                run("the disk is driven by a module of dkms", disk),
                Settle,
                words("panic=10 for 1592", "panic=10"),
                does_not_work("virtio-blk does not work on 1592", "virtio-blk"),
                Do("its initrd has that module", initrd),
                Update(B),
                Is(OnTrial(B, A)),
                TrialFails(Failing::ByItself, A, "unfinished"),
                Is(Held(B)),
                Is(Marked(B, false)),
                run("clr-dkms allow", &format!("clr-dkms allow {B}")),
                Settle,
                Is(OnTrial(B, A)),
            ],
        ),
        scene(
            "trial-card",
            "the network card's module does not work on the new kernel; return = ask",
            vec![
                does_not_work("e100 does not work on 1592", "e100"),
                Update(B),
                Is(OnTrial(B, A)),
                TrialFails(Failing::ByItself, B, "failed"),
                Is(Route(false)),
                Is(Marked(B, false)),
                run("", "! systemctl is-failed -q clr-dkms-trial.service"),
                run("", SAYS),
                Reboot,
                Is(Runs(A)),
                Is(Held(B)),
                Is(Route(true)),
            ],
        ),
        scene(
            "trial-card-reboot",
            "the network card's module does not work on the new kernel; return = reboot",
            vec![
                setting("return = reboot"),
                does_not_work("e100 does not work on 1592", "e100"),
                Update(B),
                TrialFails(Failing::ByItself, A, "failed"),
                Is(Held(B)),
                Is(Marked(B, false)),
                Reboot,
                Is(Runs(A)),
            ],
        ),
    ]
}

/// There is no trial, or it is interrupted, rejected by a check of an admin, or taken back.
pub(super) fn interrupted_trial() -> Vec<Scene> {
    vec![
        scene(
            "no-trial-reboot",
            "the network card's module does not work on the new kernel; trial = no, return = reboot",
            vec![
                setting("trial = no\nreturn = reboot"),
                does_not_work("e100 does not work on 1592", "e100"),
                Update(B),
                Is(Default(B)),
                Is(Variable("LoaderEntryOneShot", None)),
                TrialFails(Failing::ByItself, A, "failed"),
                Is(Held(B)),
                Reboot,
                Is(Runs(A)),
            ],
        ),
        scene(
            "trial-cut",
            "a power cut while the new kernel runs on trial",
            vec![Update(B), TrialFails(Failing::PowerCut, A, "unfinished"), Is(Held(B))],
        ),
        scene(
            "trial-hang",
            "the new kernel hangs before there is a root",
            vec![
                words("1592 hangs", "vm.hang"),
                Update(B),
                TrialFails(Failing::Hang, A, "unfinished"),
                Is(Held(B)),
                Is(Marked(B, false)),
            ],
        ),
        scene(
            "trial-early-reboot",
            "an orderly reboot before the check of the new kernel has started",
            vec![
                run("a unit that reboots 1592 early, once", EARLY_REBOOT),
                Update(B),
                TrialFails(Failing::ByItself, A, "armed"),
                Is(OnTrial(B, A)),
                Is(Marked(B, false)),
                Reboot,
                Is(Runs(B)),
                Is(Default(B)),
                Is(Marked(B, true)),
            ],
        ),
        scene(
            "trial-check-fails",
            "a check of an admin, before boot-complete.target, fails on the new kernel",
            vec![
                run("a check that fails on 1592", CHECK),
                Update(B),
                TrialFails(Failing::ByItself, B, "running"),
                Is(Marked(B, false)),
                Reboot,
                Is(Runs(A)),
                Is(Held(B)),
            ],
        ),
        scene(
            "trial-removal",
            "clr-dkms is removed while a kernel is on trial",
            vec![
                Update(B),
                Is(OnTrial(B, A)),
                run("the commands of a removal", "clr-dkms -q guard --disarm"),
                Is(Variable("LoaderEntryOneShot", None)),
                run("", "! [ -e /var/lib/clr-dkms/trial.json ]"),
                Reboot,
                Is(Runs(A)),
            ],
        ),
    ]
}

/// The failed trial is reported, and a reboot is advised.
const SAYS: &str = r#"
! clr-dkms check && clr-dkms guard --json | python3 -c '
import json, sys
guard = json.load(sys.stdin)
sys.exit(guard["trial"]["stage"] != "failed" or not guard["next_step"].startswith("reboot"))'"#;

/// The check waits for the default target.
const EARLY_REBOOT: &str = "cat >/etc/systemd/system/vm-early-reboot.service <<'UNIT'
[Unit]
After=clr-dkms-hold.service
Before=multi-user.target
ConditionKernelVersion=6.1.192-1592.native
ConditionPathExists=!/var/lib/vm-early-reboot
[Service]
Type=oneshot
ExecStart=/bin/touch /var/lib/vm-early-reboot
ExecStart=/bin/systemctl --no-block reboot
[Install]
WantedBy=multi-user.target
UNIT
systemctl enable vm-early-reboot.service";

const CHECK: &str = "cat >/etc/systemd/system/vm-check.service <<'UNIT'
[Unit]
Before=boot-complete.target
ConditionKernelVersion=6.1.192-1592.native
[Service]
Type=oneshot
ExecStart=/bin/false
[Install]
RequiredBy=boot-complete.target
UNIT
systemctl enable vm-check.service";
