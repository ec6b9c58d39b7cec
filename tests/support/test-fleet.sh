#!/usr/bin/env bash
# What monitors read, held against Prometheus' own promtool: the metrics of machines of each verdict and of hostile names, and
# the alert rules of packaging/README.md.
#
# Debian's package is downloaded and taken apart below target/, and not installed: it would start a server. There promtool
# stays for the next time. The last line is "N passed, M failed".
set -uo pipefail
export LC_ALL=C

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd "$top" || exit
target=${CARGO_TARGET_DIR:-$top/target}
# One that is installed counts too.
promtool=$(command -v promtool) || promtool=$target/promtool/promtool
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
passed=0 failed=0

check() { # check WHAT COMMAND…: passes if the command succeeds; what it prints is shown when it does not
    if "${@:2}" >"$scratch/out" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        printf 'FAILED: %s\n' "$1"
        sed 's/^/  | /' "$scratch/out"
    fi
}

get_promtool() {
    local options=(-q -o Dpkg::Use-Pty=0)
    # root's apt would hand the download to a user that may not write here.
    ((EUID)) || options+=(-o APT::Sandbox::User=root)
    # A fresh machine has no list of packages yet.
    download() { (cd "$scratch" && apt-get "${options[@]}" download prometheus); }
    { download || { apt-get "${options[@]}" update && download; }; } && dpkg-deb -x "$scratch"/prometheus_*.deb "$scratch/package" &&
        mkdir -p "${promtool%/*}" && mv "$scratch/package/usr/bin/promtool" "$promtool.new" && mv "$promtool.new" "$promtool"
}
if ! "$promtool" --version >/dev/null 2>&1 && ! get_promtool >"$scratch/out" 2>&1; then
    echo "test-fleet: Debian's package prometheus, which has promtool in it, cannot be downloaded:" >&2
    cat "$scratch/out" >&2
    exit 1
fi
check 'promtool runs' "$promtool" --version

# Fixture machines of each verdict write theirs into this directory, beside one with hostile names.
rm -rf "$target/tmp/metrics"
check 'metrics of fixture machines' "${CARGO:-cargo}" test --quiet --locked --test it schema::
for verdict in healthy reboot-pending building degraded held unsafe unknown not-applicable hostile-names; do
    check "$verdict: there are metrics" test -s "$target/tmp/metrics/$verdict.prom"
done
# It says nothing, and ends with 0, when its linter too has nothing to say.
lint() { "$promtool" check metrics <"$1" 2>&1 | tee "$scratch/lint" && [[ ! -s $scratch/lint ]]; }
for file in "$target"/tmp/metrics/*.prom; do
    check "${file##*/}: promtool has nothing to say" lint "$file"
done
fails() { ! "$@"; }
printf 'clr_dkms_total 1\n' >"$scratch/bad.prom"
check 'promtool would say something' fails lint "$scratch/bad.prom"

# The blocks of the README that an admin copies: the rules, and promtool's own test of them, which stands here.
awk '/^```yaml$/ { inside = 1; next } /^```$/ { inside = 0 } inside' packaging/README.md >"$scratch/rules.yml"
check 'there are rules' grep -q 'alert: ClrDkms' "$scratch/rules.yml"
check 'the rules are rules' "$promtool" check rules "$scratch/rules.yml"
# Each name in them is one that we write.
grep -oE 'clr_dkms_[a-z_]+' "$scratch/rules.yml" | sort -u >"$scratch/asked"
cat "$target"/tmp/metrics/*.prom | sed -n 's/^# TYPE \(clr_dkms_[a-z_]*\) .*/\1/p' | sort -u >"$scratch/written"
check 'their metrics are ours' diff <(comm -23 "$scratch/asked" "$scratch/written") /dev/null
cat >"$scratch/test.yml" <<'END'
rule_files: [rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - { series: 'clr_dkms_unsafe{instance="a"}', values: '0x10 1x100' }
      - { series: 'clr_dkms_verdict{instance="a", verdict="degraded"}', values: '0x10 0x100' }
      - { series: 'clr_dkms_verdict{instance="b", verdict="degraded"}', values: '0x10 1x100' }
      - { series: 'clr_dkms_verdict{instance="b", verdict="healthy"}', values: '1x10 0x100' }
    alert_rule_test:
      - { alertname: ClrDkmsUnsafe, eval_time: 9m }
      - alertname: ClrDkmsUnsafe
        eval_time: 30m
        exp_alerts:
          - exp_labels: { severity: critical, instance: a }
            exp_annotations: { summary: 'a: do not reboot: what boots next lacks a kernel module that is needed' }
      - { alertname: ClrDkmsAttention, eval_time: 30m }
      - alertname: ClrDkmsAttention
        eval_time: 100m
        exp_alerts:
          - exp_labels: { severity: warning, instance: b, verdict: degraded }
            exp_annotations: { summary: 'b: clr-dkms says degraded: see clr-dkms status there' }
END
check 'they fire when they should' "$promtool" test rules "$scratch/test.yml"

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
