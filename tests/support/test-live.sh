#!/usr/bin/env bash
# The programs on a live system: installed with `make install`, called without --root, with the real dkms and depmod.
#
# In a mount namespace of its own, /usr, /var, /etc, /run and /boot get an overlay in memory and `uname -r` (the file in
# /proc that the programs read) a name of Clear's, so this machine plays a Clear Linux one and nothing of it is changed.
# Boot partitions are files behind loop devices, which are given back at the end.
# The programs must be built (target/release); root is needed for the namespace.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ ${1-} != inside ]]; then
    for program in clr-dkms clr-dkms-post-update; do
        [[ -x target/release/$program ]] || { echo "test-live: target/release/$program is not built" >&2; exit 1; }
    done
    exec unshare --mount --propagation private "$0" inside
fi

work=$(mktemp -d)
loops=()
trap 'cd /; for loop in "${loops[@]}"; do losetup --detach "$loop"; done; umount -l "$work" 2>/dev/null; rmdir "$work" 2>/dev/null' EXIT
mount -t tmpfs tmpfs "$work"
for directory in usr var etc run boot; do
    mkdir -p "$work/$directory.upper" "$work/$directory.work"
    mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$work/$directory.upper,workdir=$work/$directory.work" "/$directory"
done
# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. tests/support/scratch-root.sh
set +e
export SCRATCH_CACHE=$work/cache

passed=0 failed=0
check() {
    if "${@:2}" >"$work/check" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        printf 'FAILED: %s\n' "$1"
        sed 's/^/  /' "$work/check"
    fi
}
is() { [[ $1 == "$2" ]] || { printf '%s instead of %s\n' "$1" "$2"; false; }; }
code() { "$@" >"$work/out" 2>"$work/err"; echo $?; }
said() { grep -F -- "$1" "$work/out" "$work/err" || { cat "$work/out" "$work/err"; false; }; }
tree() { (cd / && find usr/bin usr/lib/systemd usr/libexec usr/share etc/kernel var/lib run -xdev \( -type d -printf '%p\n' -o -printf '%p %y %s %l\n' \) 2>/dev/null | sort); }

old=6.15.7-1591.native new=6.15.8-1592.native
mkdir -p "$work/tools" /usr/lib/kernel /var/lib/kernel
# The stand-in refuses a real /; here / is an overlay.
stand_in="STAND_IN_ALLOW_HOST=1 $PWD/tests/support/clr-boot-manager"
printf '#!/bin/sh\n%s "$@"\n' "$stand_in" >"$work/tools/clr-boot-manager"
printf '#!/bin/sh\ncat /run/motd.d/* >/run/motd\n' >"$work/tools/motd-update.sh"
printf '#!/bin/sh\necho "$*" >>%s/systemctl-was-called\n' "$work" >"$work/tools/systemctl"
chmod -R a+rX,a+x "$work" "$work/tools"
export CLR_DKMS_TOOL_PATH=$work/tools
# `make uninstall` stops our units: those of this machine are none of its business.
export SYSTEMD_OFFLINE=1
echo $old >"$work/osrelease"
mount --bind "$work/osrelease" /proc/sys/kernel/osrelease
# As after a boot with the entries that the first run makes: otherwise a reboot would be pending.
echo 'root=PARTUUID=1 quiet rw module.sig_unenforce' >"$work/cmdline"
mount --bind "$work/cmdline" /proc/cmdline

# What an earlier run of the programs on this machine has left.
rm -rf /run/clr-dkms* /run/motd.d/clr-dkms.motd /var/{lib,log,cache}/clr-dkms
before=$(tree)
check 'make install' is "$(code make install)" 0
scratch_kernel / native 6.15.7 1591
scratch_module / hello 1.0 --autoinstall yes >/dev/null
# As dkms writes it on a live system.
ln -sfn /usr/src/hello-1.0 /var/lib/dkms/hello/1.0/source

check 'the variant of the running kernel' is "$(clr-dkms-variant)" native
check 'the pre-update hook' is "$(code clr_pre_update.sh)" 0
check 'the first run' is "$(code clr-dkms-post-update)" 0
check 'dkms itself says installed' is "$(dkms status hello -k $old)" "hello/1.0, $old, x86_64: installed"
check 'modprobe would find it' modprobe --dry-run --set-version $old hello
check 'status' is "$(code clr-dkms status)" 0
check 'status is healthy' said healthy:

scratch_kernel / native 6.15.8 1592
check 'the pre-update hook again' is "$(code clr_pre_update.sh)" 0
check 'the run after an update' is "$(code clr-dkms-post-update)" 0
check 'dkms itself says installed for the new kernel' is "$(dkms status hello -k $new)" "hello/1.0, $new, x86_64: installed"
check 'modprobe would find it for the new kernel' modprobe --dry-run --set-version $new hello
check 'the boot entry has the parameter' grep -q module.sig_unenforce /boot/loader/entries/*-6.15.8-1592.conf
check 'motd-update.sh was run' grep -q $new /run/motd
check 'status says that a reboot is pending' is "$(code clr-dkms status)" 0
check 'status says what to do' said 'reboot-pending: reboot when it suits you'
check 'status names the kernel' said "the DKMS module is ready for kernel $new [CD-002]"

# Programs that want to know of a new verdict. Each run of `notified` begins with another verdict in the record than the one that is
# true, as after a reboot, and takes less than the seconds that are given.
notify=/etc/clr-dkms/notify.d
program() { # NAME LINES…: one in notify.d
    printf '%s\n' '#!/bin/sh' "${@:2}" >"$notify/$1"
    chmod 755 "$notify/$1"
}
notified() { # SECONDS
    local watch=$SECONDS
    sed -i 's/"verdict": "[a-z-]*"/"verdict": "degraded"/' /var/lib/clr-dkms/last-run.json
    is "$(code clr-dkms-post-update)" 0 || { cat "$work/err"; return 1; }
    ((SECONDS - watch < $1)) || { printf '%s seconds\n' $((SECONDS - watch)); return 1; }
}
# Nor a zombie that nobody has collected yet.
lives() { grep -v ') Z ' "/proc/$(cat "$work/$1")/stat"; }
# Only status looks at units and hooks, and the times of the checks differ.
facts() { python3 -c 'import json, sys
document = json.load(sys.stdin)
document.pop("automation", None)
print("\n".join(line for line in json.dumps(document, indent=1).splitlines() if "\"checked\"" not in line))'; }
same_status() { diff <(clr-dkms status --json | facts) <(facts <"$work/notified"); }
not() { ! "$@"; }
mkdir -p $notify /etc/clr-dkms
printf '[report]\nnotify-timeout = 2 s\nmetrics = /var/lib/node_exporter/clr-dkms.prom\n' >/etc/clr-dkms/clr-dkms.conf
program 10-good "cat >$work/notified; echo \$CLR_DKMS_VERDICT_BEFORE \$CLR_DKMS_VERDICT >$work/verdicts"
check 'a new verdict is passed on' notified 10
check 'the document is that of status' same_status
check 'before and after' is "$(cat "$work/verdicts")" 'degraded reboot-pending'
check 'the metrics are written' grep -q '^clr_dkms_reboot_pending 1' /var/lib/node_exporter/clr-dkms.prom
rm "$work/notified"
check 'a run without news' is "$(code clr-dkms-post-update)" 0
check 'nobody is notified' test ! -e "$work/notified"
# The reboot itself changes the verdict.
echo $new >"$work/osrelease"
rm -f /run/clr-dkms/requested
check 'the boot' is "$(code clr-dkms guard --at-boot)" 0
check 'the metrics are of this boot' grep -q '^clr_dkms_reboot_pending 0' /var/lib/node_exporter/clr-dkms.prom
check 'the boot itself tells nobody, as there is no network yet' test ! -e "$work/notified"
check 'it asks for the worker' test -e /run/clr-dkms/requested
check 'the worker' is "$(code clr-dkms-post-update)" 0
check 'the worker tells them' is "$(cat "$work/verdicts")" 'reboot-pending healthy'
echo $old >"$work/osrelease"
check 'back again' is "$(code clr-dkms-post-update)" 0
check 'they are notified of that too' is "$(cat "$work/verdicts")" 'healthy reboot-pending'
# Bad ones, before and after the good one.
program 00-hangs "sleep 613 & echo \$! >$work/child; sleep 613"
program 01-deaf 'exec <&-; exit 0'
program 02-fails 'echo it went wrong; exit 3'
program 03-daemon "setsid sleep 614 & echo \$! >$work/daemon"
program 04-killed 'kill -9 $$'
printf 'no program' >$notify/05-no-program && chmod 755 $notify/05-no-program
ln -s /no/such/file $notify/06-dangling
mkdir $notify/07-directory
for name in 08-plain 09-backup~ .hidden 11-writable 12-of-nobody; do program "$name" "touch $work/ran$name"; done
chmod 644 "$notify/08-plain"
chmod 757 "$notify/11-writable"
chown nobody "$notify/12-of-nobody"
mkdir -m 777 "$work/open"
mv "$notify/12-of-nobody" "$notify/13-of-nobody"
program 14-behind-a-link "touch $work/ran14"
mv "$notify/14-behind-a-link" "$work/open/" && ln -s "$work/open/14-behind-a-link" $notify/
rm "$work/notified"
check 'bad ones do not keep the good one from its news' notified 20
check 'the good one is notified' same_status
cp "$work/err" "$work/err.notify"
hears() { grep -F -- "$1" "$work/err.notify" || { cat "$work/err.notify"; false; }; }
check 'the hanging one is reported' hears '00-hangs: stopped at its deadline'
check 'it is gone with its children' not lives child
check 'a program that does not read is not a fault' not grep -F 01-deaf "$work/err.notify"
check 'a failing one is reported, with its message' hears '02-fails: exit code 3: it went wrong'
check 'a daemon that goes on keeps nobody waiting' lives daemon
check 'a killed one is reported' hears '04-killed: killed by signal 9'
check 'what cannot be started is reported' hears '05-no-program cannot be started'
check 'what others can write is refused' hears "11-writable is not run: $notify/11-writable can be changed by users other than root"
check 'what belongs to others is refused' hears "13-of-nobody is not run: $notify/13-of-nobody can be changed"
check 'what lies in a directory of others is refused' hears "14-behind-a-link is not run: $work/open"
check 'none of them has run' is "$(find "$work" -maxdepth 1 -name 'ran*')" ''
kill "$(cat "$work/daemon")"
chmod 775 $notify
check 'a directory that others can write to' notified 5
check 'nothing in it is run' said "10-good is not run: $notify can be changed by users other than root"
chmod 755 $notify
rm -r /etc/clr-dkms
check 'the settings go' is "$(code clr-dkms-post-update)" 0
check 'and with them the metrics' test ! -e /var/lib/node_exporter/clr-dkms.prom
rm -rf /var/lib/node_exporter

# The boot partition, mounted nowhere: a filesystem in a file, found as clr-boot-manager finds it.
overlay_dev() {
    mkdir -p "$work/dev.upper" "$work/dev.work" && mount -t overlay overlay -o "lowerdir=/dev,upperdir=$work/dev.upper,workdir=$work/dev.work" /dev
}
partition() { # IMAGE: makes it the partition that systemd-boot was started from
    local loop
    loop=$(losetup --find --show "$1") || return
    loops+=("$loop")
    device=$loop
    ln -sfn "$loop" /dev/disk/by-partuuid/0c1ea12a-0000-4000-8000-00000000c1a0
}
variable() { # NAME TEXT
    { printf '\7\0\0\0'; printf '%s\0' "$2" | iconv -t UTF-16LE; } >"/sys/firmware/efi/efivars/$1-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
}
# The status of what is on the image, which must be the same afterwards, as must the mounts.
looked_at() {
    local image=$1 sum mounts code
    sum=$(sha256sum "$image") mounts=$(cat /proc/self/mountinfo)
    clr-dkms status --json >"$work/out" 2>"$work/err"
    code=$?
    if ! { is "$(sha256sum "$image")" "$sum" && is "$(cat /proc/self/mountinfo)" "$mounts" && is "$code" "${2-0}"; }; then
        cat "$work/out" "$work/err"
        return 1
    fi
}
check 'a /dev of our own' overlay_dev
check 'a firmware of our own' mount -t tmpfs tmpfs /sys/firmware
mkdir -p /dev/disk/by-partuuid /sys/firmware/efi/efivars "$work/esp" "$work/mnt"
variable LoaderDevicePartUUID 0C1EA12A-0000-4000-8000-00000000C1A0
cp -a /boot/loader "$work/esp"
for type in ext2 ext4; do
    check "an $type" mke2fs -q -t $type -d "$work/esp" "$work/$type" 16M
done
# The same with an entry that is empty, and with a journal that holds writes which are not on their place yet.
check 'an ext4 to be written to' cp "$work/ext4" "$work/live"
check 'it gets a device' partition "$work/live"
check 'it is mounted' mount "$device" "$work/mnt"
: >"$work/mnt/loader/entries/empty.conf"
sync -f "$work/mnt"
cp "$work/live" "$work/dirty"
check 'its journal is not empty' grep -q needs_recovery <(dumpe2fs -h "$work/dirty" 2>&1)

check 'a mount hides /boot' mount -t tmpfs tmpfs /boot
check 'status of what is mounted elsewhere' looked_at "$work/live" 1
check 'it names the file there' said "$work/mnt/loader/entries/empty.conf is empty; delete it"
umount "$work/mnt"
for type in ext2 ext4; do
    check "the $type gets a device" partition "$work/$type"
    check "status of an unmounted $type" looked_at "$work/$type"
    check "its entries were read ($type)" said '"boot_entries": "verified"'
done
variable LoaderEntryOneShot CLEAR-LINUX-NATIVE-6.15.7-1591.conf
check 'status with a one-shot entry' looked_at "$work/ext4"
check 'it names the kernel' said 'LoaderEntryOneShot chooses org.clearlinux.native.6.15.7-1591'
check 'the dirty one gets a device' partition "$work/dirty"
check 'status of an unmounted ext4 with a dirty journal' looked_at "$work/dirty" 1
check 'it names the file on the device' said "loader/entries/empty.conf on $device is empty; delete it"
check 'nobody is asked to be root' is "$(code setpriv --reuid=nobody --clear-groups clr-dkms status --json)" 0
check 'and which partition it is' said "boot partition $device is not mounted, and only root can read it"
# clr-boot-manager mounts it, and crashes: the empty entry, which only the journal knows, is moved away on the partition.
mounting() {
    cat >"$work/tools/clr-boot-manager" <<END
#!/bin/sh
mount $device /boot || exit 1
$stand_in "\$@"
code=\$?
umount /boot
exit \$code
END
}
mounting
mkdir -p /etc/kernel/cmdline.d
echo live=1 >/etc/kernel/cmdline.d/live.conf
mounts=$(cat /proc/self/mountinfo)
check 'a run with an empty entry on an unmounted partition' is "$(code clr-dkms-post-update)" 0
check 'it says what it has repaired' said "loader/entries/empty.conf on $device was empty"
check 'nothing stays mounted' is "$(cat /proc/self/mountinfo)" "$mounts"
check 'the filesystem is clean' e2fsck -fn "$device"
check 'it is mounted to be looked at' mount "$device" "$work/mnt"
check 'the empty file is moved away' test -e "$work/mnt/loader/entries/empty.conf.empty" -a ! -e "$work/mnt/loader/entries/empty.conf"
check 'the entries are written' grep -q live=1 "$work/mnt/loader/entries/"*-6.15.8-1592.conf
: >"$work/mnt/loader/loader.conf"
echo live=2 >/etc/kernel/cmdline.d/live.conf
check 'a run with an empty loader.conf on a partition that is mounted elsewhere' is "$(code clr-dkms-post-update)" 0
check 'it says so' said "$work/mnt/loader/loader.conf was empty"
check 'the default is written' grep -q default "$work/mnt/loader/loader.conf"
umount "$work/mnt"
# Too little room for what has grown: the reason is reported in place of clr-boot-manager's.
kernel=(/usr/lib/kernel/org.clearlinux.native.6.15.8-1592)
cp -a "${kernel[0]}" "$work/image"
truncate -s 1G "${kernel[0]}"
echo live=3 >/etc/kernel/cmdline.d/live.conf
printf '#!/bin/sh\nexit 1\n' >"$work/tools/clr-boot-manager"
check 'a run with too little room' is "$(code clr-dkms-post-update)" 1
check 'it names partition and need' said "the boot partition $device has "
check 'nothing was written' looked_at "$work/dirty" 1
mv "$work/image" "${kernel[0]}"
# Files in /boot itself, on the root filesystem: clr-boot-manager would take that for the boot partition.
mount --bind / /boot && mount -o remount,bind,ro /boot
echo live=4 >/etc/kernel/cmdline.d/live.conf
check 'a run with files in an unmounted /boot' is "$(code clr-dkms-post-update)" 1
check 'it says why it is not run' said "while the boot partition $device is not mounted there"
umount /boot
rm -r /etc/kernel/cmdline.d
mounting
check 'all is well again' is "$(code clr-dkms-post-update)" 0
check 'the files on the unmounted partition were written ahead of clr-boot-manager' not said 'written ahead'
printf '#!/bin/sh\n%s "$@"\n' "$stand_in" >"$work/tools/clr-boot-manager"
# Somebody else has it mounted to be written to: there is no way to it that is sure to write nothing.
unshare --mount sh -c "mount $device $work/mnt && : >$work/there && exec sleep 60" &
other=$!
for _ in {1..100}; do [[ -e $work/there ]] || sleep 0.05; done
check 'status of what others have mounted' is "$(code clr-dkms status --json)" 0
check 'it says so' said 'it is mounted where this process cannot see it'
kill "$other"
head -c 1M /dev/urandom >"$work/garbage"
check 'garbage gets a device' partition "$work/garbage"
check 'status of garbage' looked_at "$work/garbage"
check 'it says what it is' said "cannot look into $device: it has neither a FAT nor an ext filesystem"
rm -r /dev/disk
check 'status without names of partitions' is "$(code clr-dkms status --json)" 0
check 'it says so' said 'there is no /dev/disk here'
umount /boot /sys/firmware /dev

check 'nobody may see the status' is "$(code setpriv --reuid=nobody --clear-groups clr-dkms status)" 0
check 'nobody may not run the hook' is "$(code setpriv --reuid=nobody --clear-groups clr-dkms-post-update)" 77
check 'and the reason is reported' said 'run it as root'

# As update-trigger.sh calls it under chroot: an image, without a running kernel.
rm /usr/lib/modules/$new/updates/dkms/hello.ko*
check 'the hook of an image' is "$(code /usr/libexec/updater/50-clr-dkms-hook.sh)" 0
check 'the hook of an image has put the module back' test -n "$(find /usr/lib/modules/$new/updates/dkms -name "hello.ko*" -size +0)"

# The same as it is really called: in a plain chroot, with nothing in /proc, /sys and /dev, and the output thrown away. A
# mount of it that others could see would be seen here.
image=$work/image
mkdir -p "$image"/{usr,var,etc,boot,dev,proc,sys,run,tmp}
mount --bind "$image" "$image" && mount --make-shared "$image"
for directory in usr var etc boot; do mount --bind "/$directory" "$image/$directory"; done
for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$image/$directory"; done
printf '#!/bin/sh\nSTAND_IN_ALLOW_HOST=1 exec /usr/bin/stand-in "$@"\n' >/usr/bin/clr-boot-manager
cp tests/support/clr-boot-manager /usr/bin/stand-in
chmod 755 /usr/bin/{stand-in,clr-boot-manager}
in_chroot() { env -i PATH=/usr/sbin:/usr/bin "$@" chroot "$image" /usr/libexec/updater/50-clr-dkms-hook.sh >/dev/null 2>&1; }
has_files() { [[ -n $(find /usr/lib/modules/$new/updates/dkms -name "hello.ko*" -size +0) ]]; }
rm /usr/lib/modules/$new/updates/dkms/hello.ko*
mounts=$(wc -l </proc/self/mountinfo)
code env -i PATH=/usr/sbin:/usr/bin chroot "$image" clr-dkms-post-update --root / --dry-run
check 'a dry run there knows what would be done' said "hello/1.0 on $new"
check 'and writes nothing' is "$(find "$image"/{dev,proc,sys,run} -mindepth 1)" ''
check 'the hook in a plain chroot without the right to mount' is "$(code in_chroot setpriv --bounding-set=-sys_admin)" 0
check 'it could not build' not has_files
check 'the next status shows why' is "$(code clr-dkms status --root "$image")" 1
check 'with what to do' said 'clr-dkms-post-update --root DIR'
rm "$image"/boot/loader/entries/*-6.15.8-1592.conf
check 'the hook in a plain chroot' is "$(code in_chroot)" 0
check 'the hook in a plain chroot has put the module back' has_files
check 'and made the boot entry of the image' grep -q module.sig_unenforce "$image"/boot/loader/entries/*-6.15.8-1592.conf
check 'the next status is good' is "$(code clr-dkms status --root "$image")" 0
check 'nobody has seen a mount' is "$(wc -l </proc/self/mountinfo)" "$mounts"
check 'nothing is left of it' is "$(find "$image"/{dev,proc,sys,run/clr-dkms/root} -mindepth 1)" ''
umount "$image"/{usr,var,etc,boot} "$image"
rm -r "$image" /usr/bin/{stand-in,clr-boot-manager}

# 2: the running kernel takes the module, and the next boot will not.
check 'disable masks the fragment, and says that a module will be refused' is "$(code clr-dkms-cmdline disable --force)" 2
check 'with a link' is "$(readlink /etc/kernel/cmdline.d/clr-ignore-mod-sig.conf)" /dev/null
check 'systemd was only asked about units' not grep -v '^show ' "$work/systemctl-was-called"

check 'the stock module tools see no difference' is "$(dkms status hello | grep -ci warning)" 0
rm -rf /var/lib/dkms/hello /usr/src/hello-1.0
rm -f /run/motd
check 'make uninstall' is "$(code make uninstall)" 0
rm -rf /usr/lib/kernel/*6.15* /usr/lib/kernel/default-native
check 'no trace stays' diff <(tree | grep -v mok.) <(grep -v mok. <<<"$before")

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
