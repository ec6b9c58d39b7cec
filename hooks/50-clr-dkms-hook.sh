#!/bin/sh
# update-trigger.sh runs every /usr/libexec/updater/*hook.sh under `chroot DIR` after swupd changed an image (--path DIR).
# /proc and the files in /dev may be missing. Therefore this script does not use /dev/null, and the program mounts what
# dkms needs. With `--root /` the program treats the system as an image, without a running kernel and systemd.
# update-trigger.sh ignores the exit status and discards the output. The result is in the record of the image,
# /var/lib/clr-dkms/last-run.json, which `clr-dkms status` shows.
program=/usr/bin/clr-dkms-post-update

if [ -x "$program" ]; then
    # The empty standard input prevents questions to the user.
    : | "$program" --root / || echo "clr-dkms: $program ended with $?: see /var/lib/clr-dkms/last-run.json" >&2
else
    echo "clr-dkms: $program is missing: no module was rebuilt in this image" >&2
fi
exit 0
