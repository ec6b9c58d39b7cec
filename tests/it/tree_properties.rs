//! Whatever mixture of directories, links and files dkms, crashes and hands have left: no panic, and "ok"
//! just where a second, simple reading of the disk says so too.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use clr_dkms::decide::module_state::module_status;
use clr_dkms::dkms::{Cache, architecture, plan::State};
use clr_dkms::report::render::style::ScreenStyle;
use clr_dkms::report::render::text;
use clr_dkms::report::{Progress, document};
use clr_dkms::state::Stored;
use clr_dkms::sys::{Clock, Root, RootKind, Tools};
use clr_dkms::system::System;
use clr_dkms::{config::Settings, context::Context};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::{A, TestRoot, elf, few_or, modules_dep_bin};

const NAMES: [&str; 2] = ["alpha", "be-ta"];
const VERSIONS: [&str; 2] = ["1.0", "1.1"];

/// What is found in the place of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Thing {
    Good,
    OfOtherVersion,
    ForOtherKernel,
    Truncated,
    Empty,
    Garbage,
    Absent,
    Directory,
    Fifo,
    Dangling,
    Outside,
    Loop,
}

fn thing() -> impl Strategy<Value = Thing> {
    use Thing::*;
    let bad = vec![
        OfOtherVersion,
        ForOtherKernel,
        Truncated,
        Empty,
        Garbage,
        Absent,
        Directory,
        Fifo,
        Dangling,
        Outside,
        Loop,
    ];
    prop_oneof![30 => Just(Good), 3 => prop::sample::select(bad)]
}

#[derive(Debug, Clone, Copy)]
enum Conf {
    Plain,
    TwoFiles,
    Unterminated,
    Garbage,
    Absent,
}

fn conf() -> impl Strategy<Value = Conf> {
    use Conf::*;
    prop_oneof![9 => Just(Plain), 2 => Just(TwoFiles), 1 => prop::sample::select(vec![Unterminated, Garbage, Absent])]
}

/// The text of a `kernel-K-A` link: which version it names, counted from the highest, and how it is written.
#[derive(Debug, Clone, Copy)]
enum Claim {
    Right(usize),
    Absolute(usize),
    OtherKernel,
    Thing(Thing),
}

fn version_from_top() -> impl Strategy<Value = usize> {
    prop_oneof![5 => Just(0), 1 => Just(1)]
}

fn claim() -> impl Strategy<Value = Claim> {
    prop_oneof![
        12 => version_from_top().prop_map(Claim::Right),
        1 => version_from_top().prop_map(Claim::Absolute),
        1 => Just(Claim::OtherKernel),
        1 => thing().prop_map(Claim::Thing),
    ]
}

/// A version: its source, its dkms.conf, and what was built. `None`: without `module/`.
type Version = (Thing, Conf, Option<Thing>);

#[derive(Debug, Clone)]
struct Module {
    versions: Vec<Version>,
    claim: Claim,
    /// The version that the installed files are of, counted from the highest.
    of: usize,
    files: [Thing; 2],
}

fn module() -> impl Strategy<Value = Module> {
    let version = (thing(), conf(), prop::option::weighted(0.93, thing()));
    (prop::collection::vec(version, 1..=2), claim(), version_from_top(), [thing(), thing()])
        .prop_map(|(versions, claim, of, files)| Module { versions, claim, of, files })
}

/// `modules.dep` or its binary form.
#[derive(Debug, Clone, Copy)]
enum Listed {
    All,
    Stale,
    Elsewhere,
    Not(Thing),
}

fn listed() -> impl Strategy<Value = Listed> {
    prop_oneof![
        12 => Just(Listed::All),
        1 => Just(Listed::Stale),
        1 => Just(Listed::Elsewhere),
        1 => thing().prop_map(Listed::Not),
    ]
}

/// Puts a thing there; `good` are the bytes of a good file.
fn put(root: &TestRoot, path: &str, thing: Thing, good: &[u8]) {
    let at = root.at(path);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    let target = |text: &Path| symlink(text, &at).unwrap();
    match thing {
        Thing::Good => fs::write(at, good).unwrap(),
        Thing::OfOtherVersion => fs::write(at, [good, b" of another version"].concat()).unwrap(),
        Thing::ForOtherKernel => fs::write(at, elf::module("6.15.6-1590.native")).unwrap(),
        Thing::Truncated => fs::write(at, &good[..good.len() / 3]).unwrap(),
        Thing::Empty => fs::write(at, "").unwrap(),
        Thing::Garbage => fs::write(at, b"\x7fELF\xff\0\n'\"\x07 garbage").unwrap(),
        Thing::Absent => {}
        Thing::Directory => fs::create_dir_all(at.join("inside")).unwrap(),
        Thing::Fifo => {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            mknodat(CWD, &at, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        }
        Thing::Dangling => target(Path::new("nowhere")),
        Thing::Outside => {
            let outside = root.outside().join("good");
            fs::write(&outside, good).unwrap();
            target(&outside);
        }
        Thing::Loop => target(at.file_name().unwrap().as_ref()),
    }
}

fn good(name: &str, version: &str) -> Vec<u8> {
    [elf::module(A), format!("{name}/{version}").into_bytes()].concat()
}

fn conf_text(name: &str, version: &str, conf: Conf) -> Vec<u8> {
    let head = format!("PACKAGE_NAME=\"{name}\"\nPACKAGE_VERSION=\"{version}\"\n");
    let built = |at: usize, name: &str| {
        format!("BUILT_MODULE_NAME[{at}]=\"{name}\"\nDEST_MODULE_LOCATION[{at}]=\"/kernel/extra\"\n")
    };
    let text = match conf {
        Conf::Plain => format!("{head}{}AUTOINSTALL=\"yes\"\n", built(0, name)),
        Conf::TwoFiles => format!("{head}{}{}AUTOINSTALL=\"yes\"\n", built(0, name), built(1, "second")),
        Conf::Unterminated => format!("{head}{}AUTOINSTALL=\"yes\nMAKE=make\n", built(0, name)),
        Conf::Garbage => "\u{7}garbage((\n".to_owned(),
        Conf::Absent => String::new(),
    };
    text.into_bytes()
}

fn lay_out(root: &TestRoot, modules: &[Module], indexes: (Listed, Listed)) {
    let architecture = architecture();
    for (module, name) in modules.iter().zip(NAMES) {
        for ((source, conf, build), version) in module.versions.iter().zip(VERSIONS) {
            let directory = format!("usr/src/{name}-{version}");
            if !matches!(conf, Conf::Absent) {
                root.file(&format!("{directory}/dkms.conf"), conf_text(name, version, *conf));
            }
            let link = format!("var/lib/dkms/{name}/{version}/source");
            match source {
                Thing::Good => root.link(&link, format!("/{directory}")).forget(),
                Thing::OfOtherVersion => {
                    root.link(&link, format!("/usr/src/{name}-{}", VERSIONS[0])).forget()
                }
                other => put(root, &link, *other, b"text"),
            }
            let built = TestRoot::build(name, version, A);
            root.directory(&built);
            if let Some(build) = build {
                let bytes = good(name, version);
                put(root, &format!("{built}/module/{name}.ko"), *build, &bytes);
                put(root, &format!("{built}/module/second.ko"), Thing::Good, &bytes);
            }
        }
        let link = format!("var/lib/dkms/{name}/kernel-{A}-{architecture}");
        let version = |from_top: usize| VERSIONS[(module.versions.len() + 1 - from_top) % 2];
        let named = |from_top: usize, kernel: &str| format!("{}/{kernel}/{architecture}", version(from_top));
        match module.claim {
            Claim::Right(at) => root.link(&link, named(at, A)).forget(),
            Claim::Absolute(at) => {
                root.link(&link, format!("/var/lib/dkms/{name}/{}", named(at, A))).forget();
            }
            Claim::OtherKernel => root.link(&link, named(0, "6.15.6-1590.native")).forget(),
            Claim::Thing(thing) => put(root, &link, thing, b"text"),
        }
        for (thing, built) in module.files.iter().zip([name, "second"]) {
            let path = TestRoot::ko(built, A);
            if !root.has(&path) {
                put(root, &path, *thing, &good(name, version(module.of)));
            }
        }
    }
    let index = format!("usr/lib/modules/{A}/modules.dep");
    list(root, &index, indexes.0, &|text| text.into_bytes());
    list(root, &format!("{index}.bin"), indexes.1, &|text| modules_dep_bin(&text));
}

fn lines(directory: &str) -> String {
    NAMES.iter().chain(&["second"]).map(|name| format!("{directory}/{name}.ko:\n")).collect()
}

fn all_lines() -> String {
    format!("kernel/own.ko:\n{}", lines("updates/dkms"))
}

fn list(root: &TestRoot, path: &str, listed: Listed, form: &dyn Fn(String) -> Vec<u8>) {
    root.remove(path);
    let (thing, text) = match listed {
        Listed::All => (Thing::Good, all_lines()),
        Listed::Stale => (Thing::Good, "kernel/own.ko:\n".to_owned()),
        Listed::Elsewhere => (Thing::Good, lines("kernel/extra")),
        // What stands behind the tree of the binary one, modprobe does not look at.
        Listed::Not(Thing::OfOtherVersion) => (Thing::Good, "kernel/other.ko:\n".to_owned()),
        Listed::Not(thing) => (thing, lines("updates/dkms")),
    };
    put(root, path, thing, &form(text));
}

/// The second opinion: a few plain questions to the disk, asked where a `chroot` into the root would ask
/// them.
struct Oracle<'a>(&'a Path);

impl Oracle<'_> {
    /// Where a path leads to, link by link.
    fn real(&self, path: &str) -> Option<PathBuf> {
        let (mut done, mut todo) = (PathBuf::new(), PathBuf::from(path));
        for _ in 0..200 {
            let mut parts = todo.components();
            let Some(part) = parts.next() else { return Some(self.0.join(done)) };
            let rest = parts.as_path().to_owned();
            match part {
                Component::RootDir => done = PathBuf::new(),
                Component::ParentDir => drop(done.pop()),
                Component::Normal(name) => match fs::read_link(self.0.join(&done).join(name)) {
                    Ok(text) => {
                        todo = text.join(rest);
                        continue;
                    }
                    Err(_) => done.push(name),
                },
                _ => {}
            }
            todo = rest;
        }
        None
    }

    fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.real(path).filter(|path| path.is_file()).and_then(|path| fs::read(path).ok())
    }

    fn directory(&self, path: &str) -> bool {
        self.real(path).is_some_and(|path| path.is_dir())
    }

    /// The names that the dkms.conf of a version gives its files, as far as bash gets.
    fn built(&self, source: &str) -> Vec<String> {
        let bytes = self.file(&format!("{source}/dkms.conf")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let whole = text.lines().take_while(|line| line.matches('"').count() % 2 == 0);
        let name = |line: &str| line.strip_prefix("BUILT_MODULE_NAME[")?.split('"').nth(1).map(str::to_owned);
        whole.filter_map(name).collect()
    }

    fn says_ok(&self, name: &str, version: &str, release: &str) -> bool {
        let architecture = architecture();
        let (tree, modules) = (format!("/var/lib/dkms/{name}"), format!("/usr/lib/modules/{release}"));
        let source = format!("{tree}/{version}/source");
        let is_link = self.0.join(&source[1..]).is_symlink();
        let built = self.built(&source);
        let claim = fs::read_link(self.0.join(&tree[1..]).join(format!("kernel-{release}-{architecture}")));
        let relative = format!("{version}/{release}/{architecture}");
        let claimed = claim.is_ok_and(|text| text == Path::new(&relative));
        let read = |index: &str| self.file(&format!("{modules}/{index}")).unwrap_or_default();
        let lists = |file: &str| {
            String::from_utf8_lossy(&read("modules.dep"))
                .lines()
                .any(|line| line.split_once(':').is_some_and(|l| l.0 == file))
        };
        let binary = read("modules.dep.bin");
        let modprobe_reads =
            [all_lines(), lines("updates/dkms")].iter().any(|text| modules_dep_bin(text) == binary);
        let good = |built: &String| {
            let file = format!("updates/dkms/{built}.ko");
            let Some(bytes) = self.file(&format!("{modules}/{file}")) else { return false };
            let made = self.file(&format!("{tree}/{relative}/module/{built}.ko"));
            bytes.starts_with(&elf::module(release))
                && made.is_none_or(|made| made == bytes)
                && lists(&file)
                && modprobe_reads
        };
        is_link
            && self.directory(&source)
            && claimed
            && self.directory(&format!("{tree}/{relative}/module"))
            && !built.is_empty()
            && built.iter().all(good)
    }
}

#[test]
fn ok_is_said_where_the_disk_says_so_and_nowhere_else() {
    let context = |root: &TestRoot| Context {
        root: Root::open(RootKind::LiveCopy, root.path()).unwrap(),
        tools: Tools::from_environment(),
        clock: Clock::System,
        settings: Settings::default(),
    };
    let (seen, ok) = (Cell::new(0), Cell::new(0));
    let cases = (prop::collection::vec(module(), 1..=2), (listed(), listed()));
    let config = ProptestConfig { cases: few_or(150, 300), ..ProptestConfig::with_source_file(file!()) };
    let outcome = TestRunner::new(config).run(&cases, |(modules, indexes)| {
        let root = TestRoot::system();
        lay_out(&root, &modules, indexes);
        let context = context(&root);
        let system = System::observe(&context, &mut Cache::default());
        for pair in &system.modules_on_kernels {
            let module = &pair.module;
            let said = module_status(&system, pair, None).state;
            let expected = Oracle(root.path()).says_ok(&module.name, &module.version, &pair.release);
            prop_assert_eq!(said == State::Ok, expected, "{} is {}: {:?}", module, said, pair.proof);
            seen.set(seen.get() + 1);
            ok.set(ok.get() + usize::from(expected));
        }
        let document =
            document(&system, &Stored::Absent, &Progress::None, &context.settings, context.clock.now());
        let screen = text::screen(&document, &ScreenStyle::default());
        let rings = screen.contains('\u{7}');
        prop_assert!(!rings);
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    println!("{} of {} modules were ok", ok.get(), seen.get());
    assert!(ok.get() * 10 > seen.get() && ok.get() * 2 < seen.get(), "too much of one kind");
}
