//! A machine whose modules are in use: what `/proc` and `/sys` say of mounts, routes, devices and drivers.

use super::{A, B, TestRoot};

/// The kernel ids of [`A`] and [`B`].
pub(crate) const ID_A: &str = "org.clearlinux.native.6.15.7-1591";
pub(crate) const ID_B: &str = "org.clearlinux.native.6.15.8-1592";
/// Lines for [`TestRoot::behave`]: nothing compiles for [`B`].
pub(crate) const FAILS_ON_B: &str =
    "[[ $verb != build || $kernel != *1592* ]] || { code=10; said='hello.c:1:5: error: no'; }";
/// Lines for the same: nor does `hello`, while the others do.
pub(crate) const HELLO_FAILS_ON_B: &str =
    "[[ $verb != build || $module != hello || $kernel != *1592* ]] || code=10";

const WORDS: &str = "quiet rw module.sig_unenforce";

impl TestRoot {
    /// [`A`] runs and is the boot default, with `hello` loaded and `/data` on it; an update has brought
    /// [`B`].
    pub(crate) fn guarded() -> TestRoot {
        let root = TestRoot::updated();
        root.module("hello", "1.0", "").installed("hello", "1.0", A).entry(ID_A, WORDS, true);
        root.loads(&["hello"]).mounts(&[("8:2", "/data", "hello", "/dev/sda2")]);
        root.file(&format!("var/lib/kernel/k_booted_{A}"), "");
        root
    }

    /// The same after a run in which `hello` did not compile for [`B`].
    pub(crate) fn held() -> TestRoot {
        let root = TestRoot::guarded();
        root.behave(FAILS_ON_B).post_update().code(1);
        root
    }

    /// After the boot into another kernel, which loads nothing.
    pub(crate) fn rebooted(self, release: &str) -> TestRoot {
        let root = self.running(release);
        root.loads(&[]).mounts(&[]);
        root
    }

    /// A run is active until the value goes: what it builds, each as `module/version on kernel`.
    pub(crate) fn at_work(&self, builds: &[&str]) -> std::fs::File {
        let mark = serde_json::json!({
            "schema": 1, "started": "2025-07-29T12:00:00Z", "pid": 1, "builds": builds,
        });
        self.file("var/lib/clr-dkms/in-progress.json", mark.to_string()).file("run/clr-dkms.lock", "");
        let lock = std::fs::File::open(self.at("run/clr-dkms.lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        lock
    }

    /// A boot with that id has got as far as multi-user.target.
    pub(crate) fn boot(&self, id: &str) -> &TestRoot {
        let running = self.text("proc/sys/kernel/osrelease");
        self.file("proc/sys/kernel/random/boot_id", format!("{id}\n"))
            .file("proc/uptime", "1000.00 1900.00\n")
            .file(&format!("var/lib/kernel/k_booted_{}", running.trim()), "")
    }

    /// As `dkms remove --all` leaves it: nothing in the tree, no installed file, a new index.
    pub(crate) fn removed(&self, name: &str, kernels: &[&str]) -> &TestRoot {
        self.remove(&format!("var/lib/dkms/{name}"));
        for release in kernels {
            let index = self.text(&format!("usr/lib/modules/{release}/modules.dep"));
            let file = format!("updates/dkms/{name}.ko:");
            let left = index.lines().filter(|line| !line.starts_with(&file));
            let index: String = left.map(|line| format!("{line}\n")).collect();
            self.remove(&TestRoot::ko(name, release)).index(release, &index);
        }
        self
    }

    /// What is loaded, each of it from outside the kernel's own tree.
    pub(crate) fn loads(&self, modules: &[&str]) -> &TestRoot {
        let line = |name: &&str| format!("{name} 16384 1 - Live 0x0000000000000000 (OE)\n");
        self.file("proc/modules", modules.iter().map(line).collect::<String>())
    }

    /// Mounts: device number, mount point, type, source.
    pub(crate) fn mounts(&self, mounts: &[(&str, &str, &str, &str)]) -> &TestRoot {
        let line = |(number, point, kind, source): &(&str, &str, &str, &str)| {
            format!("22 1 {number} / {point} rw,relatime shared:1 - {kind} {source} rw\n")
        };
        self.file("proc/self/mountinfo", mounts.iter().map(line).collect::<String>())
    }

    /// A device below `/sys/devices`, driven by a module.
    pub(crate) fn device(&self, path: &str, module: &str) -> &TestRoot {
        let up = "../".repeat(path.split('/').count() + 1);
        self.directory(&format!("sys/devices/{path}"))
            .link(&format!("sys/bus/x/drivers/{module}/module"), format!("../../../../module/{module}"))
            .link(&format!("sys/devices/{path}/driver"), format!("{up}bus/x/drivers/{module}"))
    }

    /// A block device, and what it lies on.
    pub(crate) fn block(&self, number: &str, path: &str, slaves: &[&str]) -> &TestRoot {
        let name = path.rsplit('/').next().unwrap();
        self.file(&format!("sys/devices/{path}/dev"), format!("{number}\n"))
            .link(&format!("sys/dev/block/{number}"), format!("../../devices/{path}"))
            .link(&format!("sys/class/block/{name}"), format!("../../devices/{path}"));
        for slave in slaves {
            self.link(&format!("sys/devices/{path}/slaves/{slave}"), format!("/sys/class/block/{slave}"));
        }
        self
    }

    /// A network interface, its DEVTYPE where it has one, and the interfaces below it.
    pub(crate) fn interface(&self, name: &str, path: &str, kind: &str, lower: &[&str]) -> &TestRoot {
        let kind = if kind.is_empty() { String::new() } else { format!("DEVTYPE={kind}\n") };
        self.file(&format!("sys/devices/{path}/net/{name}/uevent"), format!("{kind}INTERFACE={name}\n"))
            .link(&format!("sys/class/net/{name}"), format!("../../devices/{path}/net/{name}"));
        if !path.starts_with("virtual") {
            self.link(&format!("sys/devices/{path}/net/{name}/device"), "../..");
        }
        for below in lower {
            let link = format!("sys/devices/{path}/net/{name}/lower_{below}");
            self.link(&link, format!("/sys/class/net/{below}"));
        }
        self
    }

    /// The default route of IPv4.
    pub(crate) fn route(&self, interface: &str) -> &TestRoot {
        self.file(
            "proc/net/route",
            format!(
                "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                 {interface}\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                 other0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
            ),
        )
    }

    /// The answer of `clr-dkms guard --json`.
    pub(crate) fn guard(&self) -> serde_json::Value {
        self.run("clr-dkms", &["guard", "--json"]).json()
    }

    /// `class: reason` of a module.
    pub(crate) fn need(&self, module: &str) -> String {
        let guard = self.guard();
        let need = guard["needs"].as_array().unwrap().iter().find(|n| n["module"] == module);
        need.map_or_else(
            || "none".to_owned(),
            |n| format!("{}: {}", n["class"].as_str().unwrap(), n["reason"].as_str().unwrap()),
        )
    }

    /// The kernel id of the boot default.
    pub(crate) fn boot_default(&self) -> String {
        let text = self.text("boot/loader/loader.conf");
        let entry = text.trim().strip_prefix("default Clear-linux-").and_then(|e| e.strip_suffix(".conf"));
        format!("org.clearlinux.{}", entry.unwrap().replacen('-', ".", 1))
    }

    /// Somebody runs clr-boot-manager by hand: all entries are made, and [`B`] is the default.
    pub(crate) fn updated_by_hand(&self) -> &TestRoot {
        self.entry(ID_A, WORDS, false).entry(ID_B, WORDS, true)
    }

    /// The configuration.
    pub(crate) fn conf(&self, text: &str) -> &TestRoot {
        self.file("etc/clr-dkms/clr-dkms.conf", text)
    }

    /// A module for both kernels: it builds for [`B`], and is loaded.
    pub(crate) fn proven() -> TestRoot {
        let root = TestRoot::guarded();
        root.post_update().code(0);
        assert_eq!(root.recorded("hello", B), "ok");
        root
    }
}
