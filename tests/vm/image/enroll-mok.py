#!/usr/bin/env python3
"""Enrolls a machine owner's key in the variables of a firmware (OVMF), as MokManager would.

    enroll-mok.py VARIABLES SIGNATURE-LIST OUT

MokList is a variable that only programs before the kernel can write, so no program of the machine can. Without shim nothing
reads it; shim hands it to the kernel, as MokListRT.
"""

import struct
import sys
import uuid

SHIM_LOCK = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
AUTHENTICATED_STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")
# Kept, and visible before the kernel is started only.
ATTRIBUTES = 0x3
ADDED = 0x3F


def variable(name, vendor, data):
    """A variable of an authenticated store: its header, its name and its data."""
    text = (name + "\0").encode("utf-16-le")
    head = struct.pack("<HBBIQ16sIII", 0x55AA, ADDED, 0, ATTRIBUTES, 0, bytes(16), 0, len(text), len(data))
    return head + vendor.bytes_le + text + data


def main(source, signatures, out):
    with open(source, "rb") as file:
        image = bytearray(file.read())
    with open(signatures, "rb") as file:
        data = file.read()
    # The volume's header has its own length in it.
    (at,) = struct.unpack_from("<H", image, 48)
    assert image[at : at + 16] == AUTHENTICATED_STORE.bytes_le, "the variables are in an unknown format"
    (size,) = struct.unpack_from("<I", image, at + 16)
    end, at = at + size, at + 28
    while struct.unpack_from("<H", image, at)[0] == 0x55AA:
        names, content = struct.unpack_from("<II", image, at + 36)
        at = (at + 60 + names + content + 3) & ~3
    new = variable("MokList", SHIM_LOCK, data)
    assert at + len(new) <= end and set(image[at : at + len(new)]) == {0xFF}, "there is no room for the variable"
    image[at : at + len(new)] = new
    with open(out, "wb") as file:
        file.write(image)


main(*sys.argv[1:])
