#!/usr/bin/env bash
# Sourced by tests that read packages of this Debian: the packages, and what is said of them. Sets
# `self`; `fail` sets `failed`, for the exit code.
readonly self=${0##*/}

say() { printf '%s: %s\n' "$self" "$*" >&2; }
fail() {
    say "FAILED: $*"
    # shellcheck disable=SC2034 # the test ends with it
    failed=1
}

needs() { # needs PROGRAM…: ends the test where one is not here
    local tool
    for tool; do
        command -v "$tool" >/dev/null || { say "there is no $tool"; exit 2; }
    done
}

download() { # download DIRECTORY PACKAGE…: ends the test where that cannot be done
    local options=(-q -o Dpkg::Use-Pty=0) directory=$1
    shift
    # root's apt would hand the download to a user that may not write here.
    ((EUID)) || options+=(-o APT::Sandbox::User=root)
    if ! (cd "$directory" && apt-get "${options[@]}" download "$@" >../log 2>&1); then
        tail -n 5 "$directory/../log" >&2
        say 'the packages cannot be downloaded: run apt-get update as root first'
        exit 2
    fi
}

# named CONF: the PACKAGE_NAME of a dkms.conf.
named() { sed -n 's/^PACKAGE_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$1"; }
