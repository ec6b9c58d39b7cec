//! Status, message of the day, check, JSON, metrics and guard are asked about every state of a module on a
//! kernel of every role: they agree, and what they say is true.

mod cures;
mod exit_codes;
mod oracle;
mod publish;
mod random;
mod remedies;
mod scene;

use std::collections::BTreeSet;

use clr_dkms::dkms::plan::State;
use clr_dkms::report::catalog;
use clr_dkms::requirement::Importance;

use self::publish::Shown;
use self::scene::{Flavour, Kernel, Module, STATES, Scene};
use crate::support::{A, B, LTS};

/// A kernel of before, which nothing boots any more.
const OLD: &str = "6.15.6-1590.native";

/// What a kernel is to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    RunningAndNext,
    Running,
    Next,
    HeldBack,
    OtherVariant,
    None,
}

const ROLES: [Role; 6] =
    [Role::RunningAndNext, Role::Running, Role::Next, Role::HeldBack, Role::OtherVariant, Role::None];

impl Role {
    /// The kernels, that of the role first.
    fn kernels(self) -> Vec<Kernel> {
        let kernels: &[(&'static str, &str)] = match self {
            Role::RunningAndNext => &[(A, "rnt")],
            Role::Running => &[(A, "r"), (B, "nt")],
            Role::Next => &[(B, "nt"), (A, "r")],
            Role::HeldBack => &[(B, "t-"), (A, "rn")],
            Role::OtherVariant => &[(LTS, "t"), (A, "rnt")],
            Role::None => &[(OLD, ""), (A, "rnt")],
        };
        kernels.iter().map(|(release, roles)| Kernel::new(release, roles)).collect()
    }

    /// One module, in that state on the kernel of that role, and all right on the other one.
    fn scene(self, state: State, class: Importance) -> Scene {
        let mut kernels = self.kernels();
        kernels[0].flavour = Flavour::for_state(state).unwrap_or(Flavour::Usual);
        let mut on = vec![State::Ok; kernels.len()];
        on[0] = state;
        let module = Module { name: "hello".to_owned(), version: "1.0", class: Some(class), on };
        Scene { kernels, modules: vec![module] }
    }
}

/// All of it about one machine; the programs are asked too where `programs` says so.
fn check(scene: Scene, programs: impl FnOnce(&str) -> bool) -> Shown {
    let staged = scene.stage();
    let document = staged.document();
    staged.is_as_meant(&document);
    let shown = Shown::inside(&staged, &document);
    shown.agrees();
    staged.scene.is_reported_by(&shown);
    if programs(shown.verdict()) {
        Shown::by_programs(&staged, &shown).agrees();
    }
    shown
}

/// Runs it, and says on which machine it failed, and how.
fn on<T>(what: &str, run: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).map_err(|why| {
        let why = why.downcast_ref::<String>().map(String::as_str).or(why.downcast_ref::<&str>().copied());
        format!("{what}: {}", why.unwrap_or("no reason"))
    })
}

/// Every state on every role, for modules of one class.
fn walk(class: Importance) {
    let mut verdicts = BTreeSet::new();
    let (mut failed, mut steps) = (Vec::new(), BTreeSet::new());
    // Loaded without a file: that is reported, and required only where it is listed.
    let is_reported = |state: &State, role: &Role| {
        *state == State::NotManaged
            && match role {
                Role::RunningAndNext => class != Importance::Critical,
                Role::Running => class == Importance::Optional,
                _ => false,
            }
    };
    let all = STATES.iter().flat_map(|s| ROLES.map(|r| (*s, r)));
    for (at, (state, role)) in all.filter(|(state, role)| !is_reported(state, role)).enumerate() {
        let programs = |verdict: &str| verdicts.insert(verdict.to_owned()) || at % 7 == 0;
        match on(&format!("{state} on {role:?}"), || check(role.scene(state, class), programs)) {
            Ok(shown) => steps.extend(shown.steps()),
            Err(why) => failed.push(why),
        }
    }
    assert!(failed.is_empty(), "{class}, {} of them:\n{}", failed.len(), failed.join("\n\n"));
    cures::are_there(&steps);
    // Only a wanted module is given up without a further word.
    let allows = steps.iter().any(|step| step.contains("clr-dkms allow 6.15.8-1592.native --without hello`"));
    assert_eq!(allows, class == Importance::Wanted, "{steps:?}");
    // None of them would do to be right by chance.
    let all = ["building", "degraded", "healthy", "reboot-pending", "unknown"];
    assert!(all.iter().all(|v| verdicts.contains(*v)), "{verdicts:?}");
    assert_eq!(verdicts.contains("unsafe"), class == Importance::Critical, "{verdicts:?}");
    assert_eq!(verdicts.contains("held"), class != Importance::Optional, "{verdicts:?}");
}

#[test]
fn critical_modules() {
    walk(Importance::Critical);
}

#[test]
fn wanted_modules() {
    walk(Importance::Wanted);
}

#[test]
fn optional_modules() {
    walk(Importance::Optional);
}

#[test]
fn the_walk_knows_every_state() {
    let mut known: BTreeSet<String> = STATES.iter().map(ToString::to_string).collect();
    // What keeps a module from being loaded is mostly a matter of the machine, and not of a kernel:
    // tests/it/loading.rs.
    known.extend(["blocked", "initrd-stale", "hook-failed"].map(str::to_owned));
    let rows = catalog::all();
    let explained: BTreeSet<String> =
        rows.iter().filter(|row| row.id.starts_with("CD-1")).map(|row| row.name.to_owned()).collect();
    assert_eq!(known, explained);
    assert_eq!(known.len(), STATES.len() + 3);
}
