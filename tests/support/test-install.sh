#!/usr/bin/env bash
# Tests packaging/install.sh, the hooks and the units, on a copy of what is installed and in scratch directories only. Takes the
# programs of target/release, or small stand-ins when they are not built. The last line is "N passed, M failed".
set -uo pipefail
export LC_ALL=C
# Called by make, we inherit the settings that it exports; these tests set their own.
unset DESTDIR PREFIX BINDIR LIBEXECDIR UNITDIR DATADIR LICENSEDIR SYSCONFDIR LOCALSTATEDIR RUNSTATEDIR BINDIR_FROM PAGES_FROM
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
chmod 755 "$scratch"
passed=0 failed=0 code=0 number=0
out=$scratch/out err=$scratch/err source="$scratch/source tree" programs="$scratch/the programs" shims=$scratch/shims
names=(clr-dkms clr-dkms-pre-update clr-dkms-post-update clr-dkms-cmdline clr-dkms-motd clr-dkms-variant)

# --- tools of the tests ------------------------------------------------------------------------------------------------

check() { # check WHAT COMMAND…: passes if the command succeeds
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: %s (%s; the last exit code was %s)\n' "$what" "$1" "$code"
        sed 's/^/  | /' "$out" "$err"
    fi
}
not() { ! "$@"; }
same() { [[ $1 == "$2" ]] || { diff <(printf '%s\n' "$1") <(printf '%s\n' "$2") | head -n 20; return 1; }; }
ended() { [[ $code == "$1" ]]; }
said() { grep -qF -- "$1" "$out" "$err"; }
silent() { [[ ! -s $err ]]; }

fresh() { # a new, empty image: sets `image`
    number=$((number + 1))
    image="$scratch/image [$number] it's"
    mkdir "$image"
}
installer() { # installer VERB [NAME=VALUE…]: runs it on the image
    local verb=$1
    shift
    env PATH="$shims:$PATH" TMPDIR="$scratch" DESTDIR="$image" BINDIR_FROM="$programs" "$@" "$source/packaging/install.sh" "$verb" >"$out" 2>"$err" </dev/null
    code=$?
}
# What is there: type, mode, link text and contents; with `when` also the time of the last change of each file and directory.
tree() {
    local format='%y %m %P -> %l\n'
    [[ ${1:-} != when ]] || format="%T@ $format"
    (cd "$image" && find . -printf "$format" | sort && find . -type f -exec sha256sum {} + | sort)
}
put() { mkdir -p "$(dirname "$image$1")" && printf '%s\n' "$2" >"$image$1"; }
refuses() { # refuses WHAT VERB CODE TEXT…: ends with this code, changes nothing and says each text
    local what=$1 verb=$2 wanted=$3 before text
    shift 3
    before=$(tree when)
    installer "$verb"
    check "$what: exit code $wanted" ended "$wanted"
    check "$what: nothing changed" same "$before" "$(tree when)"
    for text in "$@"; do check "$what: says '$text'" said "$text"; done
}

# --- what is installed -------------------------------------------------------------------------------------------------

mkdir "$source" "$programs" "$shims"
(cd "$top" && cp -R Makefile LICENSE-* packaging hooks systemd cmdline.d man "$source")
mkdir -p "$source/tests/support"
cp "$top"/tests/support/{run-as,ensure-packages}.sh "$source/tests/support"
pages="$source/target/pages"
for path in man/man8/clr-dkms.8 bash-completion/completions/clr-dkms zsh/site-functions/_clr-dkms; do
    mkdir -p "$pages/${path%/*}"
    echo "# $path" >"$pages/$path"
done
if [[ -d $top/motd.d ]]; then cp -R "$top/motd.d" "$source"; fi
if [[ ! -e $source/packaging/clr-dkms.conf ]]; then echo '# placeholder' >"$source/packaging/clr-dkms.conf"; fi
for name in "${names[@]}"; do
    cp "$top/target/release/$name" "$programs/$name" 2>/dev/null || printf '#!/bin/sh\n# %s\n' "$name" >"$programs/$name"
done
# What uninstall asks of it is what counts here; what it does then has tests of its own.
printf '#!/bin/sh\necho "$*" >>"%s/cmdline-was-called"\n[ ! -e "%s/cmdline-fails" ]\n' "$scratch" "$scratch" >"$programs/clr-dkms-cmdline"
printf '#!/bin/sh\necho "$*" >>"%s/systemctl-was-called"\n' "$scratch" >"$shims/systemctl"
chmod 755 "$shims/systemctl" "$programs/clr-dkms-cmdline"

manifest=/usr/share/clr-dkms/manifest
fragment=/usr/share/kernel/cmdline.d/clr-ignore-mod-sig.conf
units=/usr/lib/systemd/system

# --- install, again, uninstall -----------------------------------------------------------------------------------------

fresh
put /usr/bin/someone-elses 'program'
before=$(tree)
installer install
check 'install succeeds' ended 0
check 'install is silent on stderr' silent
for path in "${names[@]/#//usr/bin/}" /usr/bin/clr_pre_update.sh /usr/libexec/updater/50-clr-dkms-hook.sh; do
    check "$path is a program" same "$(stat -c %a "$image$path")" 755
done
for path in $units/clr-dkms.service $units/clr-dkms-boot.service $fragment $manifest /usr/share/defaults/clr-dkms/clr-dkms.conf \
    /usr/share/licenses/clr-dkms/LICENSE-MIT /usr/share/licenses/clr-dkms/LICENSE-APACHE /usr/share/man/man8/clr-dkms.8 \
    /usr/share/man/man5/clr-dkms.conf.5 /usr/share/bash-completion/completions/clr-dkms /usr/share/zsh/site-functions/_clr-dkms; do
    check "$path is a file" same "$(stat -c %a "$image$path")" 644
done
for link in update-triggers.target.wants/clr-dkms-trigger.service sysinit.target.wants/clr-dkms-boot.service \
    multi-user.target.wants/clr-dkms{-hold.service,-trial.service,-motd.path,-motd.timer,-watch.path,.path}; do
    check "$link is a relative link" same "$(readlink "$image$units/$link")" "../${link##*/}"
    check "$link leads to the unit" test -f "$image$units/$link"
done
check 'the fragment is one line' cmp -s "$image$fragment" <(printf 'module.sig_unenforce\n')
check 'every installed file is in the manifest' same \
    "$(cd "$image" && find . ! -type d ! -name manifest ! -name someone-elses -printf '/%P\n' | sort)" \
    "$(awk -F '\t' '$1 == "file" || $1 == "link" { print $3 }' "$image$manifest" | sort)"
check 'the manifest knows nothing of DESTDIR' not grep -qF "$scratch" "$image$manifest"
check 'no half-written file is left' same "$(find "$image" -name '.*.clr-dkms-new')" ''

before_second=$(tree when)
installer install
check 'a second install succeeds' ended 0
check 'a second install changes no file and no directory' same "$before_second" "$(tree when)"
check 'a second install says so' said 'nothing to do'

first=$(tree)
rm "$image/usr/bin/clr-dkms"
chmod 600 "$image/usr/bin/clr-dkms-motd"
installer install
check 'a deleted file comes back, a wrong mode is corrected' same "$first" "$(tree)"

installer uninstall
check 'uninstall succeeds' ended 0
check 'uninstall is silent on stderr' silent
check 'uninstall leaves no trace' same "$before" "$(tree)"
refuses 'a second uninstall' uninstall 0 'nothing to do'

fresh
empty=$(tree)
(umask 077 && installer install)
complete=$(tree)
check 'a strict umask does not matter' same "$(sed 's/^[0-9a-f]\{64\} .*//; /someone/d; /^$/d' <<<"$first")" \
    "$(sed 's/^[0-9a-f]\{64\} .*//; /^$/d' <<<"$complete")"

# --- what others put there ---------------------------------------------------------------------------------------------

fresh
put $fragment module.sig_unenforce
put $units/clr-dkms.service "$(cat "$source/systemd$units/clr-dkms.service")"
before=$(tree) before_fragment=$(stat -c '%Y %i' "$image$fragment")
installer install
check 'an equal fragment does not stop the installation' ended 0
check 'an equal fragment is left alone' same "$before_fragment" "$(stat -c '%Y %i' "$image$fragment")"
check 'an equal fragment is named' said "$image$fragment"
check 'an equal fragment is not in the manifest' not grep -q 'cmdline.d/\|system/clr-dkms.service' "$image$manifest"
installer uninstall
check 'equal files of others survive the uninstallation' same "$before" "$(tree)"

fresh
put $fragment 'module.sig_unenforce quiet'
refuses 'another fragment' install 1 "$image$fragment" 'move it away' 'nothing was changed'
fresh
put /usr/bin/clr_pre_update.sh 'echo mine'
put $units/clr-dkms-hold.service '[Unit]'
refuses 'two files in the way' install 1 "$image/usr/bin/clr_pre_update.sh" "$image$units/clr-dkms-hold.service"
fresh
mkdir -p "$image/usr/bin/clr-dkms"
refuses 'a directory in the way' install 1 "$image/usr/bin/clr-dkms is in the way"
fresh
mkdir -p "$image/usr/bin" && ln -s /nowhere "$image/usr/bin/clr-dkms-motd"
refuses 'a dangling link in the way' install 1 "$image/usr/bin/clr-dkms-motd is in the way"
fresh
put /usr/share 'a file'
refuses 'a file instead of a directory' install 1 "$image/usr/share is in the way: a directory"
fresh
mkdir "$scratch/host" "$image/usr" && ln -s "$scratch/host" "$image/usr/bin"
refuses 'a link out of the image' install 1 "$image/usr/bin leads out of"
check 'a link out of the image: nothing is there' same "$(ls -A "$scratch/host")" ''

fresh
installer install
mkdir -p "$image/usr/share/clear/bundles" && : >"$image/usr/share/clear/bundles/kernel-native-dkms"
installer uninstall
check 'a fragment that a bundle ships too stays' test -f "$image$fragment"
check 'a fragment that a bundle ships too: says so' said 'kernel-native-dkms'
check 'a fragment that a bundle ships too: the rest is gone' same \
    "$(cd "$image" && find . -type f | sort | tr '\n' ' ')" "./usr/share/clear/bundles/kernel-native-dkms .$fragment "

# --- upgrade -----------------------------------------------------------------------------------------------------------

fresh
mkdir "$source/motd.d" 2>/dev/null
before=$(tree)
echo 'old' >"$source/motd.d/test-dropped"
echo 'old' >"$source/motd.d/test-changed"
installer install
check 'texts are installed' test -f "$image/usr/share/clr-dkms/motd.d/test-dropped"
echo 'new' >"$source/motd.d/test-changed"
echo 'new' >"$source/motd.d/test-added"
rm "$source/motd.d/test-dropped"
unchanged=$(stat -c '%Y %i' "$image/usr/bin/clr-dkms")
installer install
check 'an upgrade succeeds' ended 0
check 'an upgrade replaces' same "$(cat "$image/usr/share/clr-dkms/motd.d/test-changed")" new
check 'an upgrade adds' test -f "$image/usr/share/clr-dkms/motd.d/test-added"
check 'an upgrade removes what is no longer shipped' not test -e "$image/usr/share/clr-dkms/motd.d/test-dropped"
check 'an upgrade leaves alone what is equal' same "$unchanged" "$(stat -c '%Y %i' "$image/usr/bin/clr-dkms")"

put /usr/share/clr-dkms/motd.d/test-changed 'by an admin'
echo 'newer' >"$source/motd.d/test-changed"
refuses 'an upgrade over an altered file' install 1 "$image/usr/share/clr-dkms/motd.d/test-changed was changed"
rm "$source/motd.d/"test-*
installer install
check 'an altered file that is no longer shipped does not stop an upgrade' ended 0
check 'an altered file that is no longer shipped stays' grep -qx 'by an admin' "$image/usr/share/clr-dkms/motd.d/test-changed"
check 'an altered file that is no longer shipped is named' said 'test-changed is no longer shipped'
before_second=$(tree when)
installer install
check 'and the next install changes nothing' same "$before_second" "$(tree when)"

installer uninstall
check 'uninstall with an altered file: exit code' ended 1
check 'uninstall with an altered file: names it' said 'test-changed was changed since we installed it'
check 'uninstall with an altered file: only it and the manifest stay' same "$(cd "$image" && find . -type f | sort | tr '\n' ' ')" \
    "./usr/share/clr-dkms/manifest ./usr/share/clr-dkms/motd.d/test-changed "
check 'uninstall with an altered file: empty directories go' not test -e "$image/usr/lib"
rm "$image/usr/share/clr-dkms/motd.d/test-changed"
installer uninstall
check 'uninstall once the altered file is gone: exit code' ended 0
check 'uninstall once the altered file is gone: no trace' same "$before" "$(tree)"
rmdir "$source/motd.d" 2>/dev/null

# --- records, locks, damage --------------------------------------------------------------------------------------------

fresh
put /etc/clr-dkms/clr-dkms.conf '[tools]'
put /etc/kernel/cmdline.d/clr-ignore-mod-sig.conf ''
mkdir -p "$image"/var/{lib,log,cache} "$image/run"
put /var/lib/node_exporter/of-another.prom 'x 1'
before=$(tree)
installer install
put /var/lib/clr-dkms/last-run.json '{}'
put /var/lib/node_exporter/clr-dkms.prom '# HELP clr_dkms_verdict x'
ln -s /var/lib/node_exporter/clr-dkms.prom "$image/var/lib/clr-dkms/metrics"
put /var/log/clr-dkms/x/make.log 'error'
put /var/cache/clr-dkms/x ''
put /run/clr-dkms.lock 1
put /run/clr-dkms/clr-dkms.conf ''
put /run/motd.d/clr-dkms.motd ' * text'
installed=$(tree)
exec 8<"$image/run/clr-dkms.lock" && flock 8
refuses 'uninstall during a run' uninstall 75 'a program of clr-dkms is running'
exec 8<&-
for path in var etc; do
    mv "$image/$path" "$scratch/host/$path" && ln -s "$scratch/host/$path" "$image/$path"
done
refuses 'uninstall with a link out of the image' uninstall 1 'leads out of'
for path in var etc; do rm "$image/$path" && mv "$scratch/host/$path" "$image/$path"; done
for damage in '' 'garbage' $'# clr-dkms manifest 1\nfile\t1234\t/usr/bin/clr-dkms' $'# clr-dkms manifest 1\ndir\t-\t/usr/../..'; do
    cp -p "$image$manifest" "$scratch/manifest" && printf '%s\n' "$damage" >"$image$manifest"
    refuses "a manifest with '${damage##*$'\n'}'" uninstall 1 "$image$manifest"
    refuses "a manifest with '${damage##*$'\n'}'" install 1 "$image$manifest"
    cp -p "$scratch/manifest" "$image$manifest"
done
check 'fragments are not touched where none is ours' test ! -e "$scratch/cmdline-was-called"
put /var/lib/clr-dkms/cmdline.json '{}'
installed=$(tree)
touch "$scratch/cmdline-fails"
refuses 'fragments of ours that cannot be taken back' uninstall 1 'could not revert its changes'
rm "$scratch/cmdline-fails" "$scratch/cmdline-was-called"
check 'nothing happened so far' same "$installed" "$(tree)"
installer uninstall
check 'fragments of ours are taken back first' same "$(<"$scratch/cmdline-was-called")" "-q default --root $image"
check 'records are removed, choices of an admin stay' same "$before" "$(tree)"
for path in /var/lib/clr-dkms /var/lib/node_exporter/clr-dkms.prom /run/clr-dkms.lock "$image/etc/clr-dkms stays" 'cmdline.d/clr-ignore-mod-sig.conf stays'; do
    check "uninstall says '$path'" said "$path"
done
# Where the link leads to a file that holds no metrics of ours, that file is somebody else's.
installer install
mkdir -p "$image/var/lib/clr-dkms"
ln -s /var/lib/node_exporter/of-another.prom "$image/var/lib/clr-dkms/metrics"
installer uninstall
check 'metrics of others stay' same "$before" "$(tree)"

# What `clr-dkms add` put there is listed; its manifest stays while it blacklists drivers.
added() {
    put /var/lib/clr-dkms/added.json "$(printf '%s\n' '{' '  "schema": 1,' '  "modules": [' '    {' \
        '      "name": "hello",' '      "version": "1.0",' '      "source": {' \
        '        "path": "/usr/src/hello-1.0",' '        "fingerprint": "x"' '      },' '      "files": [' '        {' \
        '          "path": "/etc/modprobe.d/hello.conf",' "          \"kind\": \"$1\"," \
        '          "sha256": "x"' '        }' '      ]' '    }' '  ]' '}')"
}
for kind in modprobe blacklist; do
    installer install
    added "$kind"
    put /var/lib/clr-dkms/last-run.json '{}'
    installer uninstall
    check "uninstall with $kind: exit code" ended 0
    check "uninstall with $kind: lists what add made" same "$(grep -A2 -x hello/1.0 "$out")" \
        $'hello/1.0\n    /usr/src/hello-1.0\n    /etc/modprobe.d/hello.conf'
done
check 'the manifest of add stays with a blacklist' same "$(ls "$image/var/lib/clr-dkms")" added.json
check 'uninstall says so' said 'added.json stays'
rm -r "$image/var/lib/clr-dkms"
check 'nothing else stays' same "$before" "$(tree)"

# A run that is killed at any of its steps is repaired by the next one; nothing is forgotten.
cat >"$scratch/mv" <<'END'
#!/bin/sh
left=$(($(cat "$COUNT") - 1))
echo "$left" >"$COUNT"
[ "$left" -gt 0 ] || { kill -9 "$PPID" && exit 1; }
exec /bin/mv "$@"
END
chmod 755 "$scratch/mv"
for step in 1 2 7 15 17 18; do
    fresh
    mkdir -p "$scratch/kill" && mkdir -m 755 "$image/usr" "$image/usr/share" # as on every system; these two come before the manifest
    before=$(tree)
    ln -sf "$scratch/mv" "$scratch/kill/mv"
    echo $step >"$scratch/count"
    installer install PATH="$scratch/kill:$PATH" COUNT="$scratch/count" 2>/dev/null
    check "killed at step $step: it was" ended 137
    if [[ $step != 15 ]]; then
        installer install
        check "killed at step $step: the next install succeeds" ended 0
        check "killed at step $step: complete" same "$(grep -v /manifest$ <<<"$complete")" "$(tree | grep -v /manifest$)"
    fi
    installer uninstall
    check "killed at step $step: uninstall leaves no trace" same "$before" "$(tree)"
done

# --- settings ----------------------------------------------------------------------------------------------------------

fresh
local_root=$scratch/live
mkdir "$local_root"
image=$local_root before=$(tree)
live=(DESTDIR='' PREFIX="$local_root/usr" SYSCONFDIR="$local_root/etc" LOCALSTATEDIR="$local_root/var" RUNSTATEDIR="$local_root/run")
installer install "${live[@]}"
check 'install without DESTDIR succeeds' ended 0
check 'install without DESTDIR names the next command' said "Next: systemctl daemon-reload && $local_root/usr/bin/clr-dkms-post-update"
check 'a prefix is written into the units' grep -qx "ExecStart=$local_root/usr/bin/clr-dkms-post-update --after-swupd" \
    "$local_root/usr/lib/systemd/system/clr-dkms.service"

run_hook() { "$local_root/usr/$1" >"$out" 2>"$err" </dev/null; code=$?; }
for hook in bin/clr_pre_update.sh libexec/updater/50-clr-dkms-hook.sh; do
    program=$local_root/usr/bin/clr-dkms-pre-update arguments=''
    if [[ $hook == lib* ]]; then program=$local_root/usr/bin/clr-dkms-post-update arguments='--root /'; fi
    printf '#!/bin/sh\necho "called with: $*"\n' >"$program"
    run_hook "$hook"
    check "$hook: exit code" ended 0
    check "$hook: calls its program" grep -qx "called with: $arguments" "$out"
    check "$hook: is silent when all is well" silent
    printf '#!/bin/sh\nexit 70\n' >"$program"
    run_hook "$hook"
    check "$hook: exit code after a failure" ended 0
    check "$hook: says what failed" said "$program ended with 70"
    rm "$program"
    run_hook "$hook"
    check "$hook: exit code without its program" ended 0
    check "$hook: one line without its program" same "$(wc -l <"$err")" 1
    check "$hook: says what is missing" said "$program is missing"
done
installer uninstall "${live[@]}"
check 'uninstall without DESTDIR leaves no trace' same "$before" "$(tree)"
check 'uninstall without DESTDIR names the next command' said 'Next: systemctl daemon-reload'

fresh
for setting in PREFIX=usr PREFIX='/opt/a b' BINDIR=/usr/../bin; do
    installer install "$setting"
    check "$setting: exit code 64" ended 64
    check "$setting: named" said "${setting%%=*}"
done
installer remove
check 'an unknown verb: exit code 64' ended 64
installer install BINDIR_FROM="$scratch/nowhere"
check 'a missing program: exit code 1' ended 1
check 'a missing program: says what to do' said 'make build'
installer install PAGES_FROM="$scratch/nowhere"
check 'missing pages: exit code 1' ended 1
check 'missing pages: says what to do' said 'make build'
check 'nothing of this changed anything' same "$empty" "$(tree)"
if [[ $(id -u) == 0 ]] && command -v setpriv >/dev/null; then
    chmod 555 "$image"
    setpriv --reuid=65534 --regid=65534 --clear-groups env DESTDIR="$image" BINDIR_FROM="$programs" \
        "$source/packaging/install.sh" install >"$out" 2>"$err"
    code=$?
    check 'no permission: exit code 77' ended 77
    check 'no permission: says what to do' said 'sudo make install'
fi

fresh
installer install
printf '#!/bin/sh\necho "rmdir: it is busy" >&2\nexit 1\n' >"$shims/rmdir"
chmod 755 "$shims/rmdir"
installer uninstall
check 'a directory that cannot be removed: says why' said 'rmdir: it is busy'
rm "$shims/rmdir"

# --- through make, and the units ---------------------------------------------------------------------------------------

fresh
make --no-print-directory -C "$source" install DESTDIR="$image" BINDIR_FROM="$programs" >"$out" 2>"$err"
code=$?
check 'make install with a blank in DESTDIR' ended 0
check 'make install puts the same there' same "$complete" "$(tree)"
make -C "$source" uninstall DESTDIR="$image" >"$out" 2>"$err"
check 'make uninstall leaves no trace' same "$empty" "$(tree)"
make -C "$source" >"$out" 2>"$err"
check 'make alone tells what there is' said 'make install'
mkdir -p "$source/src" "$source/target/release"
touch -d '1 hour ago' "$source/src/lib.rs"
for name in "${names[@]}"; do touch "$source/target/release/$name"; done
touch "$pages"/man/man8/*
make -C "$source" -n install >"$out" 2>"$err"
check 'make install builds nothing when the programs are current' not said 'build --release'
touch -d 'next hour' "$source/src/lib.rs"
make -C "$source" -n install >"$out" 2>"$err"
check 'make install builds when they are not' said 'build --release'

if command -v systemd-analyze >/dev/null; then
    fresh
    installer install
    printf '[Unit]\nDescription=stub\n' >"$image$units/update-triggers.target"
    for unit in clr-dkms{,-boot,-hold,-trigger,-watch}.service; do
        # The programs are in the image only; everything else about the unit has to be right.
        systemd-analyze verify --man=no "$image$units/$unit" >"$out" 2>&1 8>&-
        check "$unit: systemd has nothing to say" same \
            "$(grep -v 'is not executable: No such file or directory\|update-triggers.target not found' "$out")" ''
    done
fi
check 'systemctl was never called' not test -e "$scratch/systemctl-was-called"

printf '%d passed, %d failed\n' "$passed" "$failed"
[[ $failed == 0 ]]
