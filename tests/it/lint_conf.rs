//! `clr-dkms lint`: every finding on a `dkms.conf`, with its line.

use crate::lint::{GOOD, found, system};

/// What is replaced in the good file by what, and what comes of it.
const CONFS: &[(&str, &str, &[&str])] = &[
    ("", "", &[]),
    ("PACKAGE_NAME=\"hello\"\n", "", &["name-missing error -"]),
    ("PACKAGE_NAME=\"hello\"", "PACKAGE_NAME=", &["name-missing error 1"]),
    ("PACKAGE_VERSION=\"1.0\"\n", "", &["version-missing error -"]),
    ("PACKAGE_NAME=\"hello\"", "PACKAGE_NAME=hallo", &["name-differs warning 1"]),
    ("PACKAGE_VERSION=\"1.0\"", "PACKAGE_VERSION=1.1", &["version-differs warning 2"]),
    (
        "=\"hello\"",
        "=\"he llo\"",
        &["name-unusable warning 1", "name-differs warning 1", "module-name-unusable warning 3"],
    ),
    ("AUTOINSTALL=\"yes\"\n", "", &["autoinstall-missing warning -"]),
    ("AUTOINSTALL=\"yes\"", "AUTOINSTALL=\"\"", &["autoinstall-missing warning 5"]),
    ("AUTOINSTALL=\"yes\"", "AUTOINSTALL=YES", &[]),
    ("AUTOINSTALL=\"yes\"", "AUTOINSTALL=No", &["autoinstall-no warning 5"]),
    ("AUTOINSTALL=\"yes\"", "AUTOINSTALL=true", &["autoinstall-word error 5"]),
    (
        "AUTOINSTALL=\"yes\"",
        "AUTOINSTALL = yes",
        &["autoinstall-missing warning -", "blank-at-equals warning 5"],
    ),
    ("AUTOINSTALL=", "X='AUTOINSTALL=no'; AUTOINSTALL=", &[]),
    // Bash says line 6, where it gave up.
    ("\"1.0\"", "\"1.0", &["unterminated-quote error 2"]),
    ("AUTOINSTALL=\"yes\"", "AUTOINSTALL=\"yes", &["unterminated-quote error 5"]),
    ("\"1.0\"", "\"1.0\nMAKE=\"(a; b)\"", &["unterminated-quote error 2"]),
    ("AUTOINSTALL=", "if true; then\nAUTOINSTALL=", &["syntax-error error 6"]),
    ("AUTOINSTALL=", ") \nAUTOINSTALL=", &["syntax-error error 5"]),
    ("AUTOINSTALL=", "MAKE=\"make\nCLEAN=\"make\nAUTOINSTALL=", &["quote-swallows warning 5"]),
    ("DEST_MODULE_LOCATION[0]=\"/extra\"\n", "", &["destination-missing error -"]),
    ("\"/extra\"", "\"/lib/modules\"", &["destination error 4"]),
    ("\"/extra\"", "\"/kernel/../../../etc\"", &["destination warning 4"]),
    ("\"/extra\"", "/extras", &["destination warning 4"]),
    ("\"/extra\"", "/kernel/../updates/", &["destination advice 4"]),
    ("\"/extra\"", "/kernel/drivers/net/", &[]),
    (
        "\"/extra\"",
        "/extra\nDEST_MODULE_LOCATION[1]=/x\nBUILT_MODULE_NAME[1]=b.ko",
        &["destination error 5", "module-name-ending error 6"],
    ),
    ("[0]=\"/extra\"", "[0]=/extra\nDEST_MODULE_LOCATION[1]=/extra", &["module-name-missing error 5"]),
    ("BUILT_MODULE_NAME[0]=\"hello\"\n", "", &[]),
    (
        "AUTOINSTALL=",
        "CLEAN=\"make clean\"\nREMAKE_INITRD=no\nAUTOINSTALL=",
        &["deprecated advice 5", "deprecated advice 6"],
    ),
    ("AUTOINSTALL=", "CLEAN=true\nAUTOINSTALL=", &[]),
    ("AUTOINSTALL=", "BUILD_DEPENDS[0]=nothing\nAUTOINSTALL=", &["depends-unknown warning 5"]),
    ("AUTOINSTALL=", "BUILD_DEPENDS=(hello)\nAUTOINSTALL=", &["depends-itself error 5"]),
    ("AUTOINSTALL=", "BUILD_EXCLUSIVE_KERNEL='^5\\.'\nAUTOINSTALL=", &["excluded warning 5"]),
    ("AUTOINSTALL=", "BUILD_EXCLUSIVE_KERNEL='^6\\.'\nAUTOINSTALL=", &[]),
    ("AUTOINSTALL=", "BUILD_EXCLUSIVE_ARCH=vax\nAUTOINSTALL=", &["excluded warning 5"]),
    (
        "AUTOINSTALL=",
        "BUILD_EXCLUSIVE_CONFIG='CONFIG_MODULES CONFIG_X'\nAUTOINSTALL=",
        &["excluded warning 5"],
    ),
    (
        "AUTOINSTALL=",
        "BUILD_EXCLUSIVE_KERNEL_MIN=7\nBUILD_EXCLUSIVE_KERNEL_MAX=6.1\nOBSOLETE_BY=6.2\nAUTOINSTALL=",
        &["excluded warning 5", "excluded warning 6", "excluded warning 7"],
    ),
    ("\n", "\r\n", &["carriage-return error 1"]),
    ("AUTOINSTALL=", "X=a\0b\nAUTOINSTALL=", &["not-text warning 5"]),
    ("AUTOINSTALL=", "kill -9 $$\nAUTOINSTALL=", &["no-answer error -"]),
    ("AUTOINSTALL=", "PACKAGE_NAME=$'\\xff'\nAUTOINSTALL=", &["no-answer error -"]),
    // What a static reader alone would take for a fault.
    ("AUTOINSTALL=", "i=0\nX=\"it's\" # isn't it\ncat <<E >/dev/null\nit's \"\nE\nAUTOINSTALL=", &[]),
    ("\"/extra\"", "\"$(echo /ex)tra\"", &[]),
    ("\"yes\"", "$(test -f $kernel_source_dir/.config && echo yes)", &[]),
    ("AUTOINSTALL=\"yes\"", "set -eu; f() { AUTOINSTALL=yes; }; f", &[]),
    // dkms takes nothing from a file that ends its shell, whatever was assigned before.
    ("AUTOINSTALL=\"yes\"", "AUTOINSTALL=yes\nexit 0\nAUTOINSTALL=no\n\"", &["ends-early error 6"]),
    ("AUTOINSTALL=", "no-such-command\nexit\nAUTOINSTALL=", &["ends-early error 6"]),
    ("AUTOINSTALL=", "f() {\nexit 3\n}\nf\nAUTOINSTALL=", &["ends-early error 6"]),
    ("AUTOINSTALL=", "X=${NONE:?gone}\nAUTOINSTALL=", &["ends-early error 5"]),
    ("AUTOINSTALL=", "X=${3.4}\nAUTOINSTALL=", &["ends-early error 5"]),
    ("AUTOINSTALL=", "X=$((1 + ))\nAUTOINSTALL=", &["ends-early error 5"]),
    ("AUTOINSTALL=", "set -e\nfalse\nAUTOINSTALL=", &[]),
    ("AUTOINSTALL=", "set -u\nX=$NONE\nAUTOINSTALL=", &["ends-early error 6"]),
    ("AUTOINSTALL=", "MAKE='${NONE:?gone}'\nAUTOINSTALL=", &["ends-early error -"]),
    ("AUTOINSTALL=\"yes\"", "AUTOINSTALL=yes\nreturn 3\nAUTOINSTALL=no", &[]),
    // It evaluates the values once more.
    ("[0]=\"hello\"", "[0]='$PACKAGE_NAME'", &[]),
    ("\"/extra\"", "'$(echo /ex)tra'", &[]),
    ("AUTOINSTALL=", "BUILD_EXCLUSIVE_KERNEL='$kernelver'\nAUTOINSTALL=", &[]),
    ("AUTOINSTALL=", "BUILD_EXCLUSIVE_KERNEL='^$arch'\nAUTOINSTALL=", &["excluded warning 5"]),
    (
        "AUTOINSTALL=",
        "X=/extra\nDEST_MODULE_LOCATION[0]='$X'\nAUTOINSTALL=",
        &["destination-missing error 6"],
    ),
    ("AUTOINSTALL=", "sleep 60 & disown; (trap '' TERM; sleep 60) &\nAUTOINSTALL=", &[]),
    ("PACKAGE_NAME=\"hello\"", "PACKAGE_NAME=$module", &[]),
];

#[test]
fn every_finding_and_its_line() {
    let mut wrong = Vec::new();
    for (from, to, expected) in CONFS {
        let root = system(&GOOD.replace(from, to));
        let (code, found) = found(&root, &[]);
        let mut expected: Vec<String> = expected.iter().map(|e| (*e).to_owned()).collect();
        expected.sort();
        let mut sorted = found.clone();
        sorted.sort();
        let serious = found.iter().any(|f| !f.contains(" advice "));
        if sorted != expected || code != i32::from(serious) {
            wrong.push(format!("{from:?} to {to:?}: {code} {found:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
