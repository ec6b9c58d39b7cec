#!/usr/bin/env python3
"""What a hostile dkms.conf tries: prints NAME:RESULT for each attempt, `done` where it was let.

Arguments: a directory that everybody may write, the port of a listener, a process to be killed, and perhaps the names of
the only attempts."""
import ctypes
import errno
import os
import resource
import signal
import socket
import sys

outside, port, victim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)


def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")


def write(path):
    with open(path, "w") as file:
        file.write("x")


def unix(address):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect(address)


def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"secret", ("127.0.0.1", port))


def tcp():
    socket.create_connection(("127.0.0.1", port), 2).close()


def daemon():
    if os.fork() == 0:
        try:
            os.setsid()
        except OSError:
            pass
        if os.fork() == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for number in range(4):
                os.dup2(null, number)
            os.execvp("sleep", ["sleep", f"86{port}"])
        os._exit(0)


def memory():
    bytearray(2 << 30)


def output():
    for number in range(3, 10):
        try:
            os.write(number, b"x")
            return
        except OSError:
            pass
    raise OSError(errno.EBADF, "")


attempts = {
    "write": lambda: write(outside + "/written"),
    "home": lambda: write(os.path.expanduser("~/.clr-dkms-hostile")),
    "shm": lambda: write("/dev/shm/clr-dkms-hostile"),
    "var-tmp": lambda: write("/var/tmp/clr-dkms-hostile"),
    "truncate": lambda: os.truncate(outside + "/precious", 0),
    "chmod": lambda: os.chmod(outside + "/precious", 0),
    "utime": lambda: os.utime(outside + "/precious", (0, 0)),
    "unlink": lambda: os.unlink(outside + "/precious"),
    "udp": udp,
    "tcp": tcp,
    "unix": lambda: unix(outside + "/socket"),
    "abstract": lambda: unix(f"\0clr-dkms-{port}"),
    "kill": lambda: os.kill(victim, signal.SIGKILL),
    "kill-all": lambda: os.kill(-1, 0) if os.getpid() != 2 else None,
    # Switches off a key, if anything.
    "reboot": lambda: call(169, 0xFEE1DEAD, 672274793, 0, 0),
    "ptrace": lambda: call(101, 16, victim, 0, 0),
    "memory-of": lambda: os.close(os.open(f"/proc/{victim}/mem", os.O_RDWR)),
    "mount": lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0),
    "user-namespace": lambda: call(272, 0x10000000),
    "tty": lambda: os.close(os.open("/dev/tty", os.O_RDWR)),
    "disk": lambda: os.close(os.open("/dev/vda", os.O_RDONLY)),
    "keyring": lambda: call(248, b"user", b"x", b"x", 1, -3),
    "shadow": lambda: open("/etc/shadow").read(),
    "memory": memory,
    "limit": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1 << 20, 1 << 20)),
    "daemon": daemon,
}
for name, attempt in attempts.items():
    if name not in (sys.argv[4:] or attempts):
        continue
    try:
        attempt()
        result = "done"
    except OSError as e:
        result = errno.errorcode.get(e.errno, "error")
    except (MemoryError, ValueError):
        result = "refused"
    print(f"{name}:{result}", end=" ", flush=True)
