#!/usr/bin/env python3
"""Calls the system calls that our programs need, with arguments that make them fail, and prints `NAME ERRNO` of each.

Run in the sandbox of a unit, and outside of it: an answer that differs is one that the sandbox gives.
"""

import ctypes
import os
import sys

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 0x20000000, 0x40000000
EVERYWHERE = {
    "openat2": (437, -1, 0, 0, 0),
    "statx": (332, -1, 0, 0, 0, 0),
    "newfstatat": (262, -1, 0, 0, 0),
    "getdents64": (217, -1, 0, 0),
    "readlinkat": (267, -1, 0, 0, 0),
    "statfs": (137, 0, 0),
    "fstatfs": (138, -1, 0),
    "flock": (73, -1, 0),
    "mkdirat": (258, -1, 0, 0),
    "symlinkat": (266, 0, -1, 0),
    "renameat": (264, -1, 0, -1, 0),
    "renameat2": (316, -1, 0, -1, 0, 0),
    "unlinkat": (263, -1, 0, 0),
    "fchmod": (91, -1, 0o644),
    "fchown": (93, -1, 0, 0),
    "fsync": (74, -1),
    "syncfs": (306, -1),
    "memfd_create": (319, 0, 0),
    "landlock_create_ruleset": (444, 0, 0, 0),
    "landlock_restrict_self": (446, -1, 0),
    "sched_getaffinity": (204, 0, 0, 0),
    "pidfd_open": (434, -1, 0),
    "socketpair": (53, 1, 1, 0, 0),
}
# Into a boot partition that is mounted nowhere.
MOUNT = {
    "fsopen": (430, 0, 0),
    "fsconfig": (431, -1, 0, 0, 0, 0),
    "fsmount": (432, -1, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
}
# For the sandbox in which a dkms.conf is evaluated.
EVALUATE = {
    "seccomp": (317, 1, 0, 0),
    "chroot": (161, 0),
    "setgroups": (116, -1, 0),
    "prlimit64": (302, 0, -1, 0, 0),
    # Really: only the flags say whether it is allowed.
    "unshare": (272, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET),
}
BUILD = {
    "setpriority": (141, -1, 0, 0),
    "fallocate": (285, -1, 0, 0, 0),
    "utimensat": (280, -1, 0, 0, 0),
    "open_tree": (428, -1, 0, 0),
    "move_mount": (429, -1, 0, -1, 0, 0),
}
SETS = {
    "boot": EVERYWHERE,
    "look": EVERYWHERE | MOUNT,
    "message": EVERYWHERE | MOUNT | EVALUATE,
    "work": EVERYWHERE | MOUNT | EVALUATE | BUILD,
}

if os.uname().machine != "x86_64":
    sys.exit("the numbers are those of x86_64")
libc = ctypes.CDLL(None, use_errno=True)
for name, call in SETS[sys.argv[1]].items():
    ctypes.set_errno(0)
    libc.syscall(*(ctypes.c_long(word) for word in call))
    print(name, ctypes.get_errno())
