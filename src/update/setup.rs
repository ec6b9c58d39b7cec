//! Making a system ready for modules: the bundles, the kernel command line, the boot entries.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::boot::ReadBack;
use crate::cmdline::writer::{self, Ours, Wish, WriterPlan};
use crate::cmdline::{CmdlineSources, PARAMETER, Switch};
use crate::config::SigUnenforce;
use crate::context::Context;
use crate::decide::next_boot::coming_lines;
use crate::decide::setup::{SetupDecision, SetupInputs, SetupKernel, setup};
use crate::decide::unread::first_that_decides;
use crate::dkms::{Cache, toolchain};
use crate::enforcement::{LoadOutcome, ModuleKind};
use crate::kernel::inventory::IMAGES;
use crate::kernel::{Headers, Inventory, Running, Variant};
use crate::report::add::StepResult;
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::report::setup::{SetupDocument, SetupKernelReport, gap_text, unfilled_text};
use crate::sys::{FileKind, Output, Presence, RootKind};
use crate::system::{KernelCmdline, System};
use crate::update::engine::Order;
use crate::update::progress::ProgressMode;
use crate::update::{cmdline, sequence};

/// The names of the installed bundles.
const BUNDLES: &str = "/usr/share/clear/bundles";
/// Where the programs of an image are.
const PROGRAMS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
/// The time limit of swupd, which downloads a compiler.
const PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// What is missing, and what is to be done about it.
#[derive(Debug)]
pub struct SetupPlan {
    inventory: Inventory,
    inputs: SetupInputs,
    decision: SetupDecision,
}

impl SetupPlan {
    /// The bundles to install.
    pub fn bundles(&self) -> &[&'static str] {
        &self.decision.bundles
    }

    /// Something is missing that no bundle has.
    pub fn is_unfilled(&self) -> bool {
        !self.decision.unfilled.is_empty()
    }

    /// What is missing, as phrases.
    pub fn missing(&self) -> Vec<String> {
        self.decision.gaps.iter().map(gap_text).collect()
    }

    /// Looks at the system.
    ///
    /// # Errors
    /// When it cannot be determined what is there.
    pub fn observe(context: &Context) -> Result<SetupPlan, String> {
        let inventory = Inventory::observe(&context.root);
        if let Some(reason) = inventory.unreadable() {
            return Err(reason.to_owned());
        }
        if inventory.tips().is_empty() {
            let images = context.root.shown_path(IMAGES);
            return Err(format!("no kernel of clr-boot-manager is installed in {}", images.display()));
        }
        let inputs = inputs(context, &inventory)?;
        Ok(SetupPlan { decision: setup(&inputs), inputs, inventory })
    }

    /// Describes it.
    pub fn describe(&self, context: &Context, document: &mut SetupDocument) {
        let target = CommandTarget::of_root(&context.root);
        document.schema = 1;
        let report = |kernel: &SetupKernel| SetupKernelReport {
            kernel: kernel.release.clone(),
            variant: kernel.variant.name.clone(),
            bundle: kernel.variant.dkms_bundle(),
            has_bundle: kernel.has_bundle,
            has_headers: kernel.headers == Headers::Present,
        };
        document.kernels = self.inputs.kernels.iter().map(report).collect();
        document.missing = self.missing();
        document.bundles = self.bundles().iter().map(|bundle| (*bundle).to_owned()).collect();
        for (gap, why) in &self.decision.unfilled {
            let text = unfilled_text(gap, why, &self.inventory, &target);
            document.steps.add("bundle", StepResult::Failed, text);
        }
        if !self.bundles().is_empty() {
            let words = [&["bundle-add"], self.bundles()].concat();
            document.command = Some(AdminCommand::change("swupd", &words).text(&target));
        }
    }

    /// Installs the bundles; the output of swupd goes to stderr. False when that failed.
    pub fn install(&self, context: &Context, document: &mut SetupDocument) -> bool {
        let Context { root, tools, .. } = context;
        let mut arguments = vec!["bundle-add".to_owned()];
        arguments.extend(self.bundles().iter().map(|bundle| (*bundle).to_owned()));
        if !root.is_slash() {
            arguments.push(format!("--path={}", root.path().display()));
        }
        let done = tools.child("swupd", PATIENCE).map_err(|e| e.to_string()).and_then(|child| {
            let output = std::io::stderr().as_fd().try_clone_to_owned().map_err(|e| e.to_string())?;
            child.args(arguments).output(Output::Into(output.into())).run().map_err(|e| e.to_string())
        });
        let why = match done {
            Ok(done) if done.ended.is_success() => {
                document.steps.add(
                    "bundle",
                    StepResult::Done,
                    format!("{} added", self.bundles().join(", ")),
                );
                return true;
            }
            Ok(done) => format!("swupd bundle-add: {}", done.ended),
            Err(why) => why,
        };
        document.steps.add("bundle", StepResult::Failed, why);
        false
    }
}

fn inputs(context: &Context, inventory: &Inventory) -> Result<SetupInputs, String> {
    let root = &context.root;
    // The only error is that it is not there.
    let mut found = SetupInputs { has_swupd: context.tools.find("swupd").is_ok(), ..SetupInputs::default() };
    for kernel in inventory.tips() {
        let release = kernel.name.release();
        let variant = Variant::of(release.rsplit('.').next().unwrap_or_default());
        let has_bundle = match variant.dkms_bundle().map(|bundle| root.lookup(format!("{BUNDLES}/{bundle}")))
        {
            Some(Presence::Unreadable(e)) => return Err(e.to_string()),
            Some(there) => there.is_there(),
            None => false,
        };
        for program in missing_programs(context, &release)? {
            if !found.programs_missing.contains(&program) {
                found.programs_missing.push(program);
            }
        }
        found.kernels.push(SetupKernel { variant, headers: kernel.headers.clone(), has_bundle, release });
    }
    Ok(found)
}

/// The programs that a build for a kernel needs and that the system lacks. An image will run its own.
fn missing_programs(context: &Context, release: &str) -> Result<Vec<String>, String> {
    let root = &context.root;
    let unread = RefCell::new(None);
    let is_image = root.kind() == RootKind::Image && !root.is_slash();
    let has = |name: &str| match is_image {
        // As above: the only error is that it is not there.
        false => context.tools.find(name).is_ok(),
        true => PROGRAMS.iter().any(|directory| match root.lookup(format!("{directory}/{name}")) {
            Presence::There(stat) => stat.kind == FileKind::File,
            Presence::Absent => false,
            Presence::Unreadable(e) => {
                unread.replace(Some(e.to_string()));
                false
            }
        }),
    };
    let mut missing: Vec<String> = if has("dkms") { Vec::new() } else { vec!["dkms".to_owned()] };
    missing.extend(toolchain::missing(&toolchain::config(root, release), has));
    unread.into_inner().map_or(Ok(missing), Err)
}

/// How the fragments change so that the kernels load modules without a trusted signature; none when that is
/// not wanted, or not needed.
fn parameter(context: &Context, system: &System) -> Result<Option<(Ours, WriterPlan)>, String> {
    let needs =
        |line: &&KernelCmdline| line.switch != Switch::On && line.takes_the_parameter(&system.machine);
    if context.settings.sig_unenforce == SigUnenforce::Off || coming_lines(system).all(|line| !needs(&line)) {
        return Ok(None);
    }
    if let Some(unread) = first_that_decides(&context.root.unread()) {
        return Err(unread.to_owned());
    }
    let ours = Ours::load(&context.root).map_err(|e| e.to_string())?;
    let sources: Vec<CmdlineSources> = coming_lines(system).map(|line| line.sources.copy()).collect();
    let plan = writer::plan(Wish::Ensure, &sources, &ours);
    Ok(Some((ours, plan)))
}

/// Says what would be done about the command line and the boot entries.
pub fn foresee(context: &Context, document: &mut SetupDocument) {
    let system = System::observe(context, &mut Cache::load(&context.root));
    match parameter(context, &system) {
        Ok(None) => document.steps.add("cmdline", StepResult::Skipped, nothing_about_parameter(context)),
        Ok(Some((_, plan))) => describe_parameter(context, &plan, "would ", document),
        Err(why) => document.steps.add("cmdline", StepResult::Failed, why),
    }
    describe_reboot(&system, document);
}

fn describe_parameter(context: &Context, plan: &WriterPlan, would: &str, document: &mut SetupDocument) {
    for step in &plan.steps {
        document.steps.add("cmdline", StepResult::Done, format!("{would}{step}"));
    }
    for blocker in &plan.blockers {
        document.steps.add("cmdline", StepResult::Failed, blocker.message(&context.root));
    }
}

fn nothing_about_parameter(context: &Context) -> String {
    match context.settings.sig_unenforce {
        SigUnenforce::Off => format!("the configuration does not want {PARAMETER}"),
        _ => "nothing to change".to_owned(),
    }
}

/// Sets the parameter, builds the modules that are registered, and brings the boot entries up to date. To be
/// called with the lock.
///
/// # Errors
/// When what was found cannot be written.
pub fn complete(context: &Context, show: ProgressMode, document: &mut SetupDocument) -> anyhow::Result<()> {
    let system = System::observe(context, &mut Cache::load(&context.root));
    let plan = match parameter(context, &system) {
        Ok(Some((ours, plan))) => {
            writer::apply(&context.root, &plan, &ours)?;
            describe_parameter(context, &plan, "", document);
            plan
        }
        Ok(None) => {
            document.steps.add("cmdline", StepResult::Skipped, nothing_about_parameter(context));
            WriterPlan::default()
        }
        Err(why) => {
            document.steps.add("cmdline", StepResult::Failed, why);
            return Ok(());
        }
    };
    let done = sequence::work(context, Vec::new(), &Order::default(), show)?;
    for attempt in &done.attempts {
        let module = format!("{} on {}", attempt.module, attempt.release);
        match &attempt.failure {
            None => {
                document.steps.add("modules", StepResult::Done, format!("{module}: installed and proven"))
            }
            Some((_, why)) => document.steps.add("modules", StepResult::Warning, format!("{module}: {why}")),
        }
    }
    let inventory = Inventory::observe(&context.root);
    match cmdline::put_into_entries(context, &inventory, true, &plan, false) {
        true => {
            let system = System::observe(context, &mut Cache::load(&context.root));
            match &system.boot_entries {
                ReadBack::Verified => {
                    document.steps.add("boot", StepResult::Done, "the boot entries are as configured");
                }
                other => document.steps.add(
                    "boot",
                    StepResult::Warning,
                    format!("the boot entries: {}", other.word()),
                ),
            }
            describe_reboot(&system, document);
        }
        false => document.steps.add("boot", StepResult::Failed, "the boot entries are not up to date"),
    }
    Ok(())
}

/// Whether modules can be loaded only after a reboot: the running kernel is one that gets no modules, or it
/// refuses what the kernels of the next boot load.
fn describe_reboot(system: &System, document: &mut SetupDocument) {
    let Running::Known { release } = &system.inventory.running else { return };
    if !system.inventory.is_tip(release) {
        document.reboot_due = Some(true);
        let why =
            format!("kernel {release} runs, and modules are built for the kernels that boot by default");
        document.steps.add("reboot", StepResult::Done, format!("due: {why}"));
        return;
    }
    let loads_now =
        system.verdict_now().map_or(LoadOutcome::Unknown, |verdict| verdict.of(ModuleKind::Unsigned));
    let coming = system.lines.iter().find(|line| line.release == *release);
    let loads_then = coming.map_or(LoadOutcome::Unknown, |line| {
        line.verdict_with(&line.effective, &system.machine).of(ModuleKind::Unsigned)
    });
    let (due, result, text) = match (loads_now, loads_then) {
        (now, _) if now.is_loaded() => (Some(false), StepResult::Skipped, "not needed"),
        (LoadOutcome::Refused(_), then) if then.is_loaded() => (
            Some(true),
            StepResult::Done,
            "due: the running kernel refuses modules without a trusted signature",
        ),
        (LoadOutcome::Refused(_), LoadOutcome::Refused(_)) => (
            None,
            StepResult::Warning,
            "would not help: modules without a trusted signature are refused then too",
        ),
        _ => (None, StepResult::Warning, "whether one is due cannot be determined"),
    };
    document.reboot_due = due;
    document.steps.add("reboot", result, text);
}
