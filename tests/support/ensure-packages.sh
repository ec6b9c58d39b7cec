#!/usr/bin/env bash
# Makes sure that what the make targets call is on this machine.
#
#   ensure-packages.sh GROUP…     build | dkms | test | systemd | timeline | pictures
#   ensure-packages.sh --cargo    prints the path of a cargo that is new enough
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
# A look at a version must not make rustup fetch a toolchain.
export RUSTUP_AUTO_INSTALL=0

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
# A rustup proxy exists even when its component does not: running it tells.
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
rust_debs() {
    if apt-cache show rustc-web >/dev/null 2>&1; then
        printf '%s\n' cargo-web rustc-web rustfmt-web rust-web-clippy
    else
        printf '%s\n' cargo rustc rustfmt rust-clippy
    fi
}

need_rust() {
    local dir component
    local -a absent=()
    if ! dir=$(good_rust_dir); then
        lack "a Rust toolchain >= $(wanted_rust)" RUST rust-basic
        return
    fi
    tool_version "$dir/rustfmt" >/dev/null && [[ -x $dir/cargo-fmt ]] || absent+=(rustfmt)
    tool_version "$dir/cargo-clippy" >/dev/null || absent+=(clippy)
    for component in "${absent[@]}"; do
        # Components of another toolchain do not fit one of rustup's.
        if [[ -x $dir/rustup && $1 == install ]]; then
            say "adding $component to the rustup toolchain"
            "$dir/rustup" component add "$component" >&2 && continue
        fi
        lack "$component" RUST rust-basic
    done
}

# --- the groups: each is asked once before and once after installing -----------

group_build() {
    has cc || lack "a C compiler" gcc c-basic
    some_path /usr/include/stdio.h || lack "the C library's headers" libc6-dev c-basic
    has make || lack make make c-basic
    need_rust "$1"
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

group_test() {
    has python3 || lack python3 python3 python3-basic
    # Clear Linux has no bundle with some of them: what needs one is left out there.
    if has apt-get; then
        has script || lack script bsdutils ""
        has shellcheck || lack shellcheck shellcheck ""
        has mandoc || lack mandoc mandoc ""
        has man || lack man man-db ""
        has zsh || lack zsh zsh ""
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
        if [[ $package == RUST ]]; then rust_debs; else printf '%s\n' "$package"; fi
    done | sort -u
}

install_debs() {
    local -a packages
    # env and not export: sudo drops the caller's environment.
    local -a apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0)
    # An index that is partly out of reach may still be good enough.
    as_root "${apt[@]}" update >&2 || say "apt-get update failed; trying with the old lists"
    mapfile -t packages < <(debs_to_install)
    as_root "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >&2
}

bundles_to_install() {
    ((${#bundles[@]} == 0)) || printf '%s\n' "${bundles[@]}" | sort -u
}

install_bundles() {
    local -a unique
    mapfile -t unique < <(bundles_to_install)
    ((${#unique[@]} == 0)) || as_root swupd bundle-add "${unique[@]}" >&2
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

if (($# == 0)); then
    say "usage: $self build|dkms|test|systemd|timeline|pictures…   or: $self --cargo"
    exit 2
fi
if [[ $1 == --cargo ]]; then
    if dir=$(good_rust_dir); then
        printf '%s\n' "$dir/cargo"
        exit 0
    fi
    say "no cargo >= $(wanted_rust) on PATH or in ${HOME:-/root}/.cargo/bin"
    exit 1
fi
for group; do
    if ! declare -F "group_$group" >/dev/null; then
        say "no such group: $group (there are: build, dkms, test, systemd, timeline, pictures)"
        exit 2
    fi
done
readonly -a groups=("$@")

look install
((${#missing[@]})) || exit 0
say "missing: $(listed "${missing[@]}")"
if ! has apt-get && ! has swupd; then
    say "neither apt-get nor swupd is here: install these by hand"
    exit 1
elif ((EUID != 0)) && ! has sudo; then
    say "installing needs root, and there is no sudo. As root, run: $(by_hand)"
    exit 1
fi
# The result counts, not the exit code of the package manager.
if has apt-get; then install_debs || true; else install_bundles || true; fi
hash -r
look verify
if ((${#missing[@]})); then
    say "still missing after installing: $(listed "${missing[@]}")"
    exit 1
fi
