//! Where modules come from: an initrd that holds one, and the source that is compiled in the guest.

use super::{run, scene};
use crate::scene::Fact::{Loaded, LoadedByItself, Runs, Verdict};
use crate::scene::Step::{Do, Exits, Is, Reboot, Settle, Update};
use crate::scene::{A, B, Scene, When};

/// A freestanding initrd that holds a module for the kernel that runs at first.
pub(super) fn initrd() -> Scene {
    let copy = "mkdir -p /etc/kernel/initrd.d && cp /usr/share/vm/hello.cpio.gz /etc/kernel/initrd.d/ && clr-dkms-post-update";
    let from_initrd = "dmesg | grep -q 'initrd: loaded hello.ko'";
    scene(
        "initrd",
        "an initrd that holds a module",
        vec![
            run("an initrd with hello for 1591", copy),
            Settle,
            Reboot,
            run("", from_initrd),
            Is(LoadedByItself("hello")),
            Update(B),
            Reboot,
            Is(Runs(B)),
            Exits("", from_initrd.into(), 1),
            Is(LoadedByItself("hello")),
        ],
    )
}

/// The example of Clear's guide, really compiled.
pub(super) fn compiled() -> Scene {
    let headers = format!(
        "cd /usr/lib/modules/{A} && rm -r build && mkdir build && tar -C build -I zstd -xf /usr/share/vm/headers.tar.zst"
    );
    let source = "mkdir -p /root/custom/src && cd /root/custom && cat >dkms.conf <<'CONF'
MAKE=\"make -C src/ KERNELDIR=/lib/modules/${kernelver}/build\"
CLEAN=\"make -C src/ clean\"
BUILT_MODULE_NAME=custom_module
BUILT_MODULE_LOCATION=src/
PACKAGE_NAME=custom_module
PACKAGE_VERSION=1.0
DEST_MODULE_LOCATION=/kernel/drivers/other
AUTOINSTALL=yes
CONF
cat >src/Makefile <<'MAKE'
obj-m := custom_module.o
KERNELDIR ?= /lib/modules/$(shell uname -r)/build
all:
\t$(MAKE) -C $(KERNELDIR) M=$(CURDIR) modules
clean:
\t$(MAKE) -C $(KERNELDIR) M=$(CURDIR) clean
MAKE
sed 's/hello/custom/g' /usr/src/hello-1.0/hello.c >src/custom_module.c";
    let steps = vec![
        Do("the headers", headers),
        run("the example of the guide", source),
        run("clr-dkms add --load", "clr-dkms add /root/custom --yes --autoload --load"),
        Is(Loaded("custom_module")),
        Settle,
        Reboot,
        Is(LoadedByItself("custom_module")),
        Is(Verdict("healthy")),
    ];
    Scene {
        when: When::Long,
        ..scene("compiled", "clr-dkms add, from the source to the loaded module", steps)
    }
}
