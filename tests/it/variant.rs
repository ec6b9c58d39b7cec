//! `clr-dkms-variant`: every variant of the table, and names that only look like one.

use crate::support::{A, B, LTS, Run, TestRoot};

/// Variant, family, what the long table says of DKMS, DKMS bundle, headers bundle, exit code.
const TABLE: [(&str, &str, &str, &str, &str, i32); 18] = [
    ("native", "native", "supported", "kernel-native-dkms", "linux-dev", 0),
    ("ltscurrent", "lts", "supported", "kernel-lts-dkms", "linux-lts-dev", 0),
    ("ltsprev", "lts", "supported", "kernel-ltsprev-dkms", "linux-ltsprev-dev", 0),
    ("lts", "lts", "supported", "kernel-lts-dkms", "linux-lts-dev", 0),
    ("lts2018", "lts", "deprecated", "-", "move to kernel-lts", 1),
    ("lts2019", "lts", "deprecated", "-", "move to kernel-lts", 1),
    ("lts2020", "lts", "deprecated", "-", "move to kernel-lts", 1),
    ("lts2021", "lts", "deprecated", "-", "move to kernel-lts", 1),
    ("lts2022", "lts", "deprecated", "-", "move to kernel-lts", 1),
    ("aws", "other", "supported", "kernel-aws-dkms", "kernel-aws-dkms", 0),
    ("kvm", "other", "unsupported", "-", "-", 1),
    ("hyperv", "other", "unsupported", "-", "-", 1),
    ("hyperv-lts", "other", "unsupported", "-", "-", 1),
    ("gce", "other", "unsupported", "-", "-", 1),
    ("preempt-rt", "other", "unsupported", "-", "-", 1),
    ("rt", "other", "unsupported", "-", "-", 1),
    ("iot-lts", "other", "unsupported", "-", "-", 1),
    // Solus's; installed here, so it is a kernel of this system even without a bundle.
    ("current", "other", "unsupported", "-", "-", 1),
];

fn variant(root: &TestRoot, arguments: &[&str]) -> Run {
    root.run("clr-dkms-variant", arguments)
}

fn is_a_usage_error(run: &Run) {
    assert_eq!((run.code, run.stdout.as_str()), (64, ""), "{}", run.stderr);
    assert!(run.stderr.contains("--help"), "{}", run.stderr);
}

#[test]
fn each_variant_is_known_by_name_by_release_and_by_id() {
    let empty = TestRoot::new();
    for (name, _, _, _, _, code) in TABLE {
        let asked = [name.to_owned(), format!("6.6.9-7.{name}"), format!("org.clearlinux.{name}.6.6.9-7")];
        for asked in asked {
            let run = variant(&empty, &[&asked]);
            assert_eq!((run.code, run.stdout.as_str()), (code, format!("{name}\n").as_str()), "{asked}");
        }
    }
}

#[test]
fn each_variant_is_known_when_it_runs() {
    for (name, family, dkms, bundle, headers, code) in TABLE {
        let release = format!("6.6.9-7.{name}");
        let root = TestRoot::new();
        root.kernel(&release);
        let root = root.running(&release);
        variant(&root, &[]).code(code).prints(&format!("{name}\n"));
        let long = variant(&root, &["--long"]);
        let lines: Vec<&str> = long.code(code).stdout.lines().collect();
        let cells: Vec<&str> = lines[1].split("  ").map(str::trim).filter(|c| !c.is_empty()).collect();
        let mark = match dkms {
            "supported" => "✔",
            "deprecated" => "!",
            _ => "✘",
        };
        let first = format!("{mark} {name}");
        assert_eq!(cells, [&first, family, dkms, bundle, headers, &release], "{}", long.stdout);
        let json = variant(&root, &["--json"]).code(code).json();
        let row = &json["kernels"][0];
        assert_eq!(
            (&row["variant"], &row["family"], &row["dkms"]),
            (&name.into(), &family.into(), &dkms.into())
        );
        assert_eq!((&row["installed"], &row["running"]), (&true.into(), &true.into()));
        if dkms == "supported" {
            assert_eq!((&row["dkms_bundle"], &row["headers_bundle"]), (&bundle.into(), &headers.into()));
        }
    }
}

#[test]
fn kernels_of_nobody_are_unknown() {
    for release in
        ["6.12.48+deb13-amd64", "6.9.3-custom", "6.11.4-301.fc41.x86_64", "6.1.0", "native-ish", ""]
    {
        let root = TestRoot::system();
        let run = variant(&root, &[release]);
        run.code(3).prints("").says(&["is not a kernel of this system"]);
        let root = root.running(release);
        variant(&root, &[]).code(3).prints("").says(&["clr-dkms-variant: error: "]);
        if !release.is_empty() {
            variant(&root, &[release])
                .code(3)
                .says(&["is running, and is not one of clr-boot-manager's kernels"]);
        }
    }
}

#[test]
fn names_that_only_look_like_a_variant_are_none() {
    let root = TestRoot::system();
    for asked in
        ["ltsx", "lts22", "lts20222", "native2", "Native", "nativ", "xnative", "6.1.1-1.natives", "dkms"]
    {
        variant(&root, &[asked]).code(3).prints("");
    }
    variant(&root, &["org.clearlinux.native.6.15.7-1591.bak"]).code(3).prints("");
}

#[test]
fn an_installed_kernel_of_an_unknown_variant_is_one_of_this_system() {
    let root = TestRoot::new();
    root.kernel("6.6.9-7.mine");
    for asked in ["mine", "6.6.9-7.mine", "org.clearlinux.mine.6.6.9-7"] {
        variant(&root, &[asked]).code(1).prints("mine\n");
    }
    variant(&root, &["6.6.9-8.mine"]).code(3).prints("");
}

#[test]
fn in_an_image_no_kernel_runs() {
    let root = TestRoot::new();
    // The machine's kernel is somebody else's, also when the image holds a proc of its own.
    root.kernel(A).tip(A).file("proc/sys/kernel/osrelease", format!("{A}\n"));
    variant(&root, &[]).code(3).prints("").says(&["no kernel runs", "--all"]);
    for option in ["--root", "--path", "-p"] {
        let mut command = crate::support::run::command("clr-dkms-variant", &root.tools());
        let output = command.args(["native", option]).arg(root.path()).output().unwrap();
        Run::of(output, &root).code(0).prints("native\n");
    }
}

#[test]
fn a_live_root_without_proc_cannot_tell() {
    let root = TestRoot::system();
    root.remove("proc");
    variant(&root, &[]).code(3).prints("").says(&["ROOT/proc/sys/kernel/osrelease"]);
}

#[test]
fn all_gives_the_worst_code() {
    let root = TestRoot::new();
    root.kernel(A).kernel(B).tip(B).kernel(LTS).tip(LTS);
    let three = format!("native      {B}\nnative      {A}\nltscurrent  {LTS}\n");
    variant(&root, &["--all"]).code(0).prints(&three);
    root.kernel("5.4.3-9.kvm");
    variant(&root, &["--all"]).code(1).prints(&format!("{three}kvm         5.4.3-9.kvm\n"));
    let root = root.running(A);
    insta::assert_snapshot!("variant_all_long", variant(&root, &["--all", "--long"]).code(1).stdout);
    insta::assert_snapshot!("variant_all_json", variant(&root, &["--all", "--json"]).code(1).stdout);
}

#[test]
fn all_of_nothing_is_unknown() {
    let root = TestRoot::new();
    variant(&root, &["--all"]).code(3).prints("").says(&["no kernel"]);
    root.remove("usr/lib/kernel");
    variant(&root, &["--all"]).code(3).prints("").says(&["no kernel"]);
    root.file("usr/lib/kernel", "a file");
    variant(&root, &["--all"]).code(3).prints("").says(&["no kernel"]);
}

#[test]
fn solus_has_its_own_namespace() {
    let root = TestRoot::new();
    let (lts, current) = ("6.12.38-250.lts", "6.15.7-310.current");
    root.kernel_of("com.solus-project", lts).kernel_of("com.solus-project", current);
    root.link("usr/lib/kernel/default-lts", "com.solus-project.lts.6.12.38-250");
    let root = root.running(lts);
    variant(&root, &[]).code(0).prints("lts\n");
    variant(&root, &["com.solus-project.current.6.15.7-310"]).code(1).prints("current\n");
    let json = variant(&root, &["--json", "lts"]).code(0).json();
    assert_eq!(json["kernels"][0]["id"], "com.solus-project.lts.6.12.38-250");
    assert_eq!(json["kernels"][0]["release"], lts);
}

#[test]
fn a_variant_means_its_tip() {
    let root = TestRoot::updated();
    let json = variant(&root, &["--json", "native"]).code(0).json();
    assert_eq!(json["kernels"][0]["release"], B);
    assert_eq!((&json["kernels"][0]["tip"], &json["kernels"][0]["running"]), (&true.into(), &false.into()));
}

#[test]
fn quiet_answers_by_the_code_alone() {
    let root = TestRoot::system();
    variant(&root, &["-q", "native"]).code(0).prints("");
    variant(&root, &["-q", "kvm"]).code(1).prints("");
}

#[test]
fn wrong_usage_is_64() {
    let root = TestRoot::system();
    is_a_usage_error(&variant(&root, &["--nonsense"]));
    is_a_usage_error(&variant(&root, &["--all", "native"]));
    is_a_usage_error(&variant(&root, &["--long", "--json"]));
    is_a_usage_error(&variant(&root, &["native", "lts"]));
    is_a_usage_error(&variant(&root, &["--color", "maybe"]));
    is_a_usage_error(&variant(&root, &["-q", "-v"]));
    let mut both = root.command("clr-dkms-variant", &["--root", "/"]);
    is_a_usage_error(&Run::of(both.output().unwrap(), &root));
}

#[test]
fn a_root_that_is_none_is_wrong_usage() {
    for program in ["clr-dkms-variant", "clr-dkms-motd", "clr-dkms-post-update"] {
        let root = TestRoot::system();
        std::fs::remove_dir_all(root.path()).unwrap();
        let run = root.run(program, &[]);
        run.code(64).prints("").says(&["ROOT", "No such file", "give --root or --live-root a directory"]);
        std::fs::write(root.path(), "a file").unwrap();
        root.run(program, &[]).code(64).prints("").says(&["ROOT", "Not a directory"]);
    }
}

#[test]
fn help_and_version_are_answers() {
    for program in [
        "clr-dkms",
        "clr-dkms-cmdline",
        "clr-dkms-motd",
        "clr-dkms-post-update",
        "clr-dkms-pre-update",
        "clr-dkms-variant",
    ] {
        let root = TestRoot::new();
        let run = |option| {
            let mut command = crate::support::run::command(program, &root.tools());
            Run::of(command.arg(option).output().unwrap(), &root)
        };
        run("--help").code(0).shows(&["Usage", "--root"]);
        run("--version").code(0).prints(&format!("{program} {}\n", env!("CARGO_PKG_VERSION")));
    }
}
