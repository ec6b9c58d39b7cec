#!/usr/bin/env bash
# Reads the dkms.conf of every *-dkms package of this Debian with `clr-dkms lint`: what thousands of people build
# has no error in it, so an error is a false one.
#
#   lint-packages.sh CLR_DKMS      the program to test
#
# The packages are downloaded and taken apart in a temporary directory; none is installed. Needs apt and a network.
# Exit: 0 no error was reported, 1 one was, or a package is not there, 2 it cannot be tried here.
set -euo pipefail

program=$(realpath -- "${1:?the program to test}")
readonly program
# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. "$(dirname "$0")/debian-packages.sh"
failed=0
export LC_ALL=C
# Packages of Debian 12 whose files do what a static reading gets wrong, and all others of that release: they must
# have been read, whatever else is found.
readonly debian_12=(acpi-call adv-17v35x apfs bbswitch dahdi ddcci digimend dm-writeboost dpdk-kmods evdi
    falcosecurity-scap gost-crypto iptables-netflow jool langford librem-ec-acpi lime-forensics lttng-modules nat-rtsp
    openafs-modules openrazer-driver openvpn-dco rapiddisk rtpengine-kernel tp-smapi v4l2loopback vpoll west-chamber
    xtables-addons xtrx)

needs apt-cache apt-get dpkg-deb
mapfile -t packages < <(apt-cache search --names-only -- '-dkms$' | awk '{ print $1 }' | sort)
if ((${#packages[@]} == 0)); then
    say 'apt knows no *-dkms package: run apt-get update as root first'
    exit 2
fi

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
mkdir "$work/debs" "$work/root"
download "$work/debs" "${packages[@]}"

# One system with all of them, registered as their packages would do it.
root=$work/root
declare -A seen=()
for deb in "$work"/debs/*.deb; do
    package=${deb##*/}
    package=${package%%_*}
    rm -rf -- "$work/one"
    mkdir "$work/one"
    dpkg-deb -x "$deb" "$work/one"
    # dh-dkms brings no module.
    for conf in "$work"/one/usr/src/*/dkms.conf; do
        [[ -e $conf ]] || continue
        directory=${conf%/dkms.conf}
        directory=${directory##*/}
        name=$(named "$conf")
        [[ $directory == "$name"-* ]] || fail "$package: $directory is not the directory of $name"
        mkdir -p "$root/usr/src" "$root/var/lib/dkms/$name/${directory#"$name"-}"
        mv -- "${conf%/dkms.conf}" "$root/usr/src/"
        ln -s "/usr/src/$directory" "$root/var/lib/dkms/$name/${directory#"$name"-}/source"
        seen[${package%-dkms}]=$directory
    done
done
# shellcheck source=/dev/null
if [[ $(. /etc/os-release && echo "${ID-}${VERSION_ID-}") == debian12 ]]; then
    for package in "${debian_12[@]}"; do
        [[ ${seen[$package]-} ]] || fail "$package-dkms has not been found"
    done
fi

# lint WHAT ARGUMENTS…: no error, and nothing that could not be read.
lint() {
    local what=$1 code=0
    shift
    "$program" lint --json "$@" >"$work/answer" 2>"$work/stderr" || code=$?
    ((code == 0 || code == 1)) || fail "$what: exit code $code"
    [[ ! -s $work/stderr ]] || fail "$what: $(head -n 3 "$work/stderr")"
    if grep -q '"severity": "error"' "$work/answer"; then
        fail "$what: an error is reported"
        "$program" lint "$@" | grep -A 2 ': error: ' >&2 || true
    fi
}

all() {
    lint "$1" --root "$root"
    local read
    read=$(grep -c '^      "unreadable": null' "$work/answer" || true)
    ((read == ${#seen[@]})) || fail "$1: ${#seen[@]} modules are registered, and $read were read"
    printf '%s: %s\n' "$1" "$(sed -n 's/^  "summary": "\(.*\)",$/\1/p' "$work/answer")"
    sed -n 's/^ *"id": "\(.*\)",$/\1/p' "$work/answer" | sort | uniq -c
}

all 'no kernel'
for directory in "${seen[@]}"; do
    lint "/usr/src/$directory" --root "$root" "/usr/src/$directory"
    (cd "$root/usr/src/$directory" && lint "$directory as a checkout" . && ((!failed))) || failed=1
done
# A kernel as Clear Linux installs it, with the configuration of one of Debian's where this machine has any.
kernel=6.12.38-1550.ltscurrent
mkdir -p "$root/usr/lib/kernel" "$root/usr/lib/modules/$kernel/build"
touch "$root/usr/lib/kernel/org.clearlinux.ltscurrent.6.12.38-1550"
all 'a kernel without headers'
for config in /usr/src/linux-headers-*/.config /lib/modules/*/build/.config; do
    if [[ -e $config ]]; then
        cp -- "$config" "$root/usr/lib/modules/$kernel/build/.config"
        all "a kernel configured as in $config"
        break
    fi
done
((failed)) || say "${#seen[@]} packages were read, without an error"
exit "$failed"
