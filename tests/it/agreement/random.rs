//! The same of machines with several kernels, and several modules in any states.

use clr_dkms::dkms::plan::State;
use clr_dkms::requirement::Importance;
use proptest::prelude::*;

use super::scene::{Flavour, Kernel, Module, STATES, Scene};
use super::{OLD, check};
use crate::support::{A, B, LTS};

const FLAVOURS: [Flavour; 5] =
    [Flavour::Usual, Flavour::Bare, Flavour::Mixed, Flavour::Foreign, Flavour::Strict];
const CLASSES: [Importance; 3] = [Importance::Critical, Importance::Wanted, Importance::Optional];

/// Kernels and their roles: each machine has one that runs, one that boots next, and the tip of the running
/// one's variant.
const MACHINES: [&[(&str, &str)]; 8] = [
    &[(A, "r"), (B, "nt")],
    &[(A, "rn"), (B, "t-")],
    &[(A, "rn"), (B, "t")],
    &[(A, "rnt"), (LTS, "t")],
    &[(A, "r"), (B, "nt"), (LTS, "t")],
    &[(A, "rt"), (LTS, "nt")],
    &[(OLD, ""), (A, "r"), (B, "nt")],
    &[(OLD, "n"), (A, "r"), (B, "t"), (LTS, "t")],
];

/// The states that a module may be in on such a kernel.
fn states(flavour: Flavour) -> Vec<State> {
    let fits = |state: &State| match (state, flavour) {
        // A matter of a module on all kernels, and not of one.
        (State::NotManaged, _) => false,
        // What is installed is refused there, and stays installed without headers and compiler.
        (State::Ok, _) => flavour != Flavour::Strict,
        (State::SignatureRefused, _) => flavour == Flavour::Strict,
        (_, Flavour::Strict) => Flavour::for_state(*state) == Some(Flavour::Usual),
        (state, _) => Flavour::for_state(*state).is_none_or(|needed| needed == flavour),
    };
    STATES.into_iter().filter(fits).collect()
}

/// Most of what there is works: else nothing would ever be healthy.
fn state_on(flavour: Flavour) -> impl Strategy<Value = State> {
    let usual = if flavour == Flavour::Strict { State::SignatureRefused } else { State::Ok };
    prop_oneof![3 => Just(usual), 2 => prop::sample::select(states(flavour))]
}

fn scenes() -> impl Strategy<Value = Scene> {
    let flavour = || prop_oneof![4 => Just(Flavour::Usual), 1 => prop::sample::select(FLAVOURS.to_vec())];
    let machine = prop::sample::select(MACHINES.to_vec());
    let kernels = machine.prop_flat_map(move |machine| {
        prop::collection::vec(flavour(), machine.len()).prop_map(move |flavours| {
            let kernel = |(release, roles): &(&'static str, &str), flavour| Kernel {
                flavour,
                ..Kernel::new(release, roles)
            };
            machine.iter().zip(flavours).map(|(k, f)| kernel(k, f)).collect::<Vec<Kernel>>()
        })
    });
    kernels.prop_flat_map(|kernels| {
        let on: Vec<_> = kernels.iter().map(|k| state_on(k.flavour)).collect();
        let modules = prop::collection::vec((prop::sample::select(CLASSES.to_vec()), on), 0..=4);
        modules.prop_map(move |modules| {
            let module = |(at, (class, on)): (usize, (Importance, Vec<State>))| Module {
                name: ["hello", "nvidia", "v4l2loopback", "zfs"][at].to_owned(),
                version: "1.0",
                class: Some(class),
                on,
            };
            let modules = modules.into_iter().enumerate().map(module).collect();
            Scene { kernels: kernels.clone(), modules }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_machine(scene in scenes()) {
        check(scene, |_| false);
    }
}

fn module<const N: usize>(name: &str, class: Importance, on: [State; N]) -> Module {
    Module { name: name.to_owned(), version: "1.0", class: Some(class), on: on.into() }
}

/// The running kernel refuses a wanted module that is installed for it: that does not justify staying on a
/// kernel.
#[test]
fn what_is_refused_now_keeps_nothing() {
    use State::{Conflict, HeadersMissing, NotBuilt, Ok, SignatureRefused};
    let kernels = [(OLD, "n", Flavour::Bare), (A, "r", Flavour::Strict), (B, "t", Flavour::Usual)];
    let mut kernels: Vec<Kernel> =
        kernels.map(|(release, roles, flavour)| Kernel { flavour, ..Kernel::new(release, roles) }).into();
    kernels.push(Kernel::new(LTS, "t"));
    let modules = vec![
        module("hello", Importance::Critical, [Ok, SignatureRefused, Ok, NotBuilt]),
        module("nvidia", Importance::Wanted, [HeadersMissing, SignatureRefused, NotBuilt, Conflict]),
    ];
    let shown = check(Scene { kernels, modules }, |_| false);
    assert_ne!(shown.verdict(), "unsafe");
}

/// The default has another module's file of the name of a critical one; a kernel of another type has the
/// module itself.
#[test]
fn a_kernel_that_is_known_to_have_it_is_better_than_one_that_may() {
    use State::{Conflict, NotBuilt, Ok};
    let kernels = vec![Kernel::new(A, "r"), Kernel::new(B, "nt"), Kernel::new(LTS, "t")];
    let modules = vec![
        module("hello", Importance::Wanted, [Ok, Ok, NotBuilt]),
        module("nvidia", Importance::Critical, [NotBuilt, Conflict, Ok]),
    ];
    let shown = check(Scene { kernels, modules }, |_| false);
    assert_eq!(shown.default(), Some(LTS));
}
