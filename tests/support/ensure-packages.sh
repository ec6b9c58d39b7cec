#!/usr/bin/env bash
# Makes sure that what the make targets call is on this machine.
#
#   ensure-packages.sh GROUP…             installs what is missing: build | check | dkms | demo | test |
#                                         systemd | vm | timeline | pictures
#   ensure-packages.sh --check GROUP…     installs nothing, and names the command that does
#   ensure-packages.sh --cargo            prints the path of a cargo that is new enough
#   ensure-packages.sh --crates CARGO…    downloads the crates of Cargo.lock with that cargo, if any is missing
#
# It looks for commands and files, not for package names, so that a tool from
# anywhere counts. When all is there it is silent and touches no network.
# Exit: 0 all is there now, 1 something is missing, 2 wrong call.
set -euo pipefail

readonly self=${0##*/}
repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
readonly repo
# dkms and depmod live in sbin, which the PATH of Debian's users leaves out.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# The question for a version must not make rustup download a toolchain.
export RUSTUP_AUTO_INSTALL=0
log=''
trap '[[ ! $log ]] || rm -f -- "$log"' EXIT

say() { printf '%s: %s\n' "$self" "$*" >&2; }
has() { command -v -- "$1" >/dev/null 2>&1; }

# True when a glob has a match: some_path PATTERN, already expanded by the caller.
some_path() { [[ -e $1 ]]; }

# version_at_least HAVE WANT: both dotted numbers.
version_at_least() {
    [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]
}

# --- what is missing: names for people, and the packages that bring it -------

missing=()
debs=()
bundles=()

# lack WHAT "DEBIAN PACKAGES" "CLEAR BUNDLES"; no bundle means that Clear
# Linux offers none (clr-bundles, July 2025).
lack() {
    # Two groups may lack the same thing.
    printf '%s\n' "${missing[@]}" | grep -qxF -- "$1" || missing+=("$1")
    read -ra words <<<"$2"
    debs+=("${words[@]}")
    read -ra words <<<"$3"
    bundles+=("${words[@]}")
}

# --- Rust --------------------------------------------------------------------

# The oldest compiler that Cargo.toml allows.
wanted_rust() {
    local version
    version=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' \
        "$repo/Cargo.toml" 2>/dev/null | head -n 1) || true
    printf '%s\n' "${version:-1.85}"
}

# tool_version FILE: the second word of `FILE --version`, without a suffix.
# A rustup proxy exists even when its component does not, so it is run.
tool_version() {
    local name version rest
    read -r name version rest < <("$1" --version 2>/dev/null) || return 1
    : "$name" "$rest"
    printf '%s\n' "${version%%[-+ ]*}"
}

# The first directory, along PATH and then rustup's own, whose cargo and rustc are
# both new enough.
good_rust_dir() {
    local want dir have tool
    local -a dirs
    want=$(wanted_rust)
    IFS=: read -ra dirs <<<"$PATH:${HOME:-/root}/.cargo/bin"
    for dir in "${dirs[@]}"; do
        [[ -x $dir/cargo && -x $dir/rustc ]] || continue
        for tool in cargo rustc; do
            have=$(tool_version "$dir/$tool") || continue 2
            version_at_least "$have" "$want" || continue 2
        done
        printf '%s\n' "$dir"
        return 0
    done
    return 1
}

# Debian 12's own rustc is 1.63. The packages with `web` in their names are the
# newer toolchain that Debian keeps there for browsers; they replace the others.
# Which family is on offer can only be asked after `apt-get update`.
rust_debs() { # rust_debs RUST|rustfmt|clippy
    local web=''
    ! apt-cache show rustc-web >/dev/null 2>&1 || web=-web
    case $1 in
        RUST) printf '%s\n' "cargo$web" "rustc$web" ;;
        rustfmt) printf '%s\n' "rustfmt$web" ;;
        clippy) printf '%s\n' "rust$web-clippy" ;;
    esac
}

# The cargo that compiles is that of the tree's owner, also where root calls.
good_cargo() { "$repo/tests/support/run-as.sh" owner "$repo/tests/support/$self" --cargo 2>/dev/null; }

need_rust() {
    good_cargo >/dev/null || lack "a Rust toolchain >= $(wanted_rust)" RUST rust-basic
}

need_rust_components() {
    local dir component
    local -a absent=()
    if dir=$(good_cargo); then
        dir=${dir%/*}
        tool_version "$dir/rustfmt" >/dev/null && [[ -x $dir/cargo-fmt ]] || absent+=(rustfmt)
        tool_version "$dir/cargo-clippy" >/dev/null || absent+=(clippy)
    else
        dir='' absent=(rustfmt clippy)
    fi
    for component in "${absent[@]}"; do
        # Components of another toolchain do not fit one of rustup's.
        if [[ -x $dir/rustup && $1 == install ]]; then
            say "adding $component to the rustup toolchain"
            "$repo/tests/support/run-as.sh" owner "$dir/rustup" component add "$component" >&2 && continue
        fi
        lack "$component" "$component" rust-basic
    done
}

# --- the groups: each is asked once before and once after installing -----------

group_build() {
    has cc || lack "a C compiler" gcc c-basic
    echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1 || lack "the C library's headers" libc6-dev c-basic
    has make || lack make make c-basic
    need_rust
}

group_check() {
    need_rust_components "$1"
    has python3 || lack python3 python3 python3-basic
    # Clear Linux has no bundle with them.
    if has apt-get; then
        has shellcheck || lack shellcheck shellcheck ""
        has mandoc || lack mandoc mandoc ""
        has man || lack man man-db ""
        has zsh || lack zsh zsh ""
    fi
}

group_dkms() {
    has dkms || lack dkms dkms "dkms c-basic"
    has depmod || lack depmod kmod os-core-plus
    has zstd || lack zstd zstd os-core-plus
    has xz || lack xz xz-utils os-core-plus
    # dkms makes its signing key with openssl, and goes on unsigned without it.
    has openssl || lack openssl openssl openssl-basic
    has cc || lack "a C compiler" gcc c-basic
    has make || lack make make c-basic
    # Clear's linux-dev and not kernel-native-dkms: the latter also changes the
    # kernel command line of the machine, which a test has no business to do.
    some_path /usr/src/linux-headers-*/Module.symvers ||
        some_path /usr/lib/modules/*/build/Makefile ||
        lack "kernel headers" "$(headers_deb)" linux-dev
}

# The stand-in for clr-boot-manager.
group_demo() {
    has python3 || lack python3 python3 python3-basic
}

group_test() {
    group_check "$1"
    # Clear Linux has no bundle with some of them: what needs one is left out there.
    if has apt-get; then
        has script || lack script bsdutils ""
        has rpmbuild || lack rpmbuild rpm ""
        has strace || lack strace strace ""
        has pgrep || lack pgrep procps ""
    fi
}

group_systemd() {
    # Clear Linux has no bundle with them: what needs them is left out there.
    if has apt-get; then
        has systemd-nspawn || lack systemd-nspawn systemd-container ""
        has debootstrap || lack debootstrap debootstrap ""
    fi
}

# Machines with booted kernels. Their disk is built from packages of Debian, and on Debian only.
group_vm() {
    if has apt-get; then
        has qemu-system-x86_64 || lack QEMU qemu-system-x86 ""
        has qemu-img || lack qemu-img qemu-utils ""
        some_path /usr/share/OVMF/OVMF_CODE_4M.fd || lack "UEFI firmware for QEMU" ovmf ""
        some_path /usr/lib/systemd/boot/efi/systemd-bootx64.efi || lack systemd-boot systemd-boot-efi ""
        has debootstrap || lack debootstrap debootstrap ""
        has sgdisk || lack sgdisk gdisk ""
        has mkfs.vfat || lack mkfs.vfat dosfstools ""
        has mkfs.ext4 || lack mkfs.ext4 e2fsprogs ""
        has mcopy || lack mtools mtools ""
        has mkfs.cramfs || lack mkfs.cramfs util-linux ""
        has cpio || lack cpio cpio ""
        has lz4 || lack lz4 lz4 ""
        has zstd || lack zstd zstd ""
        has readelf || lack readelf binutils ""
        has openssl || lack openssl openssl ""
        has sbsign || lack sbsign sbsigntool ""
        has cert-to-efi-sig-list || lack efitools efitools ""
        has python3 || lack python3 python3 ""
    fi
}

# What draws docs/: no bundle of Clear Linux is known for most of it.
group_timeline() {
    has neato || lack graphviz graphviz ""
}

group_pictures() {
    has xterm || lack xterm xterm ""
    has Xvfb || lack Xvfb xvfb ""
    has import || lack ImageMagick imagemagick ""
    has optipng || lack optipng optipng ""
    some_path /usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf ||
        lack "the font DejaVu Sans Mono" fonts-dejavu-core ""
}

# Debian's metapackage of the headers for this architecture.
headers_deb() {
    local arch
    arch=$(dpkg --print-architecture 2>/dev/null) || arch=amd64
    case $arch in
        i386) arch=686-pae ;;
        armhf) arch=armmp ;;
    esac
    printf 'linux-headers-%s\n' "$arch"
}

look() {
    local group
    missing=() debs=() bundles=()
    for group in "${groups[@]}"; do
        "group_$group" "$1"
    done
}

# --- installing ------------------------------------------------------------------

# A command line as root. That it can become root was checked before.
as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

listed() {
    local IFS=,
    printf '%s' "$*" | sed 's/,/, /g'
}

# The packages to install, one a line. Which Rust is on offer is asked last:
# on a fresh machine apt-cache knows nothing before `apt-get update`.
debs_to_install() {
    local package
    for package in "${debs[@]}"; do
        case $package in
            RUST | rustfmt | clippy) rust_debs "$package" ;;
            *) printf '%s\n' "$package" ;;
        esac
    done | sort -u
}

# Why it failed: apt-get puts the reason into its first error, cargo into the last line of all.
reason() {
    local line
    line=$(grep -m 1 '^E: ' "$log") || line=$(grep . "$log" | tail -n 1) || true
    line=${line#E: } line=${line#error: }
    printf '%s' "${line#"${line%%[! ]*}"}"
}

# logged COMMAND…: with its output in the log.
logged() {
    [[ $log ]] || log=$(mktemp)
    "$@" >"$log" 2>&1
}

install_debs() {
    local -a packages
    local rust stale=''
    # env and not export: sudo drops the caller's environment.
    local -a apt=(env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0)
    # An index that is partly out of reach may still be good enough: what is missing afterwards counts.
    logged as_root "${apt[@]}" -o APT::Update::Error-Mode=any update || stale=$(reason)
    mapfile -t packages < <(debs_to_install)
    if [[ " ${debs[*]} " == *' RUST '* ]]; then
        rust=$(apt-cache policy "$(rust_debs RUST | tail -n 1)" | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
        if ! version_at_least "${rust:-0}" "$(wanted_rust)" && [[ $stale ]]; then
            say "the package lists cannot be updated, is the network up? ($stale)"
            exit 1
        elif ! version_at_least "${rust:-0}" "$(wanted_rust)"; then
            say "the package sources of this machine offer Rust ${rust:-in no version}: add bookworm-security" \
                "to them, or install Rust $(wanted_rust) or newer with https://rustup.rs"
            exit 1
        fi
    fi
    logged as_root "${apt[@]}" install -y --no-install-recommends "${packages[@]}"
}

bundles_to_install() {
    ((${#bundles[@]} == 0)) || printf '%s\n' "${bundles[@]}" | sort -u
}

install_bundles() {
    local -a unique
    mapfile -t unique < <(bundles_to_install)
    ((${#unique[@]} == 0)) || logged as_root swupd bundle-add "${unique[@]}"
}

# What to type where this script may not do it itself.
by_hand() {
    if has apt-get; then
        printf 'apt-get update && apt-get install -y --no-install-recommends %s' \
            "$(debs_to_install | paste -sd ' ')"
    else
        printf 'swupd bundle-add %s' "$(bundles_to_install | paste -sd ' ')"
    fi
}

# fetch_crates CARGO…: without a network, cargo would warn of each of its attempts.
fetch_crates() {
    local target
    target=$("$@" -vV | sed -n 's/^host: //p')
    logged "$@" fetch --locked --offline --target "$target" && return
    say "downloading the crates of Cargo.lock"
    logged "$@" fetch --locked --target "$target" && return
    say "the crates cannot be downloaded, is the network up? ($(reason))"
    return 1
}

readonly all_groups='build, check, dkms, demo, test, systemd, vm, timeline, pictures'
if (($# == 0)); then
    say "usage: $self [--check] GROUP…   or: $self --cargo   or: $self --crates CARGO…   groups: $all_groups"
    exit 2
fi
may_install=1
case $1 in
    --cargo)
        if dir=$(good_rust_dir); then
            printf '%s\n' "$dir/cargo"
            exit 0
        fi
        say "no cargo >= $(wanted_rust) on PATH or in ${HOME:-/root}/.cargo/bin"
        exit 1
        ;;
    --crates)
        fetch_crates "${@:2}"
        exit
        ;;
    --check)
        may_install=''
        shift
        ;;
esac
for group; do
    if ! declare -F "group_$group" >/dev/null; then
        say "no such group: $group (there are: $all_groups)"
        exit 2
    fi
done
readonly -a groups=("$@")

if [[ ! $may_install ]]; then
    look verify
    ((${#missing[@]})) || exit 0
    say "missing: $(listed "${missing[@]}"). To install this, run: make setup"
    exit 1
fi
look install
((${#missing[@]})) || exit 0
if ! has apt-get && ! has swupd; then
    say "missing: $(listed "${missing[@]}"). Neither apt-get nor swupd is here: install this by hand"
    exit 1
elif ((EUID != 0)) && ! has sudo; then
    say "missing: $(listed "${missing[@]}"). There is no sudo: as root, run: $(by_hand)"
    exit 1
fi
# A second time, because a new package may replace one from another source that had a tool.
for _ in first second; do
    say "installing what is missing: $(listed "${missing[@]}")"
    # The result counts, not the exit code of the package manager.
    if has apt-get; then install_debs || true; else install_bundles || true; fi
    hash -r
    before="${missing[*]}"
    look verify
    if ((${#missing[@]} == 0)) || [[ ${missing[*]} == "$before" ]]; then break; fi
done
if ((${#missing[@]})); then
    say "could not be installed, is the network up? ($(reason)) Still missing: $(listed "${missing[@]}")"
    exit 1
fi
