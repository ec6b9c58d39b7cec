#!/usr/bin/env bash
# Builds and proves the modules of *-dkms packages of this Debian with our own programs and the real dkms, for a kernel with real
# headers in a scratch root; prints a table: package, module, seconds, state, and what that is due to.
#
#   build-packages.sh PROGRAMS [PACKAGE…]      the directory of the programs; all packages that are known below; as root
#
# The packages are downloaded and taken apart; none is installed, so what they depend on is not there. CLR_DKMS_DEBS may name a directory that has the packages.
# Exit: 0 each state is the right one, 1 one is not, 2 it cannot be tried here.
set -euo pipefail

# Some sources take the headers from /lib/modules/RELEASE, whatever dkms says: in a namespace of our own that directory is
# the scratch root's.
((EUID == 0)) || { echo "${0##*/}: must be run as root" >&2; exit 2; }
[[ ${CLR_DKMS_UNSHARED-} ]] || CLR_DKMS_UNSHARED=1 exec unshare --mount --propagation private "$0" "$@"
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
programs=$(realpath -- "${1:?the directory of the programs}")
shift
readonly here top programs
export LC_ALL=C SCRATCH_CACHE=$top/target/scratch-cache

# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. "$here/scratch-root.sh"
# shellcheck disable=SC1091
. "$here/debian-packages.sh"
failed=0

# The packages of Debian 12 that build on its kernel 6.1. openafs-modules is one too, and takes as long as all others:
# it is built when it is named.
readonly good=(acpi-call adv-17v35x apfs bbswitch dahdi ddcci digimend dm-writeboost dpdk-kmods evdi falcosecurity-scap
    gost-crypto jool langford lime-forensics nat-rtsp openvpn-dco rapiddisk rtpengine-kernel tp-smapi
    v4l2loopback vpoll xtables-addons xtrx)
# These may fail, and then say why: two want the headers of libxtables, of which one looks for the sources of another
# module in /var/lib/dkms; three do not take what the kernel's later updates changed.
readonly may_fail=(iptables-netflow west-chamber librem-ec-acpi lttng-modules openrazer-driver)

needs apt-get dpkg-deb dkms python3
wanted=("${@%-dkms}")
(($#)) || wanted=("${good[@]}" "${may_fail[@]}")

work=$top/target/packages
rm -rf -- "$work"
mkdir -p "$work/debs" "$work/tools"
trap '((failed)) || rm -rf -- "$work"' EXIT
ln -s "$here/clr-boot-manager" "$work/tools/"
export CLR_DKMS_TOOL_PATH=$work/tools
if [[ ${CLR_DKMS_DEBS-} ]]; then
    cp -- "$CLR_DKMS_DEBS"/*.deb "$work/debs/"
else
    download "$work/debs" "${wanted[@]/%/-dkms}"
fi

# The kernel has the version of its headers: that is what the sources ask for.
root=$work/root
scratch_skeleton "$root"
scratch_kernel "$root" native 6.1.0 1591
kernel=6.1.0-1591.native
scratch_running "$root" "$kernel"
mount --bind "$root/usr/lib/modules" "$(readlink -f /lib/modules)"

# reported MODULE: its state, and what that is due to.
reported() {
    "$programs/clr-dkms" status --json --live-root "$root" >"$work/status.json" || true
    python3 - "$1" "$work/status.json" <<'END'
import json, sys
modules = json.load(open(sys.argv[2]))["modules"]
found = [m for m in modules if f"{m['name']}/{m['version']}" == sys.argv[1]] or [{"state": "none"}]
error = found[0].get("error") or {}
print(found[0]["state"], " ".join((error.get("message") or found[0].get("reason") or "").split()), sep="\t")
END
}

printf '%-20s %-32s %7s  %-18s %s\n' package module seconds state 'due to'
built=0
begin=$SECONDS
for package in "${wanted[@]}"; do
    debs=("$work/debs/$package"-dkms_*.deb)
    [[ -e ${debs[0]} ]] || { fail "$package-dkms was not downloaded"; continue; }
    rm -rf -- "$work/one"
    dpkg-deb -x "${debs[0]}" "$work/one"
    confs=("$work"/one/usr/src/*/dkms.conf)
    [[ -e ${confs[0]} ]] || { fail "$package-dkms has no dkms.conf"; continue; }
    directory=$(basename "$(dirname "${confs[0]}")")
    mv -- "$work/one/usr/src/$directory" "$root/usr/src/"
    module=$(named "$root/usr/src/$directory/dkms.conf")
    version=${directory#"$module"-}
    scratch_dkms "$root" add "$module/$version" >"$work/add.log" 2>&1 || fail "$package: dkms add: $(<"$work/add.log")"
    start=${EPOCHREALTIME/./} code=0
    "$programs/clr-dkms" rebuild --live-root "$root" "$module/$version" >"$work/$package.log" 2>&1 || code=$?
    took=$((${EPOCHREALTIME/./} - start))
    "$programs/clr-dkms" status --json --live-root "$root" >"$work/status.json" || true
    IFS=$'\t' read -r state why < <(reported "$module/$version")
    printf '%-20s %-32s %5d.%d  %-18s %.120s\n' "$package" "$module/$version" $((took / 1000000)) \
        $((took / 100000 % 10)) "$state" "$why"
    if [[ $state == build-failed && " ${may_fail[*]} " == *" $package "* ]]; then
        [[ $why ]] || fail "$package: build-failed, and nobody says why"
    elif [[ $state != ok ]]; then
        fail "$package: $state, exit code $code; $work/$package.log"
    fi
    [[ $state != ok ]] || built=$((built + 1))
done
say "$built of ${#wanted[@]} are ok, in $((SECONDS - begin)) s"
((built >= 8 || $#)) || fail 'fewer than eight packages were built'
exit "$failed"
