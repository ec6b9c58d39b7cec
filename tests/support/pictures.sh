#!/usr/bin/env bash
# `make pictures`: docs/*.png, the screens that README.md shows, from a real terminal.
#
# Each is of a machine as `make demo` has it: real dkms, real headers, real modules. In a mount namespace of its own the
# scratch root lies over this machine, and the programs are called as on a live system: what is in the picture is what an
# admin sees, paths included. The terminal is xterm, of 80 columns and 24 lines, on a display in memory; it gets more lines only
# where a screen has more. The clock stands, so that a picture changes with its screen only.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=$PWD
self=$here/tests/support/pictures.sh
old=6.15.7-1591.native
# What takes back what the command of a picture did.
undo=()

# What runs in the terminal: the prompt, and the command as if somebody had typed it. READY gets the window, how many
# lines are full, and the exit code.
in_terminal() { # READY COMMAND…
    local ready=$1 line code=0
    shift
    cd "${from:-.}"
    printf '\033[?25l\033[1m$\033[0m %s\n' "$*"
    "$@" || code=$?
    # xterm answers when it has drawn all that came before.
    stty -echo
    IFS=';' read -rs -d R -p $'\033[6n' line _
    printf '%s %s %s\n' "$WINDOWID" "$((${line#*[} - 1))" "$code" >"$ready.part"
    sleep 0.3
    mv "$ready.part" "$ready"
    sleep 60
}

# shoot LINES PICTURE CODE COMMAND…: the terminal with the command in it, and without the empty lines at its end. How
# many lines are full is in $used.
shoot() {
    local lines=$1 picture=$2 expected=$3 xterm window size code
    shift 3
    rm -f "$work/ready"
    LC_ALL=C.UTF-8 TERM=xterm-256color xterm -geometry "80x$lines+0+0" -b 20 -bw 0 +sb -fa 'DejaVu Sans Mono' -fs 18 \
        -fg '#e6edf3' -bg '#0d1117' "${colours[@]}" -e "$self" in_terminal "$work/ready" "$@" &
    xterm=$!
    for _ in {1..2400}; do [[ -e $work/ready ]] || sleep 0.05; done
    read -r window used code <"$work/ready" || { echo "pictures: xterm shows nothing of: $*" >&2; return 1; }
    ((code == expected)) || { echo "pictures: $*: exit code $code instead of $expected" >&2; return 1; }
    import -window "$window" "$picture"
    kill "$xterm"
    wait "$xterm" 2>/dev/null || true
    size=$(identify -format '%w %h' "$picture")
    mogrify -crop "${size% *}x$((40 + (${size#* } - 40) * used / lines))+0+0" +repage "$picture"
}

picture() { # NAME CODE COMMAND…
    local name=$1 lines=24
    shift
    shoot 60 "$work/all.png" "$@"
    ((!${#undo[@]})) || quietly 0 "${undo[@]}"
    # The cursor needs one, too.
    ((used < 24)) || lines=$((used + 1))
    shoot "$lines" "$work/$name.png" "$@"
    # What is text needs few colours.
    convert "$work/$name.png" +dither -colors 32 -strip "PNG8:$work/$name-8.png"
    optipng -quiet -o5 "$work/$name-8.png"
    cp "$work/$name-8.png" "docs/$name.png"
    printf 'docs/%s.png: %s lines, %s bytes\n' "$name" "$used" "$(stat -c %s "docs/$name.png")"
}

module() { # NAME VERSION OPTIONS…
    scratch_module / "$@" >/dev/null
    # As dkms writes it on a live system.
    ln -sfn "/usr/src/$1-$2" "/var/lib/dkms/$1/$2/source"
}

# The machine before the update: the old kernel runs, and all modules are there.
machine() {
    root=$work/root
    scratch_skeleton "$root"
    scratch_kernel "$root" native 6.15.7 1591
    scratch_booted "$root" "$old"
    mkdir -p "$root"/etc/{kernel/cmdline-removal.d,clr-dkms,dkms/framework.conf.d}
    # Each picture would show the number of another key.
    echo 'sign_file=/none' >"$root/etc/dkms/framework.conf.d/unsigned.conf"
    for directory in usr var etc; do
        mkdir "$work/$directory.work"
        mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$root/$directory,workdir=$work/$directory.work" "/$directory"
    done
    # And without what this machine has there itself.
    for place in usr/lib/{modules,kernel} var/{lib/dkms,lib/kernel,log} etc/{kernel,clr-dkms,os-release} run boot sys \
        proc/{cmdline,sys/kernel}; do
        mount --bind "$root/$place" "/$place"
    done
    mkdir "$work/tools"
    printf '#!/bin/sh\nSTAND_IN_ALLOW_HOST=1 %s "$@"\n' "$here/tests/support/clr-boot-manager" >"$work/tools/clr-boot-manager"
    printf '#!/bin/sh\n' | tee "$work/tools/motd-update.sh" >"$work/tools/systemctl"
    chmod a+x "$work"/tools/*
}
quietly() { # CODE COMMAND…
    local code=0
    "${@:2}" >"$work/output" 2>&1 || code=$?
    ((code == $1)) || { echo "pictures: $2: exit code $code instead of $1" >&2; cat "$work/output" >&2; exit 1; }
}
update() { # CODE of the run after it
    scratch_kernel / native 6.15.8 1592
    quietly "$1" clr-dkms-post-update
}

# One module of each class.
three() { # OPTIONS… of the wanted one
    module pool 2.3
    module hello 1.0 "$@"
    module webcam 0.9
    printf '%s\n' '[modules]' 'critical = pool' 'optional = webcam' >/etc/clr-dkms/clr-dkms.conf
    quietly 0 clr-dkms-post-update
}

scene_held() {
    machine
    three --broken-for '^6\.15\.8-'
    update 1
    picture status-held 1 clr-dkms status
}
scene_pending() {
    machine
    three
    update 0
    picture status-reboot-pending 0 clr-dkms status
}
# The module is in use, unsigned; an admin wants to be rid of the parameter, and takes a part of it away.
scene_refused() {
    machine
    module hello 1.0
    quietly 0 clr-dkms-post-update
    mkdir /sys/module/hello
    echo OE >/sys/module/hello/taint
    echo live >/sys/module/hello/initstate
    echo $((1 << 12 | 1 << 13)) >/proc/sys/kernel/tainted
    echo sig_unenforce >/etc/kernel/cmdline-removal.d/10-mine.conf
    quietly 0 "$work/tools/clr-boot-manager" update
    picture enforcement-refused 2 clr-dkms enforcement
}

# A source without a dkms.conf.
scene_add() {
    machine
    mkdir -p "$work/src/hello-1.0"
    export from=$work/src
    # The command is run twice.
    undo=(clr-dkms remove hello)
    printf '%s\n' '#include <linux/module.h>' 'static int __init hello_init(void) { return 0; }' \
        'module_init(hello_init);' 'MODULE_DESCRIPTION("hello");' 'MODULE_LICENSE("GPL");' >"$from/hello-1.0/hello.c"
    # shellcheck disable=SC2016 # make expands it
    printf '%s\n' 'obj-m := hello.o' 'KDIR ?= /lib/modules/$(shell uname -r)/build' 'all:' \
        $'\t$(MAKE) -C $(KDIR) M=$(CURDIR) modules' >"$from/hello-1.0/Makefile"
    quietly 0 clr-dkms-post-update
    picture add 0 clr-dkms add ./hello-1.0 --yes
}

case ${1-} in
    in_terminal) "$@"; exit ;;
    scene_*) ;;
    '')
        ((EUID == 0)) || { echo 'pictures: run it as root' >&2; exit 1; }
        mkdir -p docs target
        for scene in scene_held scene_pending scene_refused scene_add; do
            unshare --mount --propagation private "$self" "$scene"
        done
        exit ;;
    *) echo "usage: ${0##*/}, without arguments" >&2; exit 2 ;;
esac

unset NO_COLOR
export CLR_DKMS_TOOL_PATH SOURCE_DATE_EPOCH=1753704000 SCRATCH_CACHE=$here/target/scratch-cache
work=$(mktemp -d)
mount -t tmpfs tmpfs "$work"
trap 'kill $(jobs -p) 2>/dev/null; cd /; umount -l "$work"; rmdir "$work"' EXIT
CLR_DKMS_TOOL_PATH=$work/tools
PATH=${PROGRAMS:-$here/target/release}:$PATH
# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. tests/support/scratch-root.sh

colours=()
for colour in 1:ff7b72 2:56d364 3:e3b341 4:79c0ff 5:d2a8ff 6:76e3ea 8:8b949e 9:ffa198 10:7ee787 11:f2cc60 12:a5d6ff; do
    colours+=(-xrm "XTerm*color${colour%:*}: #${colour#*:}")
done
# It chooses a display that is free, and tells which.
Xvfb -displayfd 3 -screen 0 2000x3000x24 -nolisten tcp 3>"$work/display" 2>"$work/xvfb" &
for _ in {1..200}; do [[ -s $work/display ]] || sleep 0.05; done
DISPLAY=:$(cat "$work/display")
export DISPLAY
"$1"
