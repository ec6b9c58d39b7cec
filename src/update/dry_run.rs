//! `clr-dkms-post-update --dry-run`: what a run would do, and why.

use serde::Serialize;

use super::boot_files;
use super::boot_update::{self, ForeseenUpdate};
use super::engine::{self, Order};
use super::parameter::cmdline_plan;
use super::sequence::{FAILED_BEFORE, NO_KERNEL, tip_pairs, unreadable};
use crate::context::Context;
use crate::decide::assessment::assess;
use crate::dkms::plan::{State, decide};
use crate::dkms::{Cache, Decision, ModuleName, PlanStep};
use crate::exit;
use crate::report::render::{broken, shown};
use crate::state::{self, RECORD, RunRecord};
use crate::system::System;

/// The plan of a run.
#[derive(Debug, Default, Serialize)]
pub struct DryRunPlan {
    schema: u32,
    unreadable: Vec<String>,
    /// Why there is nothing to do, except that everything is done.
    idle: Option<&'static str>,
    modules: Vec<PlannedModule>,
    cmdline: Vec<String>,
    #[serde(rename = "cmdline_obstacles")]
    cmdline_blockers: Vec<String>,
    boot_update: Option<String>,
    /// How the boot files would be updated; none if they would stay as they are.
    boot_update_way: Option<ForeseenUpdate>,
}

#[derive(Debug, Serialize)]
struct PlannedModule {
    module: String,
    kernel: String,
    steps: Vec<PlanStep>,
    state: State,
    why: String,
}

impl DryRunPlan {
    /// The plan as text, at most 80 columns wide except for long names.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> =
            self.unreadable.iter().cloned().chain(self.idle.map(str::to_owned)).collect();
        for m in &self.modules {
            let steps: Vec<String> = m.steps.iter().map(PlanStep::to_string).collect();
            lines.push(match (m.steps.is_empty(), m.state) {
                (true, State::Ok) => format!("{} on {}: proven, nothing to do", m.module, m.kernel),
                (true, state) => format!("{} on {}: left alone ({state}): {}", m.module, m.kernel, m.why),
                (false, _) => {
                    format!("{} on {}: {}, because {}", m.module, m.kernel, steps.join(", "), m.why)
                }
            });
        }
        lines.extend(self.cmdline.iter().map(|step| format!("command line: {step}")));
        lines.extend(self.cmdline_blockers.iter().map(|o| format!("command line: {o}")));
        if let (Some(because), Some(way)) = (&self.boot_update, &self.boot_update_way) {
            lines.push(match way {
                ForeseenUpdate::Whole => format!("clr-boot-manager update, because {because}"),
                ForeseenUpdate::Restricted { kernels } => format!(
                    "refresh the boot files of {} without touching the boot default, because {because}",
                    kernels.join(", ")
                ),
                ForeseenUpdate::None { why } => {
                    format!(
                        "the boot files wait: clr-boot-manager would not be run ({why}), although {because}"
                    )
                }
            });
        }
        if lines.is_empty() {
            lines.push("nothing to do".to_owned());
        }
        let lines = lines.iter().flat_map(|line| broken(line, "", "    "));
        lines.map(|line| shown(&line) + "\n").collect()
    }

    pub fn code(&self) -> u8 {
        if self.unreadable.is_empty() { exit::OK } else { exit::UNKNOWN }
    }
}

/// The plan of a run that would start now.
pub fn plan(context: &Context) -> DryRunPlan {
    let mut cache = Cache::load(&context.root);
    let system = System::observe(context, &mut cache);
    let unreadable: Vec<String> = unreadable(context, &system).into_iter().collect();
    let idle = (unreadable.is_empty() && system.inventory.kernels.is_empty()).then_some(NO_KERNEL);
    // The run would end here.
    if !unreadable.is_empty() || idle.is_some() {
        return DryRunPlan { schema: 1, unreadable, idle, ..DryRunPlan::default() };
    }
    let record = state::load::<RunRecord>(&context.root, RECORD).good();
    let planned = engine::plan(&system, &Order::default());
    let again: Vec<(&ModuleName, &str)> = planned
        .iter()
        .filter(|p| p.would_fail_again(context, record.as_ref()))
        .map(|p| (&p.module, p.release.as_str()))
        .collect();
    let modules = tip_pairs(&system)
        .map(|pair| {
            let (steps, state, why) = match decide(pair) {
                Decision::Proven => (Vec::new(), State::Ok, String::new()),
                Decision::Work { steps, why } => match again.contains(&(&pair.module, pair.release.as_str()))
                {
                    true => (Vec::new(), State::BuildFailed, FAILED_BEFORE.to_owned()),
                    false => (steps, State::NotBuilt, why),
                },
                Decision::Leave { state, why } => (Vec::new(), state, why),
            };
            PlannedModule { module: pair.module.to_string(), kernel: pair.release.clone(), steps, state, why }
        })
        .collect();
    let (cmdline, blockers): (Vec<String>, Vec<String>) =
        match cmdline_plan(context, &system, record.as_ref()) {
            Ok((_, plan)) => (
                plan.steps.iter().map(ToString::to_string).collect(),
                plan.blockers.iter().map(|o| o.message(&context.root)).collect(),
            ),
            Err(e) => (Vec::new(), vec![e.to_string()]),
        };
    let assessment = assess(&system, &context.settings, record.as_ref());
    let mut boot_update =
        boot_files::update_reason(context, record.as_ref().map(|r| &r.boot), &system, &assessment);
    if boot_update.is_none() && !cmdline.is_empty() {
        boot_update = Some("the fragments change".to_owned());
    }
    let boot_update_way = boot_update.as_ref().map(|_| boot_update::foreseen(context, &system, &assessment));
    DryRunPlan {
        schema: 1,
        unreadable,
        idle,
        modules,
        cmdline,
        cmdline_blockers: blockers,
        boot_update,
        boot_update_way,
    }
}
