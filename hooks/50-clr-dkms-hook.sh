#!/bin/sh
# update-trigger.sh runs every /usr/libexec/updater/*hook.sh under `chroot DIR` after swupd changed an image (--path DIR).
# `--root /` says that this is an image: no running kernel, no systemd. The status is ignored there and the output thrown
# away; the outcome is in the image's own record, /var/lib/clr-dkms/last-run.json.
program=/usr/bin/clr-dkms-post-update

if [ -x "$program" ]; then
    "$program" --root / </dev/null || echo "clr-dkms: $program ended with $?: see /var/lib/clr-dkms/last-run.json" >&2
else
    echo "clr-dkms: $program is missing: no module was rebuilt in this image" >&2
fi
exit 0
