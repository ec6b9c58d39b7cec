//! The catalogue of verdicts, states and importance classes: a stable id, the meaning, the cause and the next
//! step of each. `clr-dkms explain` and clr-dkms-states(7) print it. The texts are in `catalog.json`.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::Verdict;
use super::packages::Packages;
use super::remedies::{of_state, of_verdict, run};
use super::remedy::{AdminCommand, CommandTarget, Remedy};
use crate::dkms::ModuleName;
use crate::dkms::plan::State;
use crate::requirement::Importance;

/// A row of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// `CD-0…` for verdicts, `CD-1…` for states of a module on a kernel, `CD-2…` for importance classes,
    /// `CD-3…` for other problems.
    pub id: &'static str,
    /// The word that screens and JSON use.
    pub name: &'static str,
    /// The meaning, as one sentence.
    pub meaning: &'static str,
    /// The usual causes.
    pub cause: &'static str,
    /// The next command or step. None if there is nothing to do.
    #[serde(default)]
    pub next: Option<String>,
}

/// How the ids of verdicts, of states, of importance classes and of other problems begin.
const OF_VERDICT: &str = "CD-0";
const OF_STATE: &str = "CD-1";
const OF_CLASS: &str = "CD-2";
const OF_OTHER_PROBLEM: &str = "CD-3";

/// The texts, by id. The file is a part of the program, and a test reads it: it is never invalid.
static TEXTS: LazyLock<Vec<Explained>> =
    LazyLock::new(|| serde_json::from_str(include_str!("catalog.json")).unwrap_or_default());

/// The texts of a word, of one of the kinds of ids.
fn text(kind: &str, name: &str) -> &'static Explained {
    // The test below finds a word without texts.
    static NONE: Explained = Explained { id: "", name: "", meaning: "", cause: "", next: None };
    TEXTS.iter().find(|text| text.id.starts_with(kind) && text.name == name).unwrap_or(&NONE)
}

/// The id of a verdict.
pub fn verdict_id(verdict: Verdict) -> &'static str {
    text(OF_VERDICT, &verdict.to_string()).id
}

/// The id of a state.
pub fn state_id(state: State) -> &'static str {
    text(OF_STATE, &state.to_string()).id
}

fn row(text: &Explained, next: Option<Remedy>) -> Explained {
    Explained { next: next.map(|remedy| remedy.text(&CommandTarget::here())), ..text.clone() }
}

/// The row of a verdict.
pub fn verdict(verdict: Verdict) -> Explained {
    row(text(OF_VERDICT, &verdict.to_string()), of_verdict(verdict))
}

/// The next step for a module in a state, for any module and kernel.
fn next_for_any_module(state: State) -> Option<Remedy> {
    if state.is_fine()
        && state != State::Building
        && state != State::NotAutoinstall
        && state != State::SkippedExclusive
    {
        return None;
    }
    let module = ModuleName { name: "MODULE".to_owned(), version: "VERSION".to_owned() };
    let packages = Packages::Swupd { bundle: Some("BUNDLE") };
    Some(of_state(state, &module, "the module", "KERNEL", &packages, run()))
}

/// The row of a state.
pub fn state(state: State) -> Explained {
    row(text(OF_STATE, &state.to_string()), next_for_any_module(state))
}

/// The row of an importance class.
pub fn class(class: Importance) -> Explained {
    let guard = AdminCommand::look("clr-dkms", &["guard"]).to("see what each module is needed for");
    row(text(OF_CLASS, &class.to_string()), Some(guard.into()))
}

/// The row of the problem that clr-dkms is not started automatically.
pub fn automation() -> Explained {
    let look = AdminCommand::look("clr-dkms", &["status"]).to("see which unit or hook, and what helps");
    row(text(OF_OTHER_PROBLEM, "automation"), Some(look.into()))
}

/// All rows, by id.
pub fn all() -> Vec<Explained> {
    let verdicts = Verdict::VARIANTS.iter().copied().map(verdict);
    let states = State::VARIANTS.iter().copied().map(state);
    let classes = Importance::VARIANTS.iter().copied().map(class);
    let mut rows: Vec<Explained> = verdicts.chain(states).chain(classes).chain([automation()]).collect();
    rows.sort_by_key(|row| row.id);
    rows
}

/// The rows that an id or a name stands for: `unknown` is a verdict and a state.
pub fn find(asked: &str) -> Vec<Explained> {
    let fits = |row: &Explained| row.id.eq_ignore_ascii_case(asked) || row.name.eq_ignore_ascii_case(asked);
    all().into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_row_has_its_own_id_and_the_word_of_the_screens() {
        let rows = all();
        let ids: BTreeSet<&str> = rows.iter().map(|r| r.id).collect();
        assert_eq!(ids.len(), rows.len());
        assert!(rows.windows(2).all(|pair| pair[0].id < pair[1].id), "by id");
        // Each row of the file is the row of a word, and no word is without its row.
        let texts: Vec<&str> = TEXTS.iter().map(|text| text.id).collect();
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), texts);
        assert!(rows.iter().all(|row| row.id.starts_with("CD-") && !row.meaning.is_empty()));
        assert_eq!(find("cd-102")[0].name, "build-failed");
        assert_eq!(find("unknown").len(), 2);
        assert!(find("nothing").is_empty());
    }
}
