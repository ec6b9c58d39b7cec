//! The model of clr-boot-manager beside the stand-in.

use std::fs;

use super::boot_manager::{Disk, EntryText, INITRD, NS};
use super::machine::Machine;
use crate::support::boot::{Boot, LOADER};
use crate::support::random::Random;
use crate::support::{TestRoot, few_or};

fn entry_path(disk: &Disk, kernel: usize) -> String {
    let name = &disk.kernels[kernel].name;
    format!("boot/loader/entries/Clear-linux-{}-{}-{}.conf", name.variant, name.version, name.number)
}

fn words(text: EntryText) -> String {
    format!("version={}{}", text.version, if text.parameter { " module.sig_unenforce" } else { "" })
}

fn make(disk: &Disk) -> TestRoot {
    let root = TestRoot::new();
    for (at, kernel) in disk.kernels.iter().enumerate() {
        let paths = [
            (kernel.source, format!("usr/lib/kernel/{}", kernel.id)),
            (kernel.cmdline, format!("usr/lib/kernel/cmdline-{}", kernel.release)),
            (kernel.marked, format!("var/lib/kernel/k_booted_{}", kernel.release)),
            (kernel.copied, format!("boot/EFI/{NS}/kernel-{}", kernel.id)),
        ];
        for (_, path) in paths.iter().filter(|(is_there, _)| *is_there) {
            root.file(path, if path.contains("cmdline-") { "" } else { &kernel.id });
        }
        if kernel.modules {
            root.directory(&format!("usr/lib/modules/{}", kernel.release));
        }
        if let Some(entry) = kernel.entry {
            root.file(&entry_path(disk, at), entry_text(&kernel.id, entry));
        }
    }
    for (kind, at) in &disk.links {
        root.link(&format!("usr/lib/kernel/default-{kind}"), &disk.kernels[*at].id);
    }
    let running = disk.running.map_or("6.9.9-custom", |k| &disk.kernels[k].release);
    root.file("proc/sys/kernel/osrelease", format!("{running}\n"));
    root.file("etc/kernel/cmdline", words(disk.configured));
    if disk.configured.initrd {
        root.file(&format!("usr/lib/initrd.d/{INITRD}"), "initrd");
    }
    if disk.initrd_copied {
        root.file(&format!("boot/EFI/{NS}/freestanding-{INITRD}"), "initrd");
    }
    if let Some(default) = disk.default {
        let path = entry_path(disk, default);
        root.file(LOADER, format!("default {}\n", path.rsplit('/').next().unwrap()));
    }
    root
}

fn entry_text(id: &str, text: EntryText) -> String {
    let initrd =
        if text.initrd { format!("initrd /EFI/{NS}/freestanding-{INITRD}\n") } else { String::new() };
    format!(
        "title Clear Linux OS\nlinux /EFI/{NS}/kernel-{id}\n{initrd}\
         options root=PARTUUID=5ca1ab1e-0000-4000-8000-00000000c1a0  {}\n",
        words(text)
    )
}

/// What is there, in lines.
fn state_of(disk: &Disk) -> Vec<String> {
    let mut lines = vec![format!("default {:?}", disk.default.map(|k| entry_path(disk, k)))];
    lines.push(format!("initrd {}", disk.initrd_copied));
    for kernel in &disk.kernels {
        lines.push(format!(
            "{} {} {} {} {} {} {:?}",
            kernel.id,
            kernel.source,
            kernel.cmdline,
            kernel.modules,
            kernel.marked,
            kernel.copied,
            kernel.entry.map(|entry| entry_text(&kernel.id, entry))
        ));
    }
    lines
}

/// The same of a root with the kernels of `disk`.
fn state_in(root: &TestRoot, disk: &Disk) -> Vec<String> {
    let default = fs::read_to_string(root.at(LOADER)).ok();
    let default = default.map(|text| {
        let entry = text.trim().strip_prefix("default ").unwrap().to_owned();
        format!("boot/loader/entries/{entry}")
    });
    let mut lines = vec![format!("default {default:?}")];
    lines.push(format!("initrd {}", root.has(&format!("boot/EFI/{NS}/freestanding-{INITRD}"))));
    for (at, kernel) in disk.kernels.iter().enumerate() {
        lines.push(format!(
            "{} {} {} {} {} {} {:?}",
            kernel.id,
            root.has(&format!("usr/lib/kernel/{}", kernel.id)),
            root.has(&format!("usr/lib/kernel/cmdline-{}", kernel.release)),
            root.has(&format!("usr/lib/modules/{}", kernel.release)),
            root.has(&format!("var/lib/kernel/k_booted_{}", kernel.release)),
            root.has(&format!("boot/EFI/{NS}/kernel-{}", kernel.id)),
            fs::read_to_string(root.at(&entry_path(disk, at))).ok()
        ));
    }
    lines
}

#[test]
fn the_model_of_clr_boot_manager_does_what_the_stand_in_does() {
    for seed in 0..few_or(10, 40) {
        let mut random = Random::new(seed);
        let mut machine = Machine::generate(&mut random);
        for _ in 0..4 {
            let event = super::event(&machine, &mut random);
            // What the invariant is broken by is found elsewhere.
            if super::happen(&mut machine, &event, &mut random).is_err() {
                break;
            }
        }
        let mut disk = machine.disk;
        let root = make(&disk);
        let boot = Boot::of(&root);
        let before = state_in(&root, &disk);
        assert_eq!(before, state_of(&disk), "seed {seed}: as made");
        let is_set = seed % 5 == 4;
        let steps = if is_set { disk.set_default(0) } else { disk.update() };
        if is_set {
            boot.run_stand_in(&["set-kernel", &disk.kernels[0].id]);
        } else {
            boot.run_stand_in(&["update"]);
        }
        steps.into_iter().for_each(|step| disk.apply(step));
        assert_eq!(state_in(&root, &disk), state_of(&disk), "seed {seed}: from {before:#?}");
    }
}
