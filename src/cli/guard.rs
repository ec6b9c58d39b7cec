//! `clr-dkms guard`, `hold` and `release`: which kernel boots next, and why; and an admin's word on it.

use std::time::Duration;

use clap::Args;

use super::{Common, answer, need_root};
use crate::boot::removal;
use crate::boot_decision::{AdminOverrides, Reason, Ruling};
use crate::config::duration;
use crate::context::Context;
use crate::decide::assessment::{BootAssessment, assess, is_bootable};
use crate::decide::satisfaction::{is_replaced, is_replaced_now};
use crate::dkms::loadable::Loadable;
use crate::dkms::{Cache, Flaw, ModuleOnKernel, PlanStep, Tree, depmod};
use crate::exit;
use crate::kernel::Installed;
use crate::kernel::module_file::kernel_name;
use crate::message;
use crate::render::json;
use crate::render::style::ScreenStyle;
use crate::render::{self, shown};
use crate::requirement::{Importance, MissingModule, Requirement};
use crate::state::LOCK;
use crate::state::is_ours;
use crate::state::{self, RECORD, RunRecord, SCHEMA, WISHES};
use crate::status::guard::{GuardReport, lacks};
use crate::status::{Progress, Verdict};
use crate::sys::{Lock, interrupt, watchdog};
use crate::system::System;
use crate::update::boot_files;
use crate::update::engine::{self, INDEX_DEADLINE, Order};
use crate::update::progress::ProgressMode;
use crate::update::sequence;
use crate::usage::Usage;

/// A request to the worker: its path unit waits for it.
const REQUEST: &str = "/run/clr-dkms/requested";
/// How long a boot or a shutdown waits for a run that is at work.
const SHORT: Duration = Duration::from_secs(15);
/// The arguments of `guard`.
#[derive(Debug, Args)]
pub struct GuardArguments {
    /// The answer as JSON
    #[arg(long)]
    json: bool,
    /// Point the boot default to the kernel that should be booted (clr-dkms-hold.service, at boot and shutdown)
    #[arg(long, help_heading = "For units", conflicts_with = "json")]
    pub(super) assert: bool,
    /// Tell swupd, repair modules.dep, put the message of the day back, ask for a run (clr-dkms-boot.service)
    #[arg(long, help_heading = "For units", conflicts_with_all = ["json", "assert"])]
    pub(super) at_boot: bool,
    /// With --at-boot or --assert: end after TIME, and leave the rest to the next run
    #[arg(long, help_heading = "For units", value_name = "TIME", value_parser = duration,
        conflicts_with_all = ["json", "may_mark_booted", "disarm"])]
    within: Option<Duration>,
    /// Exit 1 when the running kernel lacks a critical module that the last good one had, else 0
    #[arg(long, help_heading = "For units", conflicts_with_all = ["json", "assert", "at_boot"])]
    may_mark_booted: bool,
    /// Take back what --at-boot told swupd (before clr-dkms is removed)
    #[arg(long, help_heading = "For units", conflicts_with_all = ["json", "assert", "at_boot", "may_mark_booted"])]
    disarm: bool,
}

/// The arguments of `hold` and `release`.
#[derive(Debug, Args)]
pub struct KernelArguments {
    /// A kernel release, a kernel id or a variant
    #[arg(value_name = "KERNEL")]
    kernel: Option<String>,
    /// Say what would be written, and which kernel would boot then; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// The arguments of `release`.
#[derive(Debug, Args)]
pub struct ReleaseArguments {
    #[command(flatten)]
    of: KernelArguments,
    /// Go ahead without a module that is critical, too
    #[arg(long, short)]
    force: bool,
}

struct Seen {
    system: System,
    record: Option<RunRecord>,
    assessment: BootAssessment,
}

fn observe(context: &Context, cache: &mut Cache) -> Seen {
    let record = state::load::<RunRecord>(&context.root, RECORD).good();
    let system = System::observe(context, cache);
    let assessment = assess(&system, &context.settings, record.as_ref());
    Seen { system, record, assessment }
}

/// Runs `guard`.
///
/// # Errors
/// When the lock cannot be had, or something cannot be written.
pub fn run(context: &Context, arguments: GuardArguments, common: &Common) -> anyhow::Result<u8> {
    let mut cache = Cache::load(&context.root);
    if arguments.may_mark_booted {
        let seen = observe(context, &mut cache);
        return Ok(may_mark_booted(context, &seen));
    }
    if arguments.disarm {
        need_root(context, "clr-dkms guard --disarm")?;
        removal::stop_deferring(&context.root, &context.tools).map_err(anyhow::Error::msg)?;
        return Ok(exit::OK);
    }
    if arguments.at_boot {
        need_root(context, "clr-dkms guard --at-boot")?;
        return at_boot(context, &mut cache, arguments.within);
    }
    if arguments.assert {
        need_root(context, "clr-dkms guard --assert")?;
        if let Some(limit) = arguments.within {
            watchdog::end_after(limit, exit::ATTENTION, "the boot default may not be as it should be");
        }
        let _lock = Lock::take(&context.root, LOCK, SHORT.min(context.settings.lock_wait), is_ours)?;
        return Ok(assert_again(context, &mut cache));
    }
    let seen = observe(context, &mut cache);
    let last = seen.record.as_ref().map(|record| &record.boot);
    let mut report =
        GuardReport::new(&seen.system, &context.settings, &seen.assessment, last, context.clock.now())
            .with_errors(seen.record.as_ref());
    if matches!(crate::status::observation::progress(context), Progress::Working(_)) {
        report = report.while_building();
    }
    let text =
        if arguments.json { json(&report)? } else { render::guard::text(&report, &ScreenStyle::here(true)) };
    answer(&text, common.color)?;
    Ok(report.exit_code())
}

/// Points the default back, after something had clr-boot-manager run. Gives the exit code; what is not 0 is explained.
pub fn assert_again(context: &Context, cache: &mut Cache) -> u8 {
    let seen = observe(context, cache);
    if let Some(unknown) = boot_files::undetermined(context, &seen.system, &seen.assessment) {
        tracing::error!("which kernel should boot next is unknown, and the boot default stays: {unknown}");
        return exit::UNKNOWN;
    }
    match boot_files::assert_default(context, &seen.system, &seen.assessment) {
        Ok(_) => exit::OK,
        Err(e) => {
            tracing::error!("the boot default: {e}");
            exit::ATTENTION
        }
    }
}

/// The first thing after a boot, without a build. What is cheap and vital comes first. What fails keeps nothing else from
/// being done.
fn at_boot(context: &Context, cache: &mut Cache, within: Option<Duration>) -> anyhow::Result<u8> {
    let mut done = Ok(());
    let tree = Tree::observe(&context.root);
    // Without the lock: a run that is at work may take an hour, and swupd may come before its end.
    boot_files::defer_by_record(context, &tree);
    // Whatever was broken off by a power cut goes on; with nothing to do the worker ends at once.
    let request = || context.root.write(REQUEST, b"", 0o644).map(drop).map_err(anyhow::Error::from);
    if !tree.modules.is_empty() || tree.unreadable.is_some() {
        done = done.and(request());
    }
    if let Some(limit) = within {
        let code = if done.is_ok() { exit::OK } else { exit::ATTENTION };
        watchdog::end_after(limit, code, "the rest is left to clr-dkms.service, which is asked for");
    }
    let lock = Lock::take(&context.root, LOCK, SHORT.min(context.settings.lock_wait), is_ours);
    if lock.is_ok() {
        // A power cut may have left the files of two versions, and services will ask for them. Without a journal this costs
        // nothing.
        engine::recover(context);
    }
    let mut seen = observe(context, cache);
    boot_files::put_deferral_right(context, &seen.system, &seen.assessment);
    match lock {
        Ok(_lock) => repair_indexes(context, cache, &mut seen),
        // The run that holds it repairs them too.
        Err(e) => done = Err(e.into()),
    }
    let document = crate::status::observation::observe_with(context, cache);
    let known = seen.record.as_ref().and_then(|record| record.verdict.as_ref());
    // A program that wants to know of a new verdict is run when there is a network, and a machine may require what the tree
    // does not know.
    let is_news = known.is_some_and(|verdict| *verdict != document.verdict.to_string());
    let requires = seen.assessment.needs.iter().any(|need| need.class > Importance::Optional);
    if tree.modules.is_empty() && (is_news || requires) {
        done = done.and(request());
    }
    match seen.system.modules_on_kernels.iter().any(ModuleOnKernel::is_conf_unread) {
        true => {
            tracing::info!("a dkms.conf is to be evaluated first: the report is left to clr-dkms.service")
        }
        false => {
            done = done.and(crate::update::publish::write(context, &document).map_err(anyhow::Error::from))
        }
    }
    if let Err(e) = cache.save(&context.root) {
        tracing::debug!("{e}; the worker finds out again what was found out now");
    }
    done.map(|()| exit::OK)
}

/// Makes `modules.dep` again where it does not list what is installed.
fn repair_indexes(context: &Context, cache: &mut Cache, seen: &mut Seen) {
    // swupd may have put its own modules.dep back: what is installed is found again before anybody looks for it.
    let due = engine::plan(&seen.system, &Order::default());
    let due = due.into_iter().chain(engine::index_plans(&seen.system));
    let mut kernels: Vec<String> = due.filter(|p| p.steps == [PlanStep::Index]).map(|p| p.release).collect();
    kernels.dedup();
    for release in &kernels {
        tracing::warn!(
            message_id = message::INDEX_HEALED,
            dkms_kernel = release.as_str(),
            "modules.dep of {release} does not list all that is installed: making it again"
        );
        if let Err(e) = depmod::run(&context.root, &context.tools, release, &[], INDEX_DEADLINE) {
            tracing::error!("{e}");
        }
    }
    if !kernels.is_empty() {
        *seen = observe(context, cache);
    }
}

/// 0 in doubt: the mark is the rule, and only what is known to be lost keeps it away.
fn may_mark_booted(context: &Context, seen: &Seen) -> u8 {
    let Some(running) = seen.system.inventory.running_kernel().map(|k| k.name.release()) else {
        return exit::OK;
    };
    // Nothing is known to be lost by a read that failed.
    if seen.system.tree.unreadable.is_some() || seen.assessment.unknown.is_some() {
        return exit::OK;
    }
    // Where it is not known what is loaded, only a file that is not there cannot have been.
    let can_tell = Usage::can_tell(&context.root);
    let has_no_file = |need: &Requirement| {
        let module = need.module.as_str();
        let files = need.modules();
        let is_registered = seen.system.modules_on_kernels.iter().any(|p| p.module.name == module);
        let is_absent = |file: &String| seen.system.files.on(&running, file) == Some(&Loadable::Absent);
        if is_replaced(&seen.system, need, &running) {
            return false;
        }
        if !is_registered && files.iter().all(is_absent) {
            return true;
        }
        let mut modules_on_kernels = seen.system.of_kernel(&running).filter(|p| p.module.name == module);
        let is_gone = |flaws: &Vec<Flaw>| flaws.iter().any(|f| matches!(f, Flaw::Missing { .. }));
        modules_on_kernels.any(|p| p.proof.as_ref().is_err_and(is_gone))
    };
    let loaded = |need: &Requirement| {
        let module = need.module.as_str();
        // What is part of the kernel is not loaded.
        let is_built_in =
            |file: &str| matches!(seen.system.files.on(&running, file), Some(Loadable::BuiltIn { .. }));
        let is_loaded =
            |file: &str| seen.system.in_use.loaded.contains(&kernel_name(file)) || is_built_in(file);
        let is_replaced = || is_replaced_now(&seen.system, need, &running);
        if need.modules().iter().any(|file| is_loaded(file)) || is_replaced() {
            return true;
        }
        // A dkms.conf that cannot be read does not tell the names of its files.
        let of_conf = |pair: &ModuleOnKernel| {
            pair.conf.as_ref().map_or(true, |conf| conf.built.iter().any(|b| is_loaded(&b.name)))
        };
        is_loaded(module)
            || seen.system.modules_on_kernels.iter().filter(|p| p.module.name == module).any(of_conf)
    };
    let lost = seen.assessment.needs.iter().find(|need| {
        let elsewhere = need.worked_on.as_ref().is_some_and(|on| *on != running);
        let before = seen.record.iter().flat_map(|r| &r.needs).find(|n| n.module == need.module);
        let elsewhere =
            elsewhere || before.is_some_and(|n| n.worked_on.as_ref().is_some_and(|on| *on != running));
        // Whether one that an admin has listed was ever loaded is not known: some are, on demand only.
        let missing = match can_tell {
            true => !need.works || (!need.is_listed() && !loaded(need)),
            false => has_no_file(need),
        };
        need.class == Importance::Critical && elsewhere && missing
    });
    let Some(lost) = lost else { return exit::OK };
    tracing::warn!(
        message_id = message::NOT_MARKED,
        dkms_kernel = running.as_str(),
        "{running} is not marked as booted: {} is critical ({}), worked before, and is not loaded now",
        lost.module,
        lost.reason
    );
    exit::ATTENTION
}

/// Runs `hold`.
///
/// # Errors
/// When the lock cannot be had, or something cannot be written.
pub fn hold(context: &Context, arguments: &KernelArguments, common: &Common) -> anyhow::Result<u8> {
    wish(context, "clr-dkms hold", arguments.dry_run, common, |system, _| {
        let kernel = match &arguments.kernel {
            Some(asked) => named(system, asked)?,
            None => system
                .inventory
                .running_kernel()
                .ok_or_else(|| GuardRefusal::unknown("the running kernel is not installed: name one"))?,
        };
        let release = kernel.name.release();
        if !is_bootable(system, kernel) {
            return Err(GuardRefusal::unknown(format!(
                "{release} cannot be booted: it has no boot entry, and clr-boot-manager makes one only for the tip \
                 of each variant and for the running kernel"
            )));
        }
        if !arguments.dry_run {
            tracing::info!("{release} is the boot default until `clr-dkms release`");
        }
        // The last word counts: what was released before is to be proven again.
        Ok(AdminOverrides { hold: Some(release), ..AdminOverrides::default() })
    })
}

fn named<'f>(system: &'f System, asked: &str) -> Result<&'f Installed, GuardRefusal> {
    system.inventory.require(asked).map_err(|e| GuardRefusal::unknown(e.to_string()))
}

/// Why an admin's word is not taken.
struct GuardRefusal {
    code: u8,
    why: String,
}

impl GuardRefusal {
    fn unknown(why: impl Into<String>) -> GuardRefusal {
        GuardRefusal { code: exit::UNKNOWN, why: why.into() }
    }
}

/// Runs `release`.
///
/// # Errors
/// As [`hold`].
pub fn release(context: &Context, arguments: &ReleaseArguments, common: &Common) -> anyhow::Result<u8> {
    let dry = arguments.of.dry_run;
    wish(context, "clr-dkms release", dry, common, |system, assessment| {
        let decision = &assessment.decision;
        let mut wishes = system.wishes.clone();
        let held = wishes.hold.take();
        if let Some(held) = held.as_ref().filter(|_| !dry) {
            tracing::info!("{held} is held no more");
        }
        let target = match &arguments.of.kernel {
            Some(asked) => Some(named(system, asked)?.name.release()),
            // To let go of a hold is one thing, to go ahead without a module another.
            None if held.is_some() => None,
            None if decision.holds_back() => decision.target.clone(),
            None => None,
        };
        // To let go of a kernel does not say that it may lack something.
        let Some(target) = target.filter(|target| held.as_ref() != Some(target)) else {
            if held.is_none() {
                tracing::info!("no kernel is held back: nothing to release");
            }
            return Ok(wishes);
        };
        let is_target = decision.target.as_ref() == Some(&target);
        let lacking = match is_target {
            true => decision.lacking.clone(),
            false => assessment.lacks_on(&target, |_| true),
        };
        let critical: Vec<MissingModule> =
            lacking.iter().filter(|l| l.class == Importance::Critical).cloned().collect();
        let is_said = arguments.force || wishes.released.contains(&target);
        if let Some(lack) = lacks(&critical).filter(|_| !is_said) {
            let why =
                format!("kernel {target} lacks {lack}: `clr-dkms release --force` goes ahead without it");
            if held.is_none() {
                return Err(GuardRefusal { code: exit::UNSAFE, why });
            }
            // The hold goes in any case.
            tracing::warn!("{why}");
            return Ok(wishes);
        }
        if !is_target {
            tracing::info!("{target} is not held back: it is remembered for when it would be");
        }
        for lack in lacking.iter().filter(|_| is_target) {
            tracing::warn!("{target} {} without {lack}", if dry { "would be" } else { "will be" });
        }
        wishes.released.insert(target);
        Ok(wishes)
    })
}

/// Keeps what an admin says, and does what follows.
fn wish(
    context: &Context,
    verb: &'static str,
    dry_run: bool,
    common: &Common,
    change: impl FnOnce(&System, &BootAssessment) -> Result<AdminOverrides, GuardRefusal>,
) -> anyhow::Result<u8> {
    let mut lock = None;
    if !dry_run {
        need_root(context, verb)?;
        interrupt::watch()?;
        lock = Some(Lock::take(&context.root, LOCK, context.settings.lock_wait, is_ours)?);
    }
    let mut cache = Cache::load(&context.root);
    let seen = observe(context, &mut cache);
    let mut wishes = match change(&seen.system, &seen.assessment) {
        Ok(wishes) => wishes,
        Err(refusal) => {
            tracing::error!("{}", refusal.why);
            return Ok(refusal.code);
        }
    };
    // What is said of kernels that are gone says nothing any more.
    let installed: Vec<String> = seen.system.inventory.kernels.iter().map(|k| k.name.release()).collect();
    wishes.released.retain(|release| installed.contains(release));
    let is_damaged = wishes.fault.take().is_some() || seen.system.wishes.fault.is_some();
    let is_new = is_damaged || wishes != seen.system.wishes;
    if dry_run {
        return foretold(context, seen, wishes, is_new, common);
    }
    // The same word again, where something has happened to the boot default since, is carried out again.
    let is_done = seen.assessment.is_carried_out() || !seen.assessment.acts;
    if !is_new && is_done {
        return Ok(if wishes == AdminOverrides::default() { exit::OK } else { code_of(&seen) });
    }
    if is_damaged {
        match state::set_aside(&context.root, WISHES) {
            Ok(aside) => {
                tracing::warn!("what was said before is kept as {}", context.root.shown_path(aside).display())
            }
            Err(e) => tracing::warn!("what was said before cannot be kept: {e}"),
        }
    }
    if !is_new {
        tracing::debug!("it has been said before");
    } else if wishes == AdminOverrides::default() {
        context.root.remove(WISHES)?;
    } else {
        context.root.write_json(WISHES, &state::WishesFile { schema: SCHEMA, wishes })?;
    }
    if !seen.assessment.acts {
        tracing::warn!(
            "[boot] policy = report, update = no, or an image: it is remembered, and the boot files stay as they are"
        );
    }
    let done = sequence::work(context, Vec::new(), &Order::default(), ProgressMode::Nothing)?;
    drop(lock);
    // What an admin has said is done; what the other kernel lacks is no failure of it.
    let document = crate::status::observation::observe(context);
    let boots = document.kernels.iter().find(|k| k.next_boot);
    let is_whole = boots.is_some_and(|k| k.modules_ready >= k.modules_needed);
    let is_done = document.guard.boots_next == document.guard.default && is_whole;
    Ok(match document.verdict {
        Verdict::Held if document.guard.because == Reason::Held && is_done => exit::OK,
        _ => done.code,
    })
}

/// What a word would come to.
fn foretold(
    context: &Context,
    mut seen: Seen,
    wishes: AdminOverrides,
    is_new: bool,
    common: &Common,
) -> anyhow::Result<u8> {
    let file = context.root.shown_path(WISHES);
    let mut lines = match (is_new, wishes == AdminOverrides::default()) {
        (false, _) => vec!["nothing to write".to_owned()],
        (true, true) => vec![format!("would remove {}", file.display())],
        (true, false) => vec![format!("would write {}", file.display())],
    };
    if is_new {
        lines.extend(wishes.hold.iter().map(|kernel| format!("  hold {kernel}")));
        lines.extend(wishes.released.iter().map(|kernel| format!("  release {kernel}")));
    }
    seen.system.wishes = wishes;
    seen.assessment = assess(&seen.system, &context.settings, seen.record.as_ref());
    lines.push(match (seen.assessment.acts, &seen.assessment.decision.default) {
        (true, Some(release)) => format!("{release} would boot next"),
        (true, None) => "no kernel would be chosen".to_owned(),
        (false, _) => "the boot files would stay as they are".to_owned(),
    });
    answer(&lines.iter().map(|line| shown(line) + "\n").collect::<String>(), common.color)?;
    Ok(code_of(&seen))
}

/// The exit code where the decision has been carried out.
fn code_of(seen: &Seen) -> u8 {
    let decision = &seen.assessment.decision;
    let needed =
        |n: &Requirement| n.class == Importance::Critical || (n.class == Importance::Wanted && n.works);
    let default = decision.default.as_ref();
    let lacks = || default.is_some_and(|k| !seen.assessment.lacks_on(k, needed).is_empty());
    if seen.assessment.unknown.is_some() {
        return exit::UNKNOWN;
    }
    match decision.is_unsafe {
        true => exit::UNSAFE,
        false if decision.ruling == Ruling::Defer && decision.because != Reason::Held => exit::ATTENTION,
        false if lacks() => exit::ATTENTION,
        false => exit::OK,
    }
}
