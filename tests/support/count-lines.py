#!/usr/bin/env python3
"""Counts the lines of code of the product: without blank lines, comments and tests.

Counted are the Rust sources of every crate of the workspace, the shell and Python programs that are installed, and
build scripts. A `#[cfg(test)]` item ends the count of its file: in this project tests are the last item.
The files of features that version 0.1 did not have are listed apart.
Usage: count-lines.py [DIRECTORY]; the default is the tree that this program is in.
"""

import fnmatch

import pathlib
import re
import subprocess
import sys

TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(?P<h>\#*)".*?"(?P=h)|b?c?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^'\\\n])'""", re.S
)

# Features since version 0.1, and the files in src that only they need: every other file counts as one of 0.1.
ADDED = {
    "modules from a source": "adopt/* */add.rs */add_*.rs */adopt*.rs */adopt/* */side_*.rs */registration.rs"
    " state/added.rs state/change.rs dkms/building/register.rs dkms/building/probe.rs",
    "removal": "*/remove.rs update/removal*.rs update/removal/* update/restoring.rs */forget.rs",
    "transfer to other machines": "transfer/* */export.rs */import.rs */import/* */transfer.rs",
    "setup of a system": "*/setup.rs",
    "the first boot on trial": "*/trial.rs */trial_check.rs boot/one_shot.rs sys/kernel_log.rs",
    "sandboxes": "sys/sandbox/*",
    "what modprobe does": "modprobe/* */loading.rs */loading_*.rs */blacklisting.rs */competing.rs",
    "initrds": "initrd/* */initrds.rs */initrd.rs",
    "updates of the boot files that are predicted, restricted and written ahead": "boot/restricted.rs"
    " boot/write_ahead.rs boot/foresee.rs boot/removal.rs boot/inputs.rs boot/preflight.rs boot/blocking_files.rs"
    " */entry_loss.rs */update_way.rs update/boot_update.rs",
    "replacement of working modules": "dkms/building/replace.rs dkms/building/replace/* dkms/building/staging.rs"
    " dkms/proving/kernel_symbols.rs dkms/proving/loadable.rs */replaced_drivers.rs */source_change.rs",
    "what a machine needs": "usage.rs usage/* requirement.rs */requirements.rs */importance.rs */memory.rs"
    " */satisfaction.rs */unmanaged.rs",
    "causes of failed builds": "dkms/failures/cause*.rs dkms/failures/log_evidence.rs */cause_remedy.rs",
    "checks of the installation": "automation.rs",
    "requests of an admin": "cli/hold.rs cli/wait.rs update/overrides.rs update/pending.rs",
    "monitoring": "*/check.rs */nagios.rs",
}


def feature(path):
    """The feature that a file of src was added for, if version 0.1 did not have it."""
    name = path.removeprefix("src/")
    for added, patterns in ADDED.items():
        if name != path and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns.split()):
            return added
    return None


def of_rust(text):
    text = text.split("#[cfg(test)]", 1)[0]
    # A string can hold what looks like a comment; only real comments go.
    text = TOKEN.sub(lambda t: "" if t[0].startswith(("//", "/*")) else t[0], text)
    return sum(1 for line in text.splitlines() if line.strip())


def of_script(text):
    return sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def room(path):
    parts = path.parts
    if parts[0] != "src":
        return parts[0] + "/"
    return "src/" + (parts[1] + "/" if len(parts) > 2 else parts[1])


def main():
    top = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2])
    listed = subprocess.run(["git", "-C", top, "ls-files", "-z"], check=True, capture_output=True, text=True)
    rooms, added = {}, {}
    for name in filter(None, listed.stdout.split("\0")):
        path = pathlib.Path(name)
        if path.parts[0] in ("tests", "benches", "docs", "man", ".github", ".ci"):
            continue
        if not (top / path).is_file() or (top / path).is_symlink():
            continue
        text = (top / path).read_text(errors="replace")
        if path.suffix == ".rs":
            count = of_rust(text)
        elif path.suffix in (".sh", ".bash", ".zsh", ".fish", ".py") or re.match(r"#!.*\b(ba)?sh\b", text):
            count = of_script(text)
        else:
            continue
        rooms[room(path)] = rooms.get(room(path), 0) + count
        if since := feature(name):
            added[since] = added.get(since, 0) + count
    for counts in (rooms, added):
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            print(f"{count:7} {name}")
        print()
    whole, since = sum(rooms.values()), sum(added.values())
    print(f"{since:7} in files of features since version 0.1")
    print(f"{whole - since:7} in the others")
    print(f"{whole:7} in all")


main()
