#!/usr/bin/env bash
# What makes a container a Clear Linux machine: kernels in Clear's layout, its stock units, stand-ins of its programs.
# Sourced by run.sh.
# shellcheck disable=SC2034,SC2154,SC2030,SC2031 # names are shared with the script that sources it

old=6.15.7-1591.native good=6.15.8-1592.native bad=6.15.9-1593.native
# The critical module does not compile for $bad, the optional one not for $good_but.
good_but=6.15.10-1594.native

# make_payload: what swupd puts into place, a directory for each update.
make_payload() {
    local name update
    for name in good:6.15.8-1592 bad:6.15.9-1593 good-but:6.15.10-1594; do
        update=$payload/${name%%:*} name=${name#*:}
        scratch_skeleton "$update" && scratch_kernel "$update" native "${name%-*}" "${name#*-}" || return
        # Files only: of the rest the machine has its own.
        find "$update" -mindepth 1 -maxdepth 1 ! -name usr -exec rm -rf {} + &&
            rm -rf "${update:?}"/usr/{bin,src,share,lib/motd.d} || return
    done
    # A repaired source of the critical module, and a file that concerns nobody.
    scratch_skeleton "$work/repaired" && scratch_module "$work/repaired" hello 1.0 >/dev/null &&
        mkdir -p "$payload"/{repaired/usr,other/usr/share/other} && cp -a "$work/repaired/usr/src" "$payload/repaired/usr/" &&
        echo other >"$payload/other/usr/share/other/file"
}

unit() { # unit NAME: a stock unit, its text on standard input
    cat >"$root/usr/lib/systemd/system/$1"
}

# make_clear: makes the machine's root one of Clear Linux with two modules, before it is booted for the first time.
make_clear() {
    local name
    mkdir -p "$root"/{boot,etc/machine,etc/clr-dkms,etc/swupd,usr/lib/kernel,usr/lib/motd.d,usr/libexec/updater,usr/share/clear/bundles} \
        "$root"/var/lib/{kernel,swupd} || return
    printf '%s\n' 'NAME="Clear Linux OS"' ID=clear-linux-os VERSION_ID=43670 >"$root/etc/os-release"
    # Debian's own hooks and timers have no part in this.
    rm -rf "$root"/etc/kernel/*/dkms "$root/etc/resolv.conf"
    scratch_kernel "$root" native 6.15.7 1591 &&
        scratch_module "$root" hello 1.0 --broken-for '^6\.15\.9-' >/dev/null &&
        scratch_module "$root" extra 1.0 --broken-for '^6\.15\.10-' >/dev/null || return
    # A test can have a build, or an install, wait for it.
    printf '%s\n' 'PRE_BUILD="wait.sh build"' 'POST_INSTALL="wait.sh install"' >>"$root/usr/src/hello-1.0/dkms.conf"
    # shellcheck disable=SC2016 # for the script itself
    printf '#!/bin/sh\n[ ! -e "/etc/machine/hold-$1" ] || touch "/var/lib/dkms/at-$1"\nwhile [ -e "/etc/machine/hold-$1" ]; do sleep 0.05; done\n' \
        >"$root/usr/src/hello-1.0/wait.sh"
    chmod 755 "$root/usr/src/hello-1.0/wait.sh"
    for name in hello extra; do # as dkms writes it on a live system
        ln -sfn "/usr/src/$name-1.0" "$root/var/lib/dkms/$name/1.0/source"
    done
    printf '[modules]\ncritical = hello\noptional = extra\n' >"$root/etc/clr-dkms/clr-dkms.conf"

    # The kernel is the host's; the programs ask these files.
    echo "$old" >"$root/etc/machine/osrelease"
    printf 'initrd=\\EFI\\x root=PARTUUID=1 quiet rw module.sig_unenforce\n' >"$root/etc/machine/cmdline"
    unit machine-kernel.service <<'UNIT'
[Unit]
Description=Play a kernel of Clear Linux
DefaultDependencies=no
Before=systemd-tmpfiles-setup.service sysinit.target local-fs-pre.target
Wants=local-fs-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/mount --bind /etc/machine/osrelease /proc/sys/kernel/osrelease
ExecStart=/usr/bin/mount --bind /etc/machine/cmdline /proc/cmdline
# A machine with UEFI firmware, whose boot partition is found by its label, as udev would name it.
ExecStart=/usr/bin/mount -t tmpfs tmpfs /sys/firmware
ExecStart=/usr/bin/mkdir -p /sys/firmware/efi /dev/disk/by-partlabel
ExecStart=/usr/bin/ln -sfn ../../esp /dev/disk/by-partlabel/ESP
UNIT
    # A service whose sandbox has a /proc of its own needs them there too.
    for name in clr-dkms clr-dkms-boot clr-dkms-hold clr-dkms-motd; do
        mkdir -p "$root/etc/systemd/system/$name.service.d"
        printf '[Service]\nBindReadOnlyPaths=/etc/machine/%s\n' osrelease:/proc/sys/kernel/osrelease cmdline:/proc/cmdline \
            >"$root/etc/systemd/system/$name.service.d/machine.conf"
    done
    mkdir -p "$root/usr/lib/systemd/system/sysinit.target.wants" "$root/usr/lib/systemd/system/update-triggers.target.wants"
    ln -s ../machine-kernel.service "$root/usr/lib/systemd/system/sysinit.target.wants/"

    # Clear's own, as far as they concern us.
    unit update-triggers.target <<<$'[Unit]\nDescription=Update triggers\n'
    unit motd-trigger.service <<<$'[Unit]\nBindsTo=update-triggers.target\n[Service]\nType=oneshot\nExecStart=/usr/bin/motd-update.sh\n'
    unit dkms-new-kernel.service <<<$'[Unit]\nBindsTo=update-triggers.target\n[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/stock-new-kernel\n'
    unit dkms-remove-old.service <<<$'[Unit]\nBindsTo=update-triggers.target\nAfter=dkms-new-kernel.service\n[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/stock-remove-old\n'
    unit swupd-update.service <<<$'[Service]\nType=oneshot\nExecStart=/usr/bin/swupd update\n'
    unit clr-boot-manager-booted.service <<<$'[Service]\nType=oneshot\nExecStart=/usr/bin/clr-boot-manager report-booted\n'
    for name in motd-trigger dkms-new-kernel dkms-remove-old; do
        ln -s "../$name.service" "$root/usr/lib/systemd/system/update-triggers.target.wants/"
    done
    ln -s ../clr-boot-manager-booted.service "$root/usr/lib/systemd/system/multi-user.target.wants/"
    ln -sfn multi-user.target "$root/usr/lib/systemd/system/default.target"
    # What a container has no use for, and what takes time at each boot.
    for name in getty.target console-getty.service systemd-networkd.service apt-daily.timer apt-daily-upgrade.timer \
        dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-firstboot.service \
        systemd-resolved.service systemd-timesyncd.service remote-fs.target systemd-update-utmp.service dkms.service; do
        ln -sfn /dev/null "$root/etc/systemd/system/$name"
    done

    printf '#!/bin/sh\ncat /run/motd.d/* >/run/motd 2>/dev/null\nexit 0\n' >"$root/usr/bin/motd-update.sh"
    # A test sets its switches in that file. The stand-in keeps away from any "/" without a word of permission.
    cat >"$root/usr/bin/clr-boot-manager" <<'WRAPPER'
#!/bin/sh
set -a
# Like the real one, it mounts the boot partition for itself.
if [ "$1" != report-booted ] && ! mountpoint -q /boot; then
    mount /dev/disk/by-partlabel/ESP /boot || exit 1
    trap 'umount /boot' EXIT
fi
STAND_IN_ALLOW_HOST=1 STAND_IN_RECORD=/var/log/clr-boot-manager-calls
[ ! -f /etc/machine/stand-in ] || . /etc/machine/stand-in
if [ "$CUT" = 1 ] && [ "$1" = update ]; then # the files that are there in the middle of it
    kernel=$(readlink /usr/lib/kernel/default-native)
    echo half >"/boot/EFI/org.clearlinux/kernel-$kernel.TmpWrite"
    : >"/boot/loader/entries/Clear-linux-native-${kernel#org.clearlinux.native.}.conf"
    touch /var/lib/dkms/at-update
    sleep 60
fi
/usr/libexec/clr-boot-manager "$@"
WRAPPER
    cp "$top/tests/support/clr-boot-manager" "$root/usr/libexec/"
    cp "$top/tests/support/swupd" "$root/usr/bin/"
    chmod 755 "$root"/usr/bin/{swupd,clr-boot-manager,motd-update.sh} "$root/usr/libexec/clr-boot-manager"
    touch "$root/var/lib/kernel/k_booted_$old"
}

install_programs() {
    DESTDIR=$root BINDIR_FROM=$programs "$top/packaging/install.sh" install
}
