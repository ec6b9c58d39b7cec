//! The promise, on generated machines: whatever happens in whatever order, the boot default is a kernel that
//! has every critical module, or it was the default before and the verdict is not "safe".
//!
//! A hundred thousand machines live in memory, a tenth of them in `cargo test`. The decisions are the
//! product's own functions; clr-boot-manager is a model of it, which is compared with the stand-in below.

mod boot_manager;
mod commands;
mod machine;
mod stand_in;

use std::time::{SystemTime, UNIX_EPOCH};

use clr_dkms::requirement::Importance;

use crate::support::few_or;
use crate::support::random::Random;
use boot_manager::Step;
use commands::{Command, Fault};
use machine::{Built, MODULES, Machine, Unreadable};

/// A seed with which one failed case is run again.
const SEED: &str = "CLR_DKMS_MODEL_SEED";
/// Set to play other machines at each run than those that every run plays.
const EXPLORE: &str = "CLR_DKMS_MODEL_EXPLORE";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// swupd brings a kernel.
    Update,
    /// swupd runs clr-boot-manager itself.
    UpdateByOthers,
    /// Fragments change.
    Fragments {
        parameter: bool,
    },
    /// The freestanding initrd comes or goes.
    Initrd,
    /// A build fails or succeeds, or a file is lost.
    Modules {
        kernel: usize,
        built: [Built; MODULES.len()],
    },
    Class {
        module: usize,
        class: Importance,
    },
    Hold(usize),
    Release {
        kernel: Option<usize>,
    },
    /// A bundle of a kernel is removed.
    BundleRemove(usize),
    Run {
        command: Command,
        fault: Fault,
        unreadable: Unreadable,
    },
    /// The machine boots; it has reached multi-user.target if `marks`.
    Reboot {
        marks: bool,
    },
}

fn event(machine: &Machine, random: &mut Random) -> Event {
    let kernel = random.below(machine.disk.kernels.len());
    match random.below(20) {
        0..=1 if machine.disk.kernels.len() < 7 => Event::Update,
        2 => Event::Fragments { parameter: !random.one_in(3) },
        3 => Event::Initrd,
        4 => {
            let mut built = machine.built[kernel];
            built[random.below(MODULES.len())].proven = random.one_in(2);
            Event::Modules { kernel, built }
        }
        5 => Event::Class {
            module: random.below(MODULES.len()),
            class: random.of(&[Importance::Critical, Importance::Wanted, Importance::Optional]),
        },
        6 if can_boot(machine, kernel) => Event::Hold(kernel),
        7 => Event::Release { kernel: Some(kernel).filter(|_| random.one_in(4)) },
        8 if random.one_in(3) => Event::BundleRemove(kernel),
        9 if random.one_in(3) => Event::UpdateByOthers,
        10..=11 => Event::Reboot { marks: !random.one_in(3) },
        _ => run(random),
    }
}

/// What `clr-dkms hold` asks of a kernel.
fn can_boot(machine: &Machine, kernel: usize) -> bool {
    let known = &machine.disk.kernels[kernel];
    let assessed = machine.assess(Unreadable::default());
    known.is_installed() && assessed.candidates.iter().any(|c| c.release == known.release && c.bootable)
}

fn run(random: &mut Random) -> Event {
    let command = match random.below(8) {
        0..=3 => Command::Worker { is_due: !random.one_in(8) },
        4 => Command::Cmdline { accept_losses: random.one_in(6) },
        _ => Command::Assert,
    };
    let fault = match random.below(5) {
        0..=1 => Fault::Kill { after: random.below(12) },
        2 if random.one_in(2) => Fault::UpdateFails { after: random.below(8) },
        _ => Fault::None,
    };
    let mut unreadable = Unreadable::default();
    if random.one_in(3) {
        match random.below(5) {
            0 => unreadable.running = true,
            1 => unreadable.marks = true,
            2 => unreadable.initrds = true,
            3 => unreadable.partition = true,
            _ => unreadable.modules = 1 << random.below(24) | 1 << random.below(24),
        }
    }
    Event::Run { command, fault, unreadable }
}

fn happen(machine: &mut Machine, event: &Event, random: &mut Random) -> Result<(), String> {
    match event {
        Event::Update => machine.add(random),
        Event::UpdateByOthers => {
            let steps = machine.disk.update();
            let cut = random.below(steps.len() + 4);
            steps.into_iter().take(cut).for_each(|step| machine.disk.apply(step));
        }
        Event::Fragments { parameter } => {
            machine.disk.configured.version += 1;
            machine.disk.configured.parameter = *parameter;
        }
        Event::Initrd => machine.disk.configured.initrd ^= true,
        Event::Modules { kernel, built } => machine.built[*kernel] = *built,
        Event::Class { module, class } => machine.classes[*module] = *class,
        Event::Hold(kernel) => {
            machine.hold = Some(*kernel);
            machine.released.clear();
        }
        Event::Release { kernel } => {
            machine.hold = None;
            machine.released.extend(kernel);
        }
        Event::BundleRemove(kernel) => {
            machine.disk.apply(Step::RemoveSource(*kernel));
            machine.disk.apply(Step::RemoveModules(*kernel));
        }
        Event::Run { command, fault, unreadable } => {
            commands::run(machine, command, *fault, *unreadable)?;
        }
        Event::Reboot { marks } => reboot(machine, *marks),
    }
    Ok(())
}

/// The boot loader takes the default, or else the entry with the highest number.
fn reboot(machine: &mut Machine, marks: bool) {
    let disk = &mut machine.disk;
    let boots = |k: &usize| disk.kernels[*k].entry.is_some() && disk.kernels[*k].copied;
    let Some(kernel) = disk.default.filter(boots).or_else(|| (0..disk.kernels.len()).rev().find(boots))
    else {
        return;
    };
    disk.running = Some(kernel);
    machine.booted_with_parameter = disk.kernels[kernel].entry.is_some_and(|entry| entry.parameter);
    disk.kernels[kernel].marked |= marks && disk.kernels[kernel].modules;
}

/// Runs one case; its story where it fails.
fn case(seed: u64) -> Result<usize, String> {
    let mut random = Random::new(seed);
    let mut machine = Machine::generate(&mut random);
    let first = machine.clone();
    let mut events = Vec::new();
    for _ in 0..2 + random.below(6) {
        let event = event(&machine, &mut random);
        events.push(event.clone());
        happen(&mut machine, &event, &mut random).map_err(|why| {
            format!("{SEED}={seed}: {why}\nfirst: {first}events: {events:#?}\nlast: {machine}")
        })?;
    }
    Ok(events.len())
}

#[test]
fn the_default_has_what_is_critical_or_the_verdict_says_so() {
    if let Some(seed) = std::env::var(SEED).ok().and_then(|text| text.parse().ok()) {
        case(seed).unwrap_or_else(|explain| panic!("{explain}"));
        return;
    }
    let explored = std::env::var_os(EXPLORE).map(|_| SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    let base = explored.map_or(0, |now| u64::try_from(now.as_nanos() % (1 << 62)).unwrap());
    let (threads, cases) = (2, few_or(10_000, 100_000));
    let played: usize = std::thread::scope(|scope| {
        let of_thread = |thread: u64| {
            let mut played = 0;
            for at in (thread..cases).step_by(2) {
                played += case(base + at).unwrap_or_else(|explain| panic!("{explain}"));
            }
            played
        };
        let running: Vec<_> = (0..threads).map(|t| scope.spawn(move || of_thread(t))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(played > 2 * usize::try_from(cases).unwrap());
}
