#!/bin/sh
# Plays the compiler of a package: make.sh RELEASE PACKAGE. A release without an object is one that the source does not
# support.
objects=/usr/share/vm/objects/$1/$2
if [ -d "$objects" ]; then
    exec cp "$objects"/*.ko .
fi
echo "$2.c:42:9: error: implicit declaration of function 'do_gettimeofday' [-Werror=implicit-function-declaration]" >&2
exit 2
