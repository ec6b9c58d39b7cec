#!/usr/bin/env bash
# Scratch roots: directories laid out like a Clear Linux system, with kernels whose
# headers really build modules, worked on by the host's real dkms.
#
# To be sourced, or called as `scratch-root.sh FUNCTION ARGS…`:
#   scratch_skeleton ROOT             the bare directories
#   scratch_running  ROOT RELEASE     what `uname -r` says there
#   scratch_booted   ROOT RELEASE     that, and all else that a kernel says which was started with module.sig_unenforce
#   scratch_kernel   ROOT VARIANT VERSION RELNUM [--no-headers]
#   scratch_headers  ROOT RELEASE     headers that say RELEASE, VERSION-RELNUM.VARIANT
#   scratch_module   ROOT NAME VERSION [--autoinstall yes|no|'']
#                    [--broken-for REGEX] [--built-name N]… [--files N]
#   scratch_many     ROOT MODULES KERNELS      as if so many modules were installed on so many kernels, without a build
#   scratch_dkms     ROOT ARGS…       the real dkms, in the root
# ROOT's path must not contain blanks. The merged headers (60 MB, made once, then
# shared by hard links) are kept in $SCRATCH_CACHE, by default ROOT/../.headers-cache;
# it should be on the filesystem of the roots. So never write into a file below
# usr/lib/modules/*/build: all kernels share it. Replace it (write aside, then mv).
set -euo pipefail

# dkms and depmod live in sbin, which the PATH of Debian's users leaves out.
PATH=$PATH:/usr/sbin:/sbin

_scratch_die() {
    printf 'scratch-root: %s\n' "$*" >&2
    return 1
}

# The real path of ROOT: dkms compares what `readlink -f` says about its links
# with the text of --dkmstree, so below a symbolic link nothing is "installed".
# dkms and kbuild leave their paths unquoted: no blanks.
_scratch_root() {
    local root
    root=$(realpath -m -- "${1:?ROOT}") || return
    [[ $root != *[[:space:]]* ]] || _scratch_die "dkms needs a path without blanks: $root" || return
    printf '%s\n' "$root"
}

scratch_skeleton() {
    local root
    root=$(_scratch_root "$@") || return
    # dkms 3.0.10 expects nothing in var/lib/dkms (no dkms_dbversion file): it
    # only wants the directory to be there and writable.
    mkdir -p "$root"/usr/{bin,src,lib/{kernel,modules,motd.d}} \
        "$root"/usr/share/{kernel/cmdline.d,clear/bundles,defaults} \
        "$root"/var/{log,lib/{dkms,kernel}} \
        "$root"/{etc,run,boot,tmp,proc/sys/kernel} || return
    ln -sfn usr/lib "$root/lib" && ln -sfn usr/bin "$root/bin" && chmod 1777 "$root/tmp" || return
    printf '%s\n' 'NAME="Clear Linux OS"' ID=clear-linux-os VERSION_ID=43670 \
        'PRETTY_NAME="Clear Linux OS"' >"$root/etc/os-release"
}

scratch_running() {
    printf '%s\n' "${2:?RELEASE}" >"$1/proc/sys/kernel/osrelease"
}

# The fragment and the mark of the good kernel too: this is how an update finds a machine with the DKMS bundle.
scratch_booted() {
    local root release=${2:?RELEASE} here=${BASH_SOURCE[0]%/*}
    root=$(_scratch_root "$1") && scratch_running "$root" "$release" &&
        cp "$here/../../cmdline.d/clr-ignore-mod-sig.conf" "$root/usr/share/kernel/cmdline.d/" &&
        touch "$root/var/lib/kernel/k_booted_$release" &&
        mkdir -p "$root/sys/module/module/parameters" "$root/sys/kernel/security" || return
    printf 'initrd=\\EFI\\x root=PARTUUID=1 %s module.sig_unenforce\n' \
        "$(tr '\n' ' ' <"$root/usr/lib/kernel/cmdline-$release")" >"$root/proc/cmdline" &&
        echo Y | tee "$root"/sys/module/module/parameters/sig_{,un}enforce >/dev/null &&
        echo 0 | tee "$root"/proc/sys/kernel/{modules_disabled,tainted} >/dev/null &&
        printf capability >"$root/sys/kernel/security/lsm"
}

# Clear's answers where the project looks at a kernel's configuration.
_scratch_config='CONFIG_MODULE_SIG=y
CONFIG_MODULE_SIG_FORCE=y
CONFIG_MODULE_SIG_ALL=y
CONFIG_MODULE_SIG_SHA512=y
CONFIG_MODULE_SIG_HASH="sha512"
CONFIG_MODULE_COMPRESS_ZSTD=y
# CONFIG_SECURITY_LOCKDOWN_LSM is not set
# CONFIG_INTEGRITY is not set'

# _scratch_ko FILE NAME RELEASE ALIAS: one of the kernel's own modules, as far as
# depmod and modinfo look at it: an ELF object with a .modinfo section. dkms
# compresses what it builds as these are; with SCRATCH_PLAIN=1 they are not.
_scratch_ko() {
    mkdir -p "${1%/*}" || return
    { printf '.section .modinfo,"a"\n' && printf '.asciz "%s"\n' license=GPL depends= intree=Y \
        "name=$2" "vermagic=$3 SMP preempt mod_unload modversions " "alias=$4"; } |
        as -o "$1" - && { [[ ${SCRATCH_PLAIN-} == 1 ]] || zstd -q --rm -f "$1"; }
}

# As swupd puts it there, modules.dep included. The last kernel of a variant that
# was put there becomes its tip (default-VARIANT).
scratch_kernel() {
    (($# >= 4)) || _scratch_die "scratch_kernel ROOT VARIANT VERSION RELNUM" || return
    local root variant=$2 name=$3-$4 release=$3-$4.$2 boot modules id
    root=$(_scratch_root "$1") || return
    boot=$root/usr/lib/kernel modules=$root/usr/lib/modules/$release
    id=org.clearlinux.$variant.$name
    { head -c 4096 /dev/zero && printf '%s scratch kernel\n' "$release"; } >"$boot/$id" || return
    printf '%s\n' quiet console=tty0 cryptomgr.notests init=/usr/bin/initra-desktop \
        intel_iommu=igfx_off no_timer_check rootfstype=ext4,btrfs,xfs,f2fs rw \
        >"$boot/cmdline-$name.$variant"
    printf '# Linux/x86 %s Kernel Configuration\n%s\n' "$3" "$_scratch_config" \
        >"$boot/config-$name.$variant"
    printf 'ffffffff81000000 T _text\n' >"$boot/System.map-$name.$variant"
    ln -sfn "$id" "$boot/default-$variant"

    _scratch_ko "$modules/kernel/drivers/net/dummy.ko" dummy "$release" rtnl-link-dummy &&
        _scratch_ko "$modules/kernel/drivers/block/loop.ko" loop "$release" 'block-major-7-*' || return
    # depmod warns when one of these three is missing.
    printf 'kernel/drivers/%s.ko\n' block/loop net/dummy >"$modules/modules.order"
    printf 'kernel/fs/%s.ko\n' ext4/ext4 btrfs/btrfs >"$modules/modules.builtin"
    # sig_unenforce tells a kernel with Clear's patch.
    printf '%s\0' ext4.license=GPL ext4.file=fs/ext4/ext4 ext4.alias=fs-ext4 \
        signing.parmtype={sig_enforce,sig_unenforce}:bool_enable_only \
        >"$modules/modules.builtin.modinfo"
    depmod -b "$root" "$release" || return
    [[ ${5:-} == --no-headers ]] || scratch_headers "$root" "$release"
}

# The directory of the newest headers on this host: Debian's architecture-specific
# one (without the realtime and cloud flavours), or Clear's own build directory.
_scratch_headers_source() {
    local found
    found=$(find /usr/src/linux-headers-* /usr/lib/modules/*/build -maxdepth 1 -name Module.symvers \
        2>/dev/null | grep -vE -e '-(rt|cloud)-' | sort -V | tail -n 1) || true
    [[ $found ]] || _scratch_die "no kernel headers on this host (linux-headers-amd64)" || return
    printf '%s\n' "${found%/Module.symvers}"
}

# _scratch_headers_merge SOURCE TREE: one real directory, as Clear's linux-dev has
# it, from Debian's three packages. Real copies and no links into the host: a
# hard link would hand the host's files to every careless test. The two files
# that name the release stay out.
_scratch_headers_merge() {
    local from=$1 tree=$2 common arch keys copy=(cp -a --reflink=auto)
    mkdir -p "$tree"
    common=$(sed -n 's|^include \(.*\)/Makefile$|\1|p' "$from/Makefile")
    if [[ ! $common ]]; then
        "${copy[@]}" "$from/." "$tree" || return
    else
        arch=$(cd "$from/arch" && printf '%s' *)
        # Without .kernelvariables, which sets KERNELRELEASE by force, and without
        # the 6,400 empty marker files in include/config: only a build of the
        # kernel itself reads those.
        mkdir "$tree/arch" &&
            "${copy[@]}" "$common"/{Makefile,include} "$tree" &&
            "${copy[@]}" "$common/arch/$arch" "$tree/arch" &&
            "${copy[@]}" "$(readlink -f "$from/scripts")" "$tree/scripts" &&
            "${copy[@]}" "$(readlink -f "$from/tools")" "$tree/tools" &&
            LC_ALL=C tar -C "$from" --exclude='include/config/[A-Z0-9]*' -cf - \
                arch include .config Module.symvers | tar -C "$tree" -xf - || return
    fi
    rm -f "$tree"/include/{config/kernel.release,generated/utsrelease.h} || return
    # Only dkms reads .config (BUILD_EXCLUSIVE_CONFIG, the hash to sign with). What
    # is compiled follows auto.conf: it stays as it is, but for the compiler's name,
    # or kbuild warns of `gcc` where `gcc-12` built the kernel. version.h keeps the
    # headers' true version, so that real modules compile.
    keys=$(sed -E 's/^(# )?(CONFIG_\w+).*/\2/' <<<"$_scratch_config" | paste -sd '|')
    sed -i -E 's/^(CONFIG_CC_VERSION_TEXT="?gcc)-[0-9]+ /\1 /' "$tree"/{.config,include/config/auto.conf} &&
        sed -i -E "/^(# )?($keys|CONFIG_MODULE_(SIG_SHA|COMPRESS_)[A-Z0-9]+)[ =]/d" "$tree/.config" &&
        printf '%s\n' "$_scratch_config" >>"$tree/.config"
}

# _scratch_headers_cached CACHE: prints the merged tree, and makes it first if it
# has to. Tests run side by side: one makes it, the others wait for the lock.
_scratch_headers_cached() (
    from=$(_scratch_headers_source) && mkdir -p "$1" || exit
    # In a shared directory like /tmp it may be a stranger's.
    # That of a user in the user's own tree is fine for root.
    [[ -O $1 ]] || { ((EUID == 0)) && [[ $(stat -c %u "$1") == $(stat -c %u "$1/..") ]]; } ||
        _scratch_die "$1 belongs to someone else: set SCRATCH_CACHE" || exit
    # An update of the headers, and a change of the recipe above, give a new key.
    tree=${from#/usr/} tree=$1/${tree//\//-}-$(stat -c %Y "$from/Module.symvers")-r1
    exec {lock}>"$1/.lock" && flock "$lock" || exit
    if [[ ! -d $tree ]]; then
        rm -rf "$tree.part" && _scratch_headers_merge "$from" "$tree.part" &&
            mv -T "$tree.part" "$tree" || exit
    fi
    printf '%s\n' "$tree"
)

scratch_headers() {
    local root release=${2:?RELEASE} tree build how=-al
    root=$(_scratch_root "$1") && build=$root/usr/lib/modules/$release/build &&
        tree=$(_scratch_headers_cached "${SCRATCH_CACHE:-$root/../.headers-cache}") || return
    rm -rf "$build" && mkdir -p "$build" || return
    # One file tells whether links work: same filesystem, links allowed. kbuild
    # takes a module's vermagic from the two files that are added.
    ln "$tree/Makefile" "$build/" 2>/dev/null || how=-a
    cp -f $how --reflink=auto "$tree/." "$build" &&
        printf '%s\n' "$release" >"$build/include/config/kernel.release" &&
        printf '#define UTS_RELEASE "%s"\n' "$release" >"$build/include/generated/utsrelease.h"
}

# _scratch_source NAME VERSION: a module that compiles, unless the Makefile asks
# for a call that kernels lost in 5.0: the usual reason why one stops to compile.
_scratch_source() {
    cat <<END
// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
static int __init scratch_init(void)
{
#ifdef SCRATCH_OLD_TIME_API
	struct timeval now;
	do_gettimeofday(&now);
#endif
	return 0;
}
static void __exit scratch_exit(void) { }
module_init(scratch_init); module_exit(scratch_exit);
MODULE_LICENSE("GPL"); MODULE_AUTHOR("scratch-root.sh"); MODULE_VERSION("$2");
MODULE_DESCRIPTION("$1, a module that does nothing");
END
}

# One more file of a module, of about 560 lines, as drivers have them: what it includes is most of its work.
_scratch_part() {
    local n
    printf '#include <linux/%s.h>\n' module pci usb netdevice interrupt slab workqueue
    for ((n = 0; n < 80; n++)); do
        cat <<END
int part$1_$n(struct net_device *device, const char *text, size_t length);
int part$1_$n(struct net_device *device, const char *text, size_t length)
{
	size_t i, sum = $n;
	for (i = 0; i < length; i++) sum = sum * 31 + text[i];
	return device && netif_running(device) ? sum & 0x7fff : -ENODEV;
}
END
    done
}

# Called again for the same NAME and VERSION it only writes the source again:
# that is how a broken module is repaired.
# dkms 3.0.10 takes AUTOINSTALL="no" for yes, as all before 3.1.7.
scratch_module() {
    (($# >= 3)) || _scratch_die "scratch_module ROOT NAME VERSION [OPTIONS]" || return
    local root name=$2 version=$3 autoinstall=yes broken='' files=1 source i names=()
    root=$(_scratch_root "$1") || return
    shift 3
    while (($#)); do
        case $1 in
            --autoinstall) autoinstall=${2?} ;;
            --broken-for) broken=${2:?} ;;
            --built-name) names+=("${2:?}") ;;
            --files) files=${2:?} ;;
            *) _scratch_die "scratch_module: what is $1?" || return ;;
        esac
        shift 2
    done
    ((${#names[@]})) || names=("$name")
    source=$root/usr/src/$name-$version
    rm -rf "$source" && mkdir -p "$source" || return
    printf '%s="%s"\n' PACKAGE_NAME "$name" PACKAGE_VERSION "$version" \
        AUTOINSTALL "$autoinstall" >"$source/dkms.conf"
    for i in "${!names[@]}"; do
        # Clear's and Debian's dkms install into updates/dkms whatever stands here.
        printf '%s[%d]="%s"\n' BUILT_MODULE_NAME "$i" "${names[i]}" \
            DEST_MODULE_LOCATION "$i" /updates/dkms >>"$source/dkms.conf"
        _scratch_source "${names[i]}" "$version" >"$source/${names[i]}.c"
    done
    printf 'obj-m := %s\n' "${names[*]/%/.o}" >"$source/Makefile"
    if ((files > 1)); then
        ((${#names[@]} == 1)) || _scratch_die "scratch_module: --files is for one module" || return
        mv "$source/$name.c" "$source/main.c" || return
        for ((i = 1; i < files; i++)); do _scratch_part "$i" >"$source/part$i.c"; done
        printf '%s-y := main.o%s\n' "$name" "$(seq -f ' part%g.o' -s '' $((files - 1)))" >>"$source/Makefile"
    fi
    if [[ $broken ]]; then
        # In a file of its own the expression needs no quoting for make.
        printf '%s\n' "$broken" >"$source/broken-for.regex"
        # shellcheck disable=SC2016 # for make to expand
        printf '%s\n' 'regex := $(src)/broken-for.regex' \
            "ifneq (\$(shell echo '\$(KERNELRELEASE)' | grep -E -f '\$(regex)'),)" \
            'ccflags-y += -DSCRATCH_OLD_TIME_API' endif >>"$source/Makefile"
    fi
    [[ -L $root/var/lib/dkms/$name/$version/source ]] || scratch_dkms "$root" add "$name/$version"
}

# What dkms and depmod would leave on disk: modules m0 … on the kernels of variants v0 …, each the tip of its own. No
# headers but the files that tell whose they are; an index as long as that of a distribution's kernel.
scratch_many() {
    (($# == 3)) || _scratch_die "scratch_many ROOT MODULES KERNELS" || return
    local root arch k m release modules first='' ko built installed
    root=$(_scratch_root "$1") && arch=$(uname -m) && ko=$root/tmp/many.ko || return
    for ((m = 0; m < $2; m++)); do
        mkdir -p "$root/usr/src/m$m-1.0" "$root/var/lib/dkms/m$m/1.0" &&
            ln -s "../../../../../usr/src/m$m-1.0" "$root/var/lib/dkms/m$m/1.0/source" || return
        printf '%s="%s"\n' PACKAGE_NAME "m$m" PACKAGE_VERSION 1.0 'BUILT_MODULE_NAME[0]' "m$m" \
            'DEST_MODULE_LOCATION[0]' /updates/dkms AUTOINSTALL yes >"$root/usr/src/m$m-1.0/dkms.conf"
    done
    for ((k = 0; k < $3; k++)); do
        release=6.15.$k-1591.v$k modules=$root/usr/lib/modules/6.15.$k-1591.v$k
        scratch_kernel "$root" "v$k" "6.15.$k" 1591 --no-headers || return
        mkdir -p "$modules"/{build/include/config,updates/dkms} &&
            printf '%s\n' "$release" >"$modules/build/include/config/kernel.release" &&
            printf 'CONFIG_MODULES=y\n' | tee "$modules/build/.config" >"$modules/build/Makefile" &&
            SCRATCH_PLAIN=1 _scratch_ko "$ko" many "$release" many || return
        built=() installed=()
        for ((m = 0; m < $2; m++)); do
            built+=("$root/var/lib/dkms/m$m/1.0/$release/$arch/module")
            installed+=("$modules/updates/dkms/m$m.ko")
            ln -s "1.0/$release/$arch" "$root/var/lib/dkms/m$m/kernel-$release-$arch" || return
        done
        mkdir -p "${built[@]}" || return
        for ((m = 0; m < $2; m++)); do built[m]+=/m$m.ko; done
        tee "${built[@]}" "${installed[@]}" <"$ko" >/dev/null || return
        if [[ $first ]]; then
            # It names no kernel.
            cp -p "$first"/modules.* "$modules" || return
        else
            first=$modules
            # shellcheck disable=SC2016 # for the inner shell
            mkdir -p "$modules/kernel/others" &&
                printf '%s\n' "$modules/kernel/others/other_module_"{1..4000}.ko |
                xargs -n 500 sh -c 'tee "$@" <"$0" >/dev/null' "$ko" &&
                depmod -b "$root" "$release" && rm -rf "$modules/kernel/others" || return
        fi
    done
    rm -f "$ko"
}

# What dkms 3.0.10 does with a tree elsewhere, read in its source and tried:
# - Compression: it looks for `.zst:` in the host's own /lib/modules/K/modules.dep
#   only, so modules stay plain `.ko` here. (--directive can force `.ko.zst`, but
#   calls without it then take the module for not built.)
# - Signing: it looks for sign-file on the host only, and makes and uses the host's
#   /var/lib/dkms/mok.key whatever --dkmstree says; but its environment may name all
#   three. As on Clear, modules are then signed by a key that no kernel knows.
# - Its depmod means the host's /lib/modules: always --no-depmod. For modules.dep
#   in the root run `depmod -b ROOT K` afterwards.
# - A `[` in the path: add, build and install work, but it takes paths for patterns:
#   `status` is empty, nothing counts as installed, `unbuild` leaves the module in
#   place. So dkms sees such a root under another name (a private bind mount).
# - `source` links hold the path of the root. They are made relative: the same to
#   dkms, true inside and outside of the root, and after a move.
scratch_dkms() (
    root=$(_scratch_root "$1") && shift || exit
    [[ -d $root/var/lib/dkms ]] || _scratch_die "no scratch root: $root" || exit
    kernel='' view=$root run=()
    for ((i = 1; i <= $#; i++)); do
        case ${!i} in
            # One --kernelsourcedir serves a whole call: a second kernel would get
            # a module with the vermagic of the first.
            -k) [[ ! $kernel ]] || _scratch_die "dkms: one -k a call" || exit
                i=$((i + 1)) && kernel=${!i%%/*} ;;
            -k* | --kernelver*) _scratch_die "dkms: write it as -k RELEASE" || exit ;;
        esac
    done
    # Without -k it would be the host's running kernel, with the host's headers.
    [[ $kernel || ! " $* " =~ \ (build|(auto)?install)\  ]] || _scratch_die "dkms $*: which -k?" || exit

    # dkms install wants to be root; in a user namespace of its own will do.
    ((EUID == 0)) || run=(unshare --map-root-user)
    if [[ $root == *[!A-Za-z0-9/._+,@=-]* ]]; then
        view=$(mktemp -d /tmp/scratch-root.$$.XXXXXX) && trap 'rmdir "$view"' EXIT || exit
        # shellcheck disable=SC2016 # expands in the inner shell
        run=("${run[@]:-unshare}" --mount sh -c \
            'mount --rbind "$1" "$2" && shift 2 && exec "$@"' sh "$root" "$view")
    fi
    modules=$view/usr/lib/modules
    run+=(dkms "$@" --dkmstree "$view/var/lib/dkms" --sourcetree "$view/usr/src"
        --installtree "$modules" --no-depmod)
    [[ ! $kernel ]] || run+=(--kernelsourcedir "$modules/$kernel/build")
    # Called from make or a build script, these would reach kbuild.
    unset MAKEFLAGS MFLAGS MAKELEVEL ARCH CROSS_COMPILE ADDON_MODULES_DIR
    export LC_ALL=C sign_file=$modules/$kernel/build/scripts/sign-file \
        mok_signing_key=$view/var/lib/dkms/mok.key mok_certificate=$view/var/lib/dkms/mok.pub
    status=0
    "${run[@]}" || status=$?
    for link in "$root"/var/lib/dkms/*/*/source; do
        [[ -L $link && $(readlink "$link") == "$view"/usr/src/* ]] || continue
        # -T goes by rename(2): another dkms may be reading it.
        ln -sfT "../../../../../usr/src/$(basename "$(readlink "$link")")" "$link" || exit
    done
    exit "$status"
)

# Called and not sourced: the first argument is the function.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    [[ ${1:-} == scratch_?* ]] || _scratch_die "usage: ${0##*/} scratch_FUNCTION ARGS… (see its top)"
    "$@"
fi
