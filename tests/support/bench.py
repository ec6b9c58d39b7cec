#!/usr/bin/env python3
"""Whole programs beside what users have today, on one machine, in one run; prints a table for the README.

Both work on scratch roots with eight DKMS modules and two kernels, made with real headers by scratch-root.sh. Today's way is
`dkms autoinstall -k` and `depmod -A` for each kernel, then `dkms status`: what the stock scripts run after each update.
It is spared the `depmod -a` that dkms runs after each installation, as it would look into the host's directories.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
PROGRAMS = os.path.join(TOP, "target", "release")
WORK = os.path.join(TOP, "target", "bench")
REFRESHED = os.path.join(WORK, "refreshed")
KERNELS = [("6.15.7", "1591"), ("6.15.8", "1592")]
RELEASES = [f"{version}-{number}.native" for version, number in KERNELS]
MODULES = 8
# The median of 41 public projects: 8 C files, of about 560 lines each.
FILES = 8
# How many times faster an import of such modules has to be than their build.
LEAST = 20
ENVIRONMENT = {
    **os.environ,
    "SCRATCH_CACHE": os.path.join(TOP, "target", "scratch-cache"),
    "CLR_DKMS_TOOL_PATH": os.path.join(WORK, "tools"),
    "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
}


def scratch(*words):
    """Calls a function of scratch-root.sh."""
    command = [os.path.join(HERE, "scratch-root.sh"), *words]
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def root(name, modules=MODULES, kernels=KERNELS, files=1):
    path = os.path.join(WORK, name)
    scratch("scratch_skeleton", path)
    for version, number in kernels:
        scratch("scratch_kernel", path, "native", version, number)
    scratch("scratch_running", path, RELEASES[1])
    for number in range(modules):
        scratch("scratch_module", path, f"module{number}", "1.0", "--autoinstall", "yes", "--files", str(files))
    return path


def ours(path, *words, code=0):
    """Seconds and peak memory in MiB of one of our programs."""
    program = os.path.join(PROGRAMS, words[0])
    begin = time.perf_counter()
    child = subprocess.Popen(
        [program, *words[1:], "--live-root", path], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != code:
        sys.exit(f"bench: {' '.join(words)}: exit code {child.returncode} instead of {code}")
    return took, usage.ru_maxrss / 1024


def boot_manager(path):
    """The stand-in, which also notes when its first update has ended."""
    with open(path, "w", encoding="utf-8") as script:
        script.write(f"""#!/bin/bash
{os.path.join(HERE, "clr-boot-manager")} "$@" || exit
[[ $1 != update || -e {REFRESHED} ]] || : >{REFRESHED}
""")
    os.chmod(path, 0o755)


def until_safe():
    """Seconds until the boot files are refreshed where the machine needs one of the modules."""
    path = root("safe")
    os.makedirs(os.path.join(path, "etc/clr-dkms"), exist_ok=True)
    with open(os.path.join(path, "etc/clr-dkms/clr-dkms.conf"), "w", encoding="utf-8") as conf:
        conf.write("[modules]\ncritical = module0\n")
    if os.path.exists(REFRESHED):
        os.remove(REFRESHED)
    begin = time.time()
    ours(path, "clr-dkms-post-update")
    return os.stat(REFRESHED).st_mtime - begin


def stock(path, build=True):
    """Seconds of today's loop."""
    begin = time.perf_counter()
    for release in RELEASES:
        scratch("scratch_dkms", path, "autoinstall", "-k", release)
        subprocess.run(["depmod", "-A", "-b", path, release], env=ENVIRONMENT, check=True)
    if not build:
        scratch("scratch_dkms", path, "status")
    return time.perf_counter() - begin


def median(times, run):
    return statistics.median(run() for _ in range(times))


def row(what, today, here):
    print(f"| {what} | {duration(today)} | {duration(here)} | {today / here:.1f} |", flush=True)


def duration(seconds):
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def main():
    if not os.path.exists(os.path.join(PROGRAMS, "clr-dkms-post-update")):
        sys.exit("bench: the programs are not built: use `make bench`")
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(os.path.join(WORK, "tools"))
    boot_manager(os.path.join(WORK, "tools", "clr-boot-manager"))
    print(f"{MODULES} modules, {len(KERNELS)} kernels, {os.cpu_count()} processors")
    print("| what | today | clr-dkms | times faster |")
    print("| --- | --- | --- | --- |", flush=True)
    one, other = root("ours"), root("today")
    # After a warm-up on a module that neither counts, so that both find the headers in memory.
    warm = root("warm", modules=1)
    stock(warm)
    today = stock(other)
    here, _ = ours(one, "clr-dkms-post-update")
    row("building from nothing", today, here)
    # Today the boot files are made when everything is built.
    row("until the boot default is safe", today, until_safe())
    peak = 0

    # The peak of a run that builds would be that of the compiler.
    def idle():
        nonlocal peak
        took, memory = ours(one, "clr-dkms-post-update")
        peak = max(peak, memory)
        return took

    row("an update with nothing to do", median(3, lambda: stock(other, build=False)), median(50, idle))
    status = median(3, lambda: timed(lambda: scratch("scratch_dkms", other, "status")))
    row("all states", status, median(50, lambda: ours(one, "clr-dkms", "status", "--json")[0]))
    print(f"\npeak memory with nothing to do: {peak:.1f} MiB")
    transfer()
    growth()
    shutil.rmtree(WORK)


def transfer():
    """Modules that are imported instead of being built. With the median number of C files of 41 public projects, and with
    one file that does nothing, the least that a build can be."""
    print(f"\n| {MODULES} modules, one kernel | built by clr-dkms | imported | times faster |")
    print("| --- | --- | --- | --- |", flush=True)
    for files in [FILES, 1]:
        builder = root("builder", kernels=KERNELS[1:], files=files)
        built, _ = ours(builder, "clr-dkms-post-update")
        archives = [os.path.join(WORK, f"module{number}.tar.gz") for number in range(MODULES)]
        for number, archive in enumerate(archives):
            ours(builder, "clr-dkms", "export", f"module{number}", archive)
        times = []
        for _ in range(3):
            target = root("target", modules=0, kernels=KERNELS[1:])
            os.makedirs(os.path.join(target, "var/tmp"))
            times.append(ours(target, "clr-dkms", "import", "--yes", "--trust-binaries", *archives)[0])
            shutil.rmtree(target)
        shutil.rmtree(builder)
        took = statistics.median(times)
        what = f"each of {files} C files" if files > 1 else "each of one empty C file"
        print(f"| {what} | {duration(built)} | {duration(took)} | {built / took:.1f} |", flush=True)
        if files == FILES and built < LEAST * took:
            sys.exit(f"bench: an import is to be at least {LEAST} times faster than a build")


def growth():
    """How a run with nothing to do grows with modules and kernels, on trees that no build has made."""
    print("\n| modules x kernels | all states | an update with nothing to do | microseconds a pair | peak memory |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for modules, kernels in [(25, 5), (50, 5), (100, 5), (100, 10), (200, 10)]:
        path = os.path.join(WORK, "many")
        shutil.rmtree(path, ignore_errors=True)
        scratch("scratch_skeleton", path)
        scratch("scratch_many", path, str(modules), str(kernels))
        scratch("scratch_running", path, "6.15.0-1591.v0")
        ours(path, "clr-dkms-post-update")
        runs = [ours(path, "clr-dkms-post-update") for _ in range(20)]
        idle, peak = statistics.median(took for took, _ in runs), max(memory for _, memory in runs)
        status = median(20, lambda: ours(path, "clr-dkms", "status", "--json")[0])
        pair = status * 1e6 / (modules * kernels)
        print(f"| {modules} x {kernels} | {duration(status)} | {duration(idle)} | {pair:.0f} | {peak:.1f} MiB |", flush=True)


def timed(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
