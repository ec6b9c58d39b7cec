#!/usr/bin/env bash
# Builds the disk of the machines that tests/vm boots, from packages of Debian.
#
#     build.sh OUT        OUT/base.img, and what it is made of; run it as root
#
# The disk has a vfat boot partition with systemd-boot, an ext4 root that is laid out like Clear Linux, and a cramfs. Its
# kernels are Debian's cloud kernel, patched in place; its DKMS modules are compiled here, and "built" in the guest by a
# copy. No loop device, no mount and no network is used but for the packages. clr-dkms itself is not on the disk.
set -euo pipefail
export LC_ALL=C
umask 022
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
support=$here/../../support
PATH=$PATH:/usr/sbin:/sbin
out=${1:?OUT}
mkdir -p "$out"
out=$(cd -- "$out" && pwd -P)

# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. "$here/releases.sh"

say() { printf 'vm image: %s\n' "$*" >&2; }

# What only goes to a log, which is shown if it fails.
quietly() {
    "$@" >>"$out/build.log" 2>&1 || { say "failed: $*"; tail -n 20 "$out/build.log" >&2; exit 1; }
}

declare -A prints=()
# stage NAME TEXT INPUT…: true if the stage is to be done: if it has never ended, or its function or an input has changed.
stage() {
    local name=$1 text=$2
    shift 2
    prints[$name]=$({ declare -f "${FUNCNAME[1]}"; cat /dev/null "$@"; } | sha256sum | head -c 12)
    [[ $(cat "$out/.$name" 2>/dev/null) != "${prints[$name]}" ]] || return 1
    rm -f "$out/.$name"
    say "$text"
}
finished() { printf '%s\n' "${prints[$1]}" >"$out/.$1"; }

# --- packages ------------------------------------------------------------------------------------------------------------

# The kernel that a metapackage of this Debian depends on.
kernel_package() { apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: linux-image-//p' | head -n 1; }

packages() {
    stage packages 'downloads the kernel, its headers and its source' || return 0
    # _apt cannot write below a home directory, and says so.
    rm -rf "$out/deb" "$out/x" && mkdir -p "$out/deb" "$out/x"
    local old
    old=$(kernel_package)
    [[ $old ]] || { quietly apt-get update; old=$(kernel_package); }
    (cd "$out/deb" && quietly apt-get download "linux-image-$old" "linux-headers-$old" "linux-headers-${old%-cloud-amd64}-common" \
        linux-kbuild-6.1 linux-source-6.1 busybox-static)
    local deb
    for deb in "$out"/deb/*.deb; do dpkg -x "$deb" "$out/x"; done
    tar -C "$out/x" -xJf "$out/x/usr/src/linux-source-6.1.tar.xz" --strip-components=1 linux-source-6.1/fs/cramfs \
        linux-source-6.1/drivers/net/ethernet/intel/e100.c linux-source-6.1/drivers/net/mii.c linux-source-6.1/drivers/block/virtio_blk.c
    rm -rf "$out/deb" "$out/x/usr/src/linux-source-6.1.tar.xz"
    printf '%s\n' "$old" >"$out/debian-release"
    finished packages
}

# --- keys ----------------------------------------------------------------------------------------------------------------

# The test's own key for Secure Boot. A machine has it in `keys`, and enrols it in a scene.
secure_boot_keys() {
    stage keys 'makes a key for Secure Boot' || return 0
    local keys=$out/keys name
    rm -rf "$keys" && mkdir "$keys"
    quietly openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -subj '/CN=key of a test/' -keyout "$keys/key.pem" -out "$keys/cert.pem"
    quietly openssl x509 -in "$keys/cert.pem" -outform DER -out "$keys/cert.der"
    quietly cert-to-efi-sig-list -g 5ca1ab1e-0000-4000-8000-00000000c1a0 "$keys/cert.pem" "$keys/list"
    for name in PK KEK db; do
        quietly sign-efi-sig-list -k "$keys/key.pem" -c "$keys/cert.pem" "$name" "$keys/list" "$keys/$name.auth"
    done
    finished keys
}

# The key of the machine's owner, for modules. The firmware of each machine has it in MokList, which nothing but shim reads.
owner_key() {
    stage owner 'makes a key of the owner' "$here/enroll-mok.py" /usr/share/OVMF/OVMF_VARS_4M.fd || return 0
    local keys=$out/owner
    rm -rf "$keys" && mkdir "$keys"
    quietly openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -subj '/CN=key of the owner/' -outform DER -keyout "$keys/mok.key" -out "$keys/mok.pub"
    quietly openssl x509 -inform DER -in "$keys/mok.pub" -out "$keys/cert.pem"
    quietly cert-to-efi-sig-list -g 5ca1ab1e-0000-4000-8000-00000000c1a0 "$keys/cert.pem" "$keys/list"
    quietly python3 "$here/enroll-mok.py" /usr/share/OVMF/OVMF_VARS_4M.fd "$keys/list" "$keys/variables.fd"
    finished owner
}

# shim as Clear Linux has it: a program of the boot partition, which the boot loader does not need.
shim() {
    stage shim 'downloads shim' "$out/.keys" <(declare -f signed) || return 0
    rm -rf "$out/shim" && mkdir -p "$out/shim/deb" "$out/shim/x"
    (cd "$out/shim/deb" && quietly apt-get download shim-unsigned)
    dpkg -x "$out"/shim/deb/*.deb "$out/shim/x"
    signed "$out/shim/x/usr/lib/shim/shimx64.efi" "$out/shim/shimx64.efi"
    signed "$out/shim/x/usr/lib/shim/mmx64.efi" "$out/shim/mmx64.efi"
    rm -rf "$out/shim/deb" "$out/shim/x"
    finished shim
}

# signed FILE OUT: for the firmware. Debian's own signature is not valid any more.
signed() {
    cp "$1" "$2.unsigned"
    # It fails if there is no signature.
    sbattach --remove "$2.unsigned" >/dev/null 2>&1 || true
    quietly sbsign --key "$out/keys/key.pem" --cert "$out/keys/cert.pem" --output "$2" "$2.unsigned"
    rm "$2.unsigned"
}

# --- kernels -------------------------------------------------------------------------------------------------------------

# The headers as Clear has them: one directory, whose Kconfig answers are those of the patched kernel.
headers() {
    stage headers 'merges the headers' "$out/.packages" <(declare -f configuration name_headers) || return 0
    local from=$out/x/usr/src/linux-headers-$debian common=$out/x/usr/src/linux-headers-${debian%-cloud-amd64}-common tree=$out/headers
    rm -rf "$tree" && mkdir -p "$tree/arch"
    cp -a "$common"/{Makefile,include} "$tree" && cp -a "$common/arch/x86" "$tree/arch"
    cp -a "$out"/x/usr/lib/linux-kbuild-6.1/{scripts,tools} "$tree"
    tar -C "$from" --exclude='include/config/[A-Z0-9]*' -cf - arch include .config Module.symvers | tar -C "$tree" -xf -
    sed -i -E 's/^(CONFIG_CC_VERSION_TEXT="?gcc)-[0-9]+ /\1 /' "$tree/.config" "$tree/include/config/auto.conf"
    configuration "$A" >"$tree/.config.new" && mv "$tree/.config.new" "$tree/.config"
    name_headers "$tree" "$A"
    finished headers
}

# configuration RELEASE: what the patch changed. A and B say like Clear's kernels that they take no key of others, which is true
# as long as nobody enrols one, and that their modules are signed with SHA-512, which the kernel can check only if it loads a
# module that the machines do not have. C says of itself what Debian's kernel does.
configuration() {
    local changed='MODULE_SIG_FORCE|MODULE_SIG_ALL|LOCK_DOWN_IN_EFI_SECURE_BOOT|IMA_ARCH_POLICY'
    local keyrings='SECONDARY_TRUSTED_KEYRING|INTEGRITY_PLATFORM_KEYRING|INTEGRITY_MACHINE_KEYRING'
    [[ $1 == "$C" ]] || changed+="|$keyrings|SYSTEM_TRUSTED_KEYS|MODULE_SIG_SHA[0-9]*|MODULE_SIG_HASH"
    grep -vE "^(# )?CONFIG_($changed)[ =]" "$out/x/boot/config-$debian"
    printf '%s\n' CONFIG_MODULE_SIG_FORCE=y CONFIG_MODULE_SIG_ALL=y '# CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT is not set' \
        '# CONFIG_IMA_ARCH_POLICY is not set'
    [[ $1 == "$C" ]] || {
        printf '%s\n' CONFIG_MODULE_SIG_SHA512=y 'CONFIG_MODULE_SIG_HASH="sha512"'
        printf '# CONFIG_%s is not set\n' ${keyrings//|/ }
    }
}

name_headers() { # name_headers TREE RELEASE
    printf '%s\n' "$2" >"$1/include/config/kernel.release"
    printf '#define UTS_RELEASE "%s"\n' "$2" >"$1/include/generated/utsrelease.h"
}

# The modules of the kernel's own that a machine needs.
own_modules='virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk autofs4 efivarfs vfat fat
    nls_ascii nls_cp437 nls_iso8859-1 loop dummy virtio-rng rng-core'

# kernel RELEASE: all that swupd brings of it, in payload/RELEASE.
kernel() {
    local release=$1 name=${1%.native}
    local to=$out/payload/$release boot modules from=$out/x/lib/modules/$debian id=org.clearlinux.native.$name module file
    boot=$to/usr/lib/kernel modules=$to/usr/lib/modules/$release
    stage "kernel-$release" "patches and lays out kernel $release" "$out"/.{headers,keys} "$here"/{patch-kernel.py,files/init} \
        <(declare -f configuration name_headers initrd signed) || return 0
    rm -rf "$to" && mkdir -p "$boot" "$modules/build/include/config" "$modules/build/include/generated" "$modules/build/scripts"
    quietly python3 "$here/patch-kernel.py" "$out/x/boot/vmlinuz-$debian" "$debian" "$release" "$out/vmlinuz"
    signed "$out/vmlinuz" "$boot/$id"
    rm "$out/vmlinuz"
    ln -s "$id" "$boot/default-native"
    printf '%s\n' console=tty0 console=ttyS0,115200n8 quiet mitigations=off audit=0 random.trust_cpu=on cryptomgr.notests \
        no_timer_check rootfstype=ext4 systemd.show_status=no rw >"$boot/cmdline-$release"
    configuration "$release" >"$boot/config-$release"
    printf 'ffffffff81000000 T _text\n' >"$boot/System.map-$release"
    for module in $own_modules; do
        file=$(cd "$from" && find kernel -name "$module.ko")
        [[ $file ]] || continue
        mkdir -p "$modules/${file%/*}"
        zstd -q -f "$from/$file" -o "$modules/$file.zst"
    done
    cp "$from"/modules.{builtin,order} "$modules/"
    # The kernel says of itself that it has the patch.
    python3 - "$from/modules.builtin.modinfo" "$modules/modules.builtin.modinfo" <<'PY'
import sys
lines = open(sys.argv[1], "rb").read().split(b"\0")
more = [line.replace(b"sig_enforce", b"sig_unenforce") for line in lines if b".parmtype=sig_enforce" in line]
open(sys.argv[2], "wb").write(b"\0".join(more + lines))
PY
    # Nothing is compiled with these: what dkms and clr-dkms read of them is enough.
    cp "$out"/headers/{Makefile,Module.symvers} "$modules/build/"
    configuration "$release" >"$modules/build/.config"
    cp "$out/headers/include/config/auto.conf" "$modules/build/include/config/"
    cp "$out/headers/scripts/sign-file" "$modules/build/scripts/"
    name_headers "$modules/build" "$release"
    ln -sfn usr/lib "$to/lib" && depmod -b "$to" "$release" && rm "$to/lib"
    initrd "$boot/initrd-$id" "$from"
    finished "kernel-$release"
}

initrd() { # initrd FILE MODULES [OTHERS]: modules in OTHERS take the place of those of the kernel
    local tree=$out/initrd module
    rm -rf "$tree" && mkdir -p "$tree"/{bin,dev,proc,sys,root,modules}
    cp "$out/x/bin/busybox" "$tree/bin/"
    cp "$here/files/init" "$tree/init" && chmod 755 "$tree/init"
    for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
        find "$2/kernel" -name "$module.ko" -exec cp -t "$tree/modules" {} +
    done
    [[ ! ${3-} ]] || cp "$3"/*.ko "$tree/modules/"
    (cd "$tree" && find . | cpio -o -H newc --quiet | gzip -9) >"$1"
}

# --- modules -------------------------------------------------------------------------------------------------------------

# Compiled once: the release in them is replaced by another one of the same length. objects/RELEASE/PACKAGE are those that
# work; those in broken/ build and are proven, and fail when they are loaded.
modules() {
    stage modules 'compiles the modules' "$out/.headers" "$here/files/hello.c" "$here/releases.sh" <(declare -f source_of) || return 0
    local build=$out/modules package release kind
    rm -rf "$build" "$out/objects" "$out/broken"
    for kind in objects broken; do
        for package in hello e100 cramfs virtio-blk; do
            mkdir -p "$build/$kind/$package"
            source_of "$package" "$build/$kind/$package"
            [[ $kind == objects ]] ||
                sed -i '/^static int __init [a-z0-9_]*(void)/,/^{/ s/^{/{ if (1) return -EIO;/' "$build/$kind/$package"/*.c
        done
        printf 'obj-m += %s/\n' hello e100 cramfs virtio-blk >"$build/$kind/Kbuild"
        quietly make -j2 -C "$out/headers" M="$build/$kind" modules
    done
    for kind in objects broken; do
        for release in "$A" "$B" "$C"; do
            for package in hello e100 cramfs virtio-blk; do
                mkdir -p "$out/$kind/$release/$package"
                for object in "$build/$kind/$package"/*.ko; do
                    sed "s/$A/$release/g" "$object" >"$out/$kind/$release/$package/${object##*/}"
                done
            done
        done
    done
    finished modules
}

source_of() { # source_of PACKAGE DIR: the source, and the Kbuild file
    case $1 in
        hello)
            cp "$here/files/hello.c" "$2/"
            echo 'obj-m := hello.o' >"$2/Kbuild"
            ;;
        e100)
            cp "$out"/x/drivers/net/{ethernet/intel/e100.c,mii.c} "$2/"
            echo 'obj-m := mii.o e100.o' >"$2/Kbuild"
            ;;
        cramfs)
            cp "$out"/x/fs/cramfs/*.[ch] "$2/"
            printf '%s\n' 'obj-m := cramfs.o' 'cramfs-y := inode.o uncompress.o' 'ccflags-y += -DCONFIG_CRAMFS_BLOCKDEV=1' >"$2/Kbuild"
            ;;
        virtio-blk)
            cp "$out/x/drivers/block/virtio_blk.c" "$2/"
            echo 'obj-m := virtio_blk.o' >"$2/Kbuild"
            ;;
    esac
}

# --- the root ------------------------------------------------------------------------------------------------------------

# What changes with them is made again.
root_packages=systemd,systemd-sysv,udev,dbus,kmod,dkms,gcc,make,openssl,zstd,xz-utils,python3,libelf1,iproute2

debian_root() {
    stage debian 'makes a Debian (debootstrap)' <(echo "$root_packages") || return 0
    local mirror
    rm -rf "$out/debian"
    # Half of the time would go into waiting for the disk.
    mkdir -p "$out/debian/etc/dpkg/dpkg.cfg.d" && echo force-unsafe-io >"$out/debian/etc/dpkg/dpkg.cfg.d/vm"
    # From where this machine has its own packages.
    # shellcheck disable=SC2016 # for apt to expand
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | head -n 1)
    quietly debootstrap --variant=minbase --include="$root_packages" bookworm "$out/debian" ${mirror:+"$mirror"}
    rm -rf "$out"/debian/var/cache/apt/* "$out"/debian/var/lib/apt/lists/* "$out"/debian/usr/share/{doc,man,locale}/* "$out"/debian/proc/* \
        "$out"/debian/etc/kernel/*
    quietly chroot "$out/debian" useradd -m -s /bin/bash joe
    finished debian
}

clear_root() {
    stage root 'lays the root out like Clear Linux' "$out"/.{modules,debian,kernel-*} "$here/clear-root.sh" "$here"/files/* "$support"/{clr-boot-manager,swupd} "$out"/.{keys,owner,shim} \
        <(declare -f initrd) || return 0
    # With it B does not find its root.
    initrd "$out/initrd-broken" "$out/x/lib/modules/$debian" "$out/broken/$B/virtio-blk"
    rm -rf "$out/root" && cp -a --reflink=auto "$out/debian" "$out/root"
    LAB=$out SUPPORT=$support bash "$here/clear-root.sh" "$out/root"
    # The real clr-boot-manager installs the boot loader from there.
    mkdir -p "$out/root/usr/lib/systemd/boot/efi"
    signed /usr/lib/systemd/boot/efi/systemd-bootx64.efi "$out/root/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    mkdir -p "$out/root/usr/lib/shim"
    cp "$out"/shim/*.efi "$out/root/usr/lib/shim/"
    finished root
}

# --- the disk ------------------------------------------------------------------------------------------------------------

disk() {
    stage disk 'writes the disk' "$out/.root" || return 0
    local work=$out/parts image=$out/base.img first size
    rm -rf "$work" "$image" && mkdir -p "$work/data"
    truncate -s 3400M "$image"
    # The identifier of the root's partition is the one that the stand-in for clr-boot-manager writes into entries.
    quietly sgdisk -o -n 1:1M:+160M -t 1:EF00 -c 1:ESP -n 2:0:+3100M -t 2:8304 -c 2:root -u 2:5ca1ab1e-0000-4000-8000-00000000c1a0 \
        -n 3:0:+16M -t 3:8300 -c 3:data "$image"
    # The boot partition, as clr-boot-manager fills it.
    quietly env STAND_IN_AS_ROOT=1 "$support/clr-boot-manager" update --path="$out/root"
    mkdir -p "$out/root/boot/EFI/BOOT" "$out/root/boot/EFI/systemd"
    cp "$out/root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" "$out/root/boot/EFI/BOOT/BOOTX64.EFI"
    cp "$out/root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" "$out/root/boot/EFI/systemd/"
    # The real clr-boot-manager makes the firmware start shim, beside which Debian's looks for this name.
    cp "$out/root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" "$out/root/boot/EFI/org.clearlinux/grubx64.efi"
    truncate -s 160M "$work/esp"
    quietly mkfs.vfat -F 32 -n ESP "$work/esp"
    quietly mcopy -s -i "$work/esp" "$out/root/boot"/* ::/
    rm -rf "$out/root/boot"/*
    truncate -s 3100M "$work/root"
    quietly mkfs.ext4 -q -F -L root -d "$out/root" "$work/root"
    echo 'data of the machine' >"$work/data/data.txt"
    quietly mkfs.cramfs "$work/data" "$work/cramfs"
    for part in esp:1 root:2 cramfs:3; do
        first=$(sgdisk -i "${part#*:}" "$image" | sed -n 's/^First sector: \([0-9]*\).*/\1/p')
        size=$(sgdisk -i "${part#*:}" "$image" | sed -n 's/^Partition size: \([0-9]*\).*/\1/p')
        (($(stat -c %s "$work/${part%:*}") <= size * 512)) || { say "${part%:*} is too large"; exit 1; }
        dd if="$work/${part%:*}" of="$image" bs=1M oflag=seek_bytes seek=$((first * 512)) conv=notrunc,sparse status=none
    done
    rm -rf "$work" "$out/root"
    finished disk
}

((EUID == 0)) || { say 'run it as root'; exit 77; }
packages
debian=$(cat "$out/debian-release")
secure_boot_keys
owner_key
shim
headers
for release in "$A" "$B" "$C"; do kernel "$release"; done
modules
debian_root
clear_root
disk
