#!/usr/bin/env bash
# Adopts real projects: `test-sources.sh DIR [NAME…]`, where each directory in DIR is the checkout of a project. In a root of its
# own, with the headers of this machine, each is adopted with `clr-dkms add`, built, proven and removed again; the last lines are a
# table of what became of each. It passes when each project is adopted or refused with a cause, when none that is adopted leaves
# anything behind, and when each one that $EXPECTED names (default: tests/data/adopt/sources.txt) ends as it says there.
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
fi
mkdir -p "$work/out"

# What became of it: built, fails (it was adopted, and does not compile), or the cause of the refusal.
outcome() {
    python3 - "$1" "$2" <<'PYTHON'
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

left() { (cd "$root" && find usr/src var/lib/dkms var/tmp etc usr/lib/modules/*/updates -mindepth 1 2>/dev/null | grep -v '/mok\.' | head -3); }

etc=$(cd "$root" && find etc | sort)
passed=0 failures=()
for name; do
    timeout "${LIMIT:-900}" "$program" --root "$root" add "$sources/$name" --yes --json >"$work/out/$name.json" 2>"$work/out/$name.log"
    code=$?
    result=$(outcome "$work/out/$name.json" "$code")
    printf '| %s | %s |\n' "$name" "${result//|/ }" | cut -c1-200
    ok=yes
    wanted=$(sed -n "s/^$name[[:space:]]\{1,\}//p" "$expected" 2>/dev/null)
    [[ ! $wanted || $result == "$wanted"* ]] || { ok=no; failures+=("$name: expected '$wanted', is '$result'"); }
    [[ $result != 'no '* ]] || { ok=no; failures+=("$name: $result"); }
    if [[ $result == built* ]]; then
        module=${result#built }
        "$program" --root "$root" remove "$module" --force >>"$work/out/$name.log" 2>&1 || { ok=no; failures+=("$name: cannot be removed"); }
    fi
    rest=$(left | grep -vxF -- "$etc")
    [[ ! $rest ]] || { ok=no; failures+=("$name leaves $rest"); rm -rf "${root:?}"/usr/src/* "$root"/var/lib/dkms/* "$root"/var/tmp/* "$root"/usr/lib/modules/*/updates; }
    [[ $ok == no ]] || ((passed++))
done
printf '%s\n' "${failures[@]}"
printf '%d passed, %d failed\n' "$passed" "$(($# - passed))"
(($# == passed))
