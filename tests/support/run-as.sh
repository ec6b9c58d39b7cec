#!/usr/bin/env bash
# Runs a command with the rights that it needs, for `make` as root, with sudo, and as a normal user.
#
#   run-as.sh owner COMMAND…   as the user that owns this source tree: compiles, and writes below target/
#   run-as.sh root COMMAND…    as root, through sudo where the caller is a normal user
#
# `sudo make …` in the tree of a user would leave files of root that break the next `make build`. So the
# compiler runs as the owner, and what root has left in target/ is given back after each run as root.
# Exit: that of the command; 77 when there is no way to get the rights.
set -euo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
readonly top
owner=$(stat -c %u -- "$top")
group=$(stat -c %g -- "$top")
readonly owner group
# dkms and depmod are in sbin, which the PATH of Debian's users leaves out.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# A command that was started with nohup, or in the background of a script, ignores these signals, and so
# would the programs that the tests stop with them.
run() { env --default-signal=HUP,INT "$@"; }

say() { printf 'clr-dkms: %s\n' "$*" >&2; }

# Files of root in target/ and in docs/ (pictures). The systems of test-systemd and test-vm need their owners.
of_root() { # of_root [OPTION…] -- FIND-ACTION…
    local -a options=()
    while [[ $1 != -- ]]; do options+=("$1"); shift; done
    [[ $owner != 0 ]] || return 0
    find "$top/target" "$top/docs" "${options[@]}" \
        \( -path "$top/target/container" -o -path "$top/target/vm" \) -prune -o -user root "${@:2}" 2>/dev/null || true
}
give_back() { of_root -- -exec chown -h -- "$owner:$group" {} +; }

as_root() {
    if ((EUID == 0)); then
        trap give_back EXIT
        run "$@"
    elif command -v sudo >/dev/null; then
        # sudo drops most variables; those that belong to a user must not follow.
        local -a variables
        mapfile -d '' -t variables < <(env -0 -u HOME -u USER -u LOGNAME -u SHELL -u MAIL)
        exec sudo -- env "${variables[@]}" "${BASH_SOURCE[0]}" root "$@"
    else
        say "this needs root, and there is no sudo. As root, run: make ${MAKECMDGOALS:-…}"
        exit 77
    fi
}

as_owner() {
    if ((EUID == owner)); then
        local stale
        stale=$(of_root -maxdepth 3 -- -print -quit)
        if [[ $stale ]]; then
            say "an earlier run as root has left files in target/: giving them back to you"
            "${BASH_SOURCE[0]}" root true
        fi
    elif ((EUID == 0)) && name=$(id -nu "$owner" 2>/dev/null); then
        local home settings=(-u CARGO_HOME -u XDG_CACHE_HOME -u XDG_CONFIG_HOME -u XDG_RUNTIME_DIR)
        home=$(getent passwd "$name" | cut -d : -f 6)
        # A toolchain in root's home directory is of no use to another user.
        [[ ${RUSTUP_HOME-} != "${HOME:-/root}"/* ]] || settings+=(-u RUSTUP_HOME)
        give_back
        exec env "${settings[@]}" HOME="$home" USER="$name" LOGNAME="$name" \
            setpriv --reuid="$owner" --regid="$(id -g "$name")" --init-groups "${BASH_SOURCE[0]}" owner "$@"
    elif ((EUID == 0)); then
        # A tree of a user that this machine does not know, as in a container: root builds, and gives back.
        trap give_back EXIT
    fi
    # The first cargo along PATH may be too old, with a newer one in rustup's directory.
    local cargo
    if cargo=$("${BASH_SOURCE[0]%/*}/ensure-packages.sh" --cargo 2>/dev/null); then
        PATH=${cargo%/*}:$PATH
    fi
    run "$@"
}

if (($# < 2)) || [[ $1 != owner && $1 != root ]]; then
    say "usage: ${0##*/} owner|root COMMAND…"
    exit 64
fi
"as_$1" "${@:2}"
