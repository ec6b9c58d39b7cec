#!/usr/bin/env bash
# Tests the Debian package and the spec file with the programs of BINDIR_FROM (target/release, else target/debug): what is
# in them is what `make install` installs, and nothing is left when they are removed. Works in scratch directories only; what
# needs a program that is not here is left out. The last line is "N passed, M failed".
set -uo pipefail
export LC_ALL=C
unset DESTDIR PREFIX BINDIR LIBEXECDIR UNITDIR DATADIR LICENSEDIR SYSCONFDIR LOCALSTATEDIR RUNSTATEDIR
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
PATH=$PATH:/usr/sbin:/sbin

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
# shellcheck disable=SC1091 # it lies beside this script, and is checked by itself
. "$top/tests/support/checks.sh"
built=$top/target/release
[[ -x $built/clr-dkms-pages ]] || built=$top/target/debug
[[ -x $built/clr-dkms-pages && -x $built/clr-dkms ]] || { echo 'the programs are not built: make build' >&2; exit 1; }
mkdir -p "$scratch/pages" "$scratch/wanted" "$scratch/programs"
export BINDIR_FROM=$scratch/programs PAGES_FROM=$scratch/pages
# A debug build has hundreds of megabytes of tables, which packing would take minutes for.
for program in clr-dkms{,-pre-update,-post-update,-cmdline,-motd,-variant}; do
    strip -o "$BINDIR_FROM/$program" "$built/$program" || exit 1
done
"$built/clr-dkms-pages" "$PAGES_FROM" || exit 1

same() { diff <(printf '%s\n' "$1") <(printf '%s\n' "$2"); }
# Every file and link below a directory, with mode and link text.
list() { (cd "$1" && find . ! -type d -printf '%m /%P %l\n' | sed 's/ $//' | sort); }

check 'the installer fills a directory' env DESTDIR="$scratch/wanted" "$top/packaging/install.sh" install
wanted=$(list "$scratch/wanted" | grep -v /clr-dkms/manifest)

# --- the Debian package ------------------------------------------------------------------------------------------------

# In a scratch root with a dpkg database of its own; maintainer scripts get DPKG_ROOT, and run without a chroot.
root="$scratch/a root"
deb() { dpkg --root="$root" --force-not-root,script-chrootless,depends --log=/dev/null "$@"; }
everything() { (cd "$root" && find . -path ./var/lib/dpkg -prune -o -printf '%y %m /%P %l\n' | sort); }

if has dpkg-deb && has dpkg; then
    check 'the package is made' "$top/packaging/deb/build.sh" "$scratch"
    package=$(echo "$scratch"/clr-dkms_*.deb)
    mkdir "$scratch/broken"
    printf '#!/bin/sh\nexit 1\n' >"$scratch/broken/objdump"
    chmod 755 "$scratch/broken/objdump"
    unmade() { ! PATH=$scratch/broken:$PATH "$top/packaging/deb/build.sh" "$scratch/broken" && ! ls "$scratch"/broken/*.deb; }
    check 'without the version of glibc no package is made' unmade
    check 'the package holds what is installed' same "$wanted" \
        "$(mkdir "$scratch/taken" && dpkg-deb -x "$package" "$scratch/taken" && list "$scratch/taken")"
    check 'its files belong to root' same "$(dpkg-deb -c "$package" | awk '{ print $2 }' | sort -u)" root/root
    check 'its control file is whole' same "$(dpkg-deb -f "$package" Package Version | sed 's/[0-9].*/V/')" $'Package: clr-dkms\nVersion: V'

    mkdir -p "$root"/{etc/kernel,run/swupd,usr/{bin,lib/kernel,lib/systemd/catalog,share/man/man8},var/lib/{dpkg/updates,dpkg/info,dkms,kernel},var/cache,var/log}
    touch "$root/var/lib/dpkg/status" "$root/var/lib/dpkg/available"
    release=6.15.7-1591.native
    mkdir -p "$root/usr/lib/modules/$release"
    echo image >"$root/usr/lib/kernel/org.clearlinux.native.6.15.7-1591"
    ln -s org.clearlinux.native.6.15.7-1591 "$root/usr/lib/kernel/default-native"
    echo quiet >"$root/usr/lib/kernel/cmdline-$release"
    echo CONFIG_MODULE_SIG_FORCE=y >"$root/usr/lib/kernel/config-$release"
    # Other packages use these directories too; else dpkg takes empty ones for ours.
    touch "$root"/usr/{bin,lib/systemd/catalog,share/man/man8}/of-others
    before=$(everything)
    check 'it is installed' deb -i "$package"
    # The catalog's database is a file of systemd, made of the catalogs of everybody.
    check 'all is there' same "$wanted" "$(list "$root" | grep -v ' /var/lib/\| /run/\|/of-others$\|/usr/lib/kernel/')"
    check 'dpkg finds nothing altered' same "$(deb -V clr-dkms 2>&1)" ''
    for page in clr-dkms-status.8 clr-dkms.conf.5; do
        check "$page is owned" same "$(deb -S "$page" | sed 's/:.*//')" clr-dkms
    done
    check 'the programs start' "$root/usr/bin/clr-dkms" --version
    # What a use leaves: a mark for swupd, a fragment of ours, records, logs.
    printf '[GLOBAL]\n# of an admin\n' >"$root/run/swupd/config"
    cat "$root/run/swupd/config" - >"$scratch/armed" <<'END'
# clr-dkms: the boot files change after the DKMS modules are proven; this goes with the next reboot
[update]
no_boot_update=true
# clr-dkms: end
END
    cp "$scratch/armed" "$root/run/swupd/config"
    "$root/usr/bin/clr-dkms-cmdline" -q --root "$root" disable --no-refresh >/dev/null
    check 'a mask is in /etc' test -L "$root/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf"
    mkdir -p "$root"/{run/clr-dkms,run/motd.d,var/log/clr-dkms/hello,var/cache/clr-dkms}
    echo '# HELP clr_dkms_verdict x' >"$root/var/lib/clr-dkms.prom"
    ln -s /var/lib/clr-dkms.prom "$root/var/lib/clr-dkms/metrics"
    touch "$root"/{run/clr-dkms.lock,run/motd.d/clr-dkms.motd,var/log/clr-dkms/hello/log,var/cache/clr-dkms/x}
    check 'installed again, over itself' deb -i "$package"
    check 'an upgrade leaves records and logs' test -e "$root/var/log/clr-dkms/hello/log"
    check 'it is removed' deb -r clr-dkms
    check 'removed: swupd has no setting of ours any more' same "$(cat "$root/run/swupd/config")" $'[GLOBAL]\n# of an admin'
    check 'removed: no mask in /etc' test ! -L "$root/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf"
    check 'removed: no metrics' test ! -e "$root/var/lib/clr-dkms.prom"
    check 'removed: no program' test ! -e "$root/usr/bin/clr-dkms"
    check 'removed: logs stay until a purge' test -e "$root/var/log/clr-dkms/hello/log"
    check 'it is purged' deb -P clr-dkms
    rm -f "$root/run/swupd/config" "$root/var/lib/systemd/catalog/database"
    find "$root" -depth -type d '(' -path '*/run/motd.d' -o -path '*/var/lib/systemd*' ')' -empty -delete
    check 'no trace is left' same "$before" "$(everything)"
fi

# --- the spec file -----------------------------------------------------------------------------------------------------

# Built of what is compiled already: what is tested is the list of files, not the compiler.
if has rpmbuild; then
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)
    check 'the spec has the version of Cargo.toml' grep -qx "Version *: $version" "$top/packaging/clr-dkms.spec"
    source=$scratch/clr-dkms-$version
    mkdir -p "$source/target/release" "$scratch/rpm/SOURCES"
    (cd "$top" && cp -R Makefile Cargo.* LICENSE-* README.md packaging hooks systemd cmdline.d motd.d man "$source")
    mkdir -p "$source/tests/support"
    cp "$top"/tests/support/{run-as,ensure-packages}.sh "$source/tests/support"
    cp "$BINDIR_FROM"/* "$source/target/release/"
    # It is started by make build, and writes what it wrote here.
    ln -s "$built/clr-dkms-pages" "$source/target/release/clr-dkms-pages"
    tar -C "$scratch" -czf "$scratch/rpm/SOURCES/clr-dkms-$version.tar.gz" "clr-dkms-$version"
    # `true` in place of cargo compiles nothing. Debug packages need tools that have no part in this.
    check 'rpmbuild makes the packages' rpmbuild --quiet -bb --nodeps --define "_topdir $scratch/rpm" --define 'cargo true' \
        --define 'debug_package %{nil}' --define '_unpackaged_files_terminate_build 1' "$top/packaging/clr-dkms.spec"
    for rpm in "$scratch"/rpm/RPMS/*/*.rpm; do
        rpm -qp --qf '[%{FILEMODES:octal} %{FILENAMES} %{FILELINKTOS}\n]' "$rpm" 2>/dev/null
    done | grep -v '^4' | sed 's/^1[02]0*//; s/ $//' | sort -u >"$scratch/in-rpms"
    check 'the packages hold what is installed' same "$wanted" "$(sort "$scratch/in-rpms")"
fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[[ $failed == 0 ]]
