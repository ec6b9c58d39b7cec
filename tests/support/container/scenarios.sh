#!/usr/bin/env bash
# The life of a machine, each scenario on a fresh one. Sourced by test-systemd.sh; facts are read from the disk.
# shellcheck disable=SC2034,SC2154,SC2030,SC2031 # names are shared with the script that sources it

# --- what is asked of a machine --------------------------------------------------------------------------------------

boot_default() { sed -n 's/^default Clear-linux-native-\(.*\)\.conf$/\1.native/p' "$machine/esp/loader/loader.conf"; }
default_is() { is "$(on_esp boot_default)" "$1"; }
all_files() { (cd "$machine/esp" && find . -printf '%y %P\n' | sort && find . -type f -exec sha256sum {} + | sort); }
boot_files() { on_esp all_files; }
unchanged() { diff <(printf '%s\n' "$1") <(boot_files); }
failed_are() { is "$(inside systemctl --failed --plain --no-legend | cut -d' ' -f1 | paste -sd' ')" "$1"; }
status() { inside clr-dkms status --json >"$machine/status.json"; }
verdict_is() { status; is "$(sed -n 's/^  "verdict": "\(.*\)",$/\1/p' "$machine/status.json")" "$1"; }
reported() { status; grep -F -- "$1" "$machine/status.json" || { sed -n '/"problems"/,/"needs"/p' "$machine/status.json"; false; }; }
runs() { is "$(inside cat /proc/sys/kernel/osrelease)" "$1"; }
worker() { is "$(inside systemctl show -P Result clr-dkms.service)" "$1"; }
motd_says() { grep -F -- "$1" "/proc/$leader/root/run/motd.d/clr-dkms.motd" || { inside cat /run/motd.d/clr-dkms.motd; false; }; }
journal() { inside journalctl --no-pager -o cat "$@"; }
logged() { journal -b "${@:2}" | grep -F -- "$1"; }
has_module() { find "$root/usr/lib/modules/$1/updates/dkms" -name 'hello.ko*' -size +0 | grep . && grep updates/dkms/hello.ko "$root/usr/lib/modules/$1/modules.dep"; }
booted_mark() { [[ -e $root/var/lib/kernel/k_booted_$1 ]]; }
calls() { grep -c "^clr-boot-manager $1" "$root/var/log/clr-boot-manager-calls"; }
config() { cat "/proc/$leader/root/run/swupd/config"; }
until_there() { for _ in {1..1200}; do [[ ! -e $root/$1 ]] || return 0; sleep 0.05; done; echo "no $1"; return 1; }
update() { check "swupd update $1" inside swupd update "$1" && check 'the worker ends' settled; }
switch() { printf '%s\n' "$@" >"$root/etc/machine/stand-in"; }

# Whether a service may use Landlock: systemd-nspawn has a filter of its own, which some versions of it keep it out of.
has_landlock() {
    inside systemd-run --wait --collect --quiet --pipe /usr/bin/python3 -c \
        'import ctypes; raise SystemExit(ctypes.CDLL(None).syscall(444, 0, 0, 1) < 1)'
}
confined() { # each dkms.conf was evaluated with all that this kernel offers
    local landlock=false
    ! has_landlock || landlock=true
    is "$(tr -d ' \n' <"$root/var/lib/clr-dkms/last-run.json" | grep -o '"sandbox":{[^}]*}')" \
        "\"sandbox\":{\"namespaces\":true,\"landlock\":$landlock,\"seccomp\":true,\"identity\":\"unprivileged\"}"
}

# --- the scenarios -----------------------------------------------------------------------------------------------------

# The new kernel becomes the default once its modules are there, and not before.
scenario_proven() {
    local before
    before=$(calls update)
    update good
    check 'the new kernel is the default' default_is "$good"
    check 'its modules are there' has_module "$good"
    check 'clr-boot-manager was run once' is "$(calls update)" $((before + 1))
    check 'the worker succeeded' worker success
    check 'each dkms.conf was evaluated in a whole sandbox' confined
    check 'the build was confined' grep -F 'confined by: namespaces, ' "$root/var/log/clr-dkms/hello/1.0/$good.log"
    check 'no unit failed' failed_are ''
    check 'the stock unit was left out' not test -e "/proc/$leader/root/run/stock-new-kernel"
    check 'a reboot is pending' verdict_is reboot-pending
    check 'it shuts down' shut_down
    check 'it boots' boot
    check 'the new kernel runs' runs "$good"
    check 'the worker ends' settled
    check 'all is well' verdict_is healthy
    check 'no unit failed after the reboot' failed_are ''
    check 'the new kernel is marked as booted' booted_mark "$good"
}

# A critical module that does not compile: nothing of the boot partition changes, until it is repaired.
scenario_held() {
    local before
    before=$(boot_files)
    update bad
    check 'the boot partition is as it was' unchanged "$before"
    check 'the old kernel is the default' default_is "$old"
    check 'the worker failed' worker exit-code
    check 'systemd reports it' failed_are clr-dkms.service
    check 'the status is held' verdict_is held
    check 'it names the module' reported "$bad is held back: it lacks hello/1.0 (critical: listed in clr-dkms.conf; build-failed)"
    check 'so does the message of the day' motd_says "hello/1.0"
    check 'and the journal' logged "hello/1.0 on $bad: build-failed" -u clr-dkms.service -p err
    check 'with the compiler'"'"'s words' logged "storage size of 'now' isn't known" -u clr-dkms.service
    update other
    check 'another update changes nothing' unchanged "$before"
    check 'it shuts down' shut_down
    check 'it boots' boot
    check 'the old kernel runs' runs "$old"
    check 'the worker ends after the reboot' settled
    check 'nothing has changed by that' unchanged "$before"
    check 'it is held still' verdict_is held
    # The fix arrives.
    update repaired
    check 'the repaired module is there' has_module "$bad"
    check 'the new kernel is the default' default_is "$bad"
    check 'the worker succeeded' worker success
    check 'no unit failed' failed_are ''
    check 'a reboot is pending' verdict_is reboot-pending
}

scenario_optional() {
    update good-but
    check 'the new kernel is the default' default_is "$good_but"
    check 'the critical module is there' has_module "$good_but"
    check 'the optional one is reported' reported 'extra/1.0'
    check 'nothing is held' not grep -q '"verdict": "held"' "$machine/status.json"
}

# Somebody runs clr-boot-manager while a kernel is held.
scenario_by_hand() {
    update bad
    check 'somebody runs clr-boot-manager' inside clr-boot-manager update
    check 'the new kernel is the default' default_is "$bad"
    check 'it shuts down' shut_down
    check 'the old kernel is the default again' default_is "$old"
    check 'the console says why' grep -F "$old is the boot default again, because $bad lacks hello/1.0" "$machine/console"
    check 'it boots' boot
    check 'the old kernel runs' runs "$old"
    check 'somebody runs clr-boot-manager again' inside clr-boot-manager update
    check 'it reboots' reboot
    check 'the old kernel is the default after a reboot' default_is "$old"
    check 'it is up again' boot
    check 'that was done before the reboot' grep -F "$old is the boot default again" <(journal -b -1 -u clr-dkms-hold.service)
}

# A second swupd run while a build goes on.
scenario_two_runs() {
    local first runs
    touch "$root/etc/machine/hold-build"
    check 'swupd does not wait for the build' inside timeout 20 swupd update good
    check 'the build has begun' until_there var/lib/dkms/at-build
    first=$(inside systemctl show -P InvocationID clr-dkms.service)
    check 'a second swupd run' inside timeout 20 swupd update other
    check 'the worker is at work' is "$(inside systemctl is-active clr-dkms.service)" activating
    check 'it is the same one' is "$(inside systemctl show -P InvocationID clr-dkms.service)" "$first"
    check 'the second request is kept' test -e "/proc/$leader/root/run/clr-dkms/requested"
    rm "$root/etc/machine/hold-build"
    check 'the worker ends' settled
    check 'the build was not interrupted' not logged 'interrupted before its end' -u clr-dkms.service
    check 'the second request was served' not is "$(inside systemctl show -P InvocationID clr-dkms.service)" "$first"
    check 'the new kernel is the default' default_is "$good"
    check 'no unit failed' failed_are ''
}

# What follows a power cut: `where` it was, with the boot files as they were.
after_a_cut() { # after_a_cut BOOT_FILES
    check 'the boot default is the old one' default_is "$old"
    rm -f "$root"/etc/machine/{hold-*,stand-in}
    check 'it boots' boot
    check 'the old kernel runs' runs "$old"
    check 'the worker ends' settled
    check 'its modules are there' has_module "$good"
    check 'the new kernel is the default' default_is "$good"
    check 'no unit failed' failed_are ''
    check 'a reboot is pending' verdict_is reboot-pending
    check 'no empty file is left' is "$(on_esp find "$machine/esp/loader" -name '*.conf' -empty)" ''
}

cut_at() { # cut_at build|install
    local before
    before=$(boot_files)
    touch "$root/etc/machine/hold-$1"
    check 'swupd' inside swupd update good
    check "the $1 has begun" until_there "var/lib/dkms/at-$1"
    power_cut
    check 'the boot partition is as it was' unchanged "$before"
    after_a_cut
}
scenario_cut_in_build() { cut_at build; }
scenario_cut_in_install() { cut_at install; }
scenario_cut_in_boot_update() {
    switch CUT=1
    check 'swupd' inside swupd update good
    check 'the boot update has begun' until_there var/lib/dkms/at-update
    power_cut
    after_a_cut
    check 'it boots again' eval 'shut_down && boot'
    check 'the new kernel runs' runs "$good"
}

# An admin has swupd run clr-boot-manager: the default is pointed back.
scenario_overridden() {
    printf '[update]\nno_boot_update=false\n' >"$root/etc/swupd/config"
    update bad
    check 'swupd ran clr-boot-manager' on_esp test -e "$machine/esp/loader/entries/Clear-linux-native-${bad%.native}.conf"
    check 'the old kernel is the default all the same' default_is "$old"
    check 'by set-kernel' not is "$(calls set-kernel)" 0
    check 'it is held' verdict_is held
    check 'the status says what overrides us' reported /etc/swupd/config:2
}

scenario_foreign_config() {
    local directory
    directory=/proc/$leader/root/run/swupd
    check 'deferral is armed' grep -c no_boot_update=true "$directory/config"
    printf '\n# theirs\n[update]\r\nurl=x y\n;\n' >"$machine/foreign"
    cp "$machine/foreign" "$directory/config"
    update good
    check 'theirs comes first' cmp -n "$(stat -c %s "$machine/foreign")" "$machine/foreign" "$directory/config"
    check 'ours is behind it' grep -c no_boot_update=true "$directory/config"
    check 'disarm' inside clr-dkms guard --disarm
    check 'theirs is byte for byte what it was' cmp "$machine/foreign" "$directory/config"
    printf '[update]\nurl=x' >"$machine/foreign"
    cp "$machine/foreign" "$directory/config"
    update other
    check 'one that swupd cannot read to its end is left alone' cmp "$machine/foreign" "$directory/config"
    check 'the status says so' reported 'is left alone: its last line has no newline'
}

scenario_partition_full() {
    local before
    before=$(boot_files)
    switch STAND_IN_ESP_FULL=copy
    update good
    check 'the boot partition is as it was' unchanged "$before"
    check 'systemd reports it' failed_are clr-dkms.service
    check 'the journal says why' logged 'No space left on device' -u clr-dkms.service -p err
    check 'the status says what is missing' reported 'there is no boot entry for org.clearlinux.native.6.15.8-1592'
    switch STAND_IN_ESP_FULL=entry
    update other
    check 'an empty entry is not a default' default_is "$old"
    check 'the old kernel boots next' reported "\"boots_next\": \"$old\""
    check 'systemd reports it again' failed_are clr-dkms.service
    switch
    update other
    check 'with room the new kernel is the default' default_is "$good"
    check 'no unit failed' failed_are ''
    check 'each entry has content' is "$(on_esp find "$machine/esp/loader/entries" -name '*.conf' -size 0)" ''
    check 'there are entries' not is "$(on_esp find "$machine/esp/loader/entries" -name '*.conf')" ''
}

scenario_empty_entry() {
    on_esp touch "$machine/esp/loader/entries/Clear-linux-native-1.0-1.conf"
    update good
    check 'the new kernel is the default' default_is "$good"
    check 'the empty entry is out of the way' on_esp test -e "$machine/esp/loader/entries/Clear-linux-native-1.0-1.conf.empty"
    check 'no unit failed' failed_are ''
}

# A kernel without its critical module was booted in spite of all.
scenario_mark() {
    update bad
    check 'somebody runs clr-boot-manager' inside clr-boot-manager update
    power_cut
    check 'it boots' boot
    check 'the kernel without the module runs' runs "$bad"
    check 'the worker ends' settled
    check 'it is not marked as booted' not booted_mark "$bad"
    check 'the unit was skipped' is "$(inside systemctl show -P ActiveState clr-boot-manager-booted.service)" inactive
    check 'the mark of the good one is there' booted_mark "$old"
    # The good one can be gone back to, and is what boots next.
    check 'it is held' verdict_is held
    check 'the good one is the default' default_is "$old"
    check 'the journal says why' logged "$bad is not marked as booted: hello is critical"
}

# swupd puts back its own modules.dep for a kernel that did not change.
scenario_modules_dep() {
    local modules=$root/usr/lib/modules/$old
    check 'it shuts down' shut_down
    mv "$modules/updates" "$machine/aside" && depmod -b "$root" "$old" && mv "$machine/aside" "$modules/updates"
    check 'modules.dep does not list it' not has_module "$old"
    check 'it boots' boot
    check 'modules.dep lists it again' has_module "$old"
    check 'before sysinit.target' is "$(journal -b | grep -o -e "modules.dep of $old does not list all" -e 'Reached target sysinit.target' | head -n 1)" \
        "modules.dep of $old does not list all"
    check 'the worker ends' settled
    check 'all is well' verdict_is healthy
}

nothing_watches() {
    local i left
    for ((i = 0; i < 50; i++)); do
        left=$(inside systemctl list-units --plain --no-legend --state=active 'clr-dkms*.path' 'clr-dkms*.timer')
        [[ $left ]] || return 0
        sleep 0.1
    done
    echo "$left"
    return 1
}

# As `swupd bundle-remove` does it: the files go, and no script of ours is run.
scenario_removed_by_swupd() {
    local there=/proc/$leader/root
    check 'deferral is armed' grep no_boot_update=true "$there/run/swupd/config"
    check 'our files go' inside sh -c 'cut -f 3 /usr/share/clr-dkms/manifest | grep "^/" | xargs rm -f 2>/dev/null; rm -r /usr/share/clr-dkms'
    for _ in {1..100}; do [[ -e $there/run/systemd/system/clr-dkms-gone.path ]] || break; sleep 0.1; done
    check 'swupd is free again' test ! -e "$there/run/swupd"
    check 'what we said is gone' is "$(cd "$there/run" && find . -name '*clr-dkms*' ! -path './systemd/*' ! -path './credentials/*')" ''
    check 'nothing of ours watches any more' nothing_watches
    check 'swupd update' inside swupd update good
    check 'clr-boot-manager made the new kernel the default' default_is "$good"
    check 'it shuts down' shut_down
    check 'it boots' boot
    check 'the new kernel runs' runs "$good"
    check 'no unit failed' failed_are ''
}

# The mount of the boot partition is masked, and what points the boot default back fails at boot.
scenario_masked() {
    ln -s /dev/null "$root/etc/systemd/system/boot.mount"
    printf '/dev/disk/by-partlabel/ESP /boot auto defaults 0 0\n' >>"$root/etc/fstab"
    update bad
    check 'somebody runs clr-boot-manager' inside clr-boot-manager update
    # loader.conf is not written where that program is not there to be run.
    mv "$root/usr/bin/clr-boot-manager" "$root/usr/bin/away"
    power_cut
    check 'it boots' boot
    check 'the kernel without the module runs' runs "$bad"
    check 'the worker ends' settled
    check 'it was started' logged 'Starting' -u clr-dkms.service
    check 'the boot default could not be pointed back' default_is "$bad"
    check 'the journal says so' logged 'the boot default' -u clr-dkms-hold.service
    check 'the unit is there to be stopped' is "$(inside systemctl is-active clr-dkms-hold.service)" active
    mv "$root/usr/bin/away" "$root/usr/bin/clr-boot-manager"
    check 'it shuts down' shut_down
    check 'at the shutdown it was pointed back' default_is "$old"
}

scenario_removed() {
    local there=/proc/$leader/root
    printf '# theirs\n' | cat - "$there/run/swupd/config" >"$machine/config" && cp "$machine/config" "$there/run/swupd/config"
    check 'uninstall' inside /srv/packaging/install.sh uninstall
    check 'daemon-reload' inside systemctl daemon-reload
    check 'deferral is disarmed' is "$(config)" '# theirs'
    # An admin's choice, and what the tests put there themselves.
    check 'no trace is left' is "$(cd "$there" && find run etc usr var -xdev \( -name '*clr-dkms*' -o -name '*clr_pre_update*' \) \
        ! -path 'etc/clr-dkms*' ! -path 'etc/systemd/system/*.d' ! -path 'run/systemd/*' ! -path 'var/lib/systemd/*' ! -path 'var/tmp/*')" ''
    check 'no unit of ours is left' is "$(inside systemctl list-units --all --plain --no-legend 'clr-dkms*' | grep -v not-found)" ''
    check 'the triggers are pulled' inside systemctl restart update-triggers.target
    check 'the stock unit works again' test -e "$there/run/stock-new-kernel"
    check 'and the other one' test -e "$there/run/stock-remove-old"
    check 'swupd update' inside swupd update good
    check 'clr-boot-manager made the new kernel the default' default_is "$good"
    check 'it shuts down' shut_down
    check 'it boots' boot
    check 'no unit failed' failed_are ''
    check 'the kernel is marked as booted' booted_mark "$good"
}

# A module whose Makefile and PRE_BUILD do what they should not: nothing of it happens, and the module is built.
scenario_hostile_build() {
    local source=$root/usr/src/extra-1.0
    cat >"$source/hostile.sh" <<'SCRIPT'
#!/bin/bash
# What it may do comes first, so that a file that is missing afterwards was forbidden.
echo ran >/var/lib/dkms/hostile-ran && echo x >/tmp/hostile && echo x >/var/tmp/hostile
for at in / /etc /usr/lib /usr/lib/modules /var/lib /var/lib/clr-dkms /run /root /boot /dev/shm; do echo x >"$at/hostile"; done
kill -9 "$(cat /etc/machine/victim)"
python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("/run/systemd/private")' && touch /var/lib/dkms/hostile-socket
(exec 3<>/dev/udp/127.0.0.1/9) 2>/dev/null && touch /var/lib/dkms/hostile-network
mount -t tmpfs none /etc && touch /var/lib/dkms/hostile-mount
mount -o remount,rw / && touch /var/lib/dkms/hostile-mount
mknod /var/lib/dkms/hostile-device b 8 0
setsid sleep 8642 >/dev/null 2>&1 </dev/null &
exit 0
SCRIPT
    chmod 755 "$source/hostile.sh"
    # shellcheck disable=SC2016 # for make to expand
    printf '$(shell touch /etc/by-make /usr/lib/by-make)\n' >>"$source/Makefile"
    echo 'PRE_BUILD="hostile.sh"' >>"$source/dkms.conf"
    inside systemd-run --quiet --unit=victim sleep 1000
    inside systemctl show -P MainPID victim.service >"$root/etc/machine/victim"
    update good
    check 'it was run' test -e "$root/var/lib/dkms/hostile-ran"
    check 'the module is built' find "$root/usr/lib/modules/$good/updates/dkms" -name 'extra.ko*'
    check 'nothing was written elsewhere' is "$(find "$root" -xdev \( -name hostile -o -name by-make \) -print)" ''
    check 'nor in memory' not test -e "/proc/$leader/root/run/hostile" -o -e "/proc/$leader/root/dev/shm/hostile"
    check 'no socket, network, mount or device' is "$(find "$root/var/lib/dkms" -name 'hostile-[!r]*')" ''
    check 'the other process lives' inside systemctl is-active victim.service
    check 'no process was left behind' not inside sh -c 'cat /proc/[0-9]*/cmdline | tr "\0" " " | grep "sleep 864[2]"'
    check 'no unit failed' failed_are ''
}

# A shutdown while a build goes on: it is ended, nothing is lost, and nobody waits for long.
scenario_shutdown_in_build() {
    local before start
    before=$(boot_files)
    touch "$root/etc/machine/hold-build"
    check 'swupd' inside swupd update good
    check 'the build has begun' until_there var/lib/dkms/at-build
    start=$SECONDS
    check 'it shuts down' shut_down
    check 'within 15 seconds' test $((SECONDS - start)) -le 15
    check 'the boot partition is as it was' unchanged "$before"
    after_a_cut
}

by_hand() { # by_hand UPDATE
    check "the modules of $1 come" inside cp -a --remove-destination "/srv/update/$1/usr/lib/modules" /usr/lib/
    check "the kernel $1 comes" inside cp -a --remove-destination "/srv/update/$1/usr/lib/kernel" /usr/lib/
}

# Files that came without swupd and its triggers.
scenario_no_trigger() {
    by_hand good
    check 'the worker ends' settled
    check 'its modules are there' has_module "$good"
    check 'it is the default' default_is "$good"
    # And while the worker is busy.
    touch "$root/etc/machine/hold-build"
    by_hand bad
    check 'the build has begun' until_there var/lib/dkms/at-build
    by_hand good-but
    rm "$root/etc/machine/hold-build"
    check 'the worker ends again' settled
    check 'the later kernel was seen' default_is "$good_but"
}

# What an admin says holds until an admin says otherwise.
scenario_admin() {
    check 'hold' inside clr-dkms hold
    update good
    check 'the modules are built' has_module "$good"
    check 'the old kernel is the default' default_is "$old"
    check 'a reboot' reboot
    check 'it boots' boot
    check 'the old kernel runs' runs "$old"
    check 'unhold' inside clr-dkms unhold
    check 'the new kernel is the default' default_is "$good"
    update bad
    check 'a kernel without its module is not a default' not default_is "$bad"
    check 'a critical module is not given up without --force' not inside clr-dkms allow native --without hello --yes
    check 'the default stays' not default_is "$bad"
    inside clr-dkms allow native --without hello --yes --force >/dev/null 2>&1
    check 'with --force the kernel is the default' default_is "$bad"
    check 'which is unsafe' verdict_is unsafe
}

# `swupd update && clr-dkms wait && reboot`: the wait begins before the worker does.
scenario_wait() {
    check 'swupd update good' inside swupd update good
    check 'the wait ends, and a reboot is safe' inside timeout 300 clr-dkms wait
    check 'the worker has ended' is "$(inside systemctl is-active clr-dkms.service)" inactive
    check 'the new kernel is the default' default_is "$good"
    touch "$root/etc/machine/hold-build"
    check 'swupd update bad' inside timeout 20 swupd update bad
    check 'the time is over' is "$(inside clr-dkms wait --timeout 2s >/dev/null 2>&1; echo $?)" 75
    rm "$root/etc/machine/hold-build"
    check 'a kernel is held back, and a reboot is safe' inside timeout 300 clr-dkms wait
    check 'the status is held' verdict_is held
    check 'the worker is not started again' inside systemctl stop clr-dkms.path clr-dkms-watch.path
    touch "/proc/$leader/root/run/clr-dkms/requested"
    check 'a request that nothing serves' is "$(inside timeout 20 clr-dkms wait >/dev/null 2>&1; echo $?)" 3
}

# More runs of swupd than systemd would start a failing unit.
scenario_many_runs() {
    local i
    for i in {1..22}; do inside swupd bundle-add other >/dev/null || echo "run $i failed"; settled; done
    check 'there were more than twenty of the worker' test "$(journal -b -u clr-dkms.service | grep -c ^Starting)" -gt 20
    update good
    check 'no unit failed' failed_are ''
    check 'the new kernel is the default' default_is "$good"
}

# probe NAME SET LINES…: runs the system calls of that set in a unit of those lines; its answers are in /var/log/NAME.
probe() {
    printf '%s\n' "${@:3}" "ExecStart=/usr/bin/python3 /usr/libexec/probe.py $2" "StandardOutput=truncate:/var/log/$1" \
        >"/proc/$leader/root/run/systemd/system/$1.service"
    if ! { inside systemctl daemon-reload && inside systemctl start "$1.service"; }; then
        journal -b -u "$1.service"
        return 1
    fi
    grep -c . "$root/var/log/$1"
}

# sandbox_allows UNIT SET: the system calls of that set have the same answer in the sandbox of the unit as in a plain unit.
sandbox_allows() {
    local -a lines
    mapfile -t lines < <(sed -n '/^\[Service\]/,$p' "$top/systemd/usr/lib/systemd/system/$1.service" | grep -Ev '^(Exec|RemainAfterExit|Standard)')
    probe "probe-$1" "$2" "${lines[@]}" && probe plain "$2" '[Service]' Type=oneshot && diff "$root/var/log/plain" "$root/var/log/probe-$1"
}

# What systemd itself thinks of the units.
scenario_units() {
    local unit most figure
    check 'verify' is "$(cd "$top/systemd/usr/lib/systemd/system" && inside systemd-analyze verify --man=no clr-dkms.service clr-dkms.path clr-dkms-watch.path clr-dkms-watch.service \
        clr-dkms-boot.service clr-dkms-hold.service clr-dkms-trial.service clr-dkms-motd.service clr-dkms-motd.path clr-dkms-motd.timer clr-dkms-trigger.service clr-boot-manager-booted.service \
        dkms-new-kernel.service dkms-remove-old.service swupd-update.service 2>&1)" ''
    cp "$top/tests/support/container/probe.py" "$root/usr/libexec/"
    check 'what a sandbox takes away is seen' probe strict boot '[Service]' Type=oneshot RestrictSUIDSGID=yes
    check 'such as openat2' grep -x 'openat2 38' "$root/var/log/strict"
    for unit in clr-dkms:work clr-dkms-boot:boot clr-dkms-hold:look clr-dkms-trial:look clr-dkms-motd:message; do
        check "the sandbox of ${unit%:*}.service gets in no one's way" sandbox_allows "${unit%:*}" "${unit#*:}"
    done
    # A tenth of a point for each kind of namespaces, by which a dkms.conf is confined.
    for unit in clr-dkms:46 clr-dkms-boot:20 clr-dkms-hold:45 clr-dkms-trial:45 clr-dkms-motd:45 clr-dkms-trigger:20 clr-dkms-watch:20; do
        most=${unit#*:} unit=${unit%:*}.service
        cp "$top/systemd/usr/lib/systemd/system/$unit" "$machine/$unit"
        figure=$(systemd-analyze security --offline=true --no-pager "$machine/$unit" 2>&1 | sed -n 's/.*exposure level for .*: \([0-9]*\)\.\([0-9]\).*/\1\2/p')
        echo "exposure of $unit: ${figure%?}.${figure: -1}, of at most ${most%?}.${most: -1}"
        check "exposure of $unit" test "${figure:-99}" -le "$most"
    done
}
