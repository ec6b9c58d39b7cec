#!/bin/sh
# swupd runs /usr/bin/clr_pre_update.sh before an update, without arguments, and shows its output on the terminal. It
# ignores the exit status. The script nevertheless exits with 0, because a check must never stop an update.
program=/usr/bin/clr-dkms-pre-update

if [ -x "$program" ]; then
    "$program" </dev/null || echo "clr-dkms: $program ended with $?: nothing was checked before this update" >&2
else
    echo "clr-dkms: $program is missing: nothing was checked before this update" >&2
fi
exit 0
