//! Power cuts at random moments.

use super::scene;
use crate::scene::{A, B, Cut, Scene, Step, When};

/// Power cuts at random moments.
pub(super) fn cuts() -> Vec<Scene> {
    let build = "for m in hello-1.0/hello e100-3.5/e100 cramfs-1.0/inode; do echo >>/usr/src/$m.c; done; clr-dkms-post-update";
    let boot_files = "mkdir -p /etc/kernel/cmdline.d
for i in $(seq 99); do echo vm.word=$i >/etc/kernel/cmdline.d/vm.conf; clr-dkms-post-update; done";
    let own = format!(
        "for i in $(seq 99); do clr-dkms hold {A}; clr-dkms unhold; clr-dkms-cmdline disable --force; clr-dkms-cmdline default; done"
    );
    let update = format!("cp -a /srv/update/{B}/. / && sync && clr-dkms-post-update");
    let by_word = |word: &str| -> Step {
        let (what, script, between_ms) = match word {
            "build" => ("modules are built again", build, (500, 6000)),
            "install" => ("modules are built and installed again", build, (6000, 20_000)),
            "boot files" => ("clr-boot-manager writes new entries", boot_files, (500, 15_000)),
            "own" => ("hold, unhold, disable and default", own.as_str(), (500, 15_000)),
            _ => ("a run for a new kernel", update.as_str(), (4000, 25_000)),
        };
        Step::CutDuring(Cut { what, script: script.to_owned(), between_ms, gives_orders: word == "own" })
    };
    let mut scenes = vec![
        scene(
            "cut-modules",
            "power cuts while modules are built and installed",
            vec![by_word("build"), by_word("install")],
        ),
        scene(
            "cut-files",
            "power cuts while files are written",
            vec![by_word("boot files"), by_word("own"), by_word("update")],
        ),
    ];
    for name in ["cut-long-1", "cut-long-2", "cut-long-3"] {
        let steps = ["build", "boot files", "own", "install", "update"].map(by_word).into();
        scenes.push(Scene { when: When::Long, ..scene(name, "more power cuts", steps) });
    }
    scenes
}
