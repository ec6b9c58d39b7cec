//! The command line of any files: no panic, every byte with its origin, and a writer that takes everything
//! back.

use std::fs;
use std::path::{Path, PathBuf};

use clr_dkms::cmdline::merge::WordOrigin;
use clr_dkms::cmdline::report::report;
use clr_dkms::cmdline::sources::RemovalFile;
use clr_dkms::cmdline::writer::{Ours, Wish, WriterStep, after, apply, plan};
use clr_dkms::cmdline::{CmdlineSources, Fragment, Mask, PARAMETER, Switch, effective, merge, parameter};
use clr_dkms::sys::{Root, RootKind};
use proptest::prelude::*;

use crate::support::tree::{Tree, difference, read};
use crate::support::{A, few_or, scratch};

const RELEASES: [&str; 2] = [A, "6.12.38-1550.ltscurrent"];

/// Bytes that matter more often than others.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => prop::sample::select(b" \t\n\n#\"=-.\r\x0b\xa0ab\0".to_vec()),
        1 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..40)
}

fn fragment(directory: &str, at: usize, bytes: Vec<u8>, masked: bool) -> Fragment {
    let name = format!("{at:02}.conf");
    let path = Path::new(directory).join(&name);
    Fragment { name: name.into(), path, bytes, mask: masked.then_some(Mask::SameName) }
}

fn any_sources() -> impl Strategy<Value = CmdlineSources> {
    let several = || prop::collection::vec((bytes(), prop::bool::weighted(0.2)), 0..3);
    (bytes(), several(), prop::option::of(bytes()), several(), several()).prop_map(
        |(kernel, vendor, admin, local, removals)| {
            let fragments = |directory: &str, of: Vec<(Vec<u8>, bool)>| -> Vec<Fragment> {
                of.into_iter().enumerate().map(|(at, (b, m))| fragment(directory, at, b, m)).collect()
            };
            let removal = |(at, (bytes, closed)): (usize, (Vec<u8>, bool))| RemovalFile {
                path: PathBuf::from(format!("/r/{at:02}.conf")),
                bytes: (!closed).then_some(bytes),
            };
            CmdlineSources {
                kernel,
                kernel_path: "/k".into(),
                vendor: fragments("/v", vendor),
                admin,
                local: fragments("/l", local),
                removals: removals.into_iter().enumerate().map(removal).collect(),
                ..CmdlineSources::default()
            }
        },
    )
}

/// The line of the file that an origin names.
fn line_at<'a>(sources: &'a CmdlineSources, origin: &WordOrigin) -> &'a [u8] {
    let mut fragments = sources.vendor.iter().chain(&sources.local);
    let bytes = match fragments.find(|f| f.path == origin.path) {
        Some(fragment) => &fragment.bytes,
        None if origin.path == Path::new("/k") => &sources.kernel,
        None => sources.admin.as_ref().expect("an origin that is not a file"),
    };
    bytes.split(|b| *b == b'\n').nth(origin.line - 1).expect("no such line")
}

/// `part` is `whole` with some bytes left out, as removals leave them out.
pub(crate) fn is_left_of(part: &[u8], whole: &[u8]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|byte| rest.any(|b| b == byte))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(few_or(400, 2000)))]

    #[test]
    fn every_byte_has_its_origin(sources in any_sources()) {
        let merged = merge(&sources);
        prop_assert_eq!(&merged.line, &effective(&sources));
        let joined: Vec<u8> = merged.pieces.iter().flat_map(|p| p.bytes.clone()).collect();
        prop_assert_eq!(&joined, &merged.line);
        for piece in &merged.pieces {
            match &piece.origin {
                Some(origin) => prop_assert!(is_left_of(&piece.bytes, line_at(&sources, origin)), "{piece:?}"),
                None => prop_assert!(piece.bytes.iter().all(|b| *b == b' '), "{piece:?}"),
            }
        }
        // The words are all that is not a separator, in their order.
        let solid = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().copied().filter(|b| !parameter::is_separator(*b)).collect()
        };
        let of_words: Vec<u8> = merged.words.iter().flat_map(|w| solid(&w.bytes)).collect();
        prop_assert_eq!(of_words, solid(&merged.line));
        for word in &merged.words {
            prop_assert!(!word.origins.is_empty() || word.bytes.is_empty(), "{word:?}");
        }
        // Whatever a report makes of it, it can be made, and read back.
        let shown = serde_json::to_string(&report("r", "id", &sources, &merged)).unwrap();
        prop_assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok());
    }

    #[test]
    fn any_files_can_be_planned_for(sources in any_sources()) {
        for wish in [Wish::Enable, Wish::Ensure, Wish::Disable, Wish::Default] {
            let sources = [sources.copy()];
            let plan = plan(wish, &sources, &Ours::default());
            let then = after(&sources[0], &plan.steps);
            let switch = parameter::read_switch(&effective(&then), PARAMETER);
            let wanted = match wish {
                Wish::Enable | Wish::Ensure => switch == Switch::On,
                Wish::Disable => switch == Switch::Off,
                Wish::Default => true,
            };
            prop_assert_eq!(wanted, plan.blockers.is_empty(), "{:?} {:?}", wish, plan);
        }
    }
}

/// A file of a root: a number of a place, and what is there.
#[derive(Debug, Clone)]
enum Thing {
    File(String),
    Null,
    Dangling,
    Directory,
}

const PLACES: [&str; 12] = [
    "etc/kernel/cmdline",
    "etc/kernel/cmdline.d/10-a.conf",
    "etc/kernel/cmdline.d/clr-ignore-mod-sig.conf",
    "etc/kernel/cmdline.d/clr-dkms.conf",
    "etc/kernel/cmdline.d/clr-dkms-sig-unenforce.conf",
    "etc/kernel/cmdline.d/readme",
    "usr/share/kernel/cmdline.d/clr-ignore-mod-sig.conf",
    "usr/share/kernel/cmdline.d/clr-dkms.conf",
    "usr/share/kernel/cmdline.d/10-a.conf",
    "etc/kernel/cmdline-removal.d/a.conf",
    "etc/kernel/cmdline-removal.d/b.conf",
    "var/lib/clr-dkms/other",
];

fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "module.sig_unenforce",
        "module.sig_unenforce",
        "module.sig-unenforce=1",
        "module.sig_unenforce=0",
        "module.sig_unenforce=enabled",
        "sig_unenforce",
        "module.",
        "nvidia-drm.modeset=1",
        "modeset=1",
        "x=\"a",
        "b\"",
        "--",
        "quiet",
        "#",
        "\0",
        "bootconfig",
    ]);
    let blank = prop::sample::select(vec![" ", "\n", "\n", "\t", "  "]);
    prop::collection::vec((word, blank), 0..4)
        .prop_map(|words| words.iter().map(|(word, blank)| format!("{word}{blank}")).collect())
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        8 => words().prop_map(Thing::File),
        2 => Just(Thing::File("module.sig_unenforce\n".to_owned())),
        1 => Just(Thing::Null),
        1 => Just(Thing::Dangling),
        1 => Just(Thing::Directory),
    ]
}

type Things = Vec<(&'static str, Thing)>;

fn small_root() -> impl Strategy<Value = (String, String, Things)> {
    let things = prop::collection::vec((prop::sample::select(PLACES.to_vec()), thing()), 0..5);
    (words(), words(), things)
}

struct Laid {
    directory: tempfile::TempDir,
    root: Root,
}

fn lay_out((first, second, things): &(String, String, Things)) -> Laid {
    let directory = scratch::directory();
    let at = |path: &str| directory.path().join(path);
    fs::create_dir_all(at("usr/lib/kernel")).unwrap();
    for (release, line) in RELEASES.iter().zip([first, second]) {
        fs::write(at(&format!("usr/lib/kernel/cmdline-{release}")), line).unwrap();
    }
    for (path, thing) in things {
        let path = at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match thing {
            Thing::File(text) => fs::write(path, text).unwrap(),
            Thing::Null => std::os::unix::fs::symlink("/dev/null", path).unwrap(),
            Thing::Dangling => std::os::unix::fs::symlink("nowhere", path).unwrap(),
            Thing::Directory => fs::create_dir(path).unwrap(),
        }
    }
    Laid { root: Root::open(RootKind::Image, directory.path()).unwrap(), directory }
}

impl Laid {
    fn sources(&self) -> Vec<CmdlineSources> {
        RELEASES.iter().map(|release| CmdlineSources::observe(&self.root, release)).collect()
    }

    fn tree(&self) -> Tree {
        read(self.directory.path())
    }

    fn switches(&self) -> Vec<Switch> {
        self.sources().iter().map(|s| parameter::read_switch(&effective(s), PARAMETER)).collect()
    }

    /// Plans and applies; what differs then, beside what the plan names and the state file, is a fault. Gives
    /// whether nothing stood in the way.
    fn grant(&self, wish: Wish) -> Result<bool, TestCaseError> {
        let sources = self.sources();
        let before = self.tree();
        let ours = Ours::load(&self.root).unwrap();
        let plan = plan(wish, &sources, &ours);
        for blocker in &plan.blockers {
            prop_assert!(self.root.lookup_link(&blocker.path).is_there(), "{blocker:?}");
        }
        apply(&self.root, &plan, &ours).unwrap();
        let named: Vec<&Path> = plan.steps.iter().map(WriterStep::path).collect();
        let after_it = self.tree();
        for change in difference(&before, &after_it, true) {
            let (kind, path) = change.split_at(2);
            let is_directory = [&before, &after_it]
                .iter()
                .any(|t| t.get(path).is_some_and(|e| e.what.starts_with("directory")));
            let allowed = is_directory
                || path == "var/lib/clr-dkms/cmdline.json"
                || named.contains(&Path::new("/").join(path).as_path());
            prop_assert!(allowed, "{kind}{path} by {plan:?}");
        }
        // What the plan foretold has come true.
        for (was, is) in sources.iter().zip(self.sources()) {
            prop_assert_eq!(effective(&after(was, &plan.steps)), effective(&is), "{:?}", plan);
        }
        Ok(plan.blockers.is_empty())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(few_or(80, 400)))]

    #[test]
    fn what_is_done_is_taken_back(files in small_root(), wishes in prop::collection::vec(
        prop::sample::select(vec![Wish::Enable, Wish::Disable, Wish::Ensure]), 1..4))
    {
        let laid = lay_out(&files);
        let before = laid.tree();
        for wish in wishes {
            let free = laid.grant(wish)?;
            let wanted = if wish == Wish::Disable { Switch::Off } else { Switch::On };
            let met = laid.switches().iter().all(|s| *s == wanted);
            prop_assert_eq!(free, met, "{:?}", wish);
            // Once more changes nothing.
            let settled = laid.tree();
            laid.grant(wish)?;
            prop_assert_eq!(difference(&settled, &laid.tree(), true), Vec::<String>::new());
        }
        laid.grant(Wish::Default)?;
        prop_assert_eq!(difference(&before, &laid.tree(), false), Vec::<String>::new());
    }
}
