//! `clr-dkms export` and `clr-dkms import`: what one machine has proven, another one installs without
//! a build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use minisign::KeyPair;
use serde_json::Value;

use crate::support::run::{command, set_mode};
use crate::support::terminal::Terminal;
use crate::support::tree::{self, difference};
use crate::support::{A, B, Run, TestRoot, elf, few_or};

const KEY: &str = "etc/clr-dkms/keys.d/fleet.pub";

/// The machine that builds, and the archive of hello/1.0 that it exports.
pub(crate) struct Builder {
    pub(crate) root: TestRoot,
    pub(crate) keys: KeyPair,
}

/// A system with two kernels, and with a directory for temporary files.
fn system() -> TestRoot {
    let root = TestRoot::updated();
    root.directory("var/tmp");
    root
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder::with(|_| ())
    }

    fn with(prepare: impl FnOnce(&TestRoot)) -> Builder {
        let root = system();
        root.module("hello", "1.0", "");
        prepare(&root);
        root.post_update().code(0);
        let builder = Builder { root, keys: KeyPair::generate_unencrypted_keypair().unwrap() };
        builder.export(&[]).code(0).shows(&["hello/1.0", "written"]);
        builder
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.root.outside().join("hello.tar.gz")
    }

    fn export(&self, more: &[&str]) -> Run {
        let file = self.archive().display().to_string();
        self.root.run("clr-dkms", &[&["export", "hello", &file], more].concat())
    }

    pub(crate) fn signed(&self) -> PathBuf {
        sign(&self.keys, &self.archive());
        self.archive()
    }

    /// A machine that accepts the key.
    pub(crate) fn target(&self) -> TestRoot {
        let root = system();
        root.file(KEY, self.keys.pk.to_box().unwrap().to_string());
        set_mode(&root.at(KEY), 0o644);
        root
    }

    /// The archive with other contents, and a manifest that agrees with them unless `change` sees to it.
    pub(crate) fn repacked(&self, name: &str, change: impl FnOnce(&Path, &mut Value)) -> PathBuf {
        let directory = self.root.outside().join(name);
        fs::create_dir_all(&directory).unwrap();
        tar(&["-xzf", &self.archive().display().to_string(), "-C", &directory.display().to_string()]);
        let path = directory.join("clr-dkms.json");
        let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&directory, &mut manifest);
        fs::write(path, manifest.to_string()).unwrap();
        let file = self.root.outside().join(format!("{name}.tar.gz"));
        tar(&["-czf", &file.display().to_string(), "-C", &directory.display().to_string(), "."]);
        file
    }
}

pub(crate) fn tar(arguments: &[&str]) {
    assert!(Command::new("tar").args(arguments).status().unwrap().success(), "{arguments:?}");
}

pub(crate) fn signature_of(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.minisig", file.display()))
}

pub(crate) fn sign(keys: &KeyPair, file: &Path) {
    let data = fs::File::open(file).unwrap();
    let signature =
        minisign::sign(Some(&keys.pk), &keys.sk, data, Some("hello for the fleet"), None).unwrap();
    fs::write(signature_of(file), signature.into_string()).unwrap();
}

pub(crate) fn import(root: &TestRoot, file: &Path, more: &[&str]) -> Run {
    root.run("clr-dkms", &[&["import", &file.display().to_string()], more].concat())
}

/// The calls of dkms that build.
pub(crate) fn builds(root: &TestRoot) -> Vec<String> {
    root.short_calls().into_iter().filter(|call| call.starts_with("build")).collect()
}

/// Where the kernel B gets the module from, and why not from the archive.
pub(crate) fn origin(document: &Value) -> (String, Option<String>) {
    let kernels = document["archives"][0]["kernels"].as_array().unwrap();
    let kernel = kernels.iter().find(|kernel| kernel["kernel"] == B).unwrap();
    (kernel["origin"].as_str().unwrap().to_owned(), kernel["cause"].as_str().map(str::to_owned))
}

#[test]
fn what_is_proven_here_is_installed_there_without_a_build() {
    let builder = Builder::new();
    let target = builder.target();
    let run = import(&target, &builder.signed(), &["--yes"]);
    run.code(0)
        .shows(&["valid, by /etc/clr-dkms/keys.d/fleet.pub: hello for the fleet", "installed and proven"]);
    assert!(!run.stderr.contains("drift"), "{}", run.stderr);
    assert_eq!(target.short_calls().join(", "), format!("clr-boot-manager, install hello {B}, depmod {B}"));
    assert_eq!(
        fs::read(target.at(&TestRoot::ko("hello", B))).unwrap(),
        fs::read(builder.root.at(&TestRoot::ko("hello", B))).unwrap()
    );
    for directory in ["usr/src/hello-1.0".to_owned(), TestRoot::build("hello", "1.0", B)] {
        let contents = |root: &TestRoot| {
            let tree = tree::read(&root.at(&directory));
            tree.into_iter().map(|(name, entry)| (name, entry.what)).collect::<Vec<_>>()
        };
        assert_eq!(contents(&target), contents(&builder.root), "{directory}");
    }
    assert_eq!(fs::read_dir(target.at("var/tmp")).unwrap().count(), 0);
    // The next run of the worker has nothing to do.
    target.forget_calls().post_update().code(0);
    assert_eq!(target.calls(), Vec::<String>::new());
    assert_eq!(target.recorded("hello", B), "ok");
    let before = target.tree();
    import(&target, &builder.archive(), &["--yes"]).code(0).shows(&["installed already", "nothing to do"]);
    let changes = difference(&before, &target.tree(), false);
    assert!(!changes.iter().any(|change| change.contains("hello")), "{changes:?}");
}

#[test]
fn a_changed_source_is_noticed_after_an_import() {
    let builder = Builder::new();
    let target = builder.target();
    import(&target, &builder.signed(), &["--yes"]).code(0);
    let rebuild = |root: &TestRoot| root.run("clr-dkms", &["rebuild", "hello", "--dry-run"]).stdout.clone();
    assert_eq!(rebuild(&target), "nothing to do\n");
    target.file("usr/src/hello-1.0/new.c", "int new;\n");
    assert!(rebuild(&target).contains("its source has changed"), "{}", rebuild(&target));
}

#[test]
fn the_archive_is_that_of_mktarball_with_a_manifest() {
    let builder = Builder::new();
    let listed = Command::new("tar").arg("-tzf").arg(builder.archive()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let architecture = clr_dkms::dkms::architecture();
    let expected = format!(
        "clr-dkms.json\ndkms_source_tree/\ndkms_source_tree/dkms.conf\ndkms_source_tree/hello.c\n\
         dkms_main_tree/\ndkms_main_tree/{B}/\ndkms_main_tree/{B}/{architecture}/\n\
         dkms_main_tree/{B}/{architecture}/log/\ndkms_main_tree/{B}/{architecture}/module/\n\
         dkms_main_tree/{B}/{architecture}/log/make.log\ndkms_main_tree/{B}/{architecture}/module/hello.ko\n"
    );
    assert_eq!(listed, expected);
    let first = fs::read(builder.archive()).unwrap();
    builder.export(&[]).code(0);
    assert_eq!(fs::read(builder.archive()).unwrap(), first, "the same again");
    builder.repacked("look", |_, manifest| {
        assert_eq!(manifest["schema"], 1);
        let build = &manifest["builds"][0];
        assert_eq!(build["modules"][0]["vermagic"], format!("{B} SMP preempt mod_unload"));
        assert_eq!(build["inputs"]["fingerprint"].as_str().unwrap().len(), 32);
        assert_eq!(manifest["source"][0]["path"], "dkms.conf");
    });
}

#[test]
fn only_what_is_proven_is_exported() {
    let builder = Builder::new();
    let refused = |more: &[&str], why: &str| {
        fs::remove_file(builder.archive()).ok();
        builder.export(more).code(1).says(&[why]);
        assert!(!builder.archive().exists(), "{why}");
    };
    // The running kernel did not get it.
    refused(&["-k", A], "it is not proven: hello.ko is not installed");
    refused(&["-k", "nowhere"], "nowhere");
    builder.export(&["--dry-run"]).code(0).shows(&["left out: it is not proven", "only a look"]);
    assert!(!builder.archive().exists());
    let file = builder.archive().display().to_string();
    builder.root.run("clr-dkms", &["export", "other", &file]).code(1).says(&["there are: hello/1.0"]);
    builder.root.file("usr/src/hello-1.0/new.c", "int new;\n");
    refused(&[], "its source has changed");
    builder.root.remove("usr/src/hello-1.0/new.c").link("usr/src/hello-1.0/out", "/etc");
    refused(&[], "a symlink out of the source");
    builder.root.remove("usr/src/hello-1.0/out").file(&TestRoot::ko("hello", B), "other");
    refused(&[], "is proven on no kernel");
    builder.root.post_update().code(0);
    fs::create_dir(builder.archive()).unwrap();
    builder.export(&[]).code(1).says(&["it exists and is not a file"]);
}

/// As a module of the compiler: its symbols have versions, and so have those of the kernel.
fn versioned(root: &TestRoot, version: u32) {
    let symbols = [("module_layout", 7, false), ("printk", version, false)];
    let bytes = elf::with_symbols(B, "", &symbols, &[]);
    fs::write(root.tools().join(format!("templates/{B}.ko")), bytes).unwrap();
    kernel(root, version);
}

/// The kernel B, with that version of printk.
fn kernel(root: &TestRoot, version: u32) {
    let own = elf::with_symbols(B, "", &[("module_layout", 7, false), ("printk", version, false)], &[]);
    root.file(&format!("usr/lib/modules/{B}/kernel/own.ko"), own).file(
        &format!("usr/lib/modules/{B}/build/Module.symvers"),
        format!(
            "0x00000007\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n\
             {version:#010x}\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n"
        ),
    );
}

#[test]
fn the_versions_of_symbols_are_those_of_this_kernel() {
    let builder = Builder::with(|root| versioned(root, 1));
    let file = builder.signed();
    for (version, has_headers, expected) in [
        (1, true, ("archive", None)),
        (2, true, ("build", Some("does-not-fit"))),
        // Without headers the kernel's own modules answer.
        (1, false, ("archive", None)),
        (2, false, ("build", Some("does-not-fit"))),
    ] {
        let target = builder.target();
        kernel(&target, version);
        if !has_headers {
            target.remove(&format!("usr/lib/modules/{B}/build"));
        }
        let document = import(&target, &file, &["--dry-run", "--json"]).code(0).json();
        let (origin, cause) = origin(&document);
        assert_eq!((origin.as_str(), cause.as_deref()), expected, "{version} {has_headers}: {document:#}");
    }
    // A kernel that shows nothing of a symbol.
    let target = builder.target();
    target.file(
        &format!("usr/lib/modules/{B}/kernel/own.ko"),
        elf::with_symbols(B, "", &[("module_layout", 7, false)], &[]),
    );
    target.remove(&format!("usr/lib/modules/{B}/build"));
    let document = import(&target, &file, &["--dry-run", "--json"]).code(0).json();
    assert_eq!(origin(&document), ("build".to_owned(), Some("unknown".to_owned())));
}

#[test]
fn without_a_compiler_and_headers_binaries_are_installed() {
    let builder = Builder::with(|root| versioned(root, 1));
    let target = builder.target();
    kernel(&target, 1);
    target.remove(&format!("usr/lib/modules/{B}/build"));
    for program in ["gcc", "make", "ld"] {
        fs::remove_file(target.tools().join(program)).unwrap();
    }
    let run = import(&target, &builder.signed(), &["--yes"]);
    run.code(0).shows(&["the binaries of the archive fit", "installed and proven"]);
    assert!(target.has(&TestRoot::ko("hello", B)));
    let before = target.forget_calls().tree();
    target.post_update().code(0);
    assert_eq!(target.calls(), Vec::<String>::new());
    assert_eq!(target.recorded("hello", B), "ok");
    let changes = difference(&before, &target.tree(), false);
    assert!(!changes.iter().any(|change| change.contains("hello")), "{changes:?}");
    let status = target.run("clr-dkms", &["status", "--json"]).json();
    assert_eq!(status["verdict"], "reboot-pending", "{status:#}");
    // Another kernel of the same release: its own modules have other versions.
    target.remove(&format!("usr/lib/modules/{B}/kernel/own.ko"));
    kernel(&target, 2);
    target.remove(&format!("usr/lib/modules/{B}/build"));
    // The installation of a kernel makes its index.
    target.index(B, &target.text(&format!("usr/lib/modules/{B}/modules.dep")));
    target.post_update();
    assert_ne!(target.recorded("hello", B), "ok");
}

#[test]
fn binaries_need_a_valid_signature_or_trust() {
    let builder = Builder::new();
    let file = builder.archive();
    let other = KeyPair::generate_unencrypted_keypair().unwrap();
    let no_key = |_: &TestRoot| ();
    type Prepare<'p> = &'p dyn Fn(&TestRoot);
    let unsigned = |root: &TestRoot| {
        fs::remove_file(signature_of(&file)).ok();
        no_key(root);
    };
    let unknown = |_: &TestRoot| sign(&other, &file);
    let signed = |_: &TestRoot| sign(&builder.keys, &file);
    let garbage = |root: &TestRoot| {
        signed(root);
        root.file(KEY, "garbage\n");
    };
    let writable = |root: &TestRoot| {
        signed(root);
        set_mode(&root.at(KEY), 0o666);
    };
    let cases: [(&str, Prepare<'_>, &str, &str); 5] = [
        ("none", &unsigned, "absent", "there is none"),
        ("another key", &unknown, "unknown-key", "not by a key in /etc/clr-dkms/keys.d"),
        ("a garbage key", &garbage, "unknown-key", "it is not a public key of minisign"),
        ("a key that others can write", &writable, "unknown-key", "others than root can write it"),
        ("a good one", &signed, "valid", ""),
    ];
    for (name, prepare, state, why) in cases {
        let target = builder.target();
        prepare(&target);
        let run = import(&target, &file, &["--yes", "--json"]);
        let document = run.code(0).json();
        assert_eq!(document["archives"][0]["signature"], state, "{name}");
        let is_valid = state == "valid";
        let expected = if is_valid { ("archive", None) } else { ("build", Some("signature")) };
        let (from, cause) = origin(&document);
        assert_eq!((from.as_str(), cause.as_deref()), expected, "{name}");
        assert_eq!(builds(&target).is_empty(), is_valid, "{name}");
        assert!(format!("{}{}", run.stdout, run.stderr).contains(why), "{name}: {}", run.stderr);
    }
    let target = builder.target();
    unsigned(&target);
    let run = import(&target, &file, &["--yes", "--trust-binaries"]);
    run.code(0).shows(&["the binaries of the archive fit", "PACKAGE_NAME=\"hello\""]);
    assert_eq!(builds(&target), Vec::<String>::new());
}

#[test]
fn nothing_happens_without_a_confirmation() {
    let builder = Builder::new();
    let target = builder.target();
    let before = target.tree();
    import(&target, &builder.signed(), &["--dry-run"]).code(0).shows(&["the binaries of the archive fit"]);
    import(&target, &builder.signed(), &[]).code(1).shows(&["--yes confirms"]);
    let changes = difference(&before, &target.tree(), false);
    assert!(changes.iter().all(|change| change.contains(".stand-ins")), "{changes:?}");
}

#[test]
fn on_a_terminal_it_asks_before_it_installs() {
    let builder = Builder::new();
    let target = builder.target();
    let file = builder.signed().display().to_string();
    for (answer, code) in [("n\n", 1), ("y\n", 0)] {
        assert!(!target.has("usr/src/hello-1.0"));
        let mut terminal = Terminal::run(&target, 100, "", "clr-dkms", &["import", &file]);
        terminal.wait_for("Register hello/1.0, and install 1 binary as root? [y/N]").types(answer);
        assert_eq!(terminal.ends().code(), Some(code), "{}", terminal.text());
    }
    assert!(target.has("usr/src/hello-1.0"));
}

#[test]
fn an_archive_of_dkms_itself_is_built_from_its_source() {
    let builder = Builder::new();
    let file = builder.repacked("without", |_, _| ());
    let directory = builder.root.outside().join("without");
    fs::remove_file(directory.join("clr-dkms.json")).unwrap();
    tar(&["-czf", &file.display().to_string(), "-C", &directory.display().to_string(), "."]);
    sign(&builder.keys, &file);
    let target = builder.target();
    let run = import(&target, &file, &["--yes"]);
    run.code(0).shows(&["the archive has no manifest", "installed and proven"]);
    assert_eq!(builds(&target), [format!("build hello {B}")]);
}

#[test]
fn what_works_on_no_kernel_is_taken_back() {
    let builder = Builder::new();
    let file = builder.signed();
    let target = builder.target();
    target.behave("[[ $verb != install ]] || code=6");
    import(&target, &file, &["--yes"]).code(1).shows(&["failed", "nothing of it is left"]);
    for path in ["usr/src/hello-1.0", "var/lib/dkms/hello"] {
        assert!(!target.has(path), "{path}");
    }
    assert!(!target.has(&TestRoot::ko("hello", B)));
    // What works on one kernel stays.
    let target = builder.target();
    target.kernel(crate::support::LTS).tip(crate::support::LTS);
    let run = import(&target, &file, &["--yes"]);
    run.code(1).shows(&["installed and proven", "failed: 6.12.38-1550.ltscurrent: the kernel's headers"]);
    assert!(target.has(&TestRoot::ko("hello", B)) && target.has("usr/src/hello-1.0/hello.c"));
}

#[test]
fn an_older_version_stays_until_the_new_one_is_proven() {
    let builder = Builder::new();
    let file = builder.signed();
    let target = builder.target();
    target.module("hello", "0.9", "").installed("hello", "0.9", B);
    import(&target, &file, &["--yes"]).code(1).shows(&["--replace"]);
    assert!(!target.has("usr/src/hello-1.0"));
    target.behave("[[ $verb != install ]] || code=6");
    import(&target, &file, &["--yes", "--replace"]).code(1);
    assert!(fs::read(target.at(&TestRoot::ko("hello", B))).unwrap().ends_with(b"hello/0.9"));
    target.behave("");
    import(&target, &file, &["--yes", "--replace"]).code(0);
    assert!(fs::read(target.at(&TestRoot::ko("hello", B))).unwrap().ends_with(b"hello/1.0"));
    assert!(!target.has("var/lib/dkms/hello/0.9"));
    // Another source of the same name and version.
    let target = builder.target();
    target.module("hello", "1.0", "# mine\n");
    fs::write(target.tools().join(format!("templates/{B}.ko")), elf::with_filling(B, 8)).unwrap();
    target.post_update().code(0);
    import(&target, &file, &["--yes"]).code(1).shows(&["with other contents"]);
    target.behave("[[ $verb != install ]] || code=6");
    import(&target, &file, &["--yes", "--replace"]).code(1);
    assert!(target.text("usr/src/hello-1.0/dkms.conf").ends_with("# mine\n"));
    target.behave("").forget_calls();
    let run = import(&target, &file, &["--yes", "--replace"]);
    run.code(0).shows(&["the binaries of the archive fit", "/usr/src/hello-1.0, in place of"]);
    assert!(!run.stdout.contains("registered already"), "{}", run.stdout);
    assert!(!target.text("usr/src/hello-1.0/dkms.conf").contains("# mine"));
    assert_eq!(builds(&target), Vec::<String>::new());
    assert_eq!(fs::read_dir(target.at("usr/src")).unwrap().count(), 1);
    assert!(!target.has("var/lib/clr-dkms/change.json"));
}

#[test]
fn several_archives_in_one_run() {
    let builder = Builder::with(|root| root.module("other", "2.0", "").forget());
    let file = builder.archive();
    let other = builder.root.outside().join("other.tar.gz");
    let path = other.display().to_string();
    builder.root.run("clr-dkms", &["export", "other/2.0", &path]).code(0);
    sign(&builder.keys, &file);
    sign(&builder.keys, &other);
    let target = builder.target();
    import(&target, &file, &[&path, "--yes"]).code(0);
    let calls = target.short_calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("depmod")).count(), 1, "{calls:?}");
    assert!(["hello", "other"].iter().all(|name| target.has(&TestRoot::ko(name, B))));
    // A bad one does not keep the good one away.
    let target = builder.target();
    fs::write(signature_of(&file), "garbage").unwrap();
    import(&target, &file, &[&path, "--yes"]).code(1);
    assert_eq!(["hello", "other"].map(|name| target.has(&TestRoot::ko(name, B))), [false, true]);
    let target = builder.target();
    import(&target, &other, &[&path, "--yes"]).code(1).shows(&["another archive of this call"]);
}

#[test]
fn into_an_image() {
    let builder = Builder::new();
    let file = builder.signed().display().to_string();
    let image = builder.target();
    let mut command = command("clr-dkms", &image.tools());
    command.args(["import", &file, "--yes", "--root"]).arg(image.path());
    let run = Run::of(command.output().unwrap(), &image);
    run.code(0).shows(&["installed and proven"]);
    assert_eq!(builds(&image), Vec::<String>::new());
    assert!(image.has(&TestRoot::ko("hello", B)));
}

#[test]
fn killed_at_any_moment_the_next_run_finishes() {
    let builder = Builder::new();
    let file = builder.signed();
    let mut killed = 0;
    for milliseconds in (0..8).step_by(few_or(3, 1)).map(|n| 10 + n * n * 8) {
        let target = builder.target();
        let mut command = command("clr-dkms", &target.tools());
        command.arg("import").arg(&file).args(["--yes", "--live-root"]).arg(target.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        killed += i32::from(!child.wait().unwrap().success());
        let source = target.at("usr/src/hello-1.0");
        assert!(!source.exists() || source.join("hello.c").exists(), "{milliseconds} ms");
        let built = target.at(&TestRoot::build("hello", "1.0", B));
        assert!(!built.exists() || built.join("module/hello.ko").exists(), "{milliseconds} ms");
        import(&target, &file, &["--yes"]).code(0);
        assert!(target.has(&TestRoot::ko("hello", B)), "{milliseconds} ms");
        assert_eq!(fs::read_dir(target.at("var/tmp")).unwrap().count(), 0, "{milliseconds} ms");
        let kernel = built.parent().unwrap();
        assert_eq!(fs::read_dir(kernel).unwrap().count(), 1, "{milliseconds} ms");
    }
    assert!(killed > 0);
}
