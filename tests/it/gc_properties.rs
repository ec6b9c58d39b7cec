//! `clr-dkms gc`: what holds for every name and every state.

use std::collections::BTreeSet;

use clr_dkms::dkms::ModuleName;
use clr_dkms::dkms::gc::{GcLeftover, KeptKernel, Observed, Thing, decide};
use clr_dkms::kernel::KernelName;
use proptest::prelude::*;

use crate::support::few_or;

/// Releases that meet each other: few versions, numbers that are alike, namings of others.
fn release() -> impl Strategy<Value = String> {
    let ours = ("6\\.1[25]\\.[0-9]", "(15|159|1591|67127|-1)", "(native|ltscurrent|native-rt)");
    prop_oneof![
        6 => ours.prop_map(|(version, number, variant)| format!("{version}-{number}.{variant}")),
        1 => "[0-9a-z.+-]{0,16}",
        1 => Just("6.1.0-50-amd64".to_owned()),
        1 => Just("6.15.7-1591.fc41.x86_64".to_owned()),
    ]
}

fn left() -> impl Strategy<Value = GcLeftover> {
    let module = ModuleName { name: "alpha".to_owned(), version: "1.0".to_owned() };
    prop_oneof![
        Just(GcLeftover::Original),
        Just(GcLeftover::Claim),
        Just(GcLeftover::Scratch),
        Just(GcLeftover::Modules { files: Vec::new(), directories: Vec::new() }),
        any::<bool>().prop_map(move |dkms_can| GcLeftover::Build { module: module.clone(), dkms_can }),
    ]
}

fn thing() -> impl Strategy<Value = Thing> {
    (release(), left(), prop::option::weighted(0.1, Just("is a link".to_owned()))).prop_map(
        |(release, left, blocker)| Thing { path: format!("/x/{release}"), release, left, bytes: 1, blocker },
    )
}

fn id(release: &str) -> Option<String> {
    KernelName::from_release(release, "org.clearlinux").map(|n| n.id())
}

fn kept() -> impl Strategy<Value = KeptKernel> {
    let some = || prop::collection::vec(release(), 0..4);
    (prop::option::of(release()), some(), some(), some()).prop_map(|(running, installed, beside, boot)| {
        KeptKernel {
            namespace: "org.clearlinux".to_owned(),
            running,
            installed: installed
                .iter()
                .filter_map(|r| KernelName::from_release(r, "org.clearlinux"))
                .collect(),
            beside_images: beside.iter().map(|r| format!("cmdline-{r}")).collect(),
            to_boot: boot.iter().filter_map(|r| id(r)).collect(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(few_or(400, 2000)))]

    #[test]
    fn nothing_of_a_kernel_that_may_be_there_is_ever_in_the_plan(
        kept in kept(),
        things in prop::collection::vec(thing(), 0..12),
    ) {
        let observed = Observed { things: things.clone(), ..Observed::default() };
        let plan = decide(&kept, &observed);
        let removed: BTreeSet<&str> = plan.removals.iter().map(|r| r.kernel.as_str()).collect();
        for release in removed {
            let name = KernelName::from_release(release, "org.clearlinux");
            prop_assert!(name.is_some(), "{release} is of another naming");
            let name = name.unwrap();
            prop_assert_eq!(&name.release(), release);
            prop_assert_ne!(kept.running.as_deref(), Some(release));
            prop_assert!(!kept.installed.iter().any(|k| k.is_same_to_boot_manager(&name)));
            let cmdline = format!("cmdline-{release}");
            prop_assert!(!kept.beside_images.contains(&cmdline));
            prop_assert!(!kept.to_boot.contains(&name.id()));
            prop_assert!(!kept.installed.is_empty());
            let mine = || things.iter().filter(|t| t.release == release);
            prop_assert!(mine().all(|t| t.blocker.is_none() || t.left == GcLeftover::Scratch));
        }
        // What was found is either removed, or it is said why not.
        for thing in &things {
            let gone = plan.removals.iter().any(|r| r.path == thing.path);
            let shown = plan.left_alone.iter().any(|l| l.what == thing.release || l.what == thing.path);
            prop_assert!(gone || shown || !plan.unreadable.is_empty());
        }
    }

    #[test]
    fn whatever_cannot_be_read_empties_the_plan(
        kept in kept(),
        things in prop::collection::vec(thing(), 0..12),
        why in "[a-z]{1,8}",
    ) {
        let observed = Observed { things, unreadable: vec![why.clone()], ..Observed::default() };
        let plan = decide(&kept, &observed);
        prop_assert!(plan.removals.is_empty());
        prop_assert_eq!(plan.unreadable, [why]);
    }

    #[test]
    fn a_plan_depends_on_no_order(kept in kept(), things in prop::collection::vec(thing(), 0..8)) {
        let backwards = things.iter().rev().cloned().collect();
        let plan = |things| decide(&kept, &Observed { things, ..Observed::default() });
        let (one, other) = (plan(things), plan(backwards));
        prop_assert_eq!(one.left_alone.len() + one.removals.len(), other.left_alone.len() + other.removals.len());
    }
}
