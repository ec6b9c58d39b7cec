#!/usr/bin/env bash
# Proves scratch-root.sh: modules really build in a scratch root, and the host
# stays as it was. Takes half a minute; needs the dkms and build packages.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/scratch-root.sh"

passed=0 failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/test-scratch-root.XXXXXX")
trap 'rm -rf "$work"' EXIT
export SCRATCH_CACHE=$work/cache
readonly native=6.15.7-1591.native lts=6.12.38-1550.ltscurrent
log=$work/log

# check WHAT COMMAND…: its output is shown only when it fails.
check() {
    local what=$1 status
    shift
    # Not as `(…) || status=$?`: below a condition nothing stops at an error.
    set +e
    (set -e && "$@") >"$log" 2>&1
    status=$?
    set -e
    if ((status == 0)); then
        passed=$((passed + 1))
        printf 'ok      %s\n' "$what"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s (exit %d)\n' "$what" "$status"
        sed 's/^/        /' "$log"
    fi
}

# is EXPECTED COMMAND…: the command prints exactly this.
is() {
    local expected=$1 actual
    shift
    actual=$("$@")
    [[ $actual == "$expected" ]] || { printf 'expected: %s\nactual:   %s\n' "$expected" "$actual" && false; }
}

# exits CODE COMMAND…
exits() {
    local expected=$1 status=0
    shift
    "$@" || status=$?
    ((status == expected)) || { printf 'exit %d, expected %d\n' "$status" "$expected" && false; }
}

has_line() { grep -E -- "$1" "$2" || { cat "$2" && false; }; }
silent() { is '' "$@"; }
both() { "$@" 2>&1; }

# What no scratch root may touch: names, types, modes, sizes, times and link
# counts of everything, and the contents of the two files that say the release.
host_listing() {
    local headers
    headers=$(_scratch_headers_source)
    find /var/lib/dkms /usr/src /usr/lib/modules /usr/lib/linux-kbuild-* /etc/dkms \
        -printf '%p %y %m %n %s %T@ %l\n' 2>/dev/null | sort
    sha256sum "$headers"/include/{config/kernel.release,generated/utsrelease.h} \
        "$headers/.config" "$headers/include/config/auto.conf"
}

# works_in ROOT: the whole way, for a kernel of each of two variants.
works_in() {
    local root=$1 release ko
    check "skeleton" scratch_skeleton "$root"
    check "lib leads to usr/lib" test "$root/lib/modules" -ef "$root/usr/lib/modules"
    # At once, and with a cold cache the first time: the lock has to hold.
    check "two kernels at a time" two_kernels "$root"
    check "tip of the variant" is org.clearlinux.native.6.15.7-1591 \
        readlink "$root/usr/lib/kernel/default-native"
    scratch_running "$root" "$native"
    check "running kernel" is "$native" cat "$root/proc/sys/kernel/osrelease"
    check "a module is added" scratch_module "$root" hello 1.0
    check "and listed" is "hello/1.0: added" scratch_dkms "$root" status
    check "its source link is relative" is ../../../../../usr/src/hello-1.0 \
        readlink "$root/var/lib/dkms/hello/1.0/source"
    check "its source link leads there" test \
        "$root/var/lib/dkms/hello/1.0/source" -ef "$root/usr/src/hello-1.0"
    for release in "$native" "$lts"; do
        ko=$root/usr/lib/modules/$release/updates/dkms/hello.ko
        check "$release: builds" scratch_dkms "$root" build hello/1.0 -k "$release"
        check "$release: compiles without a warning" test_no_warning \
            "$root/var/lib/dkms/hello/1.0/$release/$(uname -m)/log/make.log"
        check "$release: installs" scratch_dkms "$root" install hello/1.0 -k "$release"
        check "$release: depmod has nothing to say" silent both depmod -b "$root" "$release"
        check "$release: vermagic" vermagic_is "$release" "$ko"
        check "$release: in modules.dep" has_line '^updates/dkms/hello\.ko:' \
            "$root/usr/lib/modules/$release/modules.dep"
        check "$release: the kernel's own are there too" has_line '^kernel/.*/dummy\.ko\.zst:' \
            "$root/usr/lib/modules/$release/modules.dep"
        check "$release: signed as Clear's kernel says" is sha512 modinfo -F sig_hashalgo "$ko"
    done
    check "dkms calls both installed" is "hello/1.0, $lts, $(uname -m): installed
hello/1.0, $native, $(uname -m): installed" scratch_dkms "$root" status
    check "a second install finds it installed" says 'already installed' \
        scratch_dkms "$root" install hello/1.0 -k "$native"
    check "unbuild" scratch_dkms "$root" unbuild hello/1.0 -k "$native"
    check "unbuild takes the installed file away" test ! -e \
        "$root/usr/lib/modules/$native/updates/dkms/hello.ko"
}

two_kernels() {
    scratch_kernel "$1" native 6.15.7 1591 &
    local first=$!
    scratch_kernel "$1" ltscurrent 6.12.38 1550
    wait "$first"
}

test_no_warning() { ! grep -iE 'warning|error' "$1"; }
vermagic_is() { [[ $(modinfo -F vermagic "$2") == "$1 "* ]]; }
says() { local want=$1 && shift && "$@" >"$work/said" 2>&1 && has_line "$want" "$work/said"; }
refuses() { local want=$1 && shift && ! "$@" >"$work/said" 2>&1 && has_line "$want" "$work/said"; }

broken_module() {
    local root=$1 built=$1/var/lib/dkms/broken/2.0
    check "broken module: added" scratch_module "$root" broken 2.0 --broken-for '^6\.1[3-9]\.' \
        --built-name broken-a --built-name broken_b --autoinstall ''
    check "broken module: make fails" exits 10 scratch_dkms "$root" install broken/2.0 -k "$native"
    check "broken module: a compiler error" has_line \
        '\.c:[0-9]+:[0-9]+: error: implicit declaration of function .do_gettimeofday' "$built/build/make.log"
    check "broken module: the older kernel takes it" scratch_dkms "$root" install broken/2.0 -k "$lts"
    check "broken module: both files" test -e "$root/usr/lib/modules/$lts/updates/dkms/broken-a.ko" \
        -a -e "$root/usr/lib/modules/$lts/updates/dkms/broken_b.ko"
    check "broken module: repaired" scratch_module "$root" broken 2.0
    check "broken module: builds then" scratch_dkms "$root" install broken/2.0 -k "$native"
}

other_things() {
    local root=$1
    check "a blank in the path is refused" refuses 'without blanks' scratch_skeleton "$work/a b"
    check "nothing was made there" test ! -e "$work/a b"
    check "two -k are refused" refuses 'one -k' scratch_dkms "$root" build hello/1.0 -k "$native" -k "$lts"
    check "a build without -k is refused" refuses 'which -k' scratch_dkms "$root" build hello/1.0
    check "a kernel without headers" scratch_kernel "$root" native 6.16.1 1600 --no-headers
    check "has none" test ! -e "$root/usr/lib/modules/6.16.1-1600.native/build"
    check "and dkms says so" exits 1 scratch_dkms "$root" build hello/1.0 -k 6.16.1-1600.native
    check "it is the tip" is org.clearlinux.native.6.16.1-1600 readlink "$root/usr/lib/kernel/default-native"
    check "headers can come later" "$here/scratch-root.sh" scratch_headers "$root" 6.16.1-1600.native
    check "and dkms builds" "$here/scratch-root.sh" scratch_dkms "$root" build hello/1.0 -k 6.16.1-1600.native
    check "the headers are shared" test "$root/usr/lib/modules/$native/build/Makefile" \
        -ef "$root/usr/lib/modules/$lts/build/Makefile"
    check "the release is not" test ! "$root/usr/lib/modules/$native/build/include/generated/utsrelease.h" \
        -ef "$root/usr/lib/modules/$lts/build/include/generated/utsrelease.h"
    check "headers of another filesystem are copied" copied_headers "$root"
}

# Without /dev/shm, or where it is the same filesystem, this proves little.
copied_headers() {
    local cache
    cache=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d -p "$work")
    SCRATCH_CACHE=$cache scratch_headers "$1" 6.16.2-1601.native || rm -rf "$cache"
    rm -rf "$cache"
    is 6.16.2-1601.native cat "$1/usr/lib/modules/6.16.2-1601.native/build/include/config/kernel.release"
    test -s "$1/usr/lib/modules/6.16.2-1601.native/build/Makefile"
}

host_listing >"$work/host-before"
works_in "$work/root"
broken_module "$work/root"
other_things "$work/root"
printf '%s\n' '--- the same below a path with brackets'
works_in "$work/odd[a-z]*/root"
check "no directory of the other name is left" silent find /tmp -maxdepth 1 -name "scratch-root.$$.*"
host_listing >"$work/host-after"
check "the host is as it was" diff "$work/host-before" "$work/host-after"

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
