//! The build order: modules that others depend on come first. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The order of the modules of one kernel: dependencies first, otherwise as given. The second list has the
/// modules of dependency cycles; modules that only depend on a cycle come after it.
pub fn order(modules: &[(String, Vec<String>)]) -> (Vec<usize>, BTreeSet<usize>) {
    let by_name: BTreeMap<&str, usize> =
        modules.iter().enumerate().map(|(at, (name, _))| (name.as_str(), at)).collect();
    let needs = |at: usize| modules[at].1.iter().filter_map(|name| by_name.get(name.as_str()).copied());
    let needs_itself = |at: usize| {
        let (mut open, mut seen) = (vec![at], BTreeSet::new());
        while let Some(need) = open.pop() {
            open.extend(needs(need).filter(|need| seen.insert(*need)));
        }
        seen.contains(&at)
    };
    let circle: BTreeSet<usize> = (0..modules.len()).filter(|at| needs_itself(*at)).collect();
    let (mut ordered, mut placed) = (Vec::new(), BTreeSet::new());
    // The modules of cycles are ordered in the first round, so every further round finds a module that is
    // ready.
    while ordered.len() < modules.len() {
        let is_ready = |at: &usize| needs(*at).all(|need| placed.contains(&need));
        let ready: Vec<usize> = (0..modules.len())
            .filter(|at| !placed.contains(at) && (circle.contains(at) || is_ready(at)))
            .collect();
        placed.extend(ready.iter().copied());
        ordered.extend(ready);
    }
    (ordered, circle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first_and_circles_are_named() {
        let named = |list: &[(&str, &[&str])]| -> Vec<(String, Vec<String>)> {
            list.iter().map(|(n, d)| ((*n).to_owned(), d.iter().map(|s| (*s).to_owned()).collect())).collect()
        };
        assert_eq!(
            order(&named(&[("a", &["b"]), ("b", &[]), ("c", &["nothing"])])),
            (vec![1, 2, 0], BTreeSet::new())
        );
        let (all, circle) = order(&named(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]));
        assert_eq!((all, circle), (vec![0, 1, 2], BTreeSet::from([0, 1])));
        // A module that depends on a cycle, or is between two cycles, is not part of one, and comes after
        // them.
        let list: &[(&str, &[&str])] =
            &[("d", &["c"]), ("c", &["a"]), ("a", &["b"]), ("b", &["a"]), ("e", &["e", "c"])];
        assert_eq!(order(&named(list)), (vec![2, 3, 4, 1, 0], BTreeSet::from([2, 3, 4])));
    }
}
