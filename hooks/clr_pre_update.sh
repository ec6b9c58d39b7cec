#!/bin/sh
# swupd runs this file before it updates: /usr/bin/clr_pre_update.sh, without arguments, the old system still in place, the
# output shown on its terminal. It ignores our exit status; we end with 0 all the same, for a check must never stop an update.
program=/usr/bin/clr-dkms-pre-update

if [ -x "$program" ]; then
    "$program" </dev/null || echo "clr-dkms: $program ended with $?: nothing was checked before this update" >&2
else
    echo "clr-dkms: $program is missing: nothing was checked before this update" >&2
fi
exit 0
