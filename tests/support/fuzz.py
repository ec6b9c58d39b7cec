#!/usr/bin/env python3
"""Mutates roots of the tests and runs the programs on them.

fuzz.py ROOTS PROGRAMS [--runs N | --seconds N] [--seed N] [--keep DIR] [--answers FILE]

ROOTS holds directories NAME/root and NAME/tools, as `cargo test --test it fuzz::` makes them; PROGRAMS
is the directory of the programs. Each run starts one program on a root of which some files were changed,
and fails where the program crashes, takes longer than ten seconds (of a machine that has nothing else to
do), answers with something other than JSON where JSON was asked for, or takes more than 64 MiB of
memory. The root of a failure stays in DIR, with the command in a file beside it.
"""

import argparse
import gzip
import json
import lzma
import math
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

MEMORY = 64 << 20
DEADLINE = 10
READ_ONLY = [
    ["clr-dkms", "status", "--json"],
    ["clr-dkms", "status", "--json"],
    ["clr-dkms", "status"],
    ["clr-dkms", "status", "--all"],
    ["clr-dkms", "status", "--format", "prometheus"],
    ["clr-dkms", "check"],
    ["clr-dkms", "enforcement", "--json"],
    ["clr-dkms", "enforcement"],
    ["clr-dkms", "lint", "--json"],
    ["clr-dkms", "lint"],
    ["clr-dkms", "rebuild", "-n"],
    ["clr-dkms", "guard", "--json"],
    ["clr-dkms", "guard"],
    ["clr-dkms", "gc", "-n", "--json"],
    ["clr-dkms", "gc", "-n"],
    ["clr-dkms", "logs"],
    ["clr-dkms-cmdline", "check"],
    ["clr-dkms-cmdline", "show"],
    ["clr-dkms-cmdline", "show", "--json"],
    ["clr-dkms-cmdline", "enable", "-n"],
    ["clr-dkms-motd", "-n"],
    ["clr-dkms-variant", "list"],
    ["clr-dkms-variant", "list", "--json"],
    ["clr-dkms-post-update", "-n"],
]
WRITING = [
    ["clr-dkms-motd"],
    ["clr-dkms", "guard", "--assert"],
    ["clr-dkms", "gc"],
    ["clr-dkms", "hold"],
    ["clr-dkms", "unhold"],
    ["clr-dkms", "allow", "native", "--without", "hello", "--yes", "--force"],
    ["clr-dkms", "wait", "--timeout", "1s"],
    ["clr-dkms-cmdline", "enable"],
    ["clr-dkms-pre-update"],
    ["clr-dkms-post-update"],
]
WORDS = [
    b"", b"\0", b"\n", b"\xff\xfe", b"\xe2\x80\xae", b"=", b"\"", b"'", b"`", b"$(", b"${", b"\\", b"[0]=",
    b"[99999999999]=", b"-1", b"0", b"4294967296", b"18446744073709551615", b"1e400", b"../", b"/dev/zero",
    b"/proc/self/mem", b"NaN", b"{", b"[[[[[[", b"default ", b"title ", b"linux ", b"options ", b"CONFIG_",
    b"alias ", b"softdep ", b"BUILT_MODULE_NAME[0]=", b"DEST_MODULE_LOCATION", b"module.sig_unenforce",
    b"070701", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"\x1f\x8b", b"\x02\x21\x4c\x18", b"\x7fELF",
    b"~Module signature appended~\n", b"null", b"true", b"\"schema\": 99", b"set default=", b"menuentry '",
    b"(", b"*", b"a" * 5000,
]


# Where a root of the tests has its stand-ins: a build sees them there, and nothing outside of the root.
STAND_INS = ".stand-ins"


class Tree:
    """A directory in memory, and what a program has to find there."""

    def __init__(self, top):
        self.entries = {}
        for directory, names, files in os.walk(top):
            if STAND_INS in names:
                names.remove(STAND_INS)
            for name in names + files:
                path = os.path.join(directory, name)
                inside = os.path.relpath(path, top)
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode):
                    self.entries[inside] = ("symlink", os.readlink(path))
                elif stat.S_ISDIR(mode):
                    self.entries[inside] = ("directory", None)
                elif stat.S_ISREG(mode):
                    with open(path, "rb") as file:
                        self.entries[inside] = ("file", file.read())

    def write(self, top):
        if os.path.lexists(top):
            remove(top)
        os.mkdir(top)
        for inside in sorted(self.entries):
            kind, value = self.entries[inside]
            path = os.path.join(top, inside)
            if kind == "directory":
                os.makedirs(path, exist_ok=True)
            elif kind == "symlink":
                os.symlink(value, path)
            else:
                with open(path, "wb") as file:
                    file.write(value)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


class Bombs:
    """Files that are small and unpack to a lot."""

    def __init__(self):
        # Both formats go on with another stream where one ends.
        zeros = bytes(50 << 20)
        self.of = {"gz": gzip.compress(zeros, 1) * 12, "xz": lzma.compress(zeros, preset=0) * 12}
        # A frame of zstd with a window of 64 KiB: blocks of 128 KiB, each of them one repeated byte.
        repeated = (128 << 10) << 3 | 1 << 1
        blocks = (repeated.to_bytes(3, "little") + b"\0") * 4800
        blocks += (repeated | 1).to_bytes(3, "little") + b"\0"
        self.of["zst"] = b"\x28\xb5\x2f\xfd\0\x38" + blocks
        # The same with the largest window that the format has.
        self.of["window"] = b"\x28\xb5\x2f\xfd\0\xf8" + blocks


def mutate_bytes(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(9)
        if how == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif how == 1 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif how == 2:
            del data[at:]
        elif how == 3:
            data[at:at] = rng.choice(WORDS)
        elif how == 4:
            data[at:at + rng.randrange(1, 40)] = rng.choice(WORDS)
        elif how == 5:
            end = min(len(data), at + rng.randrange(1, 200))
            data[at:at] = data[at:end] * rng.choice([1, 2, 50])
        elif how == 6:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40)))
        elif how == 7 and len(data) > 8:
            # A length or an offset, as the formats have them.
            at = rng.randrange(len(data) - 8)
            size = rng.choice([2, 4, 8])
            values = [0, 1, 0x7FFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]
            value = rng.choice(values + [len(data), len(data) + 1])
            data[at:at + size] = (value % (1 << 8 * size)).to_bytes(size, rng.choice(["little", "big"]))
        elif how == 8 and b"\n" in data:
            lines = bytes(data).split(b"\n")
            rng.shuffle(lines)
            data = bytearray(b"\n".join(lines))
    return bytes(data)


def is_inside(top, path):
    """Whether a path leads to a place in the root. A change may have put a symlink to the host in the way."""
    top, path = os.path.realpath(top), os.path.realpath(path)
    return path == top or path.startswith(top + "/")


def mutate(rng, top, tree, bombs):
    """Changes one entry of the tree, and says how."""
    inside = rng.choice(sorted(tree.entries))
    path = os.path.join(top, inside)
    kind, value = tree.entries[inside]
    if not is_inside(top, os.path.dirname(path)) or not os.path.lexists(path):
        return f"{inside}: gone"
    is_directory = os.path.isdir(path) and not os.path.islink(path)
    how = rng.randrange(40)
    if kind == "file" and how < 22 and os.path.isfile(path) and not os.path.islink(path):
        with open(path, "wb") as file:
            file.write(mutate_bytes(rng, value))
        return f"{inside}: bytes"
    if how < 24:
        remove(path)
        return f"{inside}: removed"
    if how < 28:
        remove(path)
        targets = ["loop", ".", "..", "/", "/etc/passwd", "/dev/zero", "/proc/self/mem", "/proc/self/root", "/none"]
        target = rng.choice(targets + ["../" * 60 + "etc", "/" + rng.choice(sorted(tree.entries))])
        os.symlink(os.path.basename(path) if target == "loop" else target, path)
        return f"{inside}: symlink to {target}"
    if how == 28:
        remove(path)
        os.mkfifo(path)
        return f"{inside}: FIFO"
    if how == 29:
        remove(path)
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, rng.choice([3, 5, 7, 9])))
        except PermissionError:
            os.mkfifo(path)
        return f"{inside}: device"
    if how == 30:
        remove(path)
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path)
        except OSError:
            os.mkdir(path)
        return f"{inside}: socket"
    if how == 31:
        remove(path)
        os.mkdir(path)
        return f"{inside}: directory"
    if how == 32:
        remove(path)
        with open(path, "wb") as file:
            sizes = [1 << 20, (1 << 20) + 1, 5 << 20, 100 << 20, 500 << 20, 600 << 20, 1 << 40]
            file.truncate(rng.choice(sizes))
        return f"{inside}: sparse"
    if how == 33:
        remove(path)
        lines = [b"a\n", b"alias a b\n", b"a.ko:\n", b"x" * 70 + b"\n", b"\0", b"[],", b"\"\","]
        line = rng.choice(lines + [rng.choice(WORDS) + b"\n"])
        size = rng.choice([60 << 10, 250 << 10, 1 << 20, 4 << 20, 6 << 20, 30 << 20])
        with open(path, "wb") as file:
            file.write(line * (size // len(line)))
        return f"{inside}: {size >> 10} KiB of {line[:12]!r}"
    if how < 36:
        ending = rng.choice(sorted(bombs.of))
        directory = os.path.dirname(path)
        base = path
        if ".ko" in path:
            remove(path)
            base = path[: path.index(".ko")] + rng.choice([".ko." + ending, ".ko.zst", ".ko.xz", ".ko.gz"])
        if os.path.isdir(directory) and not os.path.isdir(base):
            remove(base)
            with open(base, "wb") as file:
                file.write(bombs.of[ending])
        return f"{inside}: bomb {ending}"
    if how == 36:
        # Another file of the tree.
        other = rng.choice(sorted(tree.entries))
        if tree.entries[other][0] == "file" and not os.path.isdir(path):
            remove(path)
            with open(path, "wb") as file:
                file.write(tree.entries[other][1])
        return f"{inside}: {other}"
    if how == 37 and is_directory:
        deep = path
        for _ in range(rng.choice([3, 60, 900])):
            deep += "/d"
            if len(deep) > 4000:
                break
            os.mkdir(deep)
        return f"{inside}: deep"
    if how == 38 and kind == "file":
        # Many of its kind, with one letter more in front of the ending.
        stem, ending = os.path.splitext(path)
        for number in range(rng.choice([2, 30, 200])):
            if not os.path.lexists(f"{stem}{number}{ending}"):
                with open(f"{stem}{number}{ending}", "wb") as file:
                    file.write(mutate_bytes(rng, value) if number % 3 else value)
        return f"{inside}: many"
    if how == 39 and is_directory and rng.randrange(20) == 0:
        for number in range(70_000):
            os.symlink("x", f"{path}/{number}.conf")
        return f"{inside}: 70000 entries"
    if os.path.lexists(path) and not os.path.islink(path):
        os.chmod(path, rng.choice([0, 0o444, 0o777, 0o7777]))
    return f"{inside}: mode"


class Starter:
    """A small process that starts the programs: the peak of a process counts from before it became another program."""

    def __init__(self):
        self.asked, asking = os.pipe()
        answered, self.answering = os.pipe()
        if os.fork() == 0:
            os.close(asking)
            os.close(answered)
            self.serve()
        os.close(self.asked)
        os.close(self.answering)
        self.requests, self.answers = os.fdopen(asking, "w"), os.fdopen(answered)

    def serve(self):
        """Lines of JSON: the words, the environment, the files of both outputs and the seconds."""
        with os.fdopen(self.asked) as requests, os.fdopen(self.answering, "w") as answers:
            for line in requests:
                words, environment, out, err, seconds = json.loads(line)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                files = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
                files += [(os.POSIX_SPAWN_OPEN, at, path, flags, 0o600) for at, path in [(1, out), (2, err)]]
                child = os.posix_spawn(words[0], words, environment, file_actions=files, setsid=True)
                late = False

                def too_late(*_):
                    nonlocal late
                    late = True
                    os.killpg(child, signal.SIGKILL)

                signal.signal(signal.SIGALRM, too_late)
                signal.alarm(seconds)
                _, status, usage = os.wait4(child, 0)
                signal.alarm(0)
                code = None if late else os.waitstatus_to_exitcode(status)
                took = usage.ru_utime + usage.ru_stime
                print(json.dumps([code, usage.ru_maxrss << 10, took]), file=answers, flush=True)
        os._exit(0)

    def run(self, words, environment, out, err, seconds):
        """Exit code (negative: a signal; None: too late), memory and seconds of processor time."""
        print(json.dumps([words, environment, out, err, seconds]), file=self.requests, flush=True)
        return json.loads(self.answers.readline())


def run(starter, scratch, programs, command, top, tools, live):
    """Exit code, stdout, stderr, memory and seconds of processor time."""
    words = [os.path.join(programs, command[0])] + command[1:] + ["--live-root" if live else "--root", top]
    environment = {"SOURCE_DATE_EPOCH": "1753790400", "CLR_DKMS_TOOL_PATH": tools, "LC_ALL": "C.UTF-8"}
    environment["PATH"] = "/usr/bin:/bin"
    files = [os.path.join(scratch, name) for name in ["out", "err"]]
    # On a machine that has other things to do a program gets its share of the time only.
    share = max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))
    code, memory, took = starter.run(words, environment, *files, math.ceil(DEADLINE * share))
    texts = []
    for path in files:
        with open(path, "rb") as file:
            texts.append(file.read(64 << 20))
    return code, texts[0], texts[1], memory, took


def fault(command, code, out, err, memory, took):
    if code is None:
        return f"no end after {DEADLINE} s"
    if took > DEADLINE:
        return f"{took:.1f} s of processor time"
    if code < 0 or code in (70, 101, 134) or b"panicked" in err:
        return f"crash: exit code {code}"
    if memory > MEMORY:
        return f"{memory >> 20} MiB of memory"
    if "--json" in command and out:
        try:
            json.loads(out)
        except ValueError as e:
            return f"invalid JSON: {e}"
    if "--json" in command and not out and not err:
        return "no answer"
    return None


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("roots")
    parser.add_argument("programs")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", default="target/fuzz")
    parser.add_argument("--answers")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"fuzz: seed {seed}", flush=True)
    # While this process is still small.
    starter = Starter()
    scenes = []
    for name in sorted(os.listdir(arguments.roots)):
        at = os.path.join(arguments.roots, name)
        live = os.path.exists(os.path.join(at, "live"))
        scenes.append((name, Tree(os.path.join(at, "root")), os.path.join(at, "tools"), live))
    if not scenes:
        sys.exit("fuzz: there are no roots")
    memory_place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    runs, faults, largest, slowest = 0, 0, 0, 0.0
    start = last = time.monotonic()
    answers = open(arguments.answers, "wb") if arguments.answers else None
    with tempfile.TemporaryDirectory(dir=memory_place, prefix="clr-dkms-fuzz-") as scratch:
        bombs = Bombs()
        top = os.path.join(scratch, "root")
        iteration = 0
        while runs < arguments.runs if arguments.runs else time.monotonic() - start < arguments.seconds:
            # Each can be made again by itself.
            rng = random.Random(f"{seed} {iteration}")
            iteration += 1
            name, tree, tools, live = rng.choice(scenes)
            tree.write(top)
            changes = []
            for _ in range(rng.choice([1, 1, 2, 3, 6])):
                try:
                    changes.append(mutate(rng, top, tree, bombs))
                except OSError as e:
                    # What an earlier change has put in the way.
                    changes.append(f"nothing: {e}")
            searched = os.path.join(top, "var/lib/dkms", STAND_INS)
            try:
                if not is_inside(top, searched):
                    raise NotADirectoryError(searched)
                shutil.copytree(tools, searched, symlinks=True)
            except OSError:
                # A change has taken the place: nothing is built then.
                searched = tools
            commands = [rng.choice(READ_ONLY) for _ in range(4)]
            if rng.randrange(8) == 0:
                commands.append(rng.choice(WRITING))
            for command in commands:
                arguments_of_run = (arguments.programs, command, top, searched, live)
                code, out, err, memory, took = run(starter, scratch, *arguments_of_run)
                runs += 1
                largest, slowest = max(largest, memory), max(slowest, took)
                what = fault(command, code, out, err, memory, took)
                if answers and what is None and command == ["clr-dkms", "status", "--json"] and out:
                    answers.write(json.dumps(json.loads(out)).encode() + b"\n")
                if what is None:
                    continue
                faults += 1
                print(f"fuzz: {' '.join(command)}: {what}")
                print(f"  {name}, seed {seed}, number {iteration - 1}: {'; '.join(changes)}")
                print("  " + err[-1500:].decode(errors="replace").replace("\n", "\n  "), flush=True)
                kept = os.path.join(arguments.keep, f"{seed}-{iteration - 1}")
                os.makedirs(kept, exist_ok=True)
                with open(os.path.join(kept, "command"), "w", encoding="utf-8") as file:
                    file.write(" ".join(command) + f"\n{what}\n" + "\n".join(changes) + "\n")
                subprocess.run(["cp", "-a", "--sparse=always", top, kept], check=False)
            if time.monotonic() - last > 60:
                last = time.monotonic()
                print(f"fuzz: {runs} runs, {faults} faults, {largest >> 20} MiB, {slowest:.1f} s", flush=True)
        remove(top)
    most = f"at most {largest >> 20} MiB and {slowest:.1f} s"
    print(f"fuzz: seed {seed}: {runs} runs on {iteration} roots, {faults} faults; {most}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
