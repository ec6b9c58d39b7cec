//! What is foreseen of `clr-boot-manager update`, beside what the stand-in does.

use std::collections::BTreeSet;
use std::fs;

use clr_dkms::boot::foresee::{Foreseen, KernelFile, Uname as SystemUname, UpdateInput, UpdateMode, foresee};
use clr_dkms::kernel::KernelName;
use proptest::prelude::*;

use crate::support::boot::{Boot, LOADER};
use crate::support::{TestRoot, few_or};

const NS: &str = "org.clearlinux";
const AS_IT_WAS: &str = "default as-it-was.conf\n";

/// A kernel file: type, version, number, suffix, and whether it is marked as booted.
type Made = (&'static str, &'static str, u32, &'static str, bool);

#[derive(Debug, Clone)]
struct Machine {
    kernels: Vec<Made>,
    links: Vec<(&'static str, usize, &'static str)>,
    /// None makes an image.
    uname: Option<Uname>,
    sources: BTreeSet<&'static str>,
    masked: BTreeSet<&'static str>,
    installed: BTreeSet<&'static str>,
}

#[derive(Debug, Clone)]
enum Uname {
    Of(usize),
    OtherVersion(usize),
    Gone(&'static str),
    Custom,
}

fn machines() -> impl Strategy<Value = Machine> {
    let kind =
        || prop::sample::select(vec!["native", "native", "native", "ltscurrent", "lts2020", "ltsprev"]);
    let version = prop::sample::select(vec!["6.1.1", "6.2.0"]);
    let number = prop::sample::select(vec![1u32, 2, 3, 4, 5, 32767, 40000, 65535, 65537]);
    let suffix = prop::sample::select(vec!["", "", "", "", "", ".bak"]);
    let kernels = prop::collection::vec((kind(), version, number, suffix, prop::bool::weighted(0.3)), 1..8);
    // Where a link points: any of the kernels, perhaps not with its bare name.
    let text = prop::sample::select(vec!["", "", "", "./", "/usr/lib/kernel/"]);
    let links = prop::collection::vec((kind(), any::<prop::sample::Index>(), text), 0..4);
    let uname = (0..9u8, any::<prop::sample::Index>(), kind());
    let names =
        || prop::collection::btree_set(prop::sample::select(vec!["a", "b-ucode.cpio", "c", "d"]), 0..4);
    (kernels, links, uname, names(), names(), names()).prop_map(
        |(kernels, links, uname, sources, masked, installed)| {
            let at = |index: prop::sample::Index| index.index(kernels.len());
            let uname = match uname {
                (0, ..) => None,
                (1, index, _) => Some(Uname::OtherVersion(at(index))),
                (2, _, kind) => Some(Uname::Gone(kind)),
                (3, ..) => Some(Uname::Custom),
                (_, index, _) => Some(Uname::Of(at(index))),
            };
            let links = links.into_iter().map(|(kind, index, text)| (kind, at(index), text)).collect();
            Machine { kernels, links, uname, sources, masked, installed }
        },
    )
}

fn id(kernel: &Made) -> String {
    let (kind, version, number, suffix, _) = kernel;
    format!("{NS}.{kind}.{version}-{number}{suffix}")
}

fn wrapped(number: u32) -> i16 {
    number as i16
}

fn make(machine: &Machine) -> TestRoot {
    let root = TestRoot::new();
    for kernel in &machine.kernels {
        let (kind, version, number, _, marked) = kernel;
        let release = format!("{version}-{number}.{kind}");
        root.file(&format!("usr/lib/kernel/{}", id(kernel)), id(kernel))
            .file(&format!("usr/lib/kernel/cmdline-{release}"), "quiet\n")
            .directory(&format!("usr/lib/modules/{release}"));
        if *marked {
            root.file(&format!("var/lib/kernel/k_booted_{version}-{}.{kind}", wrapped(*number)), "");
        }
    }
    for (kind, at, text) in &machine.links {
        root.link(&format!("usr/lib/kernel/default-{kind}"), format!("{text}{}", id(&machine.kernels[*at])));
    }
    let uname = machine.uname.as_ref().map(|uname| match uname {
        Uname::Of(at) => {
            let (kind, version, number, ..) = machine.kernels[*at];
            format!("{version}-{number}.{kind}")
        }
        Uname::OtherVersion(at) => {
            let (kind, _, number, ..) = machine.kernels[*at];
            format!("5.0.0-{number}.{kind}")
        }
        Uname::Gone(kind) => format!("6.9.9-999.{kind}"),
        Uname::Custom => "6.9.9-custom".to_owned(),
    });
    if let Some(uname) = uname {
        root.file("proc/sys/kernel/osrelease", format!("{uname}\n"));
    }
    for name in &machine.sources {
        root.file(&format!("usr/lib/initrd.d/{name}"), "initrd");
    }
    for name in &machine.masked {
        root.link(&format!("etc/kernel/initrd.d/{name}"), "/dev/null");
    }
    for name in &machine.installed {
        root.file(&format!("boot/EFI/{NS}/freestanding-{name}"), "old");
    }
    root.file(LOADER, AS_IT_WAS);
    root
}

fn names(root: &TestRoot, directory: &str, prefix: &str) -> BTreeSet<String> {
    let Ok(listed) = fs::read_dir(root.at(directory)) else { return BTreeSet::new() };
    let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_prefix(prefix).map(str::to_owned)).collect()
}

/// Whether clr-boot-manager cannot tell two of the kernels apart by type and number: then the order of a
/// directory decides which of them it takes.
fn has_twins(machine: &Machine) -> bool {
    let keys: BTreeSet<_> =
        machine.kernels.iter().map(|(kind, _, number, ..)| (kind, wrapped(*number))).collect();
    let files: BTreeSet<String> = machine.kernels.iter().map(id).collect();
    keys.len() < files.len()
        || (machine.uname.is_none() && {
            let numbers: BTreeSet<_> =
                machine.kernels.iter().map(|(_, _, number, ..)| wrapped(*number)).collect();
            numbers.len() < files.len()
        })
}

fn check(machine: &Machine) -> Result<(), TestCaseError> {
    let root = make(machine);
    let boot = Boot::of(&root);
    let input = UpdateInput::observe(&boot.root, &boot.inventory(), &boot.files()).unwrap();
    let foreseen = foresee(&input).unwrap();
    let kernels: BTreeSet<String> = machine.kernels.iter().map(id).collect();
    prop_assert_eq!(boot.update(), None);
    let left = names(&root, "usr/lib/kernel", "org.");
    let left: BTreeSet<String> = left.iter().map(|name| format!("org.{name}")).collect();
    let deleted: BTreeSet<String> = kernels.difference(&left).cloned().collect();
    let images = names(&root, &format!("boot/EFI/{NS}"), "kernel-");
    let there: BTreeSet<String> = foreseen.installs.difference(&foreseen.deletes).cloned().collect();
    if has_twins(machine) {
        prop_assert!(deleted.is_subset(&foreseen.deletes), "{:?} {:?}", deleted, foreseen);
        prop_assert!(there.is_subset(&images), "{:?} {:?}", images, foreseen);
    } else {
        prop_assert_eq!(&deleted, &foreseen.deletes, "{:?}", foreseen);
        prop_assert_eq!(&there, &images, "{:?}", foreseen);
    }
    check_default(&root, &foreseen)?;
    let initrds = names(&root, &format!("boot/EFI/{NS}"), "freestanding-");
    let masked = &machine.masked;
    let sources = machine.sources.difference(masked).map(|n| (*n).to_owned());
    let expected: BTreeSet<String> =
        machine.installed.iter().map(|n| (*n).to_owned()).chain(sources).collect();
    let expected: BTreeSet<String> = expected.difference(&foreseen.removes_initrds).cloned().collect();
    prop_assert_eq!(initrds, expected, "{:?}", foreseen);
    Ok(())
}

fn check_default(root: &TestRoot, foreseen: &Foreseen) -> Result<(), TestCaseError> {
    let text = root.text(LOADER);
    if foreseen.default.is_empty() {
        prop_assert_eq!(text, AS_IT_WAS);
        return Ok(());
    }
    let line = |file: &String| {
        let (name, _) = KernelName::from_id(file, NS).unwrap();
        format!("default Clear-linux-{}-{}-{}.conf\n", name.variant, name.version, name.compared_number())
    };
    prop_assert!(foreseen.default.iter().map(line).any(|line| line == text), "{} {:?}", text, foreseen);
    Ok(())
}

proptest! {
    // Each case starts the stand-in once, which takes about 80 ms. PROPTEST_CASES does not count here.
    #![proptest_config(ProptestConfig { cases: few_or(15, 60), ..ProptestConfig::default() })]

    #[test]
    fn an_update_does_what_was_foreseen(machine in machines()) {
        check(&machine)?;
    }
}

/// 600 random states, and what clr-boot-manager 3.3.1 as Clear Linux builds it made of them natively. In some
/// of them two kernels compare equal to it: there it goes by the order of a directory.
const VECTORS: &str = include_str!("../data/update-vectors.jsonl");

fn texts(value: &serde_json::Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn state_of(vector: &serde_json::Value) -> UpdateInput {
    let kernels = vector["kernels"].as_array().unwrap().iter().filter(|kernel| kernel[1] == true);
    let links = vector["links"].as_object().unwrap().iter();
    let uname = KernelName::from_release(vector["uname"].as_str().unwrap(), NS);
    UpdateInput {
        mode: UpdateMode::Native(uname.map_or(SystemUname::Unparsable, SystemUname::Parsed)),
        kernels: kernels
            .filter_map(|kernel| {
                let file = kernel[0].as_str().unwrap().to_owned();
                let (name, _) = KernelName::from_id(&file, NS)?;
                Some(KernelFile { file, name, marked: kernel[2] == true })
            })
            .collect(),
        default_links: links.map(|(kind, text)| (kind.clone(), text.as_str().unwrap().to_owned())).collect(),
        initrd_sources: texts(&vector["sources"]),
        initrds_installed: texts(&vector["on_esp"]),
    }
}

#[test]
fn the_real_program_does_what_is_foreseen() {
    let mut compared = 0;
    for (at, line) in VECTORS.lines().enumerate() {
        let vector: serde_json::Value = serde_json::from_str(line).unwrap();
        let input = state_of(&vector);
        let foreseen = foresee(&input).unwrap();
        let visible: BTreeSet<String> = input.kernels.iter().map(|k| k.file.clone()).collect();
        let left: BTreeSet<String> = texts(&vector["left"]).iter().map(|id| format!("{NS}.{id}")).collect();
        let deleted: BTreeSet<String> = visible.difference(&left).cloned().collect();
        let fresh = texts(&vector["fresh"]);
        let there: BTreeSet<String> = foreseen.installs.difference(&foreseen.deletes).cloned().collect();
        let case = format!("vector {at}: {line}\n{foreseen:?}");
        if vector["ambiguous"] == true {
            assert!(deleted.is_subset(&foreseen.deletes), "{case}");
            assert!(there.is_subset(&fresh), "{case}");
            continue;
        }
        compared += 1;
        assert_eq!(deleted, foreseen.deletes, "{case}");
        assert_eq!(there, fresh, "{case}");
        let entry = |file: &String| {
            let (name, _) = KernelName::from_id(file, NS).unwrap();
            format!("{}-{}-{}", name.variant, name.version, name.compared_number())
        };
        let default = match foreseen.default.first() {
            Some(file) => Some(entry(file)),
            None => vector["default_before"].as_str().map(str::to_owned),
        };
        assert_eq!(vector["default_after"].as_str().map(str::to_owned), default, "{case}");
        let mut initrds = texts(&vector["on_esp"]);
        // With no kernel it does nothing at all.
        if !input.kernels.is_empty() {
            initrds.extend(texts(&vector["sources"]));
        }
        let initrds: BTreeSet<String> = initrds.difference(&foreseen.removes_initrds).cloned().collect();
        assert_eq!(texts(&vector["freestanding_after"]), initrds, "{case}");
    }
    assert_eq!(compared, 521);
}
