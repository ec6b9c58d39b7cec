#!/usr/bin/env bash
# Packs small initrds with the real cpio and compressors into tests/data/initrd; needs cpio, gcc, gzip, xz, zstd, lz4.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../data" && pwd)/initrd
readonly here release=6.15.7-1591.native
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
mkdir -p "$here"
cd "$scratch"

# module PATH SRCVERSION
module() {
    mkdir -p "$(dirname "$1")"
    printf '.section .modinfo,"a"\n.asciz "srcversion=%s"\n.asciz "vermagic=%s SMP"\n' "$2" "$release" |
        gcc -c -x assembler - -o t.o
    ld -r --build-id=sha1 t.o -o "$1"
    rm t.o
}

modules=main/usr/lib/modules/$release
mkdir -p early/kernel/x86/microcode
head -c 100 /dev/zero | tr '\0' u >early/kernel/x86/microcode/GenuineIntel.bin
module "$modules/updates/dkms/two.ko" TWO
module "$modules/kernel/a/two.ko" OTHER
module "$modules/kernel/a/snd-x.ko" SOUND
xz --check=crc32 -k "$modules/kernel/a/snd-x.ko" && rm "$modules/kernel/a/snd-x.ko"
module "$modules/kernel/a/zipped.ko" ZIPPED
gzip -n "$modules/kernel/a/zipped.ko"
module "$modules/kernel/a/quick.ko" QUICK
zstd -q --rm "$modules/kernel/a/quick.ko"
printf 'kernel/a/snd-x.ko.xz:\nupdates/dkms/two.ko: kernel/a/snd-x.ko.xz\n' >"$modules/modules.dep"
ln -s usr/lib main/lib
printf '#!/bin/sh\n' >main/init

pack() (cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc --quiet --reproducible)
pack early >early.cpio
pack main >main.cpio
cp main.cpio "$here/plain.img"
gzip -n -9 <main.cpio >"$here/gzip.img"
xz -9 --check=crc32 <main.cpio >"$here/xz.img"
zstd -q -19 <main.cpio >"$here/zstd.img"
lz4 -q -l -9 <main.cpio >"$here/lz4-legacy.img"
lz4 -q -9 <main.cpio >"$here/lz4-frame.img"
bzip2 <main.cpio >"$here/bzip2.img"
cat early.cpio "$here/zstd.img" >"$here/microcode-first.img"
# Compressed ones in a row, as a boot loader concatenates them.
cat "$here/gzip.img" "$here/xz.img" >"$here/two-in-a-row.img"
# The old portable format, which the kernel does not read.
(cd main && find . | cpio -o -H odc --quiet) >"$here/odc.img"
