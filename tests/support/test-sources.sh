#!/usr/bin/env bash
# Adopts real projects: `test-sources.sh DIR [NAME…]`, where each directory in DIR is the checkout of a
# project. In a root of its own, with the headers of this machine, each is adopted with `clr-dkms add`, built,
# proven and removed again. It prints a table of what became of each.
#
# A project fails when it is refused without a cause, when it leaves anything behind, or when it does not end
# as tests/data/adopt/sources.txt says.
# shellcheck disable=SC2031 # functions of the library that run in a subshell have a root of their own
set -uo pipefail
export LC_ALL=C.UTF-8

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
sources=$(realpath -e -- "${1:?directory of the sources}") || exit
shift
work=${SCRATCH:-$top/target/sources}
root=$work/root
program=${CLR_DKMS:-$top/target/debug/clr-dkms}
expected=${EXPECTED:-$top/tests/data/adopt/sources.txt}
[[ -x $program ]] || { echo "$program is not there: build it, or name it with CLR_DKMS" >&2; exit 1; }
(($#)) || { cd "$sources" && set -- *; } || exit

if [[ ! -d $root/usr/lib/modules ]]; then
    # shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
    . "$top/tests/support/scratch-root.sh"
    set +e
    headers=$(_scratch_headers_source) || exit
    code=$(sed -n 's/^#define LINUX_VERSION_CODE //p' "$headers/include/generated/uapi/linux/version.h")
    [[ $code ]] || { echo "the version of $headers is unknown" >&2; exit 1; }
    scratch_skeleton "$root" && mkdir -p "$root/var/tmp" || exit
    scratch_kernel "$root" native "$((code >> 16)).$((code >> 8 & 255)).$((code & 255))" 1500 || exit
    # The headers come without the kernel's own modules. What exports something counts as built in, so that
    # modules that depend on it can be proven.
    for modules in "$root"/usr/lib/modules/*; do
        awk -F '\t' '$3 != "vmlinux" { print "kernel/" $3 ".ko" }' "$modules/build/Module.symvers" |
            sort -u >>"$modules/modules.builtin" || exit
    done
fi
mkdir -p "$work/out"

# What became of it: built, fails (it was adopted, and does not compile), or the cause of the refusal.
outcome() {
    python3 - "$1" <<'PYTHON'
import json
import sys

try:
    found = json.load(open(sys.argv[1]))
except ValueError:
    print("no document")
    sys.exit()
failed = [step for step in found["steps"] if step["result"] == "failed"]
built = [step for step in found["steps"] if step["step"] == "build" and step["result"] == "done"]
if found["installed"] or (built and not failed):
    print(f"built {found['name']}/{found['version']}")
elif failed and failed[0]["step"] == "build":
    print(f"fails {found['name']}/{found['version']}: {failed[0]['text']}")
elif failed:
    at = failed[0].get("evidence")
    at = f" {at['file']}:{at['line']}" if at else ""
    print(f"{failed[0].get('cause', 'no cause')}{at}: {failed[0]['text']}")
else:
    print(f"not built {found['name']}/{found['version']}")
PYTHON
}

# What is there beside the parameter of the kernel, which stays.
left() {
    (cd "$root" && find usr/src var/lib/dkms var/tmp etc usr/lib/modules/*/updates -mindepth 1 2>/dev/null) |
        grep -v -e '/mok\.' -e '^etc/kernel' -e '^etc/os-release$' | head -3
}

passed=0 failures=()
for name; do
    out=$work/out/$name
    timeout "${LIMIT:-900}" "$program" --root "$root" add "$sources/$name" --yes --replace --json \
        >"$out.json" 2>"$out.log"
    result=$(outcome "$out.json")
    printf '| %s | %s |\n' "$name" "${result//|/ }" | cut -c1-200
    before=${#failures[@]}
    wanted=$(sed -n "s/^$name \(.*\)/\1/p" "$expected" 2>/dev/null)
    [[ ! $wanted || $result == "$wanted"[\ :]* ]] || failures+=("$name: expected '$wanted', is '$result'")
    [[ $result != 'no '* ]] || failures+=("$name: $result")
    if [[ $result == built* ]]; then
        "$program" --root "$root" remove "${result#built }" --force >>"$out.log" 2>&1 ||
            failures+=("$name: cannot be removed")
    fi
    rest=$(left)
    if [[ $rest ]]; then
        failures+=("$name leaves $rest")
        rm -rf "${root:?}"/{usr/src,var/lib/dkms,var/tmp}/* "$root"/usr/lib/modules/*/updates
    fi
    ((before < ${#failures[@]})) || ((++passed))
done
((passed == $#)) || printf '%s\n' "${failures[@]}"
printf '%d passed, %d failed\n' "$passed" "$(($# - passed))"
(($# == passed))
