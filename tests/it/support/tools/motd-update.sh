#!/bin/bash
# A stand-in for motd-update.sh that only records that it was called.
{ printf motd-update.sh; printf ' %s' "$@"; echo; } >>"${0%/*}/record"
