#!/usr/bin/env python3
"""Asks the real depmod and modprobe what they make of directories, and writes tests/data/modprobe.

As root, on a machine with kmod and gcc: modprobe runs in a chroot, so that it finds its directories and
its /proc/cmdline there.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

RELEASE = "6.15.7-1591.native"
HERE = pathlib.Path(__file__).resolve().parent.parent / "data" / "modprobe"
INDEXES = ["modules.dep", "modules.dep.bin", "modules.builtin", "modules.builtin.modinfo"]
NAMES = ["hello", "base-mod", "base_mod", "two", "three", "bi", "inside", "ghost", "fs-hello", "two-alias", "off",
         "pci:v00001234d00000001sv0sd0bc0sc0i0"]


def module(path, info, gives="", takes=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f'.asciz "{line}"\n' for line in info)
    asm = f'.section .modinfo,"a"\n{text}'
    if gives:
        asm += f'.section __ksymtab_strings,"a"\n.asciz "{gives}"\n'
    if takes:
        asm += f".data\n.quad {takes}\n"
    subprocess.run(["gcc", "-c", "-x", "assembler", "-", "-o", path], input=asm.encode(), check=True)


def kernel(top):
    tree = top / "usr/lib/modules" / RELEASE
    magic = f"vermagic={RELEASE} SMP"
    module(tree / "kernel/a/hello.ko",
           ["name=hello", magic, "depends=base-mod", "alias=pci:v00001234d*sv*sd*bc*sc*i*", "alias=fs-hello"],
           takes="base_fn")
    module(tree / "kernel/a/base-mod.ko", ["name=base_mod", magic, "depends="], gives="base_fn")
    module(tree / "updates/dkms/two.ko", ["name=two", magic, "depends=", "alias=two-alias"])
    module(tree / "kernel/a/two.ko", ["name=two", magic, "depends=", "alias=two-alias"])
    module(tree / "extra/three.ko", ["name=three", magic, "depends="])
    module(tree / "kernel/a/bi.ko", ["name=bi", magic, "depends="])
    module(tree / "kernel/a/ghost.ko", ["name=ghost", magic, "depends="])
    (tree / "modules.builtin").write_text("kernel/a/bi.ko\nkernel/fs/inside.ko\n")
    (tree / "modules.builtin.modinfo").write_bytes(b"inside.alias=fs-inside\0inside.license=GPL\0bi.license=GPL\0")
    (tree / "modules.order").touch()
    os.symlink("usr/lib", top / "lib")
    subprocess.run(["depmod", "-b", top, RELEASE], check=True)
    (tree / "kernel/a/ghost.ko").unlink()
    return tree


def programs(top):
    (top / "bin").mkdir()
    shutil.copy("/bin/kmod", top / "bin/kmod")
    os.symlink("kmod", top / "bin/modprobe")
    for library in re.findall(r"/\S+", subprocess.run(["ldd", "/bin/kmod"], capture_output=True, text=True).stdout):
        target = top / library[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def ask(top, *words):
    # The cache of indexes is the same in all cases; the messages are for people.
    done = subprocess.run(["chroot", top, "/bin/modprobe", "-S", RELEASE, *words], capture_output=True)
    return done.returncode, done.stdout.decode("latin-1").split("\n")[:-1]


def answers(top, case):
    for directory in ["etc", "run", "usr/local", "usr/lib/modprobe.d", "proc"]:
        shutil.rmtree(top / directory, ignore_errors=True)
    for file in case["files"]:
        path = top / file["p"]
        path.parent.mkdir(parents=True, exist_ok=True)
        match file["k"]:
            case "file":
                path.write_bytes(file["c"].encode("latin-1"))
            case "link":
                os.symlink(file["c"], path)
            case "dir":
                path.mkdir(parents=True)
    (top / "proc").mkdir()
    (top / "proc/cmdline").write_bytes(case["cmdline"].encode("latin-1") + b"\n")
    (top / "dev").mkdir(exist_ok=True)
    (top / "dev/null").exists() or subprocess.run(["mknod", top / "dev/null", "c", "1", "3"], check=True)
    config = []
    for line in ask(top, "-c")[1]:
        if line.startswith("# End"):
            break
        if line.split(" ")[0] in ("blacklist", "install", "alias"):
            config.append(line)
    prefix = f"/lib/modules/{RELEASE}/"
    probes = {}
    for name in NAMES:
        plain = ask(top, "-n", "-v", name)
        listed = ask(top, "-n", "-v", "-b", name)
        shown = [[line.strip().replace(prefix, "") for line in lines] for _, lines in (plain, listed)]
        probes[name] = {"code": plain[0], "by_name": shown[0], "with_blacklist": shown[1]}
    return {**case, "config": sorted(config), "probes": probes}


def file(path, content):
    return {"p": path, "k": "file", "c": content}


def case(name, *files, cmdline="quiet"):
    return {"name": name, "files": list(files), "cmdline": cmdline}


CASES = [
    case("nothing"),
    case("blacklist", file("etc/modprobe.d/a.conf", "blacklist hello\nblacklist base-mod\n")),
    case("false", file("etc/modprobe.d/a.conf", "install two /bin/false\n")),
    case("a command", file("usr/lib/modprobe.d/a.conf", "install two /sbin/modprobe -i two\n")),
    case("a dependency is refused", file("etc/modprobe.d/a.conf", "install base-mod /bin/true\n")),
    case("the first command counts",
         file("etc/modprobe.d/b.conf", "install two /bin/second\n"),
         file("usr/lib/modprobe.d/a.conf", "install two /bin/first\n")),
    case("patterns", file("etc/modprobe.d/a.conf", "install t* /bin/false\nblacklist h*\ninstall [a-z]ello /x y\n")),
    case("one name in two directories",
         file("etc/modprobe.d/a.conf", "blacklist hello\n"),
         file("usr/lib/modprobe.d/a.conf", "install two /bin/false\n"),
         file("run/modprobe.d/b.conf", "blacklist two\n"),
         file("usr/lib/modprobe.d/b.conf", "blacklist three\n"),
         file("usr/local/lib/modprobe.d/c.conf", "blacklist ghost\n")),
    case("masked by /dev/null",
         {"p": "etc/modprobe.d/a.conf", "k": "link", "c": "/dev/null"},
         file("usr/lib/modprobe.d/a.conf", "blacklist two\n")),
    case("masked by an empty file",
         file("etc/modprobe.d/a.conf", ""),
         file("usr/lib/modprobe.d/a.conf", "blacklist two\n")),
    case("a symlink that leads nowhere",
         {"p": "etc/modprobe.d/a.conf", "k": "link", "c": "/nowhere"},
         file("usr/lib/modprobe.d/a.conf", "blacklist two\n")),
    case("a symlink to a file",
         {"p": "etc/modprobe.d/a.conf", "k": "link", "c": "../x.txt"},
         file("etc/x.txt", "blacklist two\n")),
    case("a directory masks nothing",
         {"p": "etc/modprobe.d/a.conf", "k": "dir", "c": ""},
         file("usr/lib/modprobe.d/a.conf", "blacklist two\n")),
    case("names of files",
         file("etc/modprobe.d/a.txt", "blacklist two\n"),
         file("etc/modprobe.d/.a.conf", "blacklist two\n"),
         file("etc/modprobe.d/conf", "blacklist two\n"),
         file("etc/modprobe.d/sub/a.conf", "blacklist two\n"),
         file("etc/modprobe.d/a.CONF", "blacklist two\n"),
         file("etc/modprobe.d/b.conf", "blacklist three\n")),
    case("continued lines", file("etc/modprobe.d/a.conf",
                                 "blacklist \\\ntwo\ninstall th\\\nree /bin/\\false\n# a \\\nblacklist hello\n"
                                 "blacklist base-mod")),
    case("blanks", file("etc/modprobe.d/a.conf",
                        "  blacklist\ttwo  rest\ninstall \t three \t /bin/a  b \nblacklist\n\n   \ninstall hello\n"
                        "install hello \nblacklist hello\r\nalias x\n")),
    case("odd lines", file("etc/modprobe.d/a.conf",
                           "BLACKLIST two\nblacklisttwo\ninclude /x\n#blacklist two\n #blacklist two\nblacklist t]o\n"
                           "blacklist [a\nblacklist thr\0ee\nblacklist three")),
    case("aliases", file("etc/modprobe.d/a.conf",
                         "alias hello two\nalias snd-* three\nalias fs-hello base-mod\nalias two off\n"
                         "alias a[0-9]-b three\nalias self self\n")),
    case("an alias and a blacklist", file("etc/modprobe.d/a.conf", "alias two three\nblacklist two\nblacklist three\n")),
    case("the kernel command line", cmdline="quiet modprobe.blacklist=hello,two modprobe.blacklist=three rw"),
    case("a dash on the command line", cmdline="modprobe.blacklist=base-mod"),
    case("an underscore on the command line", cmdline="modprobe.blacklist=base_mod"),
    case("behind dashes", cmdline="quiet -- modprobe.blacklist=two"),
    case("quotes", cmdline='modprobe.blacklist="two,three" "modprobe.blacklist=hello" x="a modprobe.blacklist=bi"'),
    case("a quote within", cmdline='modprobe.blacklist=two" three" modprobe.blacklist=hello'),
    case("an open quote", cmdline='x="y modprobe.blacklist=two'),
    case("an open quote in the value", cmdline='modprobe.blacklist="two'),
    case("nearly the word", cmdline="modprobe.blacklist modprobe-blacklist=two modprobe.blacklists=two x.modprobe.blacklist=two"),
    case("empty names", cmdline="modprobe.blacklist=,two,, modprobe.blacklist="),
    case("module_blacklist is not kmod's", cmdline="module_blacklist=two"),
]

with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    tree = kernel(root)
    programs(root)
    HERE.mkdir(exist_ok=True)
    for index in INDEXES:
        shutil.copy(tree / index, HERE / index)
    files = sorted(str(path.relative_to(tree)) for path in tree.rglob("*.ko"))
    (HERE / "files").write_text("".join(f"{path}\n" for path in files))
    lines = [json.dumps(answers(root, case)) for case in CASES]
    (HERE / "answers.jsonl").write_text("".join(f"{line}\n" for line in lines))
