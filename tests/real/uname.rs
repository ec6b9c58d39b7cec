//! Modules whose Makefile builds for the running kernel, with the real dkms, make and compiler.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::scene::{A, Scene, entry};

const CONF: &str = "usr/src/alpha-1.0/dkms.conf";

fn builds_for(name: &str, version: &str, more: &str) -> Option<Scene> {
    let scene = Scene::with_kernel(name)?;
    scene.module("alpha", "1.0", &[]);
    let makefile = format!(
        "obj-m := alpha.o\nKVER := {version}\nall:\n\t$(MAKE) -C /lib/modules/$(KVER)/build M=$(CURDIR) modules\n\
         clean:\n"
    );
    scene.write("usr/src/alpha-1.0/Makefile", makefile);
    scene.write(CONF, format!("{}MAKE[0]=\"make all\"\nCLEAN=\"make clean\"\n{more}", scene.read(CONF)));
    Some(scene)
}

fn log(scene: &Scene) -> String {
    scene.read(&format!("var/log/clr-dkms/alpha/1.0/{A}.log"))
}

/// Hook scripts, and all other questions, get the system's own answer.
#[test]
fn a_makefile_that_asks_uname_is_given_the_right_kernel() {
    let more = "PRE_BUILD=hook.sh\n";
    let Some(scene) = builds_for("uname-healed", "$(shell uname -r)", more) else { return };
    let hook = "#!/bin/bash\nread -r running </proc/sys/kernel/osrelease\n\
                [[ $(uname -r) == \"$running\" && $(uname -s) == Linux ]] || exit 9\n";
    scene.write("usr/src/alpha-1.0/hook.sh", hook);
    let path = scene.path("usr/src/alpha-1.0/hook.sh");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    let log = log(&scene);
    assert!(log.contains("make -n: it builds for kernel"), "{log}");
    assert!(!log.contains("once more"), "one build is enough: {log}");
    scene.settled();
}

#[test]
fn a_module_that_builds_for_another_kernel_in_any_case_is_named_and_remembered() {
    let Some(scene) = builds_for("uname-fixed", "$(or 6.0.0-other,$(shell uname -r))", "") else { return };
    scene.record_calls("dkms");
    scene.post_update().exits(1);
    let calls = scene.calls("dkms");
    let record = scene.record();
    let module = entry(&record, "alpha/1.0", A);
    let error = &module["error"];
    assert_eq!(
        (&module["state"], &error["cause"], &error["fault"], &error["release"]),
        (&"build-failed".into(), &"packaging".into(), &"other-kernel".into(), &"6.0.0-other".into()),
        "{module:#}"
    );
    assert_eq!(error["line"], 2, "{error:#}");
    assert!(error["file"].as_str().unwrap().ends_with("/Makefile"), "{error:#}");
    scene.post_update().exits(1);
    assert_eq!(scene.calls("dkms"), calls);
}

/// The lines of a silent Makefile are seen, and those of one that calls make by its name.
#[test]
fn a_silent_makefile_is_seen_before_the_build() {
    let Some(scene) = builds_for("uname-silent", "$(shell uname -r)", "") else { return };
    let makefile = scene.read("usr/src/alpha-1.0/Makefile");
    let silent = makefile.replace("\t$(MAKE)", "\t@make -s");
    assert_ne!(silent, makefile);
    scene.write("usr/src/alpha-1.0/Makefile", silent);
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    let log = log(&scene);
    assert!(log.contains("make -n: it builds for kernel") && !log.contains("once more"), "{log}");
    scene.settled();
}

/// `make -n` may be wrong: the module is then built as it is.
#[test]
fn a_makefile_that_misleads_the_question_is_built() {
    let version = format!("$(if $(findstring n,$(firstword -$(MAKEFLAGS))),6.0.0-other,{A})");
    let Some(scene) = builds_for("uname-misled", &version, "") else { return };
    let makefile = scene.read("usr/src/alpha-1.0/Makefile");
    // It does not build where `uname` does not answer with the running kernel.
    let strict = makefile.replace("all:\n", &format!("all:\n\t@test \"$$(uname -r)\" != {A}\n"));
    scene.write("usr/src/alpha-1.0/Makefile", strict);
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    let log = log(&scene);
    let seen = log.contains("make -n: it builds for kernel 6.0.0-other");
    assert!(seen && log.contains("once more: as it is"), "{log}");
    scene.settled();
}

/// A Makefile that is right is built at once, and the question leaves nothing behind.
#[test]
fn a_makefile_that_is_given_the_kernel_is_built_at_once() {
    let Some(scene) = builds_for("uname-right", "$(KERNELRELEASE)", "") else { return };
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    let log = log(&scene);
    assert!(!log.contains("make -n") && !log.contains("once more"), "{log}");
    scene.settled();
}
