//! What critical modules carry: a mounted filesystem, the default route. Whether it is there after the next
//! boot follows from what the report says of the modules.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::facts::Facts;
use crate::prediction::Fate;

/// What a module can carry, as far as it is known whether a machine has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Carrier {
    /// A filesystem that is mounted there.
    Mount(String),
    /// A default route by this interface.
    Route(String),
}

/// What is carried, and whether it is there after the next boot; none if that is unknown.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) what: Carrier,
    pub(crate) there: Option<bool>,
}

/// What the critical modules of `guard` carry. It is there if each of them is.
pub(crate) fn carried(guard: &Value, fates: &BTreeMap<String, Fate>) -> Vec<Carried> {
    let mut all: BTreeMap<Carrier, Option<bool>> = BTreeMap::new();
    for need in list(&guard["needs"]).filter(|need| need["class"] == "critical") {
        let there = is_there(need, guard, fates);
        for what in list(&need["why"]).filter_map(carrier) {
            let known = all.entry(what).or_insert(Some(true));
            *known = match (*known, there) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
        }
    }
    all.into_iter().map(|(what, there)| Carried { what, there }).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn carrier(why: &Value) -> Option<Carrier> {
    let text = |key: &str| why[key].as_str().map(str::to_owned);
    match why["use"].as_str()? {
        "mount" => text("point").map(Carrier::Mount),
        "default-route" => text("interface").map(Carrier::Route),
        _ => None,
    }
}

/// Whether the next kernel has a module: by its files, and by what the guard says that this kernel lacks.
/// Files that come with the kernel are in no list.
fn is_there(need: &Value, guard: &Value, fates: &BTreeMap<String, Fate>) -> Option<bool> {
    guard["boots_next"].as_str()?;
    let name = |lack: &Value| lack["module"].as_str().and_then(|m| m.split('/').next().map(str::to_owned));
    let lack = list(&guard["next_lacks"]).find(|lack| name(lack).as_deref() == need["module"].as_str());
    let files: Vec<Option<bool>> = list(&need["files"])
        .filter_map(|file| fates.get(file.as_str()?))
        .map(|fate| match fate {
            Fate::Loads | Fate::Taints => Some(true),
            Fate::Refused(_) | Fate::NotThere => Some(false),
            Fate::Unknown => None,
        })
        .collect();
    match lack {
        _ if files.contains(&Some(false)) => Some(false),
        Some(lack) if lack["state"] == "unknown" => None,
        Some(_) => Some(false),
        None if files.contains(&None) => None,
        None => Some(true),
    }
}

impl Carried {
    /// The difference from what happened.
    pub(crate) fn compare(&self, facts: &Facts) -> Option<String> {
        let found = match &self.what {
            Carrier::Mount(point) => facts.is_mounted(point),
            Carrier::Route(interface) => facts.has_route(interface),
        };
        match self.there {
            Some(true) if !found => Some(format!("{} was to be there, and it is not", self.what)),
            Some(false) if found => Some(format!("{} was not to be there, and it is", self.what)),
            _ => None,
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Carrier::Mount(point) => f.write_str(point),
            Carrier::Route(interface) => write!(f, "default route by {interface}"),
        }
    }
}
