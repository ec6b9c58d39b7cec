#!/usr/bin/env bash
# Installs clr-dkms into a system or into a package directory, and uninstalls it completely.
#
#     packaging/install.sh install|uninstall          called by `make install` and `make uninstall`
#
# Settings are environment variables: see settings(). Exit codes: 0 done or nothing to do, 1 refused or not all done, 64 wrong
# usage, 70 internal error, 75 busy, 77 no permission.
#
# DATADIR/clr-dkms/manifest lists what this script installed (kind, SHA-256 or symlink target, path without DESTDIR). Only
# listed files with unchanged contents are replaced or removed. Everything is checked before anything is changed. The
# manifest is written before the files, with the old and the new contents of each, and again after them. An interrupted
# run is completed by running the same command again.
set -euo pipefail
shopt -s nullglob
export LC_ALL=C
umask 022 # directories and files must be readable for everyone, also under an admin's strict umask

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
tab=$'\t'
newline=$'\n'
fragment_name=clr-ignore-mod-sig.conf

declare -a plan=()                          # paths to install, in the order in which they are put in place
declare -A want=() source_of=() mode_of=()  # by path: "kind<tab>value", the file to copy, its mode
declare -a old=()                           # paths of the manifest that is there, each once, in its order
declare -a directories=()                       # directories that we made, now or before
declare -A was=() known=() leads_to=()      # "kind<tab>value<tab>path" and "path" of that manifest; real path by directory
declare -a refusals=() denials=()           # reasons to change nothing
work='' temp='' acting=''                   # scratch directory, half-written file, set once something is being changed

warn() { printf 'clr-dkms: %s\n' "$*" >&2; }
die() { local code=$1; shift; warn "$@"; exit "$code"; }

cleanup() {
    local code=$?
    rm -rf -- "$work"
    [[ -z $temp ]] || rm -f -- "$temp"
    [[ $code == 0 || -z $acting ]] || warn "stopped half-way, nothing is lost: run the same command again once the cause is gone"
    exit "$code"
}

# --- settings ----------------------------------------------------------------------------------------------------------

# directory NAME DEFAULT: an absolute directory without characters that need quotes in a unit file or in the
# manifest.
directory() {
    local value=${!1:-$2}
    [[ $value == /* ]] || die 64 "$1 must be an absolute path, not '$value'"
    if [[ $value == *[!A-Za-z0-9/._+@-]* || $value/ == */../* || $value/ == */./* ]]; then
        die 64 "$1 may hold letters, digits and / . _ + @ - only, and no '.' or '..' directory: '$value'"
    fi
    while [[ $value == *//* ]]; do value=${value//\/\//\/}; done
    printf -v "$1" %s "${value%/}"
}

settings() {
    directory PREFIX /usr
    directory BINDIR "$PREFIX/bin"
    directory LIBEXECDIR "$PREFIX/libexec"
    directory UNITDIR "$PREFIX/lib/systemd/system"
    directory DATADIR "$PREFIX/share"
    directory LICENSEDIR "$DATADIR/licenses/clr-dkms"
    # Only uninstall uses these. The programs themselves always use /etc, /var and /run.
    directory SYSCONFDIR /etc
    directory LOCALSTATEDIR /var
    directory RUNSTATEDIR /run
    BINDIR_FROM=${BINDIR_FROM:-$top/target/release} # where the built programs are
    PAGES_FROM=${PAGES_FROM:-$top/target/pages}     # where the pages and completions that were made are, as below DATADIR
    DESTDIR=${DESTDIR:-}                            # a package directory or an image; any characters
    [[ -z $DESTDIR || $DESTDIR == /* ]] || DESTDIR=$PWD/$DESTDIR
    real_root=$(realpath -m -- "${DESTDIR:-/}")
    [[ $real_root != / ]] || DESTDIR=
    while [[ $DESTDIR == */ ]]; do DESTDIR=${DESTDIR%/}; done
    manifest=$DATADIR/clr-dkms/manifest
    fragment=$DATADIR/kernel/cmdline.d/$fragment_name
}

# --- what belongs on the system ----------------------------------------------------------------------------------------

add() { # add PATH KIND VALUE
    [[ $1 != *[!A-Za-z0-9/._+@-]* ]] || die 70 "a file to install has an invalid name: '$1'"
    plan+=("$1")
    want[$1]=$2$tab$3
}

add_file() { # add_file SOURCE PATH MODE
    [[ -f $1 ]] || die 1 "$1 is missing; run 'make build' first if it is a program"
    local sum
    sum=$(sha256sum <"$1")
    source_of[$2]=$1
    mode_of[$2]=$3
    add "$2" file "${sum%% *}"
}

add_text() { # add_text SOURCE PATH MODE: a file that names our programs under /usr/bin
    local source=$1
    if [[ $BINDIR != /usr/bin && -f $source ]]; then
        source=$work/${#plan[@]}
        sed "s|/usr/bin/clr-dkms|$BINDIR/clr-dkms|g" "$1" >"$source"
    fi
    add_file "$source" "$2" "$3"
}

# Files come before their callers, so that an interrupted run leaves no hook without its program.
make_plan() {
    local name entry path
    local -a links=()
    for name in clr-dkms clr-dkms-pre-update clr-dkms-post-update clr-dkms-cmdline clr-dkms-motd clr-dkms-variant; do
        add_file "$BINDIR_FROM/$name" "$BINDIR/$name" 755
    done
    add_file "$top/packaging/clr-dkms.conf" "$DATADIR/defaults/clr-dkms/clr-dkms.conf" 644
    for entry in modules status; do
        add_file "$top/packaging/$entry.schema.json" "$DATADIR/clr-dkms/$entry.schema.json" 644
    done
    for entry in "$top"/motd.d/*; do
        [[ $entry != *'~' ]] || continue # an editor's copy
        add_file "$entry" "$DATADIR/clr-dkms/motd.d/${entry##*/}" 644
    done
    add_file "$top/LICENSE-APACHE" "$LICENSEDIR/LICENSE-APACHE" 644
    add_file "$top/LICENSE-MIT" "$LICENSEDIR/LICENSE-MIT" 644
    add_file "$top/cmdline.d/$fragment_name" "$fragment" 644
    [[ -d $PAGES_FROM ]] || die 1 "$PAGES_FROM is missing; run 'make build' first"
    while IFS= read -r -d '' entry; do
        add_file "$entry" "$DATADIR/${entry#"$PAGES_FROM"/}" 644
    done < <(find "$PAGES_FROM" -type f -print0 | sort -z)
    for entry in "$top"/man/*.[1-8]; do
        add_file "$entry" "$DATADIR/man/man${entry##*.}/${entry##*/}" 644
    done
    while IFS= read -r -d '' entry; do
        path=${entry#"$top/systemd/usr"}
        case $path in
            /lib/systemd/system/*) path=$UNITDIR/${path#/lib/systemd/system/} ;;
            *) path=$PREFIX$path ;;
        esac
        if [[ -L $entry ]]; then
            links+=("$path$tab$(readlink -- "$entry")")
        else
            add_text "$entry" "$path" 644
        fi
    done < <(find "$top/systemd/usr" '(' -type f -o -type l ')' ! -name '.*' ! -name '*~' -print0 | sort -z)
    add_text "$top/hooks/50-clr-dkms-hook.sh" "$LIBEXECDIR/updater/50-clr-dkms-hook.sh" 755
    add_text "$top/hooks/clr_pre_update.sh" "$BINDIR/clr_pre_update.sh" 755
    for entry in "${links[@]}"; do add "${entry%%"$tab"*}" link "${entry#*"$tab"}"; done
}

# --- what is there -----------------------------------------------------------------------------------------------------

there() { [[ -e $DESTDIR$1 || -L $DESTDIR$1 ]]; }

# state PATH: sets `state` to "kind<tab>value" of the file. Symlinks are not followed.
state() {
    local file=$DESTDIR$1 sum
    if [[ -L $file ]]; then state=link$tab$(readlink -- "$file")
    elif [[ ! -e $file ]]; then state=absent
    elif [[ ! -f $file ]]; then state=other
    elif sum=$(sha256sum <"$file"); then state=file$tab${sum%% *}
    else state=unreadable
    fi
}

ours() { [[ -n ${was[$state$tab$1]:-} ]]; } # after state PATH: it is what the manifest says that we put there

read_manifest() {
    local file=$DESTDIR$manifest number=1 kind value path header
    there "$manifest" || return 0
    [[ -f $file && ! -L $file && -r $file ]] || die 1 "$file cannot be read, so nothing was changed"
    {
        IFS= read -r header || header=
        [[ $header == '# clr-dkms manifest 1'* ]] ||
            die 1 "$file is not a manifest, so nothing was changed; restore it, or remove what is installed by hand"
        while IFS=$tab read -r kind value path; do
            number=$((number + 1))
            case $kind$tab$value in
                dir"$tab"- | link"$tab"?*) ;;
                file"$tab"*) [[ ${#value} == 64 && $value != *[!0-9a-f]* ]] || kind=bad ;;
                *) kind=bad ;;
            esac
            [[ $kind != bad && $path == /* && $path/ != */../* ]] ||
                die 1 "$file line $number is invalid, so nothing was changed; restore it, or remove what is installed by hand"
            if [[ $kind == dir ]]; then
                [[ ! -d $DESTDIR$path ]] || directories+=("$path")
                continue
            fi
            was[$kind$tab$value$tab$path]=1
            [[ -n ${known[$path]:-} ]] || old+=("$path")
            known[$path]=1
        done
    } <"$file"
}

# stays_inside DIRECTORY: no symlink in an image may lead to files of the host.
stays_inside() {
    [[ -n $DESTDIR && -z ${leads_to[$1]:-} ]] || return 0
    leads_to[$1]=$(realpath -m -- "$DESTDIR$1")
    [[ ${leads_to[$1]}/ == "$real_root"/* ]] || refusals+=("$DESTDIR$1 leads out of $DESTDIR through a symlink, to ${leads_to[$1]}")
}

# can_change DIRECTORY: whether it is writable, or can be created.
can_change() {
    local dir=$1
    while [[ -n $dir ]] && ! there "$dir"; do dir=${dir%/*}; done
    if [[ -n $DESTDIR && ! -e $DESTDIR ]]; then return 0; fi # DESTDIR itself is new
    if [[ ! -d $DESTDIR$dir/ ]]; then
        refusals+=("$DESTDIR$dir is in the way: a directory is needed there")
    elif [[ ! -w $DESTDIR$dir/ ]]; then
        denials+=("$DESTDIR$dir/")
    fi
}

stop_if_refused() { # stop_if_refused WHAT
    if ((${#refusals[@]} > 0)); then
        printf 'clr-dkms: %s\n' "${refusals[@]}" | sort -u >&2
        die 1 "$1 refused, nothing was changed"
    fi
    ((${#denials[@]} == 0)) || die 77 "cannot write to ${denials[0]}, nothing was changed; run it as root: sudo make $1"
}

# --- changing ----------------------------------------------------------------------------------------------------------

make_directory() {
    [[ ! -d $DESTDIR$1/ ]] || return 0
    make_directory "${1%/*}"
    mkdir -m 755 -- "$DESTDIR$1"
}

# The name is fixed, so that the next run removes what a killed one left.
temp_of() { temp=$DESTDIR${1%/*}/.${1##*/}.clr-dkms-new; }

put() {
    make_directory "${1%/*}"
    temp_of "$1"
    rm -f -- "$temp"
    if [[ ${want[$1]} == link* ]]; then
        ln -s -- "${want[$1]#link"$tab"}" "$temp"
    else
        install -m "${mode_of[$1]}" -- "${source_of[$1]}" "$temp"
    fi
    mv -fT -- "$temp" "$DESTDIR$1"
    temp=
}

take() { temp_of "$1"; rm -f -- "$temp" "$DESTDIR$1"; temp=; }

write_manifest() { # write_manifest LINES
    local head="# clr-dkms manifest 1: what 'make install' put here, and 'make uninstall' takes away"
    source_of[$manifest]=$work/manifest
    mode_of[$manifest]=644
    want[$manifest]='file'
    printf '%s\n' "$head" "$1" | sed '/^$/d' >"$work/manifest"
    put "$manifest"
}

# lines_of PATH: the lines of the present manifest about it. After an interrupted run there are several.
lines_of() {
    local line
    for line in "${!was[@]}"; do [[ $line != *"$tab$1" ]] || printf '%s\n' "$line"; done | sort
}

directory_lines() { ((${#directories[@]} == 0)) || printf 'dir\t-\t%s\n' "${directories[@]}" | sort -u; }

# Removes our directories that have become empty, the deepest first. Directories that others use stay in the
# list.
drop_directories() {
    local dir
    local -a all=("${directories[@]}")
    directories=()
    while IFS= read -r dir; do
        [[ -n $dir && -d $DESTDIR$dir && ! -L $DESTDIR$dir ]] || continue
        # One that cannot be removed stays in the list; rmdir gives the reason.
        rmdir --ignore-fail-on-non-empty -- "$DESTDIR$dir" || true
        [[ ! -d $DESTDIR$dir ]] || directories+=("$dir")
    done < <(printf '%s\n' "${all[@]}" | sort -ru)
}

# --- the two commands --------------------------------------------------------------------------------------------------

install_all() {
    local path dir after='' current=''
    local -a puts=() modes=() gone=()
    local -A planned=() new_dir=()
    for path in "${plan[@]}"; do
        planned[$path]=1
        stays_inside "${path%/*}"
        state "$path"
        if [[ $state == "${want[$path]}" && -z ${known[$path]:-} ]]; then
            printf '%s is there already and equal: left alone\n' "$DESTDIR$path"
            continue
        elif [[ $state == "${want[$path]}" ]]; then
            [[ $state == link* || $(stat -c %a -- "$DESTDIR$path") == "${mode_of[$path]}" ]] || modes+=("$path")
        elif [[ $state == absent ]] || ours "$path"; then
            puts+=("$path")
        elif [[ -n ${known[$path]:-} ]]; then
            refusals+=("$DESTDIR$path was changed since we installed it; move your copy away, then install again")
        else
            refusals+=("$DESTDIR$path is in the way: not ours, and not equal; find out whose it is, move it away, then install again")
        fi
        after+=${want[$path]}$tab$path$newline
    done
    for path in "${old[@]}"; do # no longer shipped
        [[ -z ${planned[$path]:-} ]] || continue
        stays_inside "${path%/*}"
        state "$path"
        if ours "$path"; then
            gone+=("$path")
        elif [[ $state != absent ]]; then
            warn "$DESTDIR$path is no longer shipped, but was changed since we installed it: left alone"
            after+=$(lines_of "$path")$newline
        fi
    done
    for path in "${puts[@]}" "${modes[@]}" "${gone[@]}" "$manifest"; do
        dir=${path%/*}
        stays_inside "$dir"
        can_change "$dir"
        while [[ -n $dir ]] && ! there "$dir"; do new_dir[$dir]=1; dir=${dir%/*}; done
    done
    new_dir[${manifest%/*}]=1 # ours by its name, even if a run that was cut short made it
    stop_if_refused install

    directories+=("${!new_dir[@]}")
    if [[ -f $DESTDIR$manifest ]]; then current=$(tail -n +2 -- "$DESTDIR$manifest")$newline; fi
    if ((${#puts[@]} + ${#modes[@]} + ${#gone[@]} == 0)) && [[ $current == "$after$(directory_lines)$newline" ]]; then
        printf 'clr-dkms is installed in %s already: nothing to do\n' "${DESTDIR:-/}"
        return 0
    fi

    acting=1
    [[ -z $DESTDIR ]] || mkdir -p -- "$DESTDIR"
    write_manifest "$(printf '%s\n' "${!was[@]}" "$after" | sort -u)$newline$(directory_lines)"
    for path in "${puts[@]}"; do put "$path"; done
    for path in "${modes[@]}"; do chmod "${mode_of[$path]}" -- "$DESTDIR$path"; done
    for path in "${gone[@]}"; do take "$path"; done
    ((${#gone[@]} == 0)) || drop_directories
    # After a power cut the manifest must not list files that never reached the disk.
    [[ -n $DESTDIR ]] || sync -f -- "$DESTDIR$manifest"
    write_manifest "$after$(directory_lines)"
    acting=
    printf 'clr-dkms is installed in %s: %d written, %d removed\n' "${DESTDIR:-/}" "${#puts[@]}" "${#gone[@]}"
    [[ $PREFIX == /usr ]] ||
        warn "swupd, clr-boot-manager and the programs' own defaults look under /usr only, not under $PREFIX"
    [[ -n $DESTDIR ]] || printf 'Next: systemctl daemon-reload && %s/clr-dkms-post-update\n' "$BINDIR"
}

# The manifest of `clr-dkms add`: it has a key on each line.
blacklists() { there "$added" && grep -q '^ *"kind": "blacklist"' -- "$DESTDIR$added"; }

# Modules, and below each the files that belong to it.
added_by_add() {
    there "$added" || return 0
    sed -n -e 's/^ *"name": "\(.*\)",*$/\1/p' -e 's/^ *"version": "\(.*\)",*$/\/\1/p' \
        -e 's/^ *"path": "\(.*\)",*$/    \1/p' -- "$DESTDIR$added" | sed -e ':a' -e '$!N' -e 's/\n\//\//;ta' -e 'P;D'
}

uninstall_all() {
    local added=$LOCALSTATEDIR/lib/clr-dkms/added.json left
    local path kept='' failed='' count=0 index next='systemctl daemon-reload' writer=$BINDIR/clr-dkms-cmdline
    local lock=$DESTDIR$RUNSTATEDIR/clr-dkms.lock
    local -a runtime=("$RUNSTATEDIR/clr-dkms.lock" "$RUNSTATEDIR/clr-dkms" "$RUNSTATEDIR/motd.d/clr-dkms.motd"
        "$LOCALSTATEDIR/cache/clr-dkms" "$LOCALSTATEDIR/lib/clr-dkms" "$LOCALSTATEDIR/log/clr-dkms")
    # The fragment may have another owner: a DKMS bundle that was added later ships the same file.
    local -a bundles=("$DESTDIR"/usr/share/clear/bundles/kernel-*-dkms)
    local -a theirs=("$SYSCONFDIR/clr-dkms" "$SYSCONFDIR/kernel/cmdline.d/$fragment_name") removed=() altered=()
    if ! there "$manifest"; then
        printf 'nothing to do: there is no %s (DESTDIR and PREFIX must be those of the installation)\n' "$DESTDIR$manifest"
        return 0
    fi
    # The metrics are not updated any more. [report] metrics may name any file, and this symlink identifies
    # it.
    path=$(readlink -- "$DESTDIR$LOCALSTATEDIR/lib/clr-dkms/metrics") || path=
    if [[ $path == /* && -f $DESTDIR$path && $(head -c 16 -- "$DESTDIR$path" | tr -d '\0') == '# HELP clr_dkms_' ]]; then runtime+=("$path"); fi
    for path in "${old[@]}" "${runtime[@]}" "$manifest"; do
        stays_inside "${path%/*}"
        if there "$path"; then can_change "${path%/*}"; fi
    done
    stop_if_refused uninstall
    # All our programs hold this lock while they change something. Their files must not be removed during a
    # build.
    if [[ -f $lock ]] && command -v flock >/dev/null; then
        flock -n -E 75 -- "$lock" true || die 75 "a program of clr-dkms is running (it holds $lock), nothing was changed; try again later"
    fi

    # Only clr-dkms-cmdline knows which files it wrote into /etc.
    if there "$LOCALSTATEDIR/lib/clr-dkms/cmdline.json"; then
        # For an image the program of the host is used: programs of an image must not run here.
        [[ -z $DESTDIR ]] || writer=$BINDIR_FROM/clr-dkms-cmdline
        "$writer" -q default ${DESTDIR:+--root "$DESTDIR"} ||
            die 1 "clr-dkms-cmdline could not revert its changes in $SYSCONFDIR/kernel/cmdline.d, nothing was removed; " \
                "revert them by hand, remove $DESTDIR$LOCALSTATEDIR/lib/clr-dkms/cmdline.json and try again"
    fi
    if [[ -z $DESTDIR && $RUNSTATEDIR == /run ]]; then
        # Otherwise swupd would leave the boot files to a removed program until the next reboot.
        "$BINDIR/clr-dkms" -q guard --disarm || warn "/run/swupd/config still keeps swupd from running clr-boot-manager: remove the lines of clr-dkms"
        # Their stop actions run our programs. If systemd does not run, there is nothing to stop.
        [[ ! -d /run/systemd/system ]] || systemctl stop clr-dkms.path clr-dkms-watch.path clr-dkms-motd.path clr-dkms-motd.timer clr-dkms-hold.service clr-dkms-trial.service ||
            warn 'a unit could not be stopped: it ends with the next reboot'
    fi
    left=$(added_by_add)
    acting=1
    for ((index = ${#old[@]} - 1; index >= 0; index--)); do # callers before what they call
        path=${old[index]}
        state "$path"
        if [[ $state == absent ]]; then
            take "$path" # nothing but a half-written copy
        elif ! ours "$path"; then
            altered+=("$path")
            kept+=$(lines_of "$path")$newline
        elif [[ ${path##*/} == "$fragment_name" && -n ${bundles[*]} ]]; then
            printf '%s stays: the bundle %s ships it too\n' "$DESTDIR$path" "${bundles[0]##*/}"
        else
            take "$path"
            count=$((count + 1))
            [[ $path != "$fragment" ]] || printf 'the next run of clr-boot-manager takes module.sig_unenforce off the %s\n' \
                "command line, unless a file in $SYSCONFDIR/kernel/cmdline.d keeps it"
        fi
    done
    for path in "${runtime[@]}"; do
        there "$path" || continue
        if [[ $path == "$LOCALSTATEDIR/lib/clr-dkms" ]] && blacklists; then
            find "$DESTDIR$path" -mindepth 1 ! -name added.json -delete || failed=1
            continue
        fi
        if rm -rf --one-file-system -- "$DESTDIR$path"; then removed+=("$path"); else failed=1; fi
        if [[ $path == */clr-dkms.motd && -x /usr/bin/motd-update.sh ]]; then next+=' && motd-update.sh'; fi
    done
    # The directory may be ours, or an empty one of another program.
    [[ ! -d $DESTDIR$RUNSTATEDIR/motd.d ]] || rmdir --ignore-fail-on-non-empty -- "$DESTDIR$RUNSTATEDIR/motd.d" || true
    drop_directories
    if [[ -z $kept$failed ]]; then
        take "$manifest"
        drop_directories
    else
        write_manifest "$kept$(directory_lines)"
    fi
    acting=
    printf 'removed from %s: %d installed files' "${DESTDIR:-/}" "$count"
    printf '%s\n' "${removed[*]:+, and the records ${removed[*]}}"
    [[ -z $left ]] || printf 'clr-dkms add put these there, and they stay:\n%s\n' "$left"
    if there "$added"; then
        printf '%s stays: drivers of the kernel are blacklisted for these modules\n' "$DESTDIR$added"
        printf '%s\n' 'install clr-dkms again and run "clr-dkms remove MODULE" to take them back'
    fi
    for path in "${theirs[@]}"; do
        if there "$path"; then printf '%s stays: it is the choice of an admin; remove it if you do not want it\n' "$DESTDIR$path"; fi
    done
    [[ -n $DESTDIR ]] || printf 'Next: %s\n' "$next"
    for path in "${altered[@]}"; do warn "$DESTDIR$path was changed since we installed it: left alone"; done
    ((${#altered[@]} == 0)) || warn "save what you need of these, remove them, then uninstall again"
    [[ -z $kept$failed ]] || exit 1
}

[[ $# == 1 && ($1 == install || $1 == uninstall) ]] || die 64 'usage: packaging/install.sh install|uninstall'
settings
work=$(mktemp -d)
trap cleanup EXIT
read_manifest
case $1 in
    install) make_plan; install_all ;;
    uninstall) uninstall_all ;;
esac
