//! All scenes.

use crate::scene::Fact::{
    BootMounted, Data, Default, Error, Held, Loaded, LoadedByItself, NoFailedUnit, Route, Runs, SecureBoot,
    Tainted, Variable, Verdict, WholeEntries,
};
use crate::scene::Step::{CutDuring, Do, Exits, Is, Measure, PowerCut, Reboot, RebootAsUser, Settle, Update};
use crate::scene::{A, B, From, Scene, Step, When};

/// The scene that makes the machine which others begin with.
pub(crate) const FIRST: &str = "first-module";

/// All scenes, in the order of the table.
pub(crate) fn all() -> Vec<Scene> {
    let mut scenes = vec![first()];
    scenes.extend(updates());
    scenes.extend(admin());
    scenes.extend(partition());
    scenes.extend(variables());
    scenes.extend(cuts());
    scenes.push(initrd());
    scenes.push(compiled());
    let limit = "the boot unit takes less than three times as long as with /bin/true";
    scenes.push(scene(
        "boot-time",
        "what a boot costs if nothing has changed",
        vec![Reboot, Measure(limit, "vm-boot-time")],
    ));
    scenes
}

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
    let install = "dd if=/dev/vdb bs=1M iflag=direct status=none | tar -xf - -C / && systemctl daemon-reload";
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

/// New kernels, whose modules build or do not.
fn updates() -> Vec<Scene> {
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

/// What an admin decides, and does by hand.
fn admin() -> Vec<Scene> {
    let by_hand = "clr-boot-manager update";
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
                Is(Default(B)),
                Reboot,
                Is(Runs(B)),
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
                Is(Default(B)),
                Reboot,
                Is(Runs(B)),
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

/// The boot partition in every condition.
fn partition() -> Vec<Scene> {
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
        scene(
            "as-user",
            "predictions that a user without rights gets",
            vec![Update(B), RebootAsUser, Is(Runs(B))],
        ),
    ]
}

/// Writes an EFI variable of the boot loader: the entry of a kernel, in UTF-16.
fn variable(name: &str, release: &str) -> String {
    format!(
        "python3 - <<'PY'
text = 'Clear-linux-native-{}.conf\\0'.encode('utf-16-le')
with open('/sys/firmware/efi/efivars/{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f', 'wb', buffering=0) as file:
    file.write(b'\\7\\0\\0\\0' + text)
PY",
        release.trim_end_matches(".native"),
    )
}

/// The variables that override `loader.conf`.
fn variables() -> Vec<Scene> {
    vec![
        scene(
            "one-shot",
            "LoaderEntryOneShot names the older kernel",
            vec![
                Update(B),
                Do("LoaderEntryOneShot", variable("LoaderEntryOneShot", A)),
                Reboot,
                Is(Runs(A)),
                Is(Variable("LoaderEntryOneShot", None)),
                Reboot,
                Is(Runs(B)),
            ],
        ),
        scene(
            "default-variable",
            "LoaderEntryDefault names the older kernel",
            vec![
                Update(B),
                Do("LoaderEntryDefault", variable("LoaderEntryDefault", A)),
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
    ]
}

/// Power cuts at random moments.
fn cuts() -> Vec<Scene> {
    let build = "for m in hello-1.0/hello e100-3.5/e100 cramfs-1.0/inode; do echo >>/usr/src/$m.c; done; clr-dkms-post-update";
    let boot_files = "mkdir -p /etc/kernel/cmdline.d
for i in $(seq 99); do echo vm.word=$i >/etc/kernel/cmdline.d/vm.conf; clr-dkms-post-update; done";
    let own = format!(
        "for i in $(seq 99); do clr-dkms hold {A}; clr-dkms unhold; clr-dkms-cmdline disable --force; clr-dkms-cmdline default; done"
    );
    let update = format!("cp -a /srv/update/{B}/. / && sync && clr-dkms-post-update");
    let by_word = |word: &str| -> Step {
        match word {
            "build" => CutDuring("modules are built again", build.into(), 500, 6000),
            "install" => CutDuring("modules are built and installed again", build.into(), 6000, 20_000),
            "boot files" => CutDuring("clr-boot-manager writes new entries", boot_files.into(), 500, 15_000),
            "own" => CutDuring("hold, unhold, and a fragment masked and unmasked", own.clone(), 500, 15_000),
            _ => CutDuring("a run for a new kernel", update.clone(), 4000, 25_000),
        }
    };
    // A hold may be in force when the power is cut.
    let calm = run("", "clr-dkms unhold; clr-dkms-cmdline default; true");
    let mut scenes = vec![
        scene(
            "cut-modules",
            "power cuts while modules are built and installed",
            vec![by_word("build"), by_word("install")],
        ),
        scene(
            "cut-files",
            "power cuts while files are written",
            vec![by_word("boot files"), by_word("own"), calm.clone(), by_word("update")],
        ),
    ];
    for name in ["cut-long-1", "cut-long-2", "cut-long-3"] {
        let mut steps: Vec<Step> = ["build", "boot files", "own"].map(by_word).into();
        steps.extend([calm.clone(), by_word("install"), by_word("update")]);
        scenes.push(Scene { when: When::Long, ..scene(name, "more power cuts", steps) });
    }
    scenes
}

/// A freestanding initrd that holds a module for the kernel that runs at first.
fn initrd() -> Scene {
    let copy = "mkdir -p /etc/kernel/initrd.d && cp /usr/share/vm/hello.cpio.gz /etc/kernel/initrd.d/ && clr-dkms-post-update";
    let from_initrd = "dmesg | grep -q 'initrd: loaded hello.ko'";
    scene(
        "initrd",
        "an initrd that holds a module",
        vec![
            run("an initrd with hello for 1591", copy),
            Settle,
            Reboot,
            run("", from_initrd),
            Is(LoadedByItself("hello")),
            Update(B),
            Reboot,
            Is(Runs(B)),
            Exits("", from_initrd.into(), 1),
            Is(LoadedByItself("hello")),
        ],
    )
}

/// The example of Clear's guide, really compiled.
fn compiled() -> Scene {
    let headers = format!(
        "cd /usr/lib/modules/{A} && rm -r build && mkdir build && tar -C build -I zstd -xf /usr/share/vm/headers.tar.zst"
    );
    let source = "mkdir -p /root/custom/src && cd /root/custom && cat >dkms.conf <<'CONF'
MAKE=\"make -C src/ KERNELDIR=/lib/modules/${kernelver}/build\"
CLEAN=\"make -C src/ clean\"
BUILT_MODULE_NAME=custom_module
BUILT_MODULE_LOCATION=src/
PACKAGE_NAME=custom_module
PACKAGE_VERSION=1.0
DEST_MODULE_LOCATION=/kernel/drivers/other
AUTOINSTALL=yes
CONF
cat >src/Makefile <<'MAKE'
obj-m := custom_module.o
KERNELDIR ?= /lib/modules/$(shell uname -r)/build
all:
\t$(MAKE) -C $(KERNELDIR) M=$(CURDIR) modules
clean:
\t$(MAKE) -C $(KERNELDIR) M=$(CURDIR) clean
MAKE
sed 's/hello/custom/g' /usr/src/hello-1.0/hello.c >src/custom_module.c";
    let steps = vec![
        Do("the headers", headers),
        run("the example of the guide", source),
        run("clr-dkms add --load", "clr-dkms add /root/custom --yes --autoload --load"),
        Is(Loaded("custom_module")),
        Settle,
        Reboot,
        Is(LoadedByItself("custom_module")),
        Is(Verdict("healthy")),
    ];
    Scene {
        when: When::Long,
        ..scene("compiled", "clr-dkms add, from the source to the loaded module", steps)
    }
}
