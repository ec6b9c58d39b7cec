//! No bytes, whatever they are, make the library panic.

use std::fs;

use clr_dkms::cmdline::{CmdlineSources, PARAMETER, effective, parameter};
use clr_dkms::config::{self, Settings};
use clr_dkms::context::Context;
use clr_dkms::dkms::{Cache, Tree, first_error, modfile, symbols};
use clr_dkms::report::render::style::ScreenStyle;
use clr_dkms::report::render::text;
use clr_dkms::report::{Progress, document};
use clr_dkms::state::{self, RECORD, RunRecord};
use clr_dkms::sys::{Clock, Root, RootKind, Tools};
use clr_dkms::system::System;
use proptest::prelude::*;

use crate::support::{A, B, TestRoot, elf, few_or, scratch};

fn root_of(root: &TestRoot) -> Root {
    Root::open(RootKind::LiveCopy, root.path()).unwrap()
}

/// Everything that `status` does, on what is there.
fn look(root: &TestRoot) -> String {
    let context = Context {
        root: root_of(root),
        tools: Tools::from_environment(),
        clock: Clock::System,
        settings: Settings::default(),
    };
    let system = System::observe(&context, &mut Cache::default());
    let record = state::load::<RunRecord>(&context.root, RECORD);
    let document = document(&system, &record, &Progress::None, &context.settings, context.clock.now());
    text::screen(&document, &ScreenStyle::default())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

/// A name that a directory can have: any bytes but a slash and NUL.
fn name() -> impl Strategy<Value = String> {
    "[^/\u{0}]{1,40}".prop_filter("a name", |n| n != "." && n != ".." && n.len() < 200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: few_or(8, 32), ..ProptestConfig::default() })]

    #[test]
    fn any_tree(names in prop::collection::vec((name(), name(), name()), 1..8), text in bytes()) {
        use std::os::unix::ffi::OsStrExt;
        let root = TestRoot::system();
        let link: Vec<u8> = text.iter().copied().filter(|b| *b != 0).take(100).chain(*b"x").collect();
        for (a, b, c) in &names {
            fs::create_dir_all(root.at("var/lib/dkms").join(a).join(b).join(c)).ok();
            fs::write(root.at("var/lib/dkms").join(a).join(b).join("source"), &text).ok();
            let links = [format!("kernel-{c}-x86_64"), format!("kernel-{A}-x86_64"), format!("{c}/source")];
            for name in links {
                let place = root.at("var/lib/dkms").join(a).join(name);
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&link), place).ok();
            }
        }
        let tree = Tree::observe(&root_of(&root));
        let mut sorted = tree.modules.clone();
        sorted.sort_by(|x, y| x.module.name.cmp(&y.module.name));
        prop_assert_eq!(
            sorted.iter().map(|m| &m.module.name).collect::<Vec<_>>(),
            tree.modules.iter().map(|m| &m.module.name).collect::<Vec<_>>()
        );
        let odd = tree.modules.iter().any(|m| m.module.to_string().contains([' ', '\n', '\'']));
        prop_assert!(!odd);
        look(&root);
    }

    #[test]
    fn any_kernel_directory(names in prop::collection::vec(name(), 1..12), text in bytes()) {
        let root = TestRoot::system();
        for name in &names {
            for prefix in ["", "default-", "cmdline-", "org.clearlinux.", "org.clearlinux.native.6.1-"] {
                fs::write(root.at("usr/lib/kernel").join(format!("{prefix}{name}")), &text).ok();
            }
        }
        let screen = look(&root);
        let rings = screen.contains('\u{7}');
        prop_assert!(!rings);
    }

    #[test]
    fn any_index(text in bytes(), binary in bytes(), ko in bytes()) {
        let root = TestRoot::updated();
        root.module("hello", "1.0", "").installed("hello", "1.0", B);
        root.file(&format!("usr/lib/modules/{B}/modules.dep"), &text);
        root.file(&format!("usr/lib/modules/{B}/modules.dep.bin"), &binary);
        root.file(&TestRoot::ko("hello", B), &ko);
        root.file("usr/lib/modules/6.15.8-1592.native/build/.config", &text);
        root.file("usr/lib/kernel/config-6.15.8-1592.native", &binary);
        let screen = look(&root);
        prop_assert!(screen.contains("  hello/1.0  "));
        prop_assert!(!screen.contains("✔ ok"));
    }

    #[test]
    fn any_boot_entry(text in bytes(), loader in bytes(), name in name()) {
        let root = TestRoot::updated();
        fs::write(root.at("boot/loader/entries").join(format!("{name}.conf")), &text).ok();
        root.file("boot/loader/loader.conf", &loader);
        root.file("sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", &text);
        look(&root);
    }

    #[test]
    fn any_menu(text in bytes(), environment in bytes(), of in prop::sample::select(vec!["syslinux.cfg", "grub/grub.cfg"])) {
        let root = TestRoot::updated();
        root.remove("boot").file(&format!("boot/{of}"), &text).file("boot/grub/grubenv", &environment);
        look(&root);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: few_or(80, 400), ..ProptestConfig::default() })]

    #[test]
    fn any_module_file(text in bytes(), ending in prop::sample::select(modfile::ENDINGS.to_vec())) {
        let system = modfile::read(&format!("x{ending}"), &text);
        prop_assert_eq!(system.sha256.len(), 64);
    }

    /// A module with some bytes changed, or cut: nearer to the truth than noise, and so deeper in the
    /// readers.
    #[test]
    fn a_module_file_with_flaws(at in 0usize..400, byte in any::<u8>(), end in 0usize..500) {
        let mut file = elf::module(A);
        let length = file.len();
        file[at % length] = byte;
        file.truncate(end);
        modfile::read("x.ko", &file);
    }

    #[test]
    fn a_module_file_with_flawed_symbols(at in 0usize..1500, byte in any::<u8>(), end in 300usize..1500) {
        let mut file = elf::with_symbols(A, "x", &[("printk", 7, false), ("weak", 8, true)], &[("given", 9)]);
        let length = file.len();
        file[at % length] = byte;
        file.truncate(end);
        if let Ok(symbols) = symbols::read(file.as_slice()) {
            drop(symbols.against_kernel(b"0x07\tprintk\tvmlinux\n", |_| true));
        }
    }

    #[test]
    fn any_modinfo(text in bytes()) {
        if let Ok(vermagic) = modfile::read("x.ko", &elf::with_modinfo(&text)).vermagic {
            prop_assert!(text.windows(9).any(|w| w == b"vermagic="), "{}", vermagic);
        }
    }

    #[test]
    fn any_configuration(text in bytes(), likely in "(\\[(build|run|tools|x)?\\]?\n|[a-z-]{0,9} ?=? ?[0-9a-z\"#\\\\]{0,12}\n|;.?\n){0,8}") {
        for text in [text, likely.into_bytes()] {
            let (mut settings, mut errors) = (Settings::default(), Vec::new());
            config::read(std::path::Path::new("/x.conf"), &text, true, &mut settings, &mut errors);
            for error in errors {
                prop_assert!(error.to_string().starts_with("/x.conf"));
            }
        }
    }

    #[test]
    fn any_record(text in bytes()) {
        let directory = scratch::directory();
        let root = Root::open(RootKind::Image, directory.path()).unwrap();
        root.write(RECORD, &text, 0o644).unwrap();
        prop_assert!(state::load::<RunRecord>(&root, RECORD).as_good().is_none());
    }

    #[test]
    fn any_log(text in bytes(), likely in "([a-z/:]{0,9}:[0-9]{0,11}:[0-9:]{0,4} (fatal )?error: .{0,20}\n|\\*\\*\\* .{0,9}\n){0,5}") {
        for text in [String::from_utf8_lossy(&text).into_owned(), likely] {
            let shown = first_error::find(&text);
            let lines = shown.error.iter().flat_map(|e| e.context.iter().chain([&e.message]));
            prop_assert!(!lines.chain(&shown.last_lines).any(|line| line.contains(char::is_control)));
            let mut search = first_error::Search::default();
            search.read(text.as_bytes()).unwrap();
            prop_assert_eq!(search.finish(), shown);
        }
    }

    #[test]
    fn any_command_line(kernel in bytes(), admin in bytes()) {
        let sources = CmdlineSources { kernel, admin: Some(admin), ..CmdlineSources::default() };
        parameter::read_switch(&effective(&sources), PARAMETER);
    }
}
