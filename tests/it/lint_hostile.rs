//! `clr-dkms lint` on what cannot be read, and on hostile sources: nothing is followed, waited for or obeyed.

use std::fs;
use std::process::Command;

use clr_dkms::dkms::conf::{
    DkmsConf, DkmsRules, Exclusion, ModuleRecord, Refusal, RefusalKind, SyntaxError, Trace,
};
use clr_dkms::dkms::lint::makefile::Makefile;
use clr_dkms::dkms::lint::source::SourceFiles;
use clr_dkms::dkms::lint::{Answer, ConfText, Expected, KernelOwn, LintSubject, Severity, lint};
use proptest::prelude::*;

use crate::lint::{CONF, GOOD, flat, run, system};
use crate::support::run::{as_nobody, set_mode};
use crate::support::{Run, TestRoot};

#[test]
fn hostile_sources() {
    // Nothing is followed, waited for or obeyed.
    let root = system(&format!("{GOOD}PACKAGE_NAME=$'he\\e[31m\\nllo'\nBUILD_EXCLUSIVE_KERNEL=$'\\e[2J'\n"));
    fs::write(root.outside().join("world"), "x").unwrap();
    set_mode(&root.outside().join("world"), 0o666);
    root.link("usr/src/hello-1.0/loop", ".")
        .link("usr/src/hello-1.0/away", root.outside())
        .link("usr/src/hello-1.0/world", root.outside().join("world"));
    assert!(Command::new("mkfifo").arg(root.at("usr/src/hello-1.0/fifo")).status().unwrap().success());
    set_mode(&root.at("usr/src/hello-1.0/fifo"), 0o644);
    let run = run(&root, &[]);
    run.code(1).shows(&["[excluded]"]);
    assert!(!run.stdout.contains('\u{1b}') && !run.stdout.contains("[writable"), "{}", run.stdout);
    let mut deep = "usr/src/hello-1.0".to_owned();
    for _ in 0..40 {
        deep += "/d";
    }
    root.directory(&deep);
    flat(&root, &[]).shows(&["[not-all-seen]"]);
    // It writes nothing, whatever it is asked for.
    root.file(CONF, format!("{GOOD}echo x >{}/written\n", root.outside().display()));
    flat(&root, &[]).code(0);
    let landlock = fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|l| l.contains("landlock"));
    assert!(!landlock || !root.outside().join("written").exists());
}

/// A text of the things that matter to the readers of traces and Makefiles, in any order.
fn script() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "\n",
        "'",
        "\"",
        "@",
        "@@/a:1@",
        "@@/a:999999999999999999999@",
        "@@/b:3@",
        "/a:2@",
        "\\\n",
        "#",
        " ",
        "=",
        "+=",
        "[",
        "]",
        "(",
        "MAKE",
        "uname -r",
        "AUTOINSTALL = yes",
        "PACKAGE_NAME=\"a\"\n",
        "DEST_MODULE_LOCATION[0]=",
        "BUILD_MODULE_NAME=x",
        "obj-m += ",
        "obj-$(CONFIG_X) := a.o",
        "SUBDIRS=",
        "\r\n",
        "\0",
        "\t",
        "x",
        "ä",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..400),
        prop::collection::vec(pieces, 0..60).prop_map(|p| p.concat().into_bytes()),
    ]
}

proptest! {
    #[test]
    fn any_text_and_any_values(
        text in script(), output in script(), words in prop::collection::vec(".{0,12}", 6),
        line in any::<Option<usize>>(), quote in any::<Option<usize>>(), file in 0usize..3, broken in any::<bool>(),
        excluded in any::<bool>(), makes in any::<bool>(),
    ) {
        let lines = text.split_inclusive(|b| *b == b'\n').count();
        let trace = Trace::read(&output, &[("/a", &text)]);
        let record = ModuleRecord {
            built: words[3].clone(),
            built_location: words[4].clone(),
            dest: words[4].clone(),
            location: words[5].clone(),
        };
        let refusal = Refusal {
            kind: RefusalKind::ModuleNameMissing,
            directive: "BUILT_MODULE_NAME".to_owned(),
            element: line,
            value: words[0].clone(),
            at: trace.line_of("BUILT_MODULE_NAME"),
        };
        let exclusion = Exclusion { directive: words[0].clone(), condition: String::new() };
        let conf = DkmsConf {
            package_name: words[0].clone(),
            package_version: words[1].clone(),
            autoinstall_value: words[2].clone(),
            records: vec![record, ModuleRecord::default()],
            depends: words.clone(),
            makes,
            make: String::from_utf8_lossy(&output).into_owned(),
            patches: words.clone(),
            hooks: [("PRE_BUILD".to_owned(), words[3].clone())].into(),
            deprecated: vec!["CLEAN".to_owned(), "MAKE".to_owned()],
            excluded: if excluded { vec![exclusion] } else { Vec::new() },
            syntax: broken.then(|| SyntaxError { file, line, message: "x".to_owned(), quote }),
            refusals: vec![refusal],
            ..DkmsConf::default()
        };
        let answer = |evaluated| Answer {
            release: "6.1".to_owned(),
            matters: true,
            texts: vec![0],
            config: Some(text.clone()),
            own_modules: [(words[3].clone(), KernelOwn::BuiltIn)].into(),
            evaluated,
        };
        let source = SourceFiles {
            makefiles: [("Makefile".into(), Makefile::read(&text))].into(),
            is_licensed: Some(false),
            ..SourceFiles::default()
        };
        let subject = LintSubject {
            texts: vec![ConfText { name: "dkms.conf".to_owned(), bytes: text.clone() }],
            directory: ".".to_owned(),
            expected: Expected::Directory("a-1".to_owned()),
            builds_here: true,
            answers: vec![answer(Ok((conf, trace))), answer(Err("x".to_owned()))],
            is_registered: Some(false),
            modules: None,
            rules: DkmsRules::of_version(None),
            source: &source,
        };
        for finding in lint(&subject) {
            if let Some(line) = finding.line {
                prop_assert!(line >= 1 && line <= lines.max(1), "{finding:?} of {lines}");
            }
            prop_assert!(!finding.clear.is_empty() && finding.severity <= Severity::Advice);
        }
    }
}

#[test]
fn what_cannot_be_read() {
    let root = system(GOOD);
    let cannot = |root: &TestRoot, target: &[&str], parts: &[&str]| {
        flat(root, target).code(3).shows(&[&["unknown: "], parts].concat());
        assert_eq!(run(root, &[&["--json"], target].concat()).code(3).json()["schema"], 1);
    };
    cannot(&root, &["nothing"], &["neither a registered module nor a directory"]);
    cannot(&root, &["hello/2.0"], &["neither a registered module nor a directory"]);
    cannot(&root, &["/usr/src/hello-1.0/Makefile"], &["it is not a directory"]);
    // One that cannot be read does not hide the others.
    cannot(&root, &["hello", "nothing"], &["2 modules: 1 could not be read", "hello/1.0: no findings"]);
    fs::File::options().write(true).open(root.at(CONF)).unwrap().set_len(1 << 30).unwrap();
    cannot(&root, &[], &["larger than 1 MiB"]);
    root.remove(CONF);
    assert!(Command::new("mkfifo").arg(root.at(CONF)).status().unwrap().success());
    cannot(&root, &[], &["not a regular file"]);
    root.remove(CONF).directory(CONF);
    cannot(&root, &[], &["cannot read"]);
    root.link(CONF, "dkms.conf");
    cannot(&root, &[], &["cannot read"]);
    // Nor does that of a source that is not registered count as absent, nor the list of sources as empty.
    let root = system(GOOD);
    root.link("usr/src/other-2/dkms.conf", "dkms.conf");
    cannot(&root, &[], &["2 modules: 1 could not be read", "usr/src/other-2/dkms.conf"]);
    root.link("usr/src", "src");
    cannot(&root, &[], &["cannot list"]);
    root.run("clr-dkms", &["lint", "--no-such-option"]).code(64);
}

#[test]
fn what_nobody_may_read() {
    let root = system(GOOD);
    set_mode(&root.at(CONF), 0o000);
    let Some(mut command) = as_nobody(&root, "clr-dkms", &["lint"]) else { return };
    Run::of(command.output().unwrap(), &root).code(3).shows(&["unknown: cannot read", "(os error 13)"]);
    set_mode(&root.at(CONF), 0o644);
    root.directory("usr/src/hello-1.0/secret");
    set_mode(&root.at("usr/src/hello-1.0/secret"), 0o000);
    let run = Run::of(as_nobody(&root, "clr-dkms", &["lint"]).unwrap().output().unwrap(), &root);
    run.shows(&["[not-all-seen]"]);
    set_mode(&root.at("usr/src/hello-1.0/secret"), 0o755);
}
