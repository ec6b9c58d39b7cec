//! The first error of build logs: those of real builds, and lines of many kinds.

use clr_dkms::dkms::first_error::{ErrorKind, ErrorKind::*, FirstError, find};

/// What is found in a log: kind, file without its directory, line, message.
fn found(log: &str) -> Option<(ErrorKind, String, Option<u32>, String)> {
    let FirstError { kind, file, line, message, .. } = find(log).error?;
    let file = file.unwrap_or_default();
    Some((kind, file.rsplit('/').next().unwrap_or_default().to_owned(), line, message))
}

fn log(name: &str) -> String {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    std::fs::read_to_string(directory.join(format!("{name}.log"))).unwrap()
}

type Expected = (ErrorKind, &'static str, u32, &'static str);

#[track_caller]
fn all_found<'a>(logs: impl IntoIterator<Item = (&'a str, String, Expected)>) {
    let wrong: Vec<String> = logs
        .into_iter()
        .filter_map(|(name, log, (kind, file, line, message))| {
            let expected = Some((kind, file.to_owned(), (line > 0).then_some(line), message.to_owned()));
            let found = found(&log);
            (found != expected).then(|| format!("{name}:\n  found {found:?}\n  not   {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Made with gcc 12, make 4.3, kbuild of Linux 6.1, and dkms 3.0.10 (2.8.8 and 3.2.1 for those of
/// dkms-samples).
const LOGS_OF_REAL_BUILDS: &[(&str, Expected)] = &[
    (
        "dkms-samples/f1-broken-c.make",
        (Compiler, "bad1.c", 2, "‘undefined_thing’ undeclared (first use in this function)"),
    ),
    (
        "dkms-samples/f2-empty-build-dir.make",
        (Make, "", 0, "No targets specified and no makefile found.  Stop."),
    ),
    (
        "build-logs/implicit-function",
        (
            Compiler,
            "werror.c",
            9,
            "implicit declaration of function ‘undeclared_call’ [-Werror=implicit-function-declaration]",
        ),
    ),
    (
        "build-logs/file-named-error",
        (Compiler, "other.c", 1, "‘nothing’ undeclared (first use in this function)"),
    ),
    ("build-logs/missing-header", (Compiler, "header.c", 1, "linux/no_such.h: No such file or directory")),
    ("build-logs/included-header", (Compiler, "deep.h", 1, "unknown type name ‘nosuch_t’")),
    ("build-logs/colours", (Compiler, "color.c", 9, "‘colourful’ undeclared (first use in this function)")),
    (
        "build-logs/ignored-probe",
        (
            Compiler,
            "ignored.c",
            9,
            "‘real_error’ undeclared (first use in this function); did you mean ‘xas_error’?",
        ),
    ),
    (
        "build-logs/jobs-beside",
        (Compiler, "d.c", 1, "‘dd’ undeclared (first use in this function); did you mean ‘d’?"),
    ),
    ("build-logs/two-at-once", (Compiler, "w.c", 2, "bad register name `%%rax'")),
    ("build-logs/assembler", (Compiler, "asm.c", 9, "no such instruction: `no_such_insn %rax'")),
    ("build-logs/unknown-option", (Compiler, "", 0, "unrecognized command-line option ‘-fno-such-option’")),
    (
        "build-logs/objtool-warning",
        (
            Modpost,
            "",
            0,
            "ERROR: modpost: \"not_there\" [/var/lib/dkms/objwarn/1.0/build/objwarn.ko] undefined!",
        ),
    ),
    (
        "build-logs/modpost",
        (Modpost, "", 0, "ERROR: modpost: \"aa\" [/var/lib/dkms/modpost/1.0/build/modpost.ko] undefined!"),
    ),
    (
        "build-logs/modpost-gpl",
        (
            Modpost,
            "",
            0,
            "ERROR: modpost: GPL-incompatible module gpl.ko uses GPL-only symbol '__class_create'",
        ),
    ),
    (
        "build-logs/linker-kernel",
        (
            Linker,
            "two.c",
            1,
            "multiple definition of `init_module'; /var/lib/dkms/ldfail/1.0/build/one.o:/var/lib/dkms/ldfail/1.0/build/one.c:4: first defined here",
        ),
    ),
    ("build-logs/linker-program", (Linker, "gen.c", 0, "undefined reference to `nowhere'")),
    (
        "build-logs/no-rule",
        (
            Make,
            "",
            0,
            "No rule to make target '/var/lib/dkms/norule/1.0/build/missing_file.o', needed by '/var/lib/dkms/norule/1.0/build/'.  Stop.",
        ),
    ),
    ("build-logs/missing-separator", (Make, "Makefile", 2, "missing separator.  Stop.")),
    ("build-logs/make-error", (Make, "Makefile", 2, "this module wants a kernel before 6.0.  Stop.")),
    ("build-logs/no-compiler", (MissingProgram, "", 0, "gcc-nowhere: No such file or directory")),
    ("build-logs/shell", (MissingProgram, "", 0, "configure-me: not found")),
    ("build-logs/pre-build-missing", (MissingProgram, "pre.sh", 3, "flex-of-nowhere: command not found")),
    ("build-logs/pre-build-syntax", (Script, "pre.sh", 3, "syntax error near unexpected token `)'")),
    (
        "build-logs/python",
        (Script, "", 0, "FileNotFoundError: [Errno 2] No such file or directory: 'nothing.txt'"),
    ),
    (
        "build-logs/out-of-memory",
        (NoMemory, "", 0, "cc1: out of memory allocating 13333280 bytes after a total of 675840 bytes"),
    ),
    ("build-logs/killed", (NoMemory, "", 0, "gcc: fatal error: Killed signal terminated program cc1")),
    ("build-logs/no-space", (NoSpace, "", 0, "cp: error writing '/dev/full': No space left on device")),
    (
        "build-logs/no-space-assembler",
        (
            NoSpace,
            "",
            0,
            "/tmp/ccXXXX.s: Fatal error: can't write 3 bytes to section .text of /dev/full: 'No space left on device'",
        ),
    ),
    ("build-logs/patch", (Patch, "", 0, "Application of patch fix.patch failed.")),
    ("build-logs/no-module", (Dkms, "", 0, "Build of other.ko failed for: 6.15.7-1591.native (x86_64)")),
];

#[test]
fn logs_of_real_builds() {
    all_found(LOGS_OF_REAL_BUILDS.iter().map(|(name, expected)| (*name, log(name), *expected)));
    let lttng = found(&log("dkms-samples/real-lttng-build-failure.make")).unwrap();
    assert!(lttng.0 == Compiler && lttng.2.is_some(), "{lttng:?}");
}

const LINES_OF_MANY_KINDS: &[(&str, Expected)] = &[
    ("a.c:12: error: y", (Compiler, "a.c", 12, "y")),
    (
        "a.c:1:2: error: initializer [-Werror=discarded-qualifiers]",
        (Compiler, "a.c", 1, "initializer [-Werror=discarded-qualifiers]"),
    ),
    ("error.c:3:1: warning: error: in name only\nreal.c:4:5: error: x", (Compiler, "real.c", 4, "x")),
    (
        "a.c:3:5: error: expected ';' after \"No space left on device\"",
        (Compiler, "a.c", 3, "expected ';' after \"No space left on device\""),
    ),
    ("a.c:3:5: error: x\n    3 | puts(\"x: No space left on device\");", (Compiler, "a.c", 3, "x")),
    (
        "/b/a.c:7:3: error: use of undeclared identifier 'x'\n        x = 3;\n        ^\n1 error generated.",
        (Compiler, "a.c", 7, "use of undeclared identifier 'x'"),
    ),
    (
        "a.c:9:1: internal compiler error: Segmentation fault",
        (Compiler, "a.c", 9, "internal compiler error: Segmentation fault"),
    ),
    (
        "cc1: error: bad value 'x' for '-march=' switch",
        (Compiler, "", 0, "bad value 'x' for '-march=' switch"),
    ),
    ("x86_64-linux-gnu-gcc-12: fatal error: no input files", (Compiler, "", 0, "no input files")),
    (
        "parse.y:3.1-5: error: syntax error, unexpected identifier",
        (Compiler, "parse.y", 3, "syntax error, unexpected identifier"),
    ),
    (
        "error[E0425]: cannot find value `x` in this scope\n --> src/lib.rs:3:5\n  |",
        (Compiler, "lib.rs", 3, "cannot find value `x` in this scope"),
    ),
    ("conftest.c:3:1: error: unknown type\nreal.c:5:1: error: y", (Compiler, "real.c", 5, "y")),
    (
        "conftest.c:3:1: error: unknown type\nmake: *** [Makefile:3: all] Error 1",
        (Make, "", 0, "make: *** [Makefile:3: all] Error 1"),
    ),
    (
        "real.c:1:1: error: x\nprobe.c:1:1: error: y\nmake: [Makefile:3: probe] Error 1 (ignored)\nmake[1]: *** [Makefile:9: real.o] Error 1",
        (Compiler, "real.c", 1, "x"),
    ),
    (
        "rm: cannot remove 'x': No such file or directory\nmake: [Makefile:9: clean] Error 1 (ignored)\nmake: *** No rule to make target 'y'.  Stop.",
        (Make, "", 0, "No rule to make target 'y'.  Stop."),
    ),
    (
        "a.o: warning: objtool: f()+0x1: unreachable instruction\nmake: *** [x] Error 2",
        (Make, "", 0, "make: *** [x] Error 2"),
    ),
    (
        "a.o: error: objtool: f()+0x1: stack state mismatch",
        (Objtool, "a.o", 0, "f()+0x1: stack state mismatch"),
    ),
    ("objtool: can't find starting instruction", (Objtool, "", 0, "can't find starting instruction")),
    (
        "ld.lld: error: undefined symbol: foo\n>>> referenced by a.c:3",
        (Linker, "", 0, "undefined symbol: foo"),
    ),
    (
        "ld: cannot find -lelf: No such file or directory\ncollect2: error: ld returned 1 exit status",
        (Linker, "", 0, "cannot find -lelf: No such file or directory"),
    ),
    (
        "ld: a.o: warning: relocation in read-only section\nERROR: modpost: \"f\" [x.ko] undefined!",
        (Modpost, "", 0, "ERROR: modpost: \"f\" [x.ko] undefined!"),
    ),
    ("ERROR: \"f\" [x.ko] undefined!", (Modpost, "", 0, "ERROR: \"f\" [x.ko] undefined!")),
    (
        "FATAL: modpost: parse error in symbol dump file",
        (Modpost, "", 0, "FATAL: modpost: parse error in symbol dump file"),
    ),
    (
        "WARNING: Symbol version dump is missing.\nFATAL: modpost: GPL-incompatible module x.ko",
        (Modpost, "", 0, "FATAL: modpost: GPL-incompatible module x.ko"),
    ),
    (
        "make: *** /lib/modules/x/build: No such file or directory.  Stop.",
        (Make, "", 0, "/lib/modules/x/build: No such file or directory.  Stop."),
    ),
    (
        "a.c:1:1: error: x\nfatal: write error: No space left on device",
        (NoSpace, "", 0, "fatal: write error: No space left on device"),
    ),
    (
        "cp: failed to extend 'x': Disk quota exceeded",
        (NoSpace, "", 0, "cp: failed to extend 'x': Disk quota exceeded"),
    ),
    (
        "as: x.c: 3\nmake[2]: *** [scripts/Makefile.build:1: a.o] Killed",
        (NoMemory, "", 0, "make[2]: *** [scripts/Makefile.build:1: a.o] Killed"),
    ),
    (
        "/bin/sh: line 1: 4711 Killed                  gcc -c a.c",
        (NoMemory, "", 0, "/bin/sh: line 1: 4711 Killed                  gcc -c a.c"),
    ),
    (
        "virtual memory exhausted: Cannot allocate memory",
        (NoMemory, "", 0, "virtual memory exhausted: Cannot allocate memory"),
    ),
    (
        "mkdir: cannot create directory 'x': Read-only file system",
        (Disk, "", 0, "mkdir: cannot create directory 'x': Read-only file system"),
    ),
    (
        "/usr/src/a-1/dkms.conf: line 4: uname_r: command not found",
        (MissingProgram, "dkms.conf", 4, "uname_r: command not found"),
    ),
    (
        "/usr/bin/env: 'python': No such file or directory",
        (MissingProgram, "", 0, "/usr/bin/env: 'python': No such file or directory"),
    ),
    ("/bin/sh: 1: pkg-config: not found\na.c:1:1: error: x", (Compiler, "a.c", 1, "x")),
    (
        "./configure: line 33: cd: /nowhere: No such file or directory",
        (Script, "configure", 33, "cd: /nowhere: No such file or directory"),
    ),
    (
        "configure: error: C compiler cannot create executables",
        (Other, "", 0, "configure: error: C compiler cannot create executables"),
    ),
    (
        "  ERROR: Kernel configuration is invalid.\n         include/generated/autoconf.h is missing.",
        (Other, "", 0, "ERROR: Kernel configuration is invalid."),
    ),
    (
        "FAILED: load BTF from vmlinux: No such file or directory",
        (Other, "", 0, "FAILED: load BTF from vmlinux: No such file or directory"),
    ),
    (
        "Error! Your kernel headers for kernel 6.1 cannot be found.\nPlease install them.",
        (Dkms, "", 0, "Your kernel headers for kernel 6.1 cannot be found."),
    ),
    (
        "sed: can't read x: No such file\nError! Bad return status for module build on kernel: 6.1",
        (Other, "", 0, "sed: can't read x: No such file"),
    ),
    ("50%\r100%\ra.c:1: error: \u{1b}]0;title\u{7}x\u{8}", (Compiler, "a.c", 1, "x")),
];

#[test]
fn lines_of_many_kinds() {
    all_found(LINES_OF_MANY_KINDS.iter().map(|(log, expected)| (*log, (*log).to_owned(), *expected)));
}

#[test]
fn nothing_is_found_where_nothing_failed() {
    for log in [
        "",
        "all went well",
        "  CC [M]  /x/error.o\n  LD [M]  /x/fatal.ko",
        "gcc -Werror=implicit -c error.c -o error.o",
        "a.c:3:1: warning: this is not an error: really",
        "Skipping BTF generation for x.ko due to unavailability of vmlinux",
        "a.o: warning: objtool: error_path()+0x1: unreachable instruction",
        "make: Leaving directory '/x'",
        "# clr-dkms: exit code 0 after 1.0 s",
    ] {
        assert_eq!(found(log), None, "{log}");
    }
}

#[test]
fn what_belongs_to_an_error() {
    let context = |text: &str| find(text).error.unwrap().context;
    assert_eq!(
        context(&log("build-logs/implicit-function")),
        ["    9 |         undeclared_call(); return 0;", "      |         ^~~~~~~~~~~~~~~"]
    );
    assert_eq!(context(&log("build-logs/modpost")).len(), 2);
    let clang = "a.c:7:3: error: x\n  y = 3;\n  ^\na.c:1:1: note: declared here\n1 error generated.\n";
    assert_eq!(context(clang), ["  y = 3;", "  ^", "a.c:1:1: note: declared here"]);
    // Another job's progress is between: better too little than another's lines.
    assert_eq!(context("a.c:7:3: error: x\n  CC [M]  b.o\n  y = 3;\n"), [""; 0]);
    // An echo says less than what stands before it.
    let echo = "doing this\ndoing that\nodd words\nmake: *** [Makefile:1: all] Error 1\n";
    assert_eq!(context(echo), ["doing that", "odd words"]);
    let many: String = (0..90).map(|n| format!("ERROR: modpost: \"f{n}\" [x.ko] undefined!\n")).collect();
    assert_eq!(context(&many).len(), 4);
}

#[test]
fn a_record_of_another_version_is_read() {
    let old: FirstError = serde_json::from_str(r#"{"file":null,"line":null,"message":"m"}"#).unwrap();
    assert_eq!((old.kind, old.context.len()), (Other, 0));
    let newer = r#"{"kind":"telepathy","file":"f","line":1,"message":"m","more":[]}"#;
    assert_eq!(serde_json::from_str::<FirstError>(newer).unwrap().kind, Other);
}

/// What may be gone tomorrow does not stop further attempts.
#[test]
fn what_lies_in_the_source() {
    for (line, in_source) in [
        ("a.c:1:1: error: x", true),
        ("a.c:1:1: fatal error: x.h: No such file or directory", false),
        ("a.c:1:1: internal compiler error: x", false),
        ("gcc: error: x", false),
        ("pre.sh: line 3: x: command not found", false),
        ("Makefile:2: *** missing separator.  Stop.", false),
    ] {
        assert_eq!(find(line).error.unwrap().is_in_source(), in_source, "{line}");
    }
    assert!(find("a.c:1:1: error: x\ncp: x: Stale file handle").passing);
}
