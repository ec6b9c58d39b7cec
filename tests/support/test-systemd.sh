#!/usr/bin/env bash
# The whole life under the real systemd, in containers: real dkms and headers, stand-ins of swupd and clr-boot-manager.
#
#     test-systemd.sh [SCENARIO…]       all of them, two at a time; the names are in container/scenarios.sh
#
# Root, systemd-nspawn and debootstrap are needed (`ensure-packages.sh systemd`), and the programs in target/release, or
# in PROGRAMS. The first run makes a Debian of 600 MB in target/container. Nothing outside of target/ is changed.
# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # names are shared with the files that are sourced
set -uo pipefail
export LC_ALL=C
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
here=$top/tests/support cache=$top/target/container programs=${PROGRAMS:-$top/target/release}

for tool in systemd-nspawn debootstrap nsenter; do
    command -v "$tool" >/dev/null || { echo "test-systemd: left out: there is no $tool here"; exit 0; }
done
[[ -x $programs/clr-dkms ]] || { echo "test-systemd: $programs/clr-dkms is not built" >&2; exit 1; }
((EUID == 0)) || { echo 'test-systemd: run it as root' >&2; exit 1; }
if [[ ! ${CLR_DKMS_TEST_NAMESPACE:-} ]]; then
    CLR_DKMS_TEST_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
fi

# nspawn wants to have its own things in memory, as /run is where systemd runs.
mkdir -p "$cache" /run/systemd/nspawn && mount -t tmpfs tmpfs /run/systemd/nspawn || exit 1
work=$(mktemp -d "$cache/run.XXXXXX") payload=$work/payload
export SCRATCH_CACHE=$cache/headers
# shellcheck disable=SC1091 # they lie beside this script, and are checked by themselves
. "$here/scratch-root.sh"
set +e
# shellcheck disable=SC1091
. "$here/container/machine.sh"
# shellcheck disable=SC1091
. "$here/container/clear.sh"
# shellcheck disable=SC1091
. "$here/container/scenarios.sh"
nspawn='' loop=''
trap 'for pid in $(jobs -p); do [[ $pid == "$nspawn" ]] || kill "$pid"; done 2>/dev/null; [[ ! $nspawn ]] || power_cut; wait; umount -l "$work"/*/esp "$work"/*/root 2>/dev/null; drop_loop; rm -rf --one-file-system "$work"; drop_groups' EXIT

passed=0 failed=0
check() { # check WHAT COMMAND…
    if "${@:2}" >"$machine/check" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        printf 'FAILED: %s: %s\n' "${machine##*/}" "$1"
        sed 's/^/  | /' "$machine/check"
        return 1
    fi
}
is() { [[ $1 == "$2" ]] || { printf '%s instead of %s\n' "$1" "$2"; false; }; }
not() { ! "$@"; }

at() { machine=$work/$1 root=$work/$1/root; } # at NAME: that machine is meant from now on

# scenario NAME: on a fresh machine; the last line it prints is "PASSED FAILED SECONDS".
scenario() {
    local start=$SECONDS
    at "$1"
    overlay "$1" "$work/clear/upper" "$base" && cp "$work/clear/esp.img" "$machine/" || exit 1
    if check 'it boots' boot && check 'it settles' settled; then "scenario_$1"; fi
    if ((failed > 0)) && [[ $nspawn ]]; then
        echo "the end of its journal:"
        inside journalctl --no-pager -b -n 60 -o short-monotonic | sed 's/^/  : /'
    fi
    forget
    echo "$passed $failed $((SECONDS - start))"
}

base=$(base_root) || { echo 'test-systemd: no base' >&2; exit 1; }
make_payload || { echo 'test-systemd: no payload' >&2; exit 1; }
# The machine that all begin with: installed, booted for the first time, its modules built, its boot files made.
at clear
overlay clear "$base" && make_esp && make_clear && install_programs >/dev/null || exit 1
check 'the first boot' boot
check 'the worker ends' settled
check 'no unit failed' failed_are ''
check 'the modules are built' has_module "$old"
check 'all is well' verdict_is healthy
check 'the boot default' default_is "$old"
check 'the machine is marked as booted' booted_mark "$old"
if ((failed > 0)); then inside journalctl --no-pager -b | tail -n 60; fi
check 'it shuts down' shut_down
umount "$root"
drop_loop

mapfile -t names < <(declare -F | sed -n 's/^declare -f scenario_//p')
(($# == 0)) || names=("$@")
for name in "${names[@]}"; do
    # A container that boots waits for half of its time.
    while (($(jobs -rp | wc -l) >= ${JOBS:-$(($(nproc) * 2))})); do wait -n; done
    # Broken off, it takes its container with it.
    (trap '[[ ! $nspawn ]] || power_cut; drop_loop' EXIT; trap 'exit 1' TERM; passed=0 failed=0; scenario "$name") >"$work/$name.out" 2>&1 &
done
wait
for name in "${names[@]}"; do
    read -r good_ones bad_ones seconds < <(tail -n 1 "$work/$name.out")
    sed '$d' "$work/$name.out"
    printf '%-22s %3s passed, %s failed, %s s\n' "$name" "${good_ones:-0}" "${bad_ones:-all}" "${seconds:-?}"
    passed=$((passed + ${good_ones:-0})) failed=$((failed + ${bad_ones:-1}))
done
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
