#!/usr/bin/env bash
# Tests what the Makefile and its helpers do where something is missing: a compiler, a network, root rights. Works on a
# copy of them, with stand-ins for the package manager and for sudo. The last line is "N passed, M failed".
set -uo pipefail
export LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES MAKECMDGOALS CARGO CARGO_TARGET_DIR

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
chmod 755 "$scratch"
# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. "$top/tests/support/checks.sh"
same() { diff <(printf '%s\n' "$1") <(printf '%s\n' "$2"); }

# A tree with the files that matter, and a PATH without any compiler.
tree=$scratch/tree
mkdir -p "$tree/tests/support" "$tree/target/container" "$tree/target/vm" "$scratch/bin" "$scratch/stubs"
cp "$top"/{Makefile,Cargo.toml} "$tree"
cp "$top"/tests/support/{run-as,ensure-packages,test-make}.sh "$tree/tests/support"
for tool in awk bash basename cat chown cp cut dirname env find getent grep head id make mkdir mktemp paste printf rm sed \
    setpriv sh sort stat tail touch tr true uname; do
    ln -s "$(type -P "$tool")" "$scratch/bin/$tool"
done
stub() { printf '#!/bin/bash\n%s\n' "$2" >"$scratch/stubs/$1"; chmod 755 "$scratch/stubs/$1"; }
bare() { env -i HOME="$scratch/home" PATH="$scratch/bin" "$@"; }
stubbed() { env -i HOME="$scratch/home" PATH="$scratch/stubs:$scratch/bin" "$@"; }
# What a command says, without the lines of make itself; the exit code at the end.
said() { "$@" 2>&1 | grep -v '^make'; echo "exit ${PIPESTATUS[0]}"; }
run_as=$tree/tests/support/run-as.sh ensure=$tree/tests/support/ensure-packages.sh

# --- without a compiler ----------------------------------------------------------------------------------------------

# On Clear Linux sbin, which is searched too, is the same directory as bin.
if [[ ! /usr/sbin -ef /usr/bin ]]; then
    missing='a C compiler, the C library.s headers, a Rust toolchain >= [0-9.]*'
    for target in build install deb unit fuzz audit check lint shell; do
        said bare make -C "$tree" "$target" >"$scratch/said"
        check "make $target: one line, which names the command" \
            grep -qx "ensure-packages.sh: missing: $missing.*. To install this, run: make setup" "$scratch/said"
        check "make $target: nothing else" same "$(wc -l <"$scratch/said") $(tail -n 1 "$scratch/said")" '2 exit 2'
    done
    said bare make -C "$tree" setup >"$scratch/said"
    check 'make setup without a package manager' grep -q 'Neither apt-get nor swupd is here' "$scratch/said"

    # shellcheck disable=SC2016 # for the stand-ins to expand
    stub sudo '[[ $1 != -- ]] || shift; exec "$@"'
    stub apt-cache 'echo "  Candidate: 99.0-1"'
    # shellcheck disable=SC2016
    stub apt-get 'for word; do [[ $word != update ]] || exit 100; done
        for i in 1 2 3 4 5 6 7 8; do echo "E: Failed to fetch http://example.org/$i.deb  Temporary failure"; done; exit 100'
    said stubbed make -C "$tree" demo >"$scratch/said"
    check 'without a network: what is to be installed' \
        grep -q '^ensure-packages.sh: installing what is missing: .*a Rust toolchain.*python3' "$scratch/said"
    check 'without a network: one line says so' \
        grep -q '^ensure-packages.sh: could not be installed, is the network up? (Failed to fetch http://example.org/1.deb' \
        "$scratch/said"
    check 'without a network: nothing else' same "$(wc -l <"$scratch/said") $(tail -n 1 "$scratch/said")" '3 exit 2'
    # What apt-get is asked to install, with its switches left out.
    # shellcheck disable=SC2016
    stub apt-get 'for word; do [[ $word == -* || $word == *=* ]] || printf "%s " "$word"; done >>"${0%/*}/asked"'
    said stubbed "$ensure" build demo >/dev/null
    check 'to build, a compiler and cargo are installed, and no more' same "$(cat "$scratch/stubs/asked")" \
        'update install cargo-web gcc libc6-dev python3 rustc-web '
    rm "$scratch/stubs/asked"
    said stubbed "$ensure" check >/dev/null
    check 'to check, rustfmt and clippy too' grep -q ' rust-web-clippy rustfmt-web ' "$scratch/stubs/asked"
    # shellcheck disable=SC2016
    stub apt-get 'for word; do [[ $word != update ]] || exit 0; done; cd "${0%/*}"; lost=python3
        [[ -e neato ]] || { lost=neato; rm python3; }; cp apt-cache "$lost"'
    stub python3 :
    said stubbed "$ensure" timeline demo >"$scratch/said"
    check 'a package that replaces another one with a needed tool: that tool is installed again' \
        same "$(cat "$scratch/said")" "$(printf 'ensure-packages.sh: installing what is missing: %s\n' graphviz python3 && echo 'exit 0')"
    rm "$scratch"/stubs/{python3,neato}
    stub apt-cache 'echo "  Candidate: 1.63.0-1"'
    said stubbed "$ensure" build >"$scratch/said"
    check 'a Rust that is too old is not installed' \
        grep -q 'the package sources of this machine offer Rust 1.63.0: add bookworm-security' "$scratch/said"
    stub apt-get 'echo "E: Failed to fetch http://example.org/InRelease  Temporary failure"; exit 100'
    said stubbed "$ensure" build >"$scratch/said"
    check 'with old package lists the network is to blame' grep -q \
        'the package lists cannot be updated, is the network up? (Failed to fetch http://example.org/InRelease' "$scratch/said"
    rm "$scratch"/stubs/apt-*
fi

# --- without crates ----------------------------------------------------------------------------------------------------

# shellcheck disable=SC2016
stub cargo 'case " $* " in *" -vV "*) echo "host: here" ;; *) for i in 1 2 3; do
    echo "warning: spurious network error ($i tries remaining)"; done; echo "error: failed to get crates"; exit 101 ;; esac'
said stubbed "$ensure" --crates "$scratch/stubs/cargo" >"$scratch/said"
check 'crates that cannot be downloaded: one line says so' \
    grep -qx 'ensure-packages.sh: the crates cannot be downloaded, is the network up? (failed to get crates)' "$scratch/said"
check 'crates that cannot be downloaded: nothing else' same "$(wc -l <"$scratch/said")" 3
# shellcheck disable=SC2016
stub cargo 'case " $* " in *" -vV "*) echo "host: here" ;; *" --offline "*) ;; *) exit 101 ;; esac'
check 'crates that are there: no network, no word' same "$(said stubbed "$ensure" --crates "$scratch/stubs/cargo")" 'exit 0'

# --- the user that runs it --------------------------------------------------------------------------------------------------

check 'a wrong call' same "$("$run_as" nobody id 2>&1; echo $?)" $'clr-dkms: usage: run-as.sh owner|root COMMAND…\n64'
check 'the exit code is that of the command' same "$("$run_as" owner sh -c 'exit 7'; echo $?)" 7
check 'the owner of the tree runs it' same "$("$run_as" owner id -u)" "$(id -u)"
if ((EUID == 0)) && id nobody >/dev/null 2>&1; then
    chown -R nobody: "$tree"
    as_nobody=(setpriv --reuid="$(id -u nobody)" --regid="$(id -g nobody)" --clear-groups)
    check 'root, in the tree of a user, builds as that user' same "$("$run_as" owner id -u)" "$(id -u nobody)"
    # shellcheck disable=SC2016 # for the inner shells to expand
    check 'and with its home directory' same "$(CARGO_HOME=/x RUSTUP_HOME=$HOME/x "$run_as" owner \
        sh -c 'echo "$HOME ${CARGO_HOME-} ${RUSTUP_HOME-}"')" "$(getent passwd nobody | cut -d : -f 6)  "
    check 'what needs root runs as root' same "$("$run_as" root id -u)" 0
    # shellcheck disable=SC2016
    "$run_as" root sh -c 'mkdir "$1/target/tmp"; touch "$1/target/tmp/a" "$1/target/container/b" "$1/target/vm/c"; exit 3' sh "$tree"
    check 'and its exit code is kept' same "$?" 3
    check 'what root has left is given back' same "$(stat -c %U "$tree"/target/tmp{,/a})" $'nobody\nnobody'
    check 'but not in containers' same "$(stat -c %U "$tree/target/container/b")" root
    check 'and not in machines' same "$(stat -c %U "$tree/target/vm/c")" root
    check 'a user without sudo is asked to call as root' same \
        "$("${as_nobody[@]}" env PATH="$scratch/bin" MAKECMDGOALS=demo "$run_as" root id 2>&1; echo $?)" \
        $'clr-dkms: this needs root, and there is no sudo. As root, run: make demo\n77'
    # shellcheck disable=SC2016
    stub sudo 'printf "%s\n" "$@"'
    "${as_nobody[@]}" env -i HOME=/home/x USER=x ONE='a b' PATH="$scratch/stubs:$scratch/bin" "$run_as" root id -u >"$scratch/said"
    check 'sudo is given the variables' grep -qx 'ONE=a b' "$scratch/said"
    check 'but not those of the user' same "$(grep -cE '^(HOME|USER)=' "$scratch/said")" 0
    check 'and the command' same "$(tail -n 3 "$scratch/said" | paste -sd ' ')" 'root id -u'
    # Left by a run of an earlier version, or by `sudo cargo`.
    touch "$tree/target/stale"
    # shellcheck disable=SC2016
    stub sudo 'echo asked >>"${0%/*}/sudo-asked"'
    chmod 777 "$scratch/stubs"
    "${as_nobody[@]}" env PATH="$scratch/stubs:$scratch/bin" "$run_as" owner true 2>"$scratch/said"
    check 'a user gets back what an earlier run as root has left' same \
        "$(cat "$scratch/stubs/sudo-asked" "$scratch/said")" \
        $'asked\nclr-dkms: an earlier run as root has left files in target/: giving them back to you'
fi

# shellcheck disable=SC2154 # checks.sh sets them
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
