//! `clr-dkms forget`: records that a module is not required any more.

use clap::Args;

use super::{Common, answer, begin};
use crate::context::Context;
use crate::decide::assess;
use crate::dkms::Cache;
use crate::exit::{self, ExitReason};
use crate::report::render::shown;
use crate::requirement::{Importance, Requirement, Use};
use crate::state::{self, RECORD, RunRecord, Stored};
use crate::system::System;
use crate::update::engine::Order;
use crate::update::progress::ProgressMode;
use crate::update::sequence;

/// The arguments of `forget`.
#[derive(Debug, Args)]
pub struct ForgetArguments {
    /// A module, by the name that `clr-dkms guard` shows, without a version
    #[arg(value_name = "MODULE")]
    module: String,
    /// Print what would be forgotten; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// Runs `forget`.
///
/// # Errors
/// If the lock cannot be taken, or a file cannot be written.
pub fn run(context: &Context, arguments: &ForgetArguments, common: &Common) -> anyhow::Result<u8> {
    let lock = if arguments.dry_run { None } else { Some(begin(context, "clr-dkms forget")?) };
    let record = match state::load::<RunRecord>(&context.root, RECORD) {
        Stored::Good(record) => record,
        Stored::Absent => {
            let why = "nothing is remembered: clr-dkms-post-update has not run on this system yet";
            return Err(ExitReason::unknown(why).into());
        }
        Stored::Bad(reason) | Stored::Unreadable(reason) => {
            return Err(ExitReason::unknown(format!("the remembered modules are unknown: {reason}")).into());
        }
    };
    let mut cache = Cache::load(&context.root);
    let system = System::observe(context, &mut cache);
    let needs = assess(&system, &context.settings, Some(&record)).needs;
    let name = arguments.module.as_str();
    let is_remembered = |need: &&Requirement| need.why.contains(&Use::Remembered);
    let Some(need) = needs.iter().find(|need| need.module == name) else {
        let names: Vec<&str> = needs.iter().filter(is_remembered).map(|need| need.module.as_str()).collect();
        let known = if names.is_empty() { "nothing is".to_owned() } else { names.join(", ") };
        let why = format!("{} is not a module that is remembered; remembered: {known}", shown(name));
        return Err(ExitReason::unknown(why).into());
    };
    if !is_remembered(&need) {
        if need.class == Importance::Optional {
            tracing::info!("{name} is optional: there is nothing to forget");
            return Ok(exit::OK);
        }
        let Requirement { class, reason, .. } = need;
        let why = format!(
            "{name} is {class} because of the present state ({reason}), not because of a record: \
             `optional = {name}` under [modules] in clr-dkms.conf makes it optional"
        );
        return Err(ExitReason::attention(why).into());
    }
    if arguments.dry_run {
        answer(
            &format!("would forget {} ({}: {})\n", shown(name), need.class, shown(&need.reason)),
            common.color,
        )?;
        return Ok(exit::OK);
    }
    tracing::info!("{name} is forgotten; it was {} ({})", need.class, need.reason);
    let mut record = record;
    record.needs.retain(|need| need.module != name);
    context.root.write_json(RECORD, &record)?;
    let done = sequence::work(context, Vec::new(), &Order::default(), ProgressMode::Nothing)?;
    drop(lock);
    Ok(done.code)
}
