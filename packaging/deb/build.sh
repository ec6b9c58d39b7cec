#!/usr/bin/env bash
# Builds a Debian package for trials: packaging/deb/build.sh DIRECTORY, called by `make deb`.
#
# The package contains what `make install` writes into a directory, so that there is only one list of files; cargo-deb
# would need a second one. The manifest of the installer is left out: dpkg has its own, and `make uninstall` must not
# remove files of a package. The settings BINDIR_FROM and PAGES_FROM of the installer apply, those of target directories
# do not.
set -euo pipefail
umask 022

out=$(realpath -- "${1:?DIRECTORY}")
here=$(dirname -- "${BASH_SOURCE[0]}")
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
package=$work/package

unset PREFIX BINDIR LIBEXECDIR UNITDIR DATADIR LICENSEDIR SYSCONFDIR LOCALSTATEDIR RUNSTATEDIR
DESTDIR=$package "$here/../install.sh" install
rm "$package/usr/share/clr-dkms/manifest"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)
architecture=$(dpkg --print-architecture)
# The newest version of a symbol that any of the programs needs.
glibc=$(objdump -T "$package"/usr/bin/clr-dkms* | grep -o 'GLIBC_[0-9][0-9.]*' | sed 's/GLIBC_//' | sort -uV | tail -n 1) || {
    echo "which version of glibc the programs need is unknown" >&2
    exit 1
}
mkdir "$package/DEBIAN"
sed "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@GLIBC@/$glibc/" "$here/control" >"$package/DEBIAN/control"
printf 'Installed-Size: %s\n' "$(du -sk --exclude=DEBIAN "$package" | cut -f 1)" >>"$work/size"
sed -i "/^Architecture:/r $work/size" "$package/DEBIAN/control"
install -m 755 -- "$here/postinst" "$here/prerm" "$here/postrm" "$package/DEBIAN"
(cd "$package" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$package/DEBIAN/md5sums"
dpkg-deb --root-owner-group --build "$package" "$out/clr-dkms_${version}_$architecture.deb"
