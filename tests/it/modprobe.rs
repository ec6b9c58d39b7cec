//! `modprobe.d`, the kernel command line and the indexes, against what the real modprobe said about the same
//! files (`tests/support/record-modprobe.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clr_dkms::modprobe::config::Directive;
use clr_dkms::modprobe::{
    Claim, FileOrigin, KernelModules, LineWords, LoadBlocker, LoadRule, ModprobeConfig, ModulesLoad,
    Resolution, load_rule, pattern,
};
use clr_dkms::sys::{Root, RootKind};
use serde::Deserialize;

use crate::support::{elf, scratch};
use crate::vectors::{VectorFile, latin1, lay_out};

const RELEASE: &str = "6.15.7-1591.native";

/// kmod 30 lets it hide a file of the same name; kmod 34 does not, by its sources.
const VERSION_DEPENDENT: &str = "a symlink that leads nowhere";

#[derive(Deserialize)]
struct Answer {
    name: String,
    files: Vec<VectorFile>,
    cmdline: String,
    /// `modprobe -c`: its lines of three kinds, sorted.
    config: Vec<String>,
    probes: BTreeMap<String, Probe>,
}

/// `modprobe -n -v NAME`, and the same with `-b`, which honours `blacklist` as systemd does.
#[derive(Deserialize)]
struct Probe {
    code: i32,
    by_name: Vec<String>,
    with_blacklist: Vec<String>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/modprobe")
}

fn answers() -> Vec<Answer> {
    let text = fs::read_to_string(data().join("answers.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The kernel of the answers, with modules that say what the recorded ones said.
fn lay_out_kernel(top: &Path) {
    let tree = top.join(format!("usr/lib/modules/{RELEASE}"));
    fs::create_dir_all(&tree).unwrap();
    for index in ["modules.dep", "modules.dep.bin", "modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(data().join(index), tree.join(index)).unwrap();
    }
    for file in fs::read_to_string(data().join("files")).unwrap().lines() {
        let info: &[u8] = match file {
            "kernel/a/hello.ko" => b"alias=pci:v00001234d*sv*sd*bc*sc*i*\0alias=fs-hello\0",
            "updates/dkms/two.ko" => b"alias=two-alias\0",
            _ => b"license=GPL\0",
        };
        fs::create_dir_all(tree.join(file).parent().unwrap()).unwrap();
        fs::write(tree.join(file), elf::with_modinfo(info)).unwrap();
    }
}

fn shown(config: &ModprobeConfig, words: &LineWords) -> Vec<String> {
    let of_files = config.directives.iter().filter_map(|(_, directive)| match directive {
        Directive::Blacklist { module } => Some(format!("blacklist {module}")),
        Directive::Install { pattern, command } => Some(format!("install {pattern} {command}")),
        Directive::Alias { pattern, module } => Some(format!("alias {pattern} {module}")),
        Directive::Options { .. } | Directive::SoftDependency { .. } => None,
    });
    let of_line = words.blacklisted.iter().map(|name| format!("blacklist {name}"));
    let mut lines: Vec<String> = of_files.chain(of_line).collect();
    lines.sort();
    lines
}

#[test]
fn the_configuration_is_read_as_by_kmod() {
    for answer in answers() {
        let scratch = scratch::directory();
        lay_out(&answer.files, scratch.path());
        let root = Root::open(RootKind::Image, scratch.path()).unwrap();
        let words = LineWords::read(&latin1(&answer.cmdline));
        let config = ModprobeConfig::load(&root);
        if answer.name == VERSION_DEPENDENT {
            assert_eq!(config.unreadable.len(), 1, "{:?}", config.unreadable);
            continue;
        }
        // An empty name blacklists nothing.
        let expected: Vec<&String> = answer.config.iter().filter(|line| *line != "blacklist ").collect();
        assert_eq!(shown(&config, &words).iter().collect::<Vec<_>>(), expected, "{}", answer.name);
        assert_eq!(config.unreadable, Vec::<String>::new(), "{}", answer.name);
    }
}

#[test]
fn a_module_is_found_and_loaded_as_by_modprobe() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in answers() {
        let scratch = scratch::directory();
        lay_out(&answer.files, scratch.path());
        lay_out_kernel(scratch.path());
        let root = Root::open(RootKind::Image, scratch.path()).unwrap();
        let (config, words) = (ModprobeConfig::load(&root), LineWords::read(&latin1(&answer.cmdline)));
        let modules = KernelModules::new(&root, RELEASE);
        for name in ["hello", "base-mod", "base_mod", "two", "three", "bi", "inside", "ghost", "off"] {
            let (probe, case) = (&answer.probes[name], format!("{}: {name}", answer.name));
            let (path, needs) = match modules.resolve(name) {
                Resolution::File { path, needs, .. } => (path, needs),
                Resolution::Dangling { path } => (path, Vec::new()),
                Resolution::BuiltIn => {
                    assert!(["bi", "inside"].contains(&name), "{case}");
                    assert_eq!((probe.code, probe.by_name.len()), (0, 0), "{case}");
                    continue;
                }
                Resolution::Absent => {
                    assert_eq!((name, probe.code), ("off", 1), "{case}");
                    continue;
                }
                Resolution::Unknown(reason) => panic!("{case}: {reason}"),
            };
            let insmod = path.replace(&format!("/usr/lib/modules/{RELEASE}/"), "insmod ");
            let last = probe.by_name.last();
            let normal = name.replace('-', "_");
            let leads_elsewhere = config.directives.iter().any(
                |(_, d)| matches!(d, Directive::Alias { pattern, .. } if pattern::matches(pattern, &normal)),
            );
            let kind = match load_rule(&config, &words, name, &needs) {
                LoadRule::Loads => {
                    assert_eq!(last, Some(&insmod), "{case}");
                    assert_eq!(probe.by_name, probe.with_blacklist, "{case}");
                    assert_eq!(probe.by_name.len(), needs.len() + 1, "{case}");
                    "loads"
                }
                LoadRule::Unknown(_) => {
                    assert_eq!(answer.name, VERSION_DEPENDENT, "{case}");
                    continue;
                }
                LoadRule::OnlyByName(_) => {
                    assert!(leads_elsewhere || last == Some(&insmod), "{case}: {last:?}");
                    assert_eq!(probe.with_blacklist, Vec::<String>::new(), "{case}");
                    "only by name"
                }
                LoadRule::OnlyByAlias(_) => {
                    assert_ne!(last, Some(&insmod), "{case}");
                    "only by alias"
                }
                LoadRule::Never(LoadBlocker::Dependency(..)) => {
                    let (_, before) = probe.by_name.split_last().unwrap();
                    assert!(before.iter().any(|line| line.starts_with("install ")), "{case}");
                    "never, for another"
                }
                LoadRule::Never(LoadBlocker::LineRefuses(_)) => {
                    // The kernel refuses it, of which kmod knows nothing.
                    assert_eq!(last, Some(&insmod), "{case}");
                    "refused"
                }
                LoadRule::Command(LoadBlocker::Install(_, command))
                | LoadRule::Never(LoadBlocker::Install(_, command)) => {
                    let shown = last.and_then(|line| line.strip_prefix("install "));
                    assert_eq!(shown.map(str::trim), Some(command.trim()), "{case}");
                    "a command"
                }
                other => panic!("{case}: {other:?}"),
            };
            *seen.entry(kind).or_default() += 1;
        }
    }
    let kinds = ["a command", "loads", "never, for another", "only by alias", "only by name", "refused"];
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), kinds);
}

#[test]
fn which_file_and_for_what() {
    let scratch = scratch::directory();
    lay_out_kernel(scratch.path());
    let root = Root::open(RootKind::Image, scratch.path()).unwrap();
    let modules = KernelModules::new(&root, RELEASE);
    let file = |below: &str, origin, needs: &[&str]| Resolution::File {
        path: format!("/usr/lib/modules/{RELEASE}/{below}"),
        origin,
        needs: needs.iter().map(|n| (*n).to_owned()).collect(),
    };
    // There is a copy in kernel/ too: depmod prefers updates.
    assert_eq!(modules.resolve("two"), file("updates/dkms/two.ko", FileOrigin::Dkms, &[]));
    assert_eq!(modules.resolve("three"), file("extra/three.ko", FileOrigin::Extra, &[]));
    assert_eq!(modules.resolve("hello"), file("kernel/a/hello.ko", FileOrigin::InTree, &["base-mod"]));
    assert_eq!(modules.resolve("bi"), Resolution::BuiltIn);
    let ghost = format!("/usr/lib/modules/{RELEASE}/kernel/a/ghost.ko");
    assert_eq!(modules.resolve("ghost"), Resolution::Dangling { path: ghost });
    assert_eq!(modules.resolve("nothing"), Resolution::Absent);
    for (module, alias, expected) in [
        ("hello", "fs-hello", Claim::Yes),
        ("hello", "pci:v00001234d00000001sv0sd0bc0sc0i0", Claim::Yes),
        ("hello", "pci:v00004321d00000001sv0sd0bc0sc0i0", Claim::No),
        ("inside", "fs-inside", Claim::Yes),
        ("inside", "fs-hello", Claim::No),
        ("nothing", "fs-hello", Claim::No),
    ] {
        assert_eq!(modules.claims(module, alias), expected, "{module} {alias}");
    }
}

#[test]
fn what_cannot_be_read_is_neither_absent_nor_there() {
    let scratch = scratch::directory();
    lay_out_kernel(scratch.path());
    let tree = scratch.path().join(format!("usr/lib/modules/{RELEASE}"));
    let root = Root::open(RootKind::Image, scratch.path()).unwrap();
    let resolve = |name: &str| KernelModules::new(&root, RELEASE).resolve(name);
    let unknown = |found: Resolution| matches!(found, Resolution::Unknown(_));
    for index in ["modules.dep.bin", "modules.dep", "modules.builtin"] {
        let kept = fs::read(tree.join(index)).unwrap();
        fs::remove_file(tree.join(index)).unwrap();
        fs::create_dir(tree.join(index)).unwrap();
        assert!(unknown(resolve("hello")), "{index}");
        fs::remove_dir(tree.join(index)).unwrap();
        fs::write(tree.join(index), kept).unwrap();
    }
    let binary = fs::read(tree.join("modules.dep.bin")).unwrap();
    fs::write(tree.join("modules.dep.bin"), &binary[..40]).unwrap();
    assert!(unknown(resolve("hello")));
    fs::write(tree.join("modules.dep.bin"), binary).unwrap();
    // A built-in module's aliases are not in modules.builtin.
    fs::remove_file(tree.join("modules.builtin.modinfo")).unwrap();
    let modules = KernelModules::new(&root, RELEASE);
    assert!(matches!(modules.claims("inside", "fs-inside"), Claim::Unknown(_)));
    fs::write(tree.join("kernel/a/hello.ko"), b"garbage").unwrap();
    assert!(matches!(modules.claims("hello", "fs-hello"), Claim::Unknown(_)));
    // Without any index modprobe finds nothing.
    fs::remove_dir_all(&tree).unwrap();
    assert_eq!(resolve("hello"), Resolution::Absent);
}

#[test]
fn a_directory_that_cannot_be_read_leaves_it_open() {
    let scratch = scratch::directory();
    let top = scratch.path();
    fs::create_dir_all(top.join("etc/modprobe.d")).unwrap();
    // A FIFO holds lines that nobody can know, and so does an image of a device elsewhere.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        top.join("etc/modprobe.d/a.conf"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let root = Root::open(RootKind::Image, top).unwrap();
    let config = ModprobeConfig::load(&root);
    assert_eq!(config.unreadable.len(), 1, "{:?}", config.unreadable);
    assert!(matches!(load_rule(&config, &LineWords::default(), "hello", &[]), LoadRule::Unknown(_)));
}

#[test]
fn what_systemd_loads_at_boot() {
    let scratch = scratch::directory();
    let top = scratch.path();
    for (path, text) in [
        ("etc/modules-load.d/a.conf", "# mine\nv4l2-loopback\n"),
        ("usr/lib/modules-load.d/a.conf", "hidden\n"),
        ("usr/lib/modules-load.d/z.conf", "zfs\n"),
        ("run/modules-load.d/b.conf", ";x\nhello\n"),
    ] {
        fs::create_dir_all(top.join(path).parent().unwrap()).unwrap();
        fs::write(top.join(path), text).unwrap();
    }
    let root = Root::open(RootKind::Image, top).unwrap();
    let found = ModulesLoad::load(&root);
    let names: Vec<String> = found.names.iter().map(|(at, name)| format!("{at} {name}")).collect();
    assert_eq!(
        names,
        [
            "/etc/modules-load.d/a.conf:2 v4l2_loopback",
            "/run/modules-load.d/b.conf:2 hello",
            "/usr/lib/modules-load.d/z.conf:1 zfs",
        ]
    );
    assert_eq!(found.unreadable, Vec::<String>::new());
}
