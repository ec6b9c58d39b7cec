//! The boot guard: may the new kernel become the boot default, and which kernel should be the default? Pure.
//!
//! clr-boot-manager makes the tip of the running kernel's type the default. This is allowed once every module
//! that the machine needs, and that works on the running kernel, is proven for the tip. Until then another
//! kernel stays the default: the running kernel, or the newest kernel that has been booted before and has
//! everything that is needed.

use super::readiness::{Candidate, Ready, lacks};
use crate::boot_decision::{AdminOverrides, BootDecision, Reason, Ruling};
use crate::requirement::{Importance, Requirement};

/// Whether the lack of a module keeps a kernel from becoming the default. A module blocks a new kernel only
/// if it works on the running kernel. Exception: a critical module also blocks as long as some bootable
/// kernel has it, because the running kernel may have been chosen in the boot menu only temporarily.
fn is_needed(kernels: &[Candidate], need: &Requirement) -> bool {
    let has = |k: &Candidate| match k.modules.get(&need.module) {
        Some(Ready::Yes) => k.bootable,
        // The default is not given up for a kernel that is known to lack the module.
        Some(Ready::Unknown(_)) => k.bootable && k.default,
        Some(Ready::No(_)) | None => false,
    };
    let is_there = || kernels.iter().any(|k| (k.default || k.is_tried()) && has(k));
    match need.class {
        Importance::Optional => false,
        Importance::Wanted => need.works,
        Importance::Critical => need.works || is_there(),
    }
}

/// Decides which kernel should be the boot default. `kernels` are those of all variants in ascending order,
/// the newest last. `target` is the release that clr-boot-manager would make the default. If there is no
/// target, `is_orphaned` says whether the running kernel belongs to clr-boot-manager but is no longer
/// installed.
///
/// A module that only the current default has counts only while that kernel is the default. The decision is
/// therefore iterated until it does not change when it is carried out: the next run makes the same decision.
pub fn choose_default(
    kernels: &[Candidate],
    target: Option<&str>,
    is_orphaned: bool,
    needs: &[Requirement],
    wishes: &AdminOverrides,
) -> BootDecision {
    let mut kernels = kernels.to_vec();
    let mut decision = choose_once(&kernels, target, is_orphaned, needs, wishes);
    // After this many rounds each kernel has been the default at most once.
    for _ in 0..kernels.len() {
        let is_default = |k: &Candidate| k.default && Some(&k.release) == decision.default.as_ref();
        if decision.default.is_none() || kernels.iter().any(is_default) {
            break;
        }
        kernels.iter_mut().for_each(|k| k.default = Some(&k.release) == decision.default.as_ref());
        decision = choose_once(&kernels, target, is_orphaned, needs, wishes);
    }
    decision
}

/// One round of [`choose_default`]: decides for the current default.
fn choose_once(
    kernels: &[Candidate],
    target: Option<&str>,
    is_orphaned: bool,
    needs: &[Requirement],
    wishes: &AdminOverrides,
) -> BootDecision {
    let find = |release: &str| kernels.iter().find(|k| k.release == release);
    let needed = || needs.iter().filter(|n| is_needed(kernels, n));
    let critical = || needs.iter().filter(|n| n.class == Importance::Critical);
    let has_all = |k: &Candidate| lacks(k, needed()).is_empty();
    let the_target = target.and_then(find).filter(|k| k.bootable);
    let lacking = the_target.map(|k| lacks(k, needed())).unwrap_or_default();

    // If nothing is known to be lost, booting the running kernel again is as good as the current state.
    let is_lost = |k: &Candidate, n: &Requirement| match k.modules.get(&n.module) {
        Some(Ready::Yes) => false,
        Some(Ready::Unknown(_)) => !k.running,
        Some(Ready::No(_)) | None => true,
    };
    // An unknown module of the current default does not justify a change. On the running kernel an unknown
    // module counts as present if it works now.
    let may_have = |k: &Candidate, n: &Requirement| match k.modules.get(&n.module) {
        Some(Ready::Unknown(_)) => k.default || (k.running && n.works),
        _ => !is_lost(k, n),
    };

    // The running kernel is kept as long as the unknown is all that speaks against it. Any other kernel is
    // left for one that is known to have the module.
    let running_may_do =
        kernels.iter().any(|k| k.running && k.bootable && critical().all(|n| may_have(k, n)));

    let is_accepted =
        |k: &Candidate| lacks(k, needed().filter(|n| !wishes.allows(&k.release, &n.module))).is_empty();
    let (ruling, chosen, because) = choose(kernels, target, is_orphaned, wishes, has_all, is_accepted, |k| {
        let there = critical().filter(|n| may_have(k, n)).count();
        let is_sure = (k.default || !running_may_do) && lacks(k, critical()).is_empty();
        (there, is_sure, k.running, needed().count() - lacks(k, needed()).len())
    });
    let default_lacks = chosen.map(|k| lacks(k, critical())).unwrap_or_default();
    let loses = chosen.is_some_and(|k| needed().any(|n| is_lost(k, n)));
    BootDecision {
        ruling,
        default: chosen.map(|k| k.release.clone()),
        target: target.map(str::to_owned),
        because,
        is_unsafe: !default_lacks.is_empty()
            || (matches!(because, Reason::Best | Reason::Only | Reason::Removed) && loses)
            || (chosen.is_none() && critical().next().is_some()),
        lacking,
        default_lacks,
    }
}

fn choose<'k>(
    kernels: &'k [Candidate],
    target: Option<&str>,
    is_orphaned: bool,
    wishes: &AdminOverrides,
    has_all: impl Fn(&Candidate) -> bool,
    is_accepted: impl Fn(&Candidate) -> bool,
    worth: impl Fn(&Candidate) -> (usize, bool, bool, usize),
) -> (Ruling, Option<&'k Candidate>, Reason) {
    let bootable = || kernels.iter().filter(|k| k.bootable);
    // The default was held or fallen back to earlier, and a later version of the same variant runs and has
    // everything. A default that is newer than the running kernel was installed by an earlier update and is
    // not left behind.
    let is_left_behind = |k: &Candidate| {
        let later = kernels.iter().rev().take_while(|other| other.release != k.release);
        k.default && later.filter(|r| r.variant == k.variant).any(|r| r.running && r.bootable && has_all(r))
    };
    let is_named = target.is_some();
    let target = bootable().find(|k| Some(k.release.as_str()) == target);
    // A hold of a kernel that is no longer bootable has no effect.
    if let Some(held) = bootable().find(|k| wishes.hold.as_ref() == Some(&k.release)) {
        let is_target = target.is_some_and(|t| t.release == held.release);
        return (if is_target { Ruling::Allow } else { Ruling::Defer }, Some(held), Reason::Held);
    }
    if !is_named && is_orphaned {
        // The current default may be the entry of a kernel without modules, and any installed kernel is
        // better. Prefer a kernel that has everything, then the current default, then one that has been
        // booted.
        let rank = |k: &&Candidate| (has_all(k), !is_left_behind(k), worth(k), k.default, k.booted);
        return (Ruling::Allow, bootable().max_by_key(rank), Reason::Removed);
    }
    if !is_named {
        // clr-boot-manager does not recognize the running kernel and leaves the default as it is. Nothing
        // needs to be held back.
        return (Ruling::Allow, bootable().find(|k| k.default), Reason::Only);
    }
    match target {
        Some(t) if has_all(t) => return (Ruling::Allow, target, Reason::Proven),
        Some(t) if is_accepted(t) => return (Ruling::Allow, target, Reason::Released),
        _ => {}
    }
    // A default that has everything stays the default: it may come from an earlier update and not have been
    // booted yet. Otherwise a kernel that has never been booted is not chosen.
    let full = bootable()
        .filter(|k| (k.default || k.is_tried()) && has_all(k))
        .max_by_key(|k| (k.default && !is_left_behind(k), k.running));
    if let Some(kernel) = full {
        return (Ruling::Defer, Some(kernel), Reason::Lacking);
    }
    // Critical modules come first, even if only the current default has them and it has never been booted.
    // Next come a default that certainly has them, and the running kernel, which is no worse than the current
    // state. `max_by_key` returns the last of equals, which is the newest.
    let best = bootable().filter(|k| k.default || k.is_tried()).max_by_key(|k| worth(k));
    match best {
        Some(kernel) if target.is_some_and(|t| t.release == kernel.release) => {
            (Ruling::Allow, target, Reason::Only)
        }
        Some(kernel) => (Ruling::Defer, Some(kernel), Reason::Best),
        None => (Ruling::Allow, target, Reason::Only),
    }
}

/// The decision when a fact that it needs could not be read: no kernel becomes the default and nothing is
/// changed. `default` is the current default, if it is known.
pub fn keep_default(decision: BootDecision, default: Option<String>) -> BootDecision {
    BootDecision {
        ruling: Ruling::Defer,
        because: Reason::Unknown,
        default,
        is_unsafe: false,
        default_lacks: Vec::new(),
        ..decision
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::super::readiness::Missing;
    use super::*;
    use crate::boot_decision::{Allowance, OverrideNote};
    use proptest::prelude::*;

    fn kernel(release: &str, flags: &str, modules: &[(&str, Ready)]) -> Candidate {
        Candidate {
            release: release.to_owned(),
            variant: if flags.contains('l') { "lts" } else { "native" }.to_owned(),
            bootable: !flags.contains('-'),
            running: flags.contains('r'),
            booted: flags.contains('b'),
            default: flags.contains('d'),
            modules: modules.iter().map(|(name, ready)| ((*name).to_owned(), ready.clone())).collect(),
        }
    }

    fn need(module: &str, class: Importance, works: bool) -> Requirement {
        Requirement {
            module: module.to_owned(),
            class,
            reason: "backs /home".to_owned(),
            why: Vec::new(),
            files: Vec::new(),
            aliases: Vec::new(),
            origin: None,
            works,
            worked_on: None,
            idle: None,
        }
    }

    fn no() -> Ready {
        Ready::No(Missing::default())
    }

    fn shown(d: &BootDecision) -> String {
        let default = d.default.as_deref().unwrap_or("none");
        format!("{:?} {default} {:?}{}", d.ruling, d.because, if d.is_unsafe { " unsafe" } else { "" })
    }

    /// Kernel 1 runs, kernel 2 is the target, and `zfs` is the critical module.
    fn usual(on_1: Ready, on_2: Ready, needs: &[Requirement], wishes: &AdminOverrides) -> String {
        let kernels = [kernel("1", "rb", &[("zfs", on_1)]), kernel("2", "", &[("zfs", on_2)])];
        shown(&choose_default(&kernels, Some("2"), false, needs, wishes))
    }

    #[test]
    fn a_new_kernel_becomes_the_default_once_it_is_proven() {
        let zfs = [need("zfs", Importance::Critical, true)];
        let nothing = AdminOverrides::default();
        assert_eq!(usual(Ready::Yes, Ready::Yes, &zfs, &nothing), "Allow 2 Proven");
        assert_eq!(usual(Ready::Yes, no(), &zfs, &nothing), "Defer 1 Lacking");
        let unknown = Ready::Unknown(Missing::default());
        assert_eq!(usual(Ready::Yes, unknown, &zfs, &nothing), "Defer 1 Lacking");
        let wanted = [need("zfs", Importance::Wanted, true)];
        assert_eq!(usual(Ready::Yes, no(), &wanted, &nothing), "Defer 1 Lacking");
        assert_eq!(
            usual(Ready::Yes, no(), &[need("zfs", Importance::Optional, true)], &nothing),
            "Allow 2 Proven"
        );
        // The module works nowhere, so another kernel is no better. A missing critical module is reported
        // nevertheless.
        assert_eq!(usual(no(), no(), &[need("zfs", Importance::Wanted, false)], &nothing), "Allow 2 Proven");
        assert_eq!(
            usual(no(), no(), &[need("zfs", Importance::Critical, false)], &nothing),
            "Allow 2 Proven unsafe"
        );
        // The running kernel lacks the module, but another kernel has it.
        let aside = [kernel("1", "b", &[("zfs", Ready::Yes)]), kernel("2", "r", &[("zfs", no())])];
        let lost = [need("zfs", Importance::Critical, false)];
        assert_eq!(shown(&choose_default(&aside, Some("2"), false, &lost, &nothing)), "Defer 1 Lacking");
        // Loaded, but its file is deleted on both kernels.
        assert_eq!(usual(no(), no(), &zfs, &nothing), "Defer 1 Best unsafe");
    }

    fn allowing(kernel: &str, without: &[&str]) -> AdminOverrides {
        let allowance = |module: &&str| Allowance {
            kernel: kernel.to_owned(),
            without: (*module).to_owned(),
            note: OverrideNote::default(),
        };
        AdminOverrides { allowed: without.iter().map(allowance).collect(), ..AdminOverrides::default() }
    }

    #[test]
    fn an_admin_has_the_last_word() {
        let zfs = [need("zfs", Importance::Critical, true)];
        let hold =
            |release: &str| AdminOverrides { hold: Some(release.to_owned()), ..AdminOverrides::default() };
        assert_eq!(usual(Ready::Yes, Ready::Yes, &zfs, &hold("1")), "Defer 1 Held");
        assert_eq!(usual(Ready::Yes, no(), &zfs, &hold("2")), "Allow 2 Held unsafe");
        assert_eq!(usual(Ready::Yes, no(), &zfs, &hold("gone")), "Defer 1 Lacking");
        let allowed = |kernel, without| allowing(kernel, &[without]);
        assert_eq!(usual(Ready::Yes, no(), &zfs, &allowed("2", "zfs")), "Allow 2 Released unsafe");
        assert_eq!(usual(Ready::Yes, Ready::Yes, &zfs, &allowed("2", "zfs")), "Allow 2 Proven");
        // Another kernel, another module.
        assert_eq!(usual(Ready::Yes, no(), &zfs, &allowed("3", "zfs")), "Defer 1 Lacking");
        assert_eq!(usual(Ready::Yes, no(), &zfs, &allowed("2", "wifi")), "Defer 1 Lacking");
    }

    #[test]
    fn a_default_from_before_what_runs_is_left_behind() {
        let zfs = [need("zfs", Importance::Critical, true)];
        let yes = [("zfs", Ready::Yes)];
        let choice = |kernels: &[Candidate], target: Option<&str>, is_orphaned| {
            shown(&choose_default(kernels, target, is_orphaned, &zfs, &AdminOverrides::default()))
        };
        let held_once = kernel("0", "bd", &yes);
        for newest in [kernel("2", "", &[("zfs", no())]), kernel("2", "-", &[])] {
            let kernels = [held_once.clone(), kernel("1", "rb", &yes), newest.clone()];
            assert_eq!(choice(&kernels, Some("2"), false), "Defer 1 Lacking");
            // The running kernel lacks a module, or is of another variant.
            let kernels = [held_once.clone(), kernel("1", "rb", &[("zfs", no())]), newest.clone()];
            assert_eq!(choice(&kernels, Some("2"), false), "Defer 0 Lacking");
            let kernels = [kernel("0", "bdl", &yes), kernel("1", "rb", &yes), newest];
            assert_eq!(choice(&kernels, Some("2"), false), "Defer 0 Lacking");
        }
        // clr-boot-manager has no target.
        let kernels = [held_once.clone(), kernel("1", "rb", &yes)];
        assert_eq!(choice(&kernels, None, true), "Allow 1 Removed");
        let kernels = [kernel("1", "rb", &yes), kernel("2", "d", &yes)];
        assert_eq!(choice(&kernels, None, true), "Allow 2 Removed");
    }

    #[test]
    fn what_one_falls_back_to() {
        let zfs = [need("zfs", Importance::Critical, true), need("v4l", Importance::Wanted, true)];
        let both = [("zfs", Ready::Yes), ("v4l", Ready::Yes)];
        let table: [(&[Candidate], &str); 9] = [
            // The running kernel is no longer installed: the newest kernel that was booted and has everything
            // is chosen.
            (&[kernel("0", "b", &both), kernel("1", "b", &both), kernel("2", "", &[])], "Defer 1 Lacking"),
            // An earlier update made kernel 1 the default, and it has not been booted yet.
            (&[kernel("0", "rb", &both), kernel("1", "d", &both), kernel("2", "", &[])], "Defer 1 Lacking"),
            (&[kernel("0", "rb", &both), kernel("1", "d", &[]), kernel("2", "", &[])], "Defer 0 Lacking"),
            (&[kernel("0", "b", &both), kernel("1", "-rb", &both), kernel("2", "", &[])], "Defer 0 Lacking"),
            // No kernel has everything: prefer the most critical modules, then the most needed modules, then
            // the newest kernel.
            (
                &[
                    kernel("0", "b", &[("zfs", Ready::Yes)]),
                    kernel("1", "b", &[("v4l", Ready::Yes)]),
                    kernel("2", "", &[]),
                ],
                "Defer 0 Best unsafe",
            ),
            // The running kernel has only the wanted module.
            (
                &[
                    kernel("0", "b", &[("zfs", Ready::Yes)]),
                    kernel("1", "rb", &[("v4l", Ready::Yes)]),
                    kernel("2", "", &[]),
                ],
                "Defer 0 Best unsafe",
            ),
            (&[kernel("0", "b", &[]), kernel("1", "b", &[]), kernel("2", "", &[])], "Defer 1 Best unsafe"),
            (&[kernel("2", "", &[])], "Allow 2 Only unsafe"),
            (&[kernel("0", "", &both), kernel("2", "rb", &[])], "Allow 2 Only unsafe"),
        ];
        for (kernels, expected) in table {
            assert_eq!(
                shown(&choose_default(kernels, Some("2"), false, &zfs, &AdminOverrides::default())),
                expected,
                "{kernels:?}"
            );
        }
        // Only the current default has the module that does not work now, but it lacks more than the running
        // kernel does: the new kernel is no worse. After the change of the default the decision is the same.
        let lost = [need("zfs", Importance::Critical, true), need("v4l", Importance::Critical, false)];
        for default in ["0", "1"] {
            let mut kernels =
                [kernel("0", "rb", &both[..1]), kernel("1", "", &both[1..]), kernel("2", "", &both[..1])];
            kernels.iter_mut().for_each(|k| k.default = k.release == default);
            let decided = choose_default(&kernels, Some("2"), false, &lost, &AdminOverrides::default());
            assert_eq!(shown(&decided), "Allow 2 Proven unsafe", "{default}");
        }
        assert_eq!(
            shown(&choose_default(&[], None, false, &zfs, &AdminOverrides::default())),
            "Allow none Only unsafe"
        );
        assert_eq!(
            shown(&choose_default(&[], None, false, &[], &AdminOverrides::default())),
            "Allow none Only"
        );
        // The running kernel does not belong to clr-boot-manager.
        let beside = [kernel("1", "b", &both), kernel("2", "bd", &[])];
        assert_eq!(
            shown(&choose_default(&beside, None, false, &zfs, &AdminOverrides::default())),
            "Allow 2 Only unsafe"
        );
    }

    #[test]
    fn what_is_unknown_of_the_default_is_no_reason_to_change_it() {
        let unknown = || Ready::Unknown(Missing::default());
        let of = |kernels: &[Candidate], needs: &[Requirement], target| {
            shown(&choose_default(kernels, Some(target), false, needs, &AdminOverrides::default()))
        };
        let lost = need("zfs", Importance::Critical, false);
        let net = need("net", Importance::Critical, true);
        // The default has never been booted and one of its modules is unknown. The running kernel certainly
        // lacks another module.
        let both = [lost.clone(), net.clone()];
        let one = kernel("1", "rb", &[("zfs", no()), ("net", Ready::Yes)]);
        let two = kernel("2", "d", &[("zfs", Ready::Yes), ("net", unknown())]);
        assert_eq!(of(&[one.clone(), two.clone()], &both, "2"), "Allow 2 Only unsafe");
        // The running kernel is the target, and the only kernel that is known to have the module.
        let aside = kernel("1", "bd", &[("zfs", unknown()), ("net", Ready::Yes)]);
        let tip = kernel("2", "rb", &[("zfs", no()), ("net", Ready::Yes)]);
        assert_eq!(of(&[aside, tip], &both, "2"), "Defer 1 Best unsafe");
        // The default has never been booted. It has all critical modules and lacks a wanted one.
        let wanted = [lost.clone(), need("gpu", Importance::Wanted, true)];
        let one = kernel("1", "rb", &[("zfs", no()), ("gpu", Ready::Yes)]);
        let two = kernel("2", "d", &[("zfs", Ready::Yes), ("gpu", no())]);
        assert_eq!(of(&[one, two.clone()], &wanted, "2"), "Allow 2 Only unsafe");
        let unclear = kernel("1", "rb", &[("zfs", unknown()), ("gpu", Ready::Yes)]);
        assert_eq!(of(&[unclear, two], &wanted, "2"), "Allow 2 Only unsafe");
        // The module is unknown on both kernels, and does not work on the running one.
        let one = kernel("1", "rb", &[("zfs", unknown())]);
        let two = kernel("2", "d", &[("zfs", unknown())]);
        assert_eq!(of(&[one, two], &[lost], "2"), "Allow 2 Only unsafe");
    }

    const MODULES: [&str; 4] = ["a", "b", "c", "d"];

    /// A situation made from random bits. This is fast enough for a hundred thousand cases, and proptest can
    /// still shrink it.
    fn situation(mut bits: u128) -> (Vec<Candidate>, String, Vec<Requirement>, AdminOverrides) {
        let mut take = |below: u128| {
            let n = bits % below;
            bits /= below;
            usize::try_from(n).unwrap_or_default()
        };
        let count = 1 + take(4);
        let (running, default) = (take(6), take(6));
        let kernels: Vec<Candidate> = (0..count)
            .map(|at| Candidate {
                variant: "native".to_owned(),
                release: at.to_string(),
                bootable: take(4) > 0,
                running: at == running,
                booted: take(2) > 0,
                default: at == default,
                modules: MODULES
                    .iter()
                    .filter_map(|name| match take(6) {
                        0 => None,
                        1 => Some(((*name).to_owned(), no())),
                        2 => Some(((*name).to_owned(), Ready::Unknown(Missing::default()))),
                        _ => Some(((*name).to_owned(), Ready::Yes)),
                    })
                    .collect(),
            })
            .collect();
        let classes = [Importance::Critical, Importance::Wanted, Importance::Optional];
        let needs = MODULES.iter().filter_map(|name| match take(7) {
            6 => None,
            n => Some(need(name, classes[n / 2], n % 2 == 0)),
        });
        let needs = needs.collect();
        let hold = Some(take(20)).filter(|n| *n < 5).map(|n| n.to_string());
        let released = Some(take(20)).filter(|n| *n < 5).map(|n| allowing(&n.to_string(), &MODULES));
        (kernels, (count - 1).to_string(), needs, AdminOverrides { hold, ..released.unwrap_or_default() })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]
        #[test]
        fn the_default_has_all_that_is_critical_or_it_is_unsafe(bits in any::<u128>()) {
            let (kernels, target, needs, wishes) = situation(bits);
            let decision = choose_default(&kernels, Some(&target), false, &needs, &wishes);
            let is_there = |k: &Candidate, n: &Requirement| k.modules.get(&n.module) == Some(&Ready::Yes);
            let critical = || needs.iter().filter(|n| n.class == Importance::Critical);
            let Some(default) = decision.default.as_deref() else {
                prop_assert!(decision.is_unsafe || critical().next().is_none());
                prop_assert!(!kernels.iter().any(|k| k.bootable && (k.running || k.booted)));
                return Ok(());
            };
            let default = kernels.iter().find(|k| k.release == default);
            prop_assert!(default.is_some_and(|k| k.bootable));
            let Some(default) = default else { return Ok(()) };
            prop_assert!(decision.is_unsafe || critical().all(|n| is_there(default, n)));
            // `Allow` implies the target, and a kernel that has never been booted becomes the default only if
            // it is allowed.
            prop_assert_eq!(decision.ruling == Ruling::Allow, default.release == target);
            let chosen = wishes.hold.as_deref() == Some(&default.release);
            let tried = default.running || default.booted || default.default;
            prop_assert!(default.release == target || tried || chosen);
            // What works now also works after the next boot, unless an admin has released the kernel or the
            // decision is unsafe.
            let there = |n: &Requirement| {
                kernels.iter().any(|k| k.bootable && (k.running || k.booted) && is_there(k, n))
            };
            let works = needs.iter().filter(|n| match n.class {
                Importance::Critical => n.works || there(n),
                class => n.works && class == Importance::Wanted,
            });
            let unclear = |n: &Requirement| matches!(default.modules.get(&n.module), Some(Ready::Unknown(_)));
            let kept = works.clone().all(|n| is_there(default, n) || (default.running && unclear(n)));
            let said = chosen || wishes.allowed_kernels().contains(&default.release);
            prop_assert!(kept || said || decision.is_unsafe);
            // No kernel is held back without a reason.
            let full = kernels.iter().find(|k| k.release == target).filter(|k| k.bootable);
            let full = full.is_some_and(|k| works.clone().chain(critical()).all(|n| is_there(k, n)));
            prop_assert!(!full || decision.ruling == Ruling::Allow || decision.because == Reason::Held);
        }
    }
}
