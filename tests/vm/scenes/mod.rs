//! All scenes, by topic.

mod admin;
mod cuts;
mod firmware;
mod modules;
mod partition;
mod trial;
mod updates;

use crate::scene::Fact::{Data, Error, LoadedByItself, NoFailedUnit, Route, Runs, Tainted, Verdict};
use crate::scene::Step::{Do, Is, Measure, Reboot};
use crate::scene::{A, From, Scene, Step, When};

/// The scene that makes the machine which others begin with.
pub(crate) const FIRST: &str = "first-module";

/// All scenes, in the order of the table.
pub(crate) fn all() -> Vec<Scene> {
    let mut scenes = vec![first()];
    scenes.extend(updates::updates());
    scenes.extend(admin::decisions());
    scenes.extend(admin::by_hand());
    scenes.extend(partition::partition());
    scenes.extend(partition::partition_as_user());
    scenes.extend(firmware::variables());
    scenes.extend(firmware::secure_boot());
    scenes.extend(trial::trial());
    scenes.extend(trial::interrupted_trial());
    scenes.extend(cuts::cuts());
    scenes.push(modules::initrd());
    scenes.push(modules::compiled());
    let limit = "the boot unit takes less than three times as long as with /bin/true";
    scenes.push(scene(
        "boot-time",
        "what a boot costs if nothing has changed",
        vec![
            Reboot,
            Measure(limit, "vm-boot-time"),
            Measure("without a trial, its unit is not started", TRIAL_UNIT),
        ],
    ));
    scenes
}

/// What the unit that checks a trial, and the target that it waits for, add to a boot without a trial.
const TRIAL_UNIT: &str = r#"
after() { echo $(($(systemctl show -P ActiveEnterTimestampMonotonic "$1") / 1000)); }
[ "$(systemctl show -P ConditionResult clr-dkms-trial.service)" = no ] || exit
echo "clr-dkms-trial.service is not started; multi-user.target is reached after $(after multi-user.target) ms,\
 boot-complete.target after $(after boot-complete.target) ms""#;

fn scene(name: &'static str, about: &'static str, steps: Vec<Step>) -> Scene {
    Scene { name, about, from: From::Ready, when: When::Always, steps }
}

fn run(what: &'static str, script: &str) -> Step {
    Do(what, script.to_owned())
}

/// The compiler fails for a package on a kernel.
fn breaks(what: &'static str, release: &str, package: &str) -> Step {
    Do(what, format!("rm -r /usr/share/vm/objects/{release}/{package}"))
}

/// From an installation without modules to the first one that is loaded.
pub(crate) fn first() -> Scene {
    // Ten times the limit of the unit: emulated, and on a busy host, it takes that much longer.
    let install = "dd if=/dev/vdb bs=1M iflag=direct status=none | tar -xf - -C / &&
mkdir -p /etc/systemd/system/clr-dkms-boot.service.d &&
printf '[Service]\nTimeoutStartSec=5min\n' >/etc/systemd/system/clr-dkms-boot.service.d/vm.conf && systemctl daemon-reload";
    let steps = vec![
        run("clr-dkms installed", install),
        run("its first run", "clr-dkms-post-update"),
        Is(Error("hello", "EKEYREJECTED")),
        Is(Error("e100", "EKEYREJECTED")),
        Is(Route(false)),
        Is(Tainted(0)),
        Is(Verdict("reboot-pending")),
        Reboot,
        Is(Runs(A)),
        Is(LoadedByItself("hello")),
        Is(LoadedByItself("e100")),
        Is(LoadedByItself("cramfs")),
        Is(Route(true)),
        Is(Data(true)),
        // Out of tree, and without a trusted signature.
        Is(Tainted(1 << 12 | 1 << 13)),
        Is(Verdict("healthy")),
        Is(NoFailedUnit),
    ];
    Scene { from: From::Clear, ..scene(FIRST, "first installation to the first loaded module", steps) }
}
