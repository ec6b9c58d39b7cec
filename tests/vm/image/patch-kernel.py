#!/usr/bin/env python3
"""Gives Debian's prebuilt kernel another release and the module signature rules of Clear Linux, without compiling.

    patch-kernel.py VMLINUZ OLD-RELEASE NEW-RELEASE OUT

The kernel image holds an lz4 payload: an ELF file. In it

- the release in `uname -r` and in the banner becomes NEW-RELEASE, which must not be longer than OLD-RELEASE;
- the branch in module_sig_check() that lets an unsigned module pass unless `sig_enforce` is set is inverted, and the
  parameter is renamed to `module.sig_unenforce`. So unsigned modules are refused unless that parameter is given, which is
  what a kernel with CONFIG_MODULE_SIG_FORCE and the patch of Clear Linux does;
- `module.sig_enforce` is then only a name: it is given to another parameter that reads Y;
- Secure Boot neither sets `sig_enforce` (CONFIG_IMA_ARCH_POLICY) nor raises lockdown (CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT):
  Clear's kernels have neither.

The new payload is compressed to at most the old size, so that nothing else of the image moves.
"""

import os
import re
import struct
import subprocess
import sys


def elf_tables(path):
    """The loaded segments as (offset, address, size), and the sections by name as (address, offset, size)."""
    segments, sections = [], {}
    for line in subprocess.run(["readelf", "-lSW", path], capture_output=True, text=True, check=True).stdout.splitlines():
        if match := re.match(r"\s+LOAD\s+(\S+)\s+(\S+)\s+\S+\s+(\S+)", line):
            segments.append(tuple(int(word, 16) for word in match.groups()))
        if match := re.match(r"\s+\[\s*\d+\]\s+(\S+)\s+\S+\s+(\S+)\s+(\S+)\s+(\S+)", line):
            sections[match[1]] = tuple(int(word, 16) for word in match.groups()[1:])
    return segments, sections


class Kernel:
    """The unpacked kernel: bytes in a file, and where they are in memory."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = bytearray(file.read())
        self.segments, self.sections = elf_tables(path)

    def address(self, offset):
        return next(at + offset - start for start, at, size in self.segments if at and start <= offset < start + size)

    def offset(self, address):
        return next(start + address - at for start, at, size in self.segments if at and at <= address < at + size)

    def text(self, offset):
        return self.data[offset : self.data.index(b"\0", offset)].decode()

    def parameters(self):
        """Offset of the entry and address of the variable, by the name of the parameter."""
        _, start, size = self.sections["__param"]
        found = {}
        for at in range(start, start + size, 40):
            (name,) = struct.unpack_from("<Q", self.data, at)
            (variable,) = struct.unpack_from("<Q", self.data, at + 32)
            found[self.text(self.offset(name))] = (at, variable)
        return found

    def instructions(self, opcode, length, target):
        """The offsets of instructions in .text that begin with `opcode` and a distance to `target` from their end."""
        address, start, size = self.sections[".text"]
        found, at = [], start - 1
        while (at := self.data.find(opcode, at + 1, start + size)) >= 0:
            (distance,) = struct.unpack_from("<i", self.data, at + len(opcode))
            if address + (at - start) + length + distance == target:
                found.append(at)
        return found

    def rename_parameters(self, entries):
        """Gives the entries new names. They are written over a long message that only Xen prints."""
        _, start, size = self.sections[".rodata"]
        room = re.search(rb"\0\x01[3456][^\0]*[Xx]en[^\0]{60,}\0", bytes(self.data[start : start + size]))
        at = start + room.start() + 1
        for entry, name in entries:
            text = name.encode() + b"\0"
            self.data[at : at + len(text)] = text
            struct.pack_into("<Q", self.data, entry, self.address(at))
            at += len(text)

    def invert_signature_check(self):
        parameters = self.parameters()
        entry, variable = parameters["module.sig_enforce"]
        # cmpb $0, sig_enforce(%rip); jne refuse
        (check,) = [at for at in self.instructions(b"\x80\x3d", 7, variable) if self.data[at + 6] == 0]
        if self.data[check + 7] == 0x75:
            self.data[check + 7] = 0x74
        else:
            assert self.data[check + 7 : check + 9] == b"\x0f\x85"
            self.data[check + 8] = 0x84
        # movb $1, sig_enforce(%rip), in set_module_sig_enforced()
        for at in self.instructions(b"\xc6\x05", 7, variable):
            assert self.data[at + 6] == 1
            self.data[at : at + 7] = b"\x0f\x1f\x80\0\0\0\0"
        other, _ = parameters["printk.time"]
        self.rename_parameters([(entry, "module.sig_unenforce"), (other, "module.sig_enforce")])

    def no_lockdown_by_secure_boot(self):
        """security_lock_kernel_down("EFI Secure Boot", …) is not called."""
        at = self.address(self.data.index(b"\0EFI Secure Boot\0") + 1)
        # mov $text, %rdi, and a call soon after it
        load = self.data.index(b"\x48\xc7\xc7" + struct.pack("<I", at & 0xFFFFFFFF))
        call = self.data.index(b"\xe8", load + 7, load + 20)
        self.data[call : call + 5] = b"\x0f\x1f\x44\0\0"

    def rename(self, old, new):
        at = -1
        while (at := self.data.find(old, at + 1)) >= 0:
            end = at + len(old)
            if self.data[end] == 0 and self.data[at - 1] == 0 and self.data[at - 16 : at].count(0) != 4:
                self.data[at:end] = new.ljust(len(old), b"\0")
            elif self.data[at - 14 : at] == b"Linux version ":
                self.data[at:end] = new.ljust(len(old))


def main(source, old_release, new_release, out):
    old, new = old_release.encode(), new_release.encode()
    assert len(new) <= len(old)
    with open(source, "rb") as file:
        image = bytearray(file.read())
    head = ((image[0x1F1] or 4) + 1) * 512
    start, size = struct.unpack_from("<II", image, 0x248)
    payload, unpacked = head + start, out + ".elf"
    # The last four bytes are the unpacked size.
    with open(unpacked + ".lz4", "wb") as file:
        file.write(image[payload : payload + size - 4])
    subprocess.run(["lz4", "-d", "-f", "-q", unpacked + ".lz4", unpacked], check=True)

    kernel = Kernel(unpacked)
    length = len(kernel.data)
    kernel.invert_signature_check()
    kernel.no_lockdown_by_secure_boot()
    kernel.rename(old, new)
    assert len(kernel.data) == length

    with open(unpacked, "wb") as file:
        file.write(kernel.data)
    subprocess.run(["lz4", "-l", "-12", "-f", "-q", unpacked, unpacked + ".lz4"], check=True)
    with open(unpacked + ".lz4", "rb") as file:
        packed = file.read()
    assert len(packed) <= size - 4, f"{len(packed)} bytes do not fit into {size - 4}"
    image[payload : payload + size - 4] = packed.ljust(size - 4, b"\0")
    at = image.find(old, 0, head)
    if at > 0:
        image[at : at + len(old)] = new.ljust(len(old))
    with open(out, "wb") as file:
        file.write(image)
    os.unlink(unpacked)
    os.unlink(unpacked + ".lz4")


main(*sys.argv[1:])
