#!/usr/bin/env bash
# Lays a Debian out like Clear Linux before clr-dkms is installed: its units, its programs' stand-ins, one kernel, and four
# packages in the tree of dkms. Called by build.sh.
#
#     clear-root.sh ROOT       LAB is where build.sh has put kernels and modules, SUPPORT is tests/support
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=$1
: "${LAB:?}" "${SUPPORT:?}"
# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. "$here/releases.sh"

units=$root/usr/lib/systemd/system
unit() { cat >"$units/$1"; }
wanted_by() { mkdir -p "$units/$1.wants" && ln -sfn "../$2" "$units/$1.wants/$2"; }

mkdir -p "$root"/{boot,srv/data,srv/update,etc/clr-dkms,etc/swupd,etc/modules-load.d,usr/share/clear/bundles,usr/share/vm} \
    "$root"/usr/{lib/{kernel,motd.d},libexec/updater,share/kernel/cmdline.d} "$root"/var/{lib/{kernel,swupd},log/journal}
rm -f "$root"/etc/{resolv.conf,systemd/system/default.target}
printf '%s\n' 'NAME="Clear Linux OS"' ID=clear-linux-os VERSION_ID=43670 'PRETTY_NAME="Clear Linux OS"' >"$root/etc/os-release"
echo machine >"$root/etc/hostname"
echo 00000000000000000000000000c1a0c1 >"$root/etc/machine-id"
sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"

# --- kernels: A is installed; the others are what updates bring ----------------------------------------------------------

cp -a "$LAB/payload/$A/." "$root/"
touch "$root/var/lib/kernel/k_booted_$A"
for release in "$B" "$C"; do cp -a "$LAB/payload/$release" "$root/srv/update/$release"; done
cp -a "$LAB/objects" "$LAB/broken" "$LAB/keys" "$LAB/owner" "$LAB/initrd-broken" "$root/usr/share/vm/"
# An initrd that holds a module for A.
mkdir -p "$LAB/extra/usr/lib/modules/$A/extra"
cp "$LAB/objects/$A/hello/hello.ko" "$LAB/extra/usr/lib/modules/$A/extra/"
(cd "$LAB/extra" && find . | cpio -o -H newc --quiet | gzip -9) >"$root/usr/share/vm/hello.cpio.gz"
# For the one compilation in the guest.
tar -C "$LAB/headers" -cf - . | zstd -q -6 -T0 >"$root/usr/share/vm/headers.tar.zst"

# --- Clear's programs ----------------------------------------------------------------------------------------------------

mkdir -p "$root/usr/libexec"
cp "$SUPPORT/clr-boot-manager" "$root/usr/libexec/clr-boot-manager"
cp "$here/files/clr-boot-manager" "$root/usr/bin/clr-boot-manager"
cp "$SUPPORT/swupd" "$root/usr/bin/swupd"
printf '#!/bin/sh\ncat /run/motd.d/* >/run/motd 2>/dev/null\nexit 0\n' >"$root/usr/bin/motd-update.sh"
for name in agent probe enroll shim boot-time; do cp "$here/files/$name" "$root/usr/bin/vm-$name"; done
chmod 755 "$root"/usr/bin/{clr-boot-manager,swupd,motd-update.sh} "$root/usr/libexec/clr-boot-manager" "$root"/usr/bin/vm-{agent,probe,enroll,shim,boot-time}

# --- units ---------------------------------------------------------------------------------------------------------------

unit update-triggers.target <<<$'[Unit]\nDescription=Update triggers\n'
unit motd-trigger.service <<<$'[Unit]\nBindsTo=update-triggers.target\n[Service]\nType=oneshot\nExecStart=/usr/bin/motd-update.sh\n'
unit dkms-new-kernel.service <<<$'[Unit]\nBindsTo=update-triggers.target\n[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/stock-new-kernel\n'
unit dkms-remove-old.service <<<$'[Unit]\nBindsTo=update-triggers.target\nAfter=dkms-new-kernel.service\n[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/stock-remove-old\n'
unit swupd-update.service <<<$'[Service]\nType=oneshot\nExecStart=/usr/bin/swupd update\n'
unit clr-boot-manager-booted.service <<<$'[Service]\nType=oneshot\nExecStart=/usr/bin/clr-boot-manager report-booted\n'
cp "$here/files/vm-agent.service" "$units/"
for name in motd-trigger dkms-new-kernel dkms-remove-old; do wanted_by update-triggers.target "$name.service"; done
wanted_by multi-user.target clr-boot-manager-booted.service
wanted_by multi-user.target vm-agent.service
wanted_by multi-user.target systemd-networkd.service
ln -sfn multi-user.target "$units/default.target"
# What takes time in an emulated machine, and has no part in this.
for name in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    systemd-firstboot.service dkms.service getty.target systemd-timesyncd.service systemd-boot-update.service \
    systemd-pstore.service systemd-hwdb-update.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-update-utmp.service systemd-update-utmp-runlevel.service; do
    ln -sfn /dev/null "$root/etc/systemd/system/$name"
done
# The boot partition is not mounted, as on most machines; a scene removes this mask.
mkdir -p "$root"/etc/systemd/{system-generators,network,journald.conf.d,system.conf.d}
ln -sfn /dev/null "$root/etc/systemd/system-generators/systemd-gpt-auto-generator"
printf '[Match]\nName=en* eth*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n' \
    >"$root/etc/systemd/network/10-card.network"
printf 'PARTLABEL=root / ext4 defaults 0 1\nPARTLABEL=data /srv/data cramfs ro,nofail,x-systemd.device-timeout=10min 0 0\n' >"$root/etc/fstab"
printf '[Journal]\nStorage=persistent\nForwardToConsole=no\nRateLimitBurst=0\n' >"$root/etc/systemd/journald.conf.d/vm.conf"
# A step of the start takes longer here than on a real machine.
printf '[Manager]\nDefaultTimeoutStartSec=180s\nShowStatus=no\nLogColor=no\n' >"$root/etc/systemd/system.conf.d/vm.conf"

# --- packages of dkms ----------------------------------------------------------------------------------------------------
# e100 and mii drive the only network card, cramfs carries /srv/data, hello is only wanted.

package() { # package NAME VERSION BUILT-MODULE…
    local source=$root/usr/src/$1-$2 index=0 module
    mkdir -p "$source" "$root/var/lib/dkms/$1/$2"
    {
        printf '%s\n' "PACKAGE_NAME=\"$1\"" "PACKAGE_VERSION=\"$2\"" 'AUTOINSTALL="yes"'
        # shellcheck disable=SC2016 # for dkms to expand
        printf 'MAKE[0]="sh make.sh ${kernelver} %s"\nCLEAN="true"\n' "$1"
        for module in "${@:3}"; do
            printf 'BUILT_MODULE_NAME[%d]="%s"\nDEST_MODULE_LOCATION[%d]="/updates/dkms"\n' $index "$module" $index
            index=$((index + 1))
        done
    } >"$source/dkms.conf"
    cp "$here/files/make.sh" "$source/"
    cp "$LAB/modules/objects/$1"/*.c "$source/"
    rm -f "$source"/*.mod.c
    ln -sfn "/usr/src/$1-$2" "$root/var/lib/dkms/$1/$2/source"
}
echo hello >"$root/etc/modules-load.d/hello.conf"
package hello 1.0 hello
package e100 3.5 mii e100
package cramfs 1.0 cramfs
# A scene adds this one: it drives the disk.
(root=$root/usr/share/vm/later && package virtio-blk 1.0 virtio_blk)
