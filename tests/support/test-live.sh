#!/usr/bin/env bash
# The programs on a live system: installed with `make install`, called without --root, with the real dkms and depmod.
#
# In a mount namespace of its own, /usr, /var, /etc, /run and /boot get an overlay in memory and `uname -r` (the file in
# /proc that the programs read) a name of Clear's, so this machine plays a Clear Linux one and nothing of it is changed.
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
trap 'cd /; umount -l "$work" 2>/dev/null; rmdir "$work" 2>/dev/null' EXIT
mount -t tmpfs tmpfs "$work"
for folder in usr var etc run boot; do
    mkdir -p "$work/$folder.upper" "$work/$folder.work"
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$work/$folder.upper,workdir=$work/$folder.work" "/$folder"
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
printf '#!/bin/sh\nSTAND_IN_ALLOW_HOST=1 exec %s "$@"\n' "$PWD/tests/support/clr-boot-manager" >"$work/tools/clr-boot-manager"
printf '#!/bin/sh\ncat /run/motd.d/* >/run/motd\n' >"$work/tools/motd-update.sh"
printf '#!/bin/sh\necho "$*" >>%s/systemctl-was-called\n' "$work" >"$work/tools/systemctl"
chmod -R a+rX,a+x "$work" "$work/tools"
export CLR_DKMS_TOOL_PATH=$work/tools
echo $old >"$work/osrelease"
mount --bind "$work/osrelease" /proc/sys/kernel/osrelease

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
check 'status names the kernel' said "reboot-pending: the DKMS module is ready for kernel $new"
check 'nobody may see the status' is "$(code setpriv --reuid=nobody --clear-groups clr-dkms status)" 0
check 'nobody may not run the hook' is "$(code setpriv --reuid=nobody --clear-groups clr-dkms-post-update)" 77
check 'and is told why' said 'run it as root'

# As update-trigger.sh calls it under chroot: an image, without a running kernel.
rm /usr/lib/modules/$new/updates/dkms/hello.ko*
check 'the hook of an image' is "$(code /usr/libexec/updater/50-clr-dkms-hook.sh)" 0
check 'the hook of an image has put the module back' test -n "$(find /usr/lib/modules/$new/updates/dkms -name "hello.ko*" -size +0)"
check 'disable masks the fragment' is "$(code clr-dkms-cmdline disable)" 0
check 'with a link' is "$(readlink /etc/kernel/cmdline.d/clr-ignore-mod-sig.conf)" /dev/null
check 'a service of systemd was never touched' test ! -e "$work/systemctl-was-called"

check 'the stock module tools see no difference' is "$(dkms status hello | grep -ci warning)" 0
rm -rf /var/lib/dkms/hello /usr/src/hello-1.0
rm -f /run/motd
check 'make uninstall' is "$(code make uninstall)" 0
rm -rf /usr/lib/kernel/*6.15* /usr/lib/kernel/default-native
check 'no trace stays' diff <(tree | grep -v mok.) <(grep -v mok. <<<"$before")

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
