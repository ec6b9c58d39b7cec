#!/bin/sh
# update-trigger.sh runs every /usr/libexec/updater/*hook.sh under `chroot DIR` after swupd changed an image (--path DIR).
# There may be no /proc and nothing in /dev: so there is no /dev/null here, and the program mounts for itself what dkms needs.
# `--root /` says that this is an image: no running kernel, no systemd. The status is ignored there and the output thrown
# away; the outcome is in the image's own record, /var/lib/clr-dkms/last-run.json, which `clr-dkms status` shows.
program=/usr/bin/clr-dkms-post-update

if [ -x "$program" ]; then
    # An empty standard input: nobody is asked anything.
    : | "$program" --root / || echo "clr-dkms: $program ended with $?: see /var/lib/clr-dkms/last-run.json" >&2
else
    echo "clr-dkms: $program is missing: no module was rebuilt in this image" >&2
fi
exit 0
