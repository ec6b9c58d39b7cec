//! Whether a run is in progress, or will start without a further request.

use std::time::Duration;

use anyhow::Context as _;

use super::boot_default::REQUEST;
use crate::boot::restricted::SWUPD_LOCK;
use crate::context::Context;
use crate::exit::{self, ExitReason};
use crate::state::LOCK;
use crate::sys::clock::Stopwatch;
use crate::sys::{Presence, lock, systemd};

/// The units of the worker, of its requests, and those that an update starts.
const UNITS: [&str; 6] = [
    "clr-dkms.service",
    "clr-dkms-trigger.service",
    "clr-dkms-watch.service",
    "clr-dkms-boot.service",
    "clr-dkms-trial.service",
    "update-triggers.target",
];
/// The unit that starts the worker on request.
const WATCH: &str = "clr-dkms.path";
/// Present if systemd is the service manager.
const SYSTEMD: &str = "/run/systemd/system";
/// The interval between two checks. A check takes less than a millisecond, or one call of systemctl.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How many consecutive checks must find nothing. Between a change of files and the request for a run,
/// systemd has to start a unit.
const QUIET_LOOKS: u32 = 2;

/// The work that is left to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PendingWork {
    /// None.
    None,
    /// A run or an update, as a phrase.
    Work(String),
    /// A run is requested, but no unit starts it.
    Unserved,
    /// Unknown, with the reason.
    Unknown(String),
}

/// The state of a unit.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct UnitState {
    name: String,
    active: String,
    has_job: bool,
}

/// Waits until no run is in progress, requested or queued.
///
/// # Errors
/// If the time limit is over, or if it is unknown what is in progress.
pub fn wait(context: &Context, patience: Option<Duration>) -> Result<(), ExitReason> {
    let watch = Stopwatch::start();
    let (mut quiet, mut reported) = (0, None);
    // Without systemd one look is enough: nothing can start later.
    let looks = if asks_systemd(context) { QUIET_LOOKS } else { 1 };
    loop {
        let found = pending(context);
        quiet = if found == PendingWork::None { quiet + 1 } else { 0 };
        let left = match found {
            PendingWork::None if quiet >= looks => return Ok(()),
            PendingWork::None => None,
            PendingWork::Work(what) => Some(what),
            PendingWork::Unserved => {
                return Err(ExitReason::unknown(format!(
                    "a run is requested ({}), and {WATCH} is not active to start it; run `sudo clr-dkms-post-update`",
                    context.root.shown_path(REQUEST).display()
                )));
            }
            PendingWork::Unknown(why) => return Err(ExitReason::unknown(why)),
        };
        if left.is_some() && left != reported {
            tracing::info!("waiting: {}", left.as_deref().unwrap_or_default());
            reported.clone_from(&left);
        }
        let rest = patience.map(|patience| patience.saturating_sub(watch.elapsed()));
        if let (Some(Duration::ZERO), Some(what)) = (rest, &left) {
            return Err(ExitReason { code: exit::BUSY, why: format!("timed out: {what}") });
        }
        std::thread::sleep(rest.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN).max(Duration::from_millis(10)));
    }
}

fn asks_systemd(context: &Context) -> bool {
    // Without systemd nothing is queued.
    context.root.is_live() && context.root.lookup(SYSTEMD).is_there()
}

fn pending(context: &Context) -> PendingWork {
    let root = &context.root;
    for (path, holder) in [(SWUPD_LOCK, "swupd"), (LOCK, "a run")] {
        match lock::is_held(root, path) {
            Ok(false) => {}
            Ok(true) => return PendingWork::Work(format!("{holder} is active")),
            Err(e) => return PendingWork::Unknown(format!("whether {holder} is active is unknown: {e}")),
        }
    }
    let is_requested = match root.lookup(REQUEST) {
        Presence::Absent => false,
        Presence::Unreadable(why) => return PendingWork::Unknown(why.to_string()),
        Presence::There(_) => true,
    };
    if !asks_systemd(context) {
        return match is_requested {
            true => PendingWork::Work("a run is requested".to_owned()),
            false => PendingWork::None,
        };
    }
    match unit_states(context) {
        Ok(states) => of_units(&states, is_requested),
        Err(e) => PendingWork::Unknown(format!("{e:#}")),
    }
}

fn of_units(states: &[UnitState], is_requested: bool) -> PendingWork {
    let is_changing = |unit: &UnitState| {
        unit.has_job || ["activating", "deactivating", "reloading"].contains(&unit.active.as_str())
    };
    if let Some(unit) = states.iter().find(|unit| unit.name != WATCH && is_changing(unit)) {
        let word = if unit.has_job { "queued" } else { unit.active.as_str() };
        return PendingWork::Work(format!("{} is {word}", unit.name));
    }
    let is_served =
        states.iter().any(|unit| unit.name == WATCH && (unit.active == "active" || is_changing(unit)));
    match (is_requested, is_served) {
        (false, _) => PendingWork::None,
        (true, true) => PendingWork::Work("a run is requested".to_owned()),
        (true, false) => PendingWork::Unserved,
    }
}

fn unit_states(context: &Context) -> anyhow::Result<Vec<UnitState>> {
    let words = ["show", "--property=Id,ActiveState,Job"].into_iter().chain(UNITS).chain([WATCH]);
    let said = systemd::ask(&context.tools, "systemctl", &words.collect::<Vec<_>>());
    let said = said.context("whether a run is queued is unknown")?;
    Ok(parsed(&said))
}

/// Parses blocks of `NAME=VALUE`, one for each unit, separated by empty lines.
fn parsed(said: &str) -> Vec<UnitState> {
    let unit = |block: &str| {
        let value = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim().to_owned()
        };
        // No job is `0` in older versions of systemd, and empty in later ones.
        let has_job = !["", "0"].contains(&value("Job").as_str());
        UnitState { name: value("Id"), active: value("ActiveState"), has_job }
    };
    said.split("\n\n").filter(|block| !block.trim().is_empty()).map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(worker: &str, watch: &str, is_requested: bool) -> PendingWork {
        let said = format!("Id=clr-dkms.service\n{worker}\n\nId=clr-dkms.path\nActiveState={watch}\n");
        of_units(&parsed(&said), is_requested)
    }

    #[test]
    fn what_systemd_says_of_units() {
        let work = |what: &str| PendingWork::Work(what.to_owned());
        let idle = "ActiveState=inactive";
        assert_eq!(found(idle, "active", false), PendingWork::None);
        assert_eq!(found("ActiveState=failed\nJob=0", "active", false), PendingWork::None);
        assert_eq!(found(idle, "inactive", false), PendingWork::None);
        assert_eq!(found(idle, "active", true), work("a run is requested"));
        assert_eq!(found(idle, "inactive", true), PendingWork::Unserved);
        assert_eq!(found("ActiveState=activating", "active", false), work("clr-dkms.service is activating"));
        assert_eq!(
            found("Job=712\nActiveState=inactive", "inactive", true),
            work("clr-dkms.service is queued")
        );
    }
}
