#!/usr/bin/env bash
# `make demo`: one update of a machine, twice. In a scratch root with real kernel headers under Clear's names, the real
# dkms and depmod rebuild a real module for a new kernel; then the same with a module whose source the new kernel does
# not take. Every claim of the narration is checked; the exit code is 1 when one was wrong.
#
# clr-boot-manager is in no Debian package: a stand-in plays it, unless CLR_BOOT_MANAGER names the real one.
# shellcheck disable=SC2031 # functions of the library that run in a subshell have a root of their own
set -euo pipefail
cd "$(dirname "$0")/../.."

here=$PWD
work=$here/target/demo
programs=$here/target/release
old=6.15.7-1591.native
new=6.15.8-1592.native
wrong=0

# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. tests/support/scratch-root.sh
export SCRATCH_CACHE=$here/target/scratch-cache

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
say() { printf '   %s\n' "$*"; }
run() {
    printf '   $ %s\n' "${*//"$root"/ROOT}"
    local code=0
    "$@" > "$work/output" 2>&1 || code=$?
    sed "s|$root|ROOT|g; s|^|   |" "$work/output"
    return "$code"
}
# run, with the exit code that is expected
expect_code() {
    local expected=$1 code=0
    shift
    run "$@" || code=$?
    check "exit code $expected" test "$code" -eq "$expected"
}
check() {
    local claim=$1
    shift
    if "$@" > /dev/null 2>&1; then
        printf '   [ok] %s\n' "$claim"
    else
        printf '   [WRONG] %s\n' "$claim"
        wrong=$((wrong + 1))
    fi
}
# where the screen breaks its lines depends on the length of paths
holds() { tr -s '[:space:]' ' ' < "$1" | grep -qF -- "$2"; }
# every file of the root with its times and contents; reading it changes neither
listing() { (cd "$root" && find . -printf '%p %y %m %s %T@ %l\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum); }

# The machine before the update: kernel A runs, its module is built, installed and in the boot entry.
machine() {
    root=$work/$1
    rm -rf "$root"
    scratch_skeleton "$root"
    scratch_kernel "$root" native 6.15.7 1591
    scratch_booted "$root" "$old"
    scratch_module "$root" hello 1.0 --autoinstall yes "${@:2}" > /dev/null
    expect_code 0 clr-dkms-post-update --live-root "$root"
    check "hello.ko is there for $old" test -f "$root/usr/lib/modules/$old/updates/dkms/hello.ko.zst"
}

# What swupd does: the pre-update hook, the files, and then our hook. clr-boot-manager it leaves to us.
update() {
    step "swupd update: the pre-update hook"
    expect_code 0 clr-dkms-pre-update --live-root "$root"
    step "swupd update: the files of kernel $new arrive; clr-boot-manager is not run, because /run/swupd/config says so"
    check "swupd is configured to leave the boot files alone" holds "$root/run/swupd/config" "[update] no_boot_update=true"
    scratch_kernel "$root" native 6.15.8 1592
    say "the boot default is still: $(default)"
    expect_code 1 clr-dkms status --live-root "$root"
    step "swupd update: the post-update hook"
}
default() { sed -n 's/^default //p' "$root/boot/loader/loader.conf"; }
boot_files() { (cd "$root/boot" && find . -type f -exec sha256sum {} + | sort); }

mkdir -p "$work/tools"
rm -f "$work/tools/clr-boot-manager"
ln -s "${CLR_BOOT_MANAGER:-$here/tests/support/clr-boot-manager}" "$work/tools/clr-boot-manager"
export CLR_DKMS_TOOL_PATH=$work/tools
PATH=$programs:$work/tools:$PATH
for program in clr-dkms clr-dkms-pre-update clr-dkms-post-update; do
    [[ -x $programs/$program ]] || { echo "demo: $programs/$program is not built: use \`make demo\`" >&2; exit 1; }
done

step "1. A machine that runs $old, with the DKMS module hello/1.0"
machine good
update
expect_code 0 clr-dkms-post-update --live-root "$root"
check "the module's vermagic is $new" \
    test "$(modinfo -F vermagic "$root/usr/lib/modules/$new/updates/dkms/hello.ko.zst" | cut -d' ' -f1)" = "$new"
check "modules.dep lists it" holds "$root/usr/lib/modules/$new/modules.dep" updates/dkms/hello.ko
check "the boot entry of $new holds module.sig_unenforce" \
    holds "$root/boot/loader/entries/Clear-linux-native-6.15.8-1592.conf" module.sig_unenforce
check "the boot default is $new now" test "$(default)" = Clear-linux-native-6.15.8-1592.conf
check "the record says so" holds "$root/var/lib/clr-dkms/last-run.json" "\"vermagic\": \"$new"
step "What the admin sees"
expect_code 0 clr-dkms status --live-root "$root"
say "the message of the day:"
sed 's/^/   /' "$root/run/motd.d/clr-dkms.motd"
check "the message of the day names $new" holds "$root/run/motd.d/clr-dkms.motd" "$new"
step "Will the kernel take the module, and why?"
expect_code 0 clr-dkms enforcement --live-root "$root"
check "unsigned modules load at the next boot" holds "$work/output" "will load hello/1.0 at the next boot"
step "A second run of the hook finds nothing to do"
listing > "$work/before"
expect_code 0 clr-dkms-post-update --live-root "$root"
listing > "$work/after"
check "no file of the root has changed" cmp "$work/before" "$work/after"

step "2. The same machine, but the source of hello/1.0 does not compile for $new"
machine failing --broken-for '^6\.15\.8-'
update
boot_files > "$work/before"
expect_code 1 clr-dkms-post-update --live-root "$root"
boot_files > "$work/after"
check "every file of the boot partition is as it was" cmp "$work/before" "$work/after"
say "the boot default is still: $(default)"
check "the next boot is $old, which has the module" test "$(default)" = Clear-linux-native-6.15.7-1591.conf
step "What the admin sees"
expect_code 1 clr-dkms status --live-root "$root"
say "the message of the day:"
sed 's/^/   /' "$root/run/motd.d/clr-dkms.motd"
log=var/log/clr-dkms/hello/1.0/$new.log
check "the log is there, with the compiler's error" holds "$root/$log" "error: "
for place in "$work/output" "$root/var/lib/clr-dkms/last-run.json"; do
    what=$([[ $place = "$work/output" ]] && echo "the status screen" || echo "the record")
    check "$what names the module" holds "$place" hello
    check "$what names the kernel" holds "$place" "$new"
    check "$what names the first compiler error" holds "$place" "storage size of 'now'"
    check "$what names the log" holds "$place" "/$log"
done
motd=$root/run/motd.d/clr-dkms.motd
check "the message of the day names module and kernel" grep -q "$new.*hello/1.0" "$motd"
check "the message of the day names the first compiler error" holds "$motd" "hello.c:6: storage size of 'now'"
check "the message of the day names the kernel of the next boot" holds "$motd" "The next boot is $old"
check "hello.ko for the running kernel is untouched" test -f "$root/usr/lib/modules/$old/updates/dkms/hello.ko.zst"

step "Somebody runs clr-boot-manager by hand, which makes the new kernel the default"
run clr-boot-manager update "--path=$root" || true
say "the boot default is now: $(default)"
step "At shutdown, clr-dkms-hold.service points it back"
expect_code 0 clr-dkms guard --assert --live-root "$root"
check "the boot default is $old again" test "$(default)" = Clear-linux-native-6.15.7-1591.conf
step "Why?"
expect_code 1 clr-dkms guard --live-root "$root"

step "3. A repaired source arrives, and the next run lets the kernel in"
scratch_module "$root" hello 1.0 --autoinstall yes > /dev/null
expect_code 0 clr-dkms-post-update --live-root "$root"
check "the boot default is $new now" test "$(default)" = Clear-linux-native-6.15.8-1592.conf
expect_code 0 clr-dkms status --live-root "$root"

rm -f "$work/before" "$work/after" "$work/output"
echo
if ((wrong > 0)); then
    echo "demo: $wrong claims were wrong; the roots are in target/demo"
    exit 1
fi
echo "demo: everything was as said; the roots are in target/demo"
