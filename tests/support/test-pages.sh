#!/usr/bin/env bash
# Tests the manual pages and the completions: makes them again, has mandoc and man read each page, and presses Tab in a real
# bash and a real zsh on a system with three kernels. What needs a program that is not here is left out, and that is said.
# The last line is "N passed, M failed".
set -uo pipefail
export LC_ALL=C.UTF-8
# A strange home, with its configuration of shells and of man, is not a part of this.
unset MANPAGER PAGER MANPATH MANOPT BASH_ENV ENV

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. "$top/tests/support/checks.sh"
share=$scratch/share
system="$scratch/a system"
programs=(clr-dkms clr-dkms-pre-update clr-dkms-post-update clr-dkms-cmdline clr-dkms-motd clr-dkms-variant)

same() { [[ $1 == "$2" ]] || { printf '%s\nis not\n%s\n' "$1" "$2"; false; }; }
silent() { ! "$@" 2>&1 | grep .; }

mkdir "$share"
# Where all is built already, as by `make unit` before, this is a moment.
(cd "$top" && "${CARGO:-cargo}" build --quiet --locked -p clr-dkms-pages) || exit 1
check 'pages and completions are made' "${CARGO_TARGET_DIR:-$top/target}/debug/clr-dkms-pages" "$share"

# --- manual pages ------------------------------------------------------------------------------------------------------

warnings() { { man --warnings -l "$1" >/dev/null; } 2>&1; }
too_wide() { MANWIDTH=80 man -l "$1" | col -bx | grep -E '^.{81}'; }
verbs=$(sed -n "s/.*'') verbs='\([^']*\)'.*/\1/p" "$share/bash-completion/completions/clr-dkms")
for name in "${programs[@]}" ${verbs//help/}; do
    [[ $name == clr-dkms* ]] || name=clr-dkms-$name
    check "$name has a page" test -s "$share/man/man8/$name.8"
done
check 'there are verbs' test -n "$verbs"
for page in "$share"/man/man[578]/*.[578] "$top"/man/*; do
    for title in NAME SYNOPSIS DESCRIPTION EXAMPLES FILES 'SEE ALSO'; do
        check "${page##*/}: $title" grep -qx "\.SH \"\?$title\"\?" "$page"
    done
    [[ $page == *.[57] ]] || check "${page##*/}: EXIT STATUS" grep -qx '\.SH "EXIT STATUS"' "$page"
    if has mandoc; then check "${page##*/}: mandoc has nothing to say" silent mandoc -T lint -W warning "$page"; fi
    if has man; then
        check "${page##*/}: groff has nothing to say" silent warnings "$page"
        check "${page##*/}: fits into 80 columns" silent too_wide "$page"
    fi
done
# A page that is named is there, but for those of other projects.
grep -rhoE 'clr\\?-dkms[a-z\\.-]*(\\fR)? ?\([578]\)' "$share/man" "$top/man" | tr -d '\\ ' | sort -u | while read -r named; do
    name=${named//\(/.}
    find "$share/man" "$top/man" -name "${name%)}" | grep -q . || printf '%s\n' "$named"
done >"$scratch/missing"
check 'every page that is named is there' silent cat "$scratch/missing"

# --- completions -------------------------------------------------------------------------------------------------------

mkdir -p "$system/usr/lib/kernel" "$system"/var/lib/dkms/{hello/1.0,zfs/2.2.4}
touch "$system"/usr/lib/kernel/{org.clearlinux.native.6.15.7-1591,org.clearlinux.native.6.15.8-1592,config-6.15.7-1591.native}
touch "$system/usr/lib/kernel/org.clearlinux.ltscurrent.6.12.38-1550"
ln -s org.clearlinux.native.6.15.8-1592 "$system/usr/lib/kernel/default-native"
ln -s /usr/src/hello-1.0 "$system/var/lib/dkms/hello/1.0/source"
ln -s /usr/src/zfs-2.2.4 "$system/var/lib/dkms/zfs/2.2.4/source"
kernels='6.12.38-1550.ltscurrent 6.15.7-1591.native 6.15.8-1592.native ltscurrent native'

# complete_bash WORD…: what bash offers in place of the last word. There is no PATH: nothing can be started.
complete_bash() {
    (
        # shellcheck source=/dev/null
        . "$share/bash-completion/completions/$1"
        # shellcheck disable=SC2123 # nothing is to be found
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) PATH=
        cd "$system/usr/lib" || exit
        "_${1//-/_}"
        printf '%s\n' "${COMPREPLY[@]}"
    ) 2>&1 | sort | paste -sd ' '
}
offers() { # offers WANTED WORD…
    local wanted=$1
    shift
    check "bash: ${*:1} is completed by: $wanted" same "$(complete_bash "$@")" "$wanted"
}
for name in "${programs[@]}"; do
    check "bash: $name: syntax" bash -n "$share/bash-completion/completions/$name"
    if command -v shellcheck >/dev/null; then
        check "bash: $name: shellcheck has nothing to say" shellcheck "$share/bash-completion/completions/$name"
    fi
done
offers status clr-dkms sta
offers 'rebuild' clr-dkms -q reb
offers 'rebuild remove' clr-dkms help re
offers 'unhold' clr-dkms unh
offers '--without' clr-dkms allow native --wi
offers '--kernel' clr-dkms rebuild hello --k
offers "$kernels" clr-dkms rebuild -p "$system" -f -k ''
offers "$kernels" clr-dkms --root = "$system" rebuild --kernel =
offers '6.15.7-1591.native' clr-dkms hold -p "${system/ /\\ }" 6.15.7
offers 'native' clr-dkms-variant -p "$system" --long n
offers 'hello hello/1.0' clr-dkms rebuild --live-root "$system" zfs h
offers 'hello hello/1.0 kernel zfs zfs/2.2.4' clr-dkms lint -p "$system" -k native ''
offers 'hello hello/1.0 zfs zfs/2.2.4' clr-dkms status -p "$system" ''
offers '--dry-run' clr-dkms-post-update --dr
offers 'always auto' clr-dkms-cmdline --color a
offers 'json prometheus text' clr-dkms status --format ''
offers 'prometheus' clr-dkms status --format = p
offers 'CD-001 CD-002 CD-003 CD-004 CD-005 CD-006 CD-007 CD-008' clr-dkms explain CD-0
offers 'build-failed building' clr-dkms explain bu
offers 'critical' clr-dkms explain cr
offers '' clr-dkms rebuild -- -
# The loop and what starts bash are in it: less than 10 ms each, also on a busy machine.
tabs() { # shellcheck source=/dev/null
    . "$share/bash-completion/completions/clr-dkms"
    local from=${EPOCHREALTIME//[.,]/} turn
    for turn in {1..50}; do
        : "$turn"
        COMP_WORDS=(clr-dkms rebuild -p "$system" -k 6) COMP_CWORD=5
        _clr_dkms
    done
    from=$(((${EPOCHREALTIME//[.,]/} - from) / 50))
    printf 'a Tab takes %d microseconds\n' "$from"
    ((from < 10000))
}
check 'bash: a Tab takes less than 10 ms' tabs

# Keys as a person presses them. `type_into SHELL LINE`: the line as the shell leaves it after Tab.
cat >"$scratch/keys.py" <<'END'
"""Runs a shell on a terminal, types a line that ends with Tab, and prints the line that the shell made of it."""
import os, pty, select, sys, time

command, start, line = sys.argv[1].split(), sys.argv[2], sys.argv[3]
child, terminal = pty.fork()
if child == 0:
    os.environ.update(TERM="dumb", PS1="", COLUMNS="500")
    os.execvp(command[0], command)
seen = b""


def wait_for(mark, seconds=20):
    global seen
    end = time.monotonic() + seconds
    while mark not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break
    if mark not in seen:
        sys.exit(f"{mark} did not come: {seen!r}")


os.write(terminal, (start + "; echo re''ady\n").encode())
wait_for(b"ready")
seen = b""
os.write(terminal, f"{line}\t".encode())
time.sleep(1)
# What Tab made of it becomes the arguments of a command that only prints: nothing is run.
os.write(terminal, b"\x01show \x05\n")
wait_for(b"<end>")
line = [part for part in seen.decode().splitlines() if part.startswith("<line>")][-1]
print(line.removeprefix("<line>").removesuffix("<end>").strip())
os.close(terminal)
END
show="show() { printf '\\n<line>%s<end>\\n' \"\$*\"; }"
types() { # types SHELL START LINE WANTED
    check "$1: $3 and Tab make: $4" same "$(python3 "$scratch/keys.py" "$1" "$show; $2" "$3" 2>&1)" "$4"
}
bash_start="stty cols 500; . '$share/bash-completion/completions/clr-dkms'"
types 'bash --norc --noprofile -i' "$bash_start" 'clr-dkms enf' 'clr-dkms enforcement'
types 'bash --norc --noprofile -i' "$bash_start" 'clr-dkms explain build-' 'clr-dkms explain build-failed'
types 'bash --norc --noprofile -i' "$bash_start" 'clr-dkms status --format=pro' 'clr-dkms status --format=prometheus'
types 'bash --norc --noprofile -i' "$bash_start" "clr-dkms --root='$system' rebuild --kernel=6.15.7" \
    "clr-dkms --root=$system rebuild --kernel=6.15.7-1591.native"
if [[ -r /usr/share/bash-completion/bash_completion ]]; then
    # By its name alone, as bash-completion looks for it.
    types 'bash --norc --noprofile -i' "stty cols 500; XDG_DATA_DIRS='$share'; . /usr/share/bash-completion/bash_completion" \
        'clr-dkms-variant --lo' 'clr-dkms-variant --long'
fi
if has zsh; then
    zsh_start="stty cols 500; fpath=('$share/zsh/site-functions' \$fpath); autoload -Uz compinit; compinit -D -u"
    types 'zsh -f -i' "$zsh_start" 'clr-dkms enf' 'clr-dkms enforcement'
    types 'zsh -f -i' "$zsh_start" 'clr-dkms explain build-' 'clr-dkms explain build-failed'
    types 'zsh -f -i' "$zsh_start" 'clr-dkms status --format pro' 'clr-dkms status --format prometheus'
    types 'zsh -f -i' "$zsh_start" 'clr-dkms status --color al' 'clr-dkms status --color always'
    types 'zsh -f -i' "$zsh_start" 'clr-dkms status --js' 'clr-dkms status --json'
    types 'zsh -f -i' "$zsh_start" "clr-dkms --root '$system' rebuild --kernel 6.15.7" \
        "clr-dkms --root $system rebuild --kernel 6.15.7-1591.native"
    types 'zsh -f -i' "$zsh_start" "clr-dkms rebuild -p '$system' zfs/" "clr-dkms rebuild -p $system zfs/2.2.4"
    types 'zsh -f -i' "$zsh_start" "clr-dkms hold -p '$system' ltsc" "clr-dkms hold -p $system ltscurrent"
    types 'zsh -f -i' "$zsh_start" "clr-dkms-cmdline show -k native --ra" "clr-dkms-cmdline show -k native --raw"
    for name in "${programs[@]}"; do
        check "zsh: $name: syntax" zsh -n "$share/zsh/site-functions/_$name"
        check "zsh: $name: every hint of ours has its meaning" silent grep -E ":_(hosts|users|email_addresses)'" \
            "$share/zsh/site-functions/_$name"
    done
fi
if has fish; then
    for name in "${programs[@]}"; do
        check "fish: $name: syntax" fish --no-execute "$share/fish/vendor_completions.d/$name.fish"
    done
    # complete_fish LINE: what fish offers for it, without its descriptions.
    complete_fish() {
        fish --no-config -c "source '$share/fish/vendor_completions.d/clr-dkms.fish'; complete -C '$1'" | cut -f 1 |
            sort | paste -sd ' '
    }
    check 'fish: explain is completed' same "$(complete_fish 'clr-dkms explain bu')" 'build-failed building'
    check 'fish: --format is completed' same "$(complete_fish 'clr-dkms status --format ')" 'json prometheus text'
    check 'fish: --color is completed' same "$(complete_fish 'clr-dkms status --color a')" 'always auto'
fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[[ $failed == 0 ]]
