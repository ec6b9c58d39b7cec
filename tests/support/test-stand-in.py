#!/usr/bin/env python3
"""Tests of the stand-in for clr-boot-manager: `python3 tests/support/test-stand-in.py`.

Most tests run it as a process of its own, as its users do. They need no privileges and nothing
but the standard library, and work in directories of their own.
"""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
STAND_IN = HERE / "clr-boot-manager"
VECTORS = HERE.parent / "data/cmdline-vectors.jsonl"
ID = "org.clearlinux.native.6.15.7-1591"
UNAME = "6.15.7-1591.native"
ENTRY = "boot/loader/entries/Clear-linux-native-6.15.7-1591.conf"
LOADER = "boot/loader/loader.conf"


def environment(**switches):
    """The caller's environment with only the given switches of the stand-in."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("STAND_IN_")}
    env.update({f"STAND_IN_{k}": str(v) for k, v in {"AS_ROOT": 1, **switches}.items()})
    return env


def call(*arguments, **switches):
    # Without the site module, which takes longer to load than the stand-in takes to run.
    command = [sys.executable, "-S", STAND_IN, *arguments]
    return subprocess.run(command, env=environment(**switches), capture_output=True, timeout=60)


def make_vector(root, files):
    for file in files:
        path = os.path.join(os.fsencode(root), file["p"].encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if file["k"] == "dir":
            os.mkdir(path)
        elif file["k"] == "link":
            os.symlink(file["c"].encode("latin-1"), path)
        else:
            Path(os.fsdecode(path)).write_bytes(file["c"].encode("latin-1"))


def load_vectors():
    with open(VECTORS, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def options(root):
    """The options line of ID's entry, without the root= word."""
    words, _, line = (root / ENTRY).read_bytes().partition(b"\noptions ")[2].partition(b" ")
    assert re.fullmatch(rb"root=PARTUUID=[0-9a-f-]{36}", words) and line.endswith(b"\n")
    return line[:-1]


class Case(unittest.TestCase):
    """A test with a root directory of its own."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="stand-in-")
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)

    def write(self, name, text=""):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, name):
        return (self.root / name).read_bytes()

    def has(self, name):
        return os.path.lexists(self.root / name)

    def kernel(self, kind, version, release, *, line="quiet", default=False, booted=False):
        name = f"org.clearlinux.{kind}.{version}-{release}"
        uname = f"{version}-{release}.{kind}"
        self.write(f"usr/lib/kernel/{name}", f"image {uname}")
        self.write(f"usr/lib/kernel/cmdline-{uname}", line)
        self.write(f"usr/lib/kernel/config-{uname}")
        self.write(f"usr/lib/modules/{uname}/build/Makefile")
        if default:
            (self.root / f"usr/lib/kernel/default-{kind}").symlink_to(name)
        if booted:
            self.write(f"var/lib/kernel/k_booted_{uname}")
        return name

    def runs(self, uname):
        self.write("proc/sys/kernel/osrelease", uname + "\n")

    def image(self, command, *words, code=0, **switches):
        path = f"--path={self.root}"
        return self.checked(code, call(command, path, *words, **{"IMAGE": 1, **switches}))

    def native(self, command, *words, code=0, **switches):
        return self.checked(code, call(command, *words, NATIVE_ROOT=self.root, **switches))

    def checked(self, code, done):
        self.assertEqual(done.returncode, code, done.stderr.decode())
        return done

    def entries(self):
        return sorted(os.listdir(self.root / "boot/loader/entries"))

    def snapshot(self):
        """Every file with what changes when it is written again."""
        stats = {p: p.lstat() for p in self.root.rglob("*") if not p.is_dir()}
        return {p: (s.st_ino, s.st_mtime_ns, s.st_size) for p, s in stats.items()}


class CommandLine(Case):
    def check_vectors(self, vectors, update):
        """Runs `update` on a root made for each vector, and compares the line in the entry."""
        for vector in vectors:
            with self.subTest(vector["name"]), tempfile.TemporaryDirectory(dir=self.root) as directory:
                make_vector(directory, vector["files"])
                kernel_dir = Path(directory, "usr/lib/kernel")
                kernel_dir.mkdir(parents=True, exist_ok=True)
                (kernel_dir / ID).write_bytes(b"image")
                (kernel_dir / "default-native").symlink_to(ID)
                self.assertEqual(update(directory), 0)
                self.assertEqual(options(Path(directory)), vector["out"].encode("latin-1"))

    def test_all_vectors(self):
        loader = importlib.machinery.SourceFileLoader("stand_in", str(STAND_IN))
        spec = importlib.util.spec_from_loader("stand_in", loader)
        module = importlib.util.module_from_spec(spec)
        with mock.patch.object(sys, "dont_write_bytecode", True):
            loader.exec_module(module)

        def update(directory):
            with contextlib.redirect_stderr(io.StringIO()):
                return module.main(["update", f"--path={directory}"])

        with mock.patch.dict(os.environ, environment(), clear=True):
            self.check_vectors(load_vectors(), update)

    def test_every_tenth_vector_as_a_process(self):
        vectors = load_vectors()[::10]
        self.assertEqual(len(vectors), 41)
        self.check_vectors(vectors, lambda directory: call("update", "--path", directory).returncode)

    def test_root_with_glob_characters_loses_all_fragments(self):
        self.root = self.root / "a[b"
        self.kernel("native", "6.15.7", 1591)
        self.write("etc/kernel/cmdline", "global")
        self.write("etc/kernel/cmdline.d/a.conf", "local")
        self.image("update")
        self.assertEqual(options(self.root), b"quiet global")

    def test_strip_by_an_unreadable_removal_file_shields_the_text_before_it(self):
        self.kernel("native", "6.15.7", 1591, line="a b last")
        removal = "etc/kernel/cmdline-removal.d"
        self.write(f"{removal}/b.conf", "last")
        self.write(f"{removal}/c.conf")
        self.image("update")
        self.assertEqual(options(self.root), b"a b")
        (self.root / removal / "a.conf").symlink_to("nowhere")
        self.image("update")
        self.assertEqual(options(self.root), b"a b ")


class Kernels(Case):
    def test_grammar(self):
        good = ["a.1-1", "native.6.15.7-1591", "native.6.15.7-1592.bak", f"{'t' * 31}.{'v' * 15}-3"]
        bad = ["a.b-", "a.6.16.0-rc1-12", ".1-1", "a.-1", f"{'t' * 32}.1-1", f"a.{'v' * 16}-1"]
        for name in good + bad:
            self.write(f"usr/lib/kernel/org.clearlinux.{name}", "image")
        self.write("usr/lib/kernel/com.example.a.1-1", "image")
        for uname in ("1-1.a", UNAME, "6.15.7-1592.native", f"{'v' * 15}-3.{'t' * 31}",
                      "6.16.0-rc1-12.a", "6.16.0-rc1.a", f"1-1.{'t' * 32}", f"{'v' * 16}-1.a"):
            self.write(f"usr/lib/kernel/cmdline-{uname}")
        lines = self.image("list-kernels").stdout.decode().splitlines()
        self.assertEqual(sorted(lines), sorted(f"  org.clearlinux.{name}" for name in good))

    def test_invisible_kernels(self):
        name = self.kernel("native", "6.15.7", 1591)
        kernel_dir = self.root / "usr/lib/kernel"
        for uname in ("6-7.empty", "6-7.link", "6-7.directory"):
            self.write(f"usr/lib/kernel/cmdline-{uname}")
        self.write("usr/lib/kernel/org.clearlinux.bare.6-7", "no cmdline file")
        self.write("usr/lib/kernel/org.clearlinux.empty.6-7")
        (kernel_dir / "org.clearlinux.link.6-7").symlink_to(name)
        (kernel_dir / "org.clearlinux.directory.6-7").mkdir()
        self.assertEqual(self.image("list-kernels").stdout.decode(), f"  {name}\n")

    def test_namespace(self):
        name = "com.solus-project.current.6.12.1-300"
        self.write(f"usr/lib/kernel/{name}", "image")
        self.write("usr/lib/kernel/cmdline-6.12.1-300.current")
        self.image("update", NAMESPACE="com.solus-project")
        self.assertEqual(self.entries(), ["Solus-current-6.12.1-300.conf"])
        self.assertIn(f"\nlinux /EFI/com.solus-project/kernel-{name}\n".encode(),
                      self.read("boot/loader/entries/Solus-current-6.12.1-300.conf"))

    def test_copy_takes_over_the_entry(self):
        self.kernel("native", "6.15.7", 1591)
        self.write(f"usr/lib/kernel/{ID}.bak", "other image")
        self.image("update")
        self.assertEqual(self.entries(), [Path(ENTRY).name])
        self.assertIn(f"/kernel-{ID}.bak\n".encode(), self.read(ENTRY))

    def test_release_wraps_at_16_bits(self):
        self.kernel("native", "6.15.7", 32768 + 1)
        self.kernel("native", "6.15.7", 32767)
        self.image("update")
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-6.15.7-32767.conf\n")
        self.assertIn("Clear-linux-native-6.15.7--32767.conf", self.entries())


class ImageMode(Case):
    def test_entry(self):
        self.kernel("native", "6.15.7", 1591)
        self.write(f"usr/lib/kernel/initrd-{ID}", "initrd")
        self.write("etc/kernel/timeout", "7\n")
        self.image("update")
        lines = self.read(ENTRY).decode().splitlines()
        keys = [line.split()[0] for line in lines]
        self.assertEqual(keys, ["title", "linux", "initrd", "options"])
        self.assertEqual(lines[1], f"linux /EFI/org.clearlinux/kernel-{ID}")
        self.assertEqual(lines[2], f"initrd /EFI/org.clearlinux/initrd-{ID}")
        self.assertEqual(options(self.root), b"quiet ")
        images = "boot/EFI/org.clearlinux"
        self.assertEqual(self.read(f"{images}/kernel-{ID}").decode(), f"image {UNAME}")
        self.assertEqual(self.read(f"{images}/initrd-{ID}"), b"initrd")
        self.assertEqual(self.read(LOADER),
                         b"timeout 7\ndefault Clear-linux-native-6.15.7-1591.conf\n")

    def test_installs_all_deletes_none_highest_release_is_default(self):
        for release in (1589, 1590, 1591):
            self.kernel("native", "6.15.7", release, default=release == 1590)
        self.kernel("ltscurrent", "6.12.40", 1600)
        self.runs("6.15.7-1590.native")
        before = set(self.snapshot())
        self.image("update")
        self.assertEqual(len(self.entries()), 4)
        self.assertEqual(self.read(LOADER), b"default Clear-linux-ltscurrent-6.12.40-1600.conf\n")
        self.assertLessEqual(before, set(self.snapshot()))

    def test_only_what_changed_is_written(self):
        self.kernel("native", "6.15.7", 1591)
        self.kernel("lts", "6.12.1", 5)
        self.image("update")
        before = self.snapshot()
        self.image("update")
        self.assertEqual(self.snapshot(), before)
        self.write("usr/lib/kernel/cmdline-6.12.1-5.lts", "loud")
        before = self.snapshot()
        self.image("update")
        changed = {p.name for p, s in self.snapshot().items() if before[p] != s}
        self.assertEqual(changed, {"Clear-linux-lts-6.12.1-5.conf"})


class NativeMode(Case):
    def setUp(self):
        super().setUp()
        for release in range(1585, 1592):
            self.kernel("native", "6.15.7", release, booted=release in (1586, 1588))
        (self.root / "usr/lib/kernel/default-native").symlink_to(ID)
        self.write("var/lib/kernel/k_booted_6.15.7-1600.native")  # its kernel is gone
        self.runs("6.15.7-1587.native")

    def releases(self, kind="native"):
        names = os.listdir(self.root / "usr/lib/kernel")
        start = f"org.clearlinux.{kind}."
        return sorted(int(name.rpartition("-")[2]) for name in names if name.startswith(start))

    def test_running_tip_and_last_good_stay(self):
        for release in (1585, 1586):
            self.write(f"boot/loader/entries/Clear-linux-native-6.15.7-{release}.conf", "old")
            self.write(f"usr/src/linux-headers-6.15.7-{release}.native/Makefile")
        self.native("update")
        self.assertEqual(self.releases(), [1587, 1588, 1591])
        self.assertEqual(self.entries(),
                         [f"Clear-linux-native-6.15.7-{r}.conf" for r in (1587, 1588, 1591)])
        left = {p.name for p in self.root.rglob("*") if re.search("-158[5690]|-1590", p.name)}
        self.assertEqual(left, set())  # no image, module, header, mark or entry
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-6.15.7-1591.conf\n")

    def test_unknown_running_kernel_deletes_and_refreshes_nothing(self):
        entry = "boot/loader/entries/Clear-linux-native-6.15.7-1585.conf"
        for uname in ("6.15.7-1599.native", "6.15.7-custom"):
            with self.subTest(uname):
                self.runs(uname)
                self.write(entry, "old")
                self.native("update")
                self.assertEqual(self.releases(), list(range(1585, 1592)))
                self.assertEqual(self.read(entry), b"old")
                self.assertTrue(self.has(ENTRY))

    def test_default_is_the_tip_of_the_running_type(self):
        self.kernel("ltscurrent", "6.12.40", 1700, default=True)
        self.native("update")
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-6.15.7-1591.conf\n")
        self.runs("6.12.40-1700.ltscurrent")
        self.native("update")
        self.assertEqual(self.read(LOADER), b"default Clear-linux-ltscurrent-6.12.40-1700.conf\n")
        self.assertEqual(self.releases(), [1588, 1591])

    def test_default_link_counts_only_as_a_bare_file_name(self):
        link = self.root / "usr/lib/kernel/default-native"
        name = self.kernel("native", "6.15.7", 1590, booted=True)
        self.write(LOADER, "default as-it-was\n")
        # The highest one is the tip then, and the default is not touched.
        for target in (f"./{name}", f"/usr/lib/kernel/{name}", "gone"):
            link.unlink()
            link.symlink_to(target)
            self.native("update")
            self.assertEqual(self.read(LOADER), b"default as-it-was\n")
            self.assertTrue(self.has(ENTRY))
        link.unlink()
        link.symlink_to(name)
        self.native("update")
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-6.15.7-1590.conf\n")

    def test_a_copy_of_a_live_system_is_updated_natively(self):
        self.checked(0, call("update", f"--path={self.root}"))
        self.assertEqual(self.releases(), [1587, 1588, 1591])
        self.image("update")
        self.assertEqual(self.releases(), [1587, 1588, 1591])
        self.kernel("native", "6.15.7", 1600)
        self.image("update")
        self.assertEqual(self.releases(), [1587, 1588, 1591, 1600])
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-6.15.7-1600.conf\n")

    def test_the_running_kernel_is_also_found_by_type_and_number(self):
        self.runs("9.9.9-1585.native")
        self.native("update")
        self.assertEqual(self.releases(), [1585, 1588, 1591])

    def test_a_number_that_wraps_is_never_the_last_good_one(self):
        self.kernel("native", "6.15.7", 40000)
        self.write("var/lib/kernel/k_booted_6.15.7--25536.native")
        self.native("update")
        self.assertEqual(self.releases(), [1587, 1588, 1591])

    def test_the_tip_is_the_default_before_anything_is_deleted(self):
        command = [sys.executable, STAND_IN, "update"]
        env = environment(NATIVE_ROOT=self.root, PAUSE=30)
        with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
            while not self.has(LOADER):
                time.sleep(0.01)
            process.kill()
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-6.15.7-1591.conf\n")
        self.assertEqual(self.releases(), list(range(1585, 1592)))

    def test_freestanding_initrds(self):
        images = self.root / "boot/EFI/org.clearlinux"
        self.write("usr/lib/initrd.d/00-ucode.cpio", "microcode")
        self.write("usr/lib/initrd.d/extra", "vendor")
        self.write("usr/lib/initrd.d/empty")
        self.write("usr/lib/initrd.d/masked", "vendor")
        self.write("etc/kernel/initrd.d/extra", "admin")
        self.write("etc/initrd.d/never-read", "x")
        (self.root / "etc/kernel/initrd.d/masked").symlink_to("/dev/null")
        for name in ("stale", "masked"):
            self.write(f"boot/EFI/org.clearlinux/freestanding-{name}", "old")
        self.native("update")
        found = sorted(p.name for p in images.glob("freestanding-*"))
        self.assertEqual(found, [f"freestanding-{n}" for n in ("00-ucode.cpio", "extra", "masked")])
        self.assertEqual((images / "freestanding-extra").read_text(), "admin")
        lines = self.read(ENTRY).decode().splitlines()
        initrds = [line.rpartition("/")[2] for line in lines if line.startswith("initrd ")]
        self.assertEqual(initrds, ["freestanding-00-ucode.cpio", "freestanding-extra"])
        # In an image none is deleted.
        self.write("boot/EFI/org.clearlinux/freestanding-stale", "old")
        self.image("update")
        self.assertTrue((images / "freestanding-stale").exists())

    def test_the_initrd_of_an_admin_and_the_title(self):
        self.write(f"usr/lib/kernel/initrd-{ID}", "vendor")
        self.write(f"etc/kernel/initrd-{ID}", "admin")
        self.write("usr/lib/os-release", 'ID=x\nPRETTY_NAME="Some OS"\n')
        self.native("update")
        self.assertEqual(self.read(f"boot/EFI/org.clearlinux/initrd-{ID}"), b"admin")
        self.assertTrue(self.read(ENTRY).startswith(b"title Some OS\n"))

    def test_path_of_the_same_folder_or_slash_is_native(self):
        for path in (f"{self.root}/.", "/"):
            with self.subTest(path):
                self.kernel("native", "6.15.7", 1585)
                self.native("update", f"--path={path}")
                self.assertEqual(self.releases(), [1587, 1588, 1591])

    def test_copy_takes_the_entry_and_modules_of_its_original_along(self):
        self.write(f"usr/lib/kernel/{ID}.bak", "image")
        self.native("update")
        self.assertTrue(self.has(f"usr/lib/kernel/{ID}"))
        self.assertFalse(self.has(f"usr/lib/modules/{UNAME}"))
        self.assertFalse(self.has(ENTRY))

    def test_old_lts_moves_to_ltsprev(self):
        self.kernel("lts2020", "5.10.1", 20, default=True)
        self.kernel("lts2020", "5.10.1", 21)
        self.kernel("lts2022", "5.15.1", 22, default=True)
        self.kernel("ltsprev", "6.6.1", 30, default=True)
        self.runs("5.10.1-21.lts2020")
        self.native("update")
        self.assertEqual(self.read(LOADER), b"default Clear-linux-ltsprev-6.6.1-30.conf\n")
        self.assertEqual(self.releases("lts2020"), [21])
        self.assertEqual(self.releases("lts2022"), [22])


class Commands(Case):
    def setUp(self):
        super().setUp()
        self.kernel("native", "6.15.7", 1591, default=True)
        self.kernel("native", "6.15.6", 1590)
        self.kernel("preempt-rt", "6.1.1", 7, default=True)

    def list(self):
        return self.image("list-kernels").stdout.decode()

    def test_list_kernels(self):
        rest = "  org.clearlinux.native.6.15.6-1590\n  org.clearlinux.preempt-rt.6.1.1-7\n"
        self.assertEqual(self.list(), f"  {ID}\n{rest}")
        self.image("update")
        self.assertEqual(self.list(), f"* {ID}\n{rest}")
        self.image("set-kernel", "org.clearlinux.preempt-rt.6.1.1-7")
        self.assertIn("* org.clearlinux.preempt-rt.6.1.1-7\n", self.list())

    def test_set_kernel_checks_nothing_and_update_undoes_it(self):
        self.write(LOADER, "console-mode max\ndefault x\n")
        self.image("set-kernel", "org.clearlinux.native.9.9-9")
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-9.9-9.conf\n")
        self.assertNotIn("*", self.list())
        self.image("update")
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-6.15.7-1591.conf\n")
        self.image("set-kernel", "nonsense", code=1)

    def test_remove_kernel_has_no_guard(self):
        self.image("update")
        self.runs(UNAME)
        self.native("remove-kernel", ID)
        self.assertFalse(self.has(ENTRY) or self.has(f"usr/lib/kernel/{ID}"))
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-6.15.7-1591.conf\n")
        self.native("remove-kernel", ID, code=1)

    def test_timeout(self):
        self.assertIn(b"No timeout", self.image("get-timeout").stdout)
        self.image("set-timeout", "5")
        self.assertEqual(self.read("etc/kernel/timeout"), b"5\n")
        self.assertTrue(self.read(LOADER).startswith(b"timeout 5\n"))  # a whole update was done
        self.assertIn(b"5 seconds", self.image("get-timeout").stdout)
        self.image("set-timeout", "0")
        self.assertNotIn(b"timeout", self.read(LOADER))
        self.image("set-timeout", "soon", code=1)

    def test_report_booted(self):
        self.native("report-booted", code=1)
        self.runs(UNAME)
        self.native("report-booted")
        self.assertTrue(self.has(f"var/lib/kernel/k_booted_{UNAME}"))

    def test_usage(self):
        for words in ([], ["reboot"], [f"--path={self.root}", "update"], ["update", "--paht=/x"]):
            self.checked(1, call(*words, NATIVE_ROOT=self.root))
        self.assertIn(b"stand-in", self.checked(0, call("version")).stdout)
        self.assertFalse(self.has("boot"))

    def test_without_root_nothing_happens_and_exit_is_0(self):
        as_user = ("import os, runpy, sys; os.geteuid = lambda: 1000; del sys.argv[0];"
                   "runpy.run_path(sys.argv[0], run_name='__main__')")
        command = [sys.executable, "-c", as_user, STAND_IN, "update", f"--path={self.root}"]
        done = subprocess.run(command, env=environment(AS_ROOT=0, EXIT=5), capture_output=True)
        self.assertIn(b"requires root", self.checked(0, done).stderr)
        self.assertFalse(self.has("boot"))

    def test_every_call_is_announced_and_recorded(self):
        record = self.root / "record"
        done = self.image("update", RECORD=record)
        self.image("set-kernel", ID, "a word", code=1, RECORD=record)
        self.assertEqual(done.stderr, b"clr-boot-manager: this is the stand-in of the clr-dkms "
                                      b"tests, not the real program\n")
        path = f"--path={self.root}"
        self.assertEqual(record.read_text(), f"clr-boot-manager update {path}\n"
                                             f"clr-boot-manager set-kernel {path} {ID} 'a word'\n")


class Failures(Case):
    def setUp(self):
        super().setUp()
        self.kernel("native", "6.15.7", 1591, default=True)

    def test_missing_folders_exit_0(self):
        for path in (self.root / "missing", self.root / "usr"):
            done = self.checked(0, call("update", f"--path={path}"))
            self.assertIn(b"No kernels detected", done.stderr)

    def test_no_usable_kernel(self):
        (self.root / f"usr/lib/kernel/cmdline-{UNAME}").unlink()
        self.image("update", code=1)

    def test_boot_partition_not_found(self):
        self.write("boot", "not a directory")
        self.assertIn(b"Cannot determine boot device", self.image("update", code=1).stderr)

    def test_empty_entry_or_loader_conf_is_fatal(self):
        for name in (LOADER, "boot/loader/entries/other.conf"):
            with self.subTest(name):
                self.write(name)
                self.image("update", code=-signal.SIGSEGV)
                self.assertFalse(self.has(ENTRY))
                (self.root / name).unlink()
        self.write(LOADER)
        shell = ["sh", "-c", '"$@"; echo $?', "sh", sys.executable, STAND_IN, "update"]
        done = subprocess.run(shell, env=environment(NATIVE_ROOT=self.root), capture_output=True,
                              cwd=self.root)
        self.assertEqual(done.stdout, b"139\n")
        self.assertEqual([p for p in os.listdir(self.root) if "core" in p], [])

    def test_full_while_copying(self):
        self.image("update", code=1, ESP_FULL="copy")
        self.assertFalse(self.has(ENTRY) or self.has(LOADER))

    def test_full_while_writing_an_entry(self):
        self.image("update", ESP_FULL="entry")
        self.assertEqual(self.read(ENTRY), b"")
        self.assertEqual(self.read(LOADER), b"default Clear-linux-native-6.15.7-1591.conf\n")
        self.image("update", code=-signal.SIGSEGV)
        (self.root / ENTRY).unlink()
        self.image("update")
        self.assertEqual(options(self.root), b"quiet ")

    def test_exit_code_that_proves_nothing(self):
        self.image("update", code=0, DO_NOTHING=1)
        self.assertFalse(self.has("boot"))
        self.image("update", code=3, EXIT=3)
        self.assertTrue(self.has(ENTRY))


class Safety(Case):
    """DO_NOTHING is set wherever a fault of the stand-in could reach the machine itself."""

    def test_root_of_the_machine_is_refused(self):
        (self.root / "link").symlink_to("/")
        for words in ([], ["--path=/"], [f"--path={self.root}/link"], ["--path="]):
            for switches in ({}, {"NATIVE_ROOT": "/"}, {"EXIT": 0}):
                done = self.checked(1, call("update", *words, DO_NOTHING=1, **switches))
                self.assertIn(b"own root", done.stderr)
        self.checked(1, call("report-booted", f"--path={self.root}", DO_NOTHING=1))
        self.checked(0, call("update", DO_NOTHING=1, ALLOW_HOST=1))

    def test_links_out_of_the_root_are_refused(self):
        with tempfile.TemporaryDirectory() as outside:
            self.kernel("native", "6.15.7", 1591)
            (self.root / "boot").symlink_to(outside)
            self.image("update", code=1)
            self.assertEqual(os.listdir(outside), [])
            self.image("update", ALLOW_HOST=1)
            self.assertEqual(sorted(os.listdir(outside)), ["EFI", "loader"])


if __name__ == "__main__":
    unittest.main()
