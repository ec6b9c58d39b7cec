#!/usr/bin/env bash
# Machines under real systemd, for tests: containers whose root is an overlay, so that each begins fresh in no time.
# Sourced by run.sh, in a mount namespace of its own: every mount goes with it.
#
# The layers, from below: `base` (Debian with systemd and dkms; kept in target/), `clear` (what makes it a Clear Linux
# machine, see clear.sh), and one for each machine, below $work/NAME. All functions mean the machine $machine.
# shellcheck disable=SC2034,SC2154,SC2030,SC2031 # names are shared with the script that sources it

nspawn='' leader='' loop=''  # process ids of systemd-nspawn and of the machine's first process, while the machine runs

# The packages of the base; the rest of Debian's minimum comes by itself.
base_packages=systemd,systemd-sysv,dbus,kmod,dkms,gcc,make,openssl,zstd,xz-utils,python3,libelf1

# base_root: makes the lowest layer, once; prints its path. A change of the packages gives a new one.
base_root() (
    root=$cache/base-$(printf %s "$base_packages" | sha256sum | head -c 12)
    exec {lock}>"$cache/.lock" && flock "$lock"
    if [[ ! -d $root ]]; then
        rm -rf "$cache"/base-*
        # From where this machine has its own packages.
        # shellcheck disable=SC2016 # for apt to expand
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | head -n 1)
        debootstrap --variant=minbase --include="$base_packages" bookworm "$root.part" ${mirror:+"$mirror"} >"$cache/debootstrap.log" 2>&1 ||
            { tail -n 5 "$cache/debootstrap.log" >&2; exit 1; }
        rm -rf "$root.part"/var/cache/apt/* "$root.part"/var/lib/apt/lists/*
        # A first boot would ask for these.
        echo machine >"$root.part/etc/hostname"
        echo 00000000000000000000000000c1a0c1 >"$root.part/etc/machine-id"
        mv -T "$root.part" "$root"
    fi
    printf '%s\n' "$root"
)

# overlay NAME LOWER…: makes $work/NAME/root out of the layers, the uppermost first.
overlay() {
    local at=$work/$1 lower
    lower=$(IFS=: && printf %s "${*:2}")
    mkdir -p "$at"/{upper,work,root,esp}
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$at/upper,workdir=$at/work" "$at/root"
}

# A FAT, where this kernel has it.
esp_type=ext4
if modprobe -q vfat || grep -qw vfat /proc/filesystems; then esp_type=vfat; fi

# make_esp: an empty boot partition for the machine. In the machine it is found by its label, and mounted nowhere.
make_esp() { truncate -s 64M "$machine/esp.img" && "mkfs.$esp_type" "$machine/esp.img" >/dev/null 2>&1; }

# on_esp COMMAND…: runs it with the boot partition mounted at $machine/esp. The programs in the machine cannot look into it
# meanwhile: only for a moment, while nothing runs there.
on_esp() {
    local i code
    for ((i = 0; i < 50; i++)); do
        # Somebody in the machine may have it at the moment.
        mount -t "$esp_type" "$loop" "$machine/esp" 2>"$machine/mount" && break
        sleep 0.1
    done
    ((i < 50)) || { cat "$machine/mount"; return 1; }
    "$@"
    code=$?
    umount "$machine/esp" && return "$code"
}

# What the firmware and the boot loader do: the kernel that loader.conf names is the one that runs.
choose_kernel() {
    local entry options
    entry=$machine/esp/loader/entries/$(sed -n 's/^default //p' "$machine/esp/loader/loader.conf" 2>/dev/null)
    # The first boot, or an entry that the boot loader would pass over: what was there before.
    [[ -s $entry && -f $entry ]] || return 0
    sed -n 's|^linux .*/kernel-org\.clearlinux\.\([^.]*\)\.\(.*\)$|\2.\1|p' "$entry" >"$root/etc/machine/osrelease"
    options=$(sed -n 's/^options //p' "$entry")
    printf 'initrd=\\EFI\\x %s\n' "$options" >"$root/etc/machine/cmdline"
}

# A host name has no underscore.
name_of() { local name=${1##*/}; printf 'clr-dkms-%s' "${name//_/-}"; }

# boot: starts the machine, and waits until all its jobs are done.
boot() {
    [[ $loop ]] || loop=$(losetup --find --show "$machine/esp.img") || return
    on_esp choose_kernel || return
    (
        group="clr-dkms-test-$$-${machine##*/}"
        # systemd in the container takes the whole group that it finds itself in for its own.
        for tree in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
            [[ -f $tree/cgroup.procs ]] || continue
            mkdir -p "$tree/$group" && echo "$BASHPID" >"$tree/$group/cgroup.procs"
        done
        exec systemd-nspawn --quiet --directory="$root" --machine="$(name_of "$machine")" --register=no --keep-unit --console=read-only \
            --bind-ro="$top/packaging:/srv/packaging" --bind-ro="$payload:/srv/update" \
            --bind="$loop:/dev/esp" --boot systemd.show_status=no \
            </dev/null >>"$machine/console" 2>&1
    ) &
    nspawn=$! leader=''
    local i state
    for ((i = 0; i < 600; i++)); do
        leader=$(pgrep -P "$nspawn" | head -n 1)
        state=$(inside systemctl is-system-running 2>/dev/null)
        case $state in running | degraded) return 0 ;; esac
        kill -0 "$nspawn" 2>/dev/null || break
        sleep 0.1
    done
    echo "it does not come up: ${state:-no systemd}"
    inside systemctl list-jobs
    tail -n 20 "$machine/console"
    return 1
}

# What the containers of this run have left of the groups of processes that they were given.
drop_groups() { find /sys/fs/cgroup -depth -type d -path "*/clr-dkms-test-$$-*" -exec rmdir {} + 2>/dev/null; }

# inside COMMAND…: runs it in the machine.
inside() {
    [[ $leader ]] || { echo 'the machine is off'; return 1; }
    nsenter -t "$leader" --mount --uts --ipc --net --pid --cgroup --root --wd -- \
        env -i PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C "$@" </dev/null
}

gone() { # waits until the machine has ended: sets `ended` to the exit code of systemd-nspawn
    local i
    for ((i = 0; i < 400; i++)); do
        kill -0 "$nspawn" 2>/dev/null || { wait "$nspawn" 2>/dev/null; ended=$? nspawn='' leader=''; return 0; }
        sleep 0.05
    done
    echo 'it does not end'
    power_cut
    return 1
}

shut_down() { inside systemctl poweroff >/dev/null 2>&1; gone; }

# What systemd-nspawn says of a machine that wants to be started again.
reboot() { inside systemctl reboot >/dev/null 2>&1; gone && [[ $ended == 133 ]]; }

power_cut() {
    [[ ! $leader ]] || kill -KILL "$leader"
    for _ in {1..100}; do kill -0 "$nspawn" 2>/dev/null || break; sleep 0.05; done
    kill -KILL "$nspawn" 2>/dev/null
    wait "$nspawn" 2>/dev/null
    nspawn='' leader=''
}

# settled: waits until no job of systemd is left, no worker runs, and no request waits for one.
settled() {
    local i calm=0
    for ((i = 0; i < 900; i++)); do
        if [[ $(inside systemctl is-active clr-dkms.service) != activating && ! -e /proc/$leader/root/run/clr-dkms/requested &&
            $(inside systemctl list-jobs --no-legend) == '' ]]; then
            ((++calm < 2)) || return 0
        else
            calm=0
        fi
        sleep 0.1
    done
    echo 'the worker does not come to an end'
    inside systemctl list-jobs
    return 1
}

# forget: unmounts the machine, and frees its disk.
forget() {
    [[ ! $nspawn ]] || power_cut
    umount -l "$root"
    drop_loop
    rm -rf --one-file-system "$machine"
}

drop_loop() { [[ ! $loop ]] || losetup --detach "$loop"; loop=''; }
