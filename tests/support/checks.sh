#!/usr/bin/env bash
# Sourced by tests that count what passes: sets `passed` and `failed`; $scratch is a directory of the test.
passed=0 failed=0

check() { # check WHAT COMMAND…: passes if the command succeeds; what it prints is shown when it does not
    local what=$1
    shift
    if "$@" >"${scratch:?}/out" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: %s\n' "$what"
        sed 's/^/  | /' "$scratch/out"
    fi
}
has() { command -v -- "$1" >/dev/null || { printf '%s is not here: left out\n' "$1" >&2; false; }; }
