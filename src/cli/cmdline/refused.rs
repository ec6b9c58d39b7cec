//! Determines what the next boot would refuse after a change of the kernel command line.

use crate::cmdline::writer::{WriterPlan, WriterStep};
use crate::cmdline::{PARAMETER, Switch};
use crate::context::Context;
use crate::decide::assess;
use crate::dkms::Cache;
use crate::dkms::plan::State;
use crate::exit;
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::report::{Progress, Verdict, document};
use crate::requirement::Importance;
use crate::state::{self, RECORD, RunRecord};
use crate::sys::Root;
use crate::system::System;
use crate::update::parameter;

/// Modules that this machine uses, and that the next boot will refuse without the parameter.
pub(super) struct Refused {
    pub(super) modules: Vec<String>,
    pub(super) is_unsafe: bool,
}

/// Why the next run would set the parameter again, and what prevents that; none if it would not set it.
pub(super) fn set_again(context: &Context, plan: &WriterPlan) -> Option<String> {
    let mut system = System::observe(context, &mut Cache::load(&context.root));
    system.assume(plan, false);
    let record = state::load::<RunRecord>(&context.root, RECORD);
    // If something is unreadable, the next run changes nothing.
    let (_, next) = parameter::cmdline_plan(context, &system, record.as_good()).ok()?;
    (!next.steps.is_empty()).then(|| {
        format!(
            "the next run of clr-dkms-post-update sets {PARAMETER} again, because modules need it; set \
             `[cmdline] sig-unenforce = off` in clr-dkms.conf to keep it off"
        )
    })
}

impl Refused {
    /// Determines what is refused once the boot entries have the planned line. With `newly`, only modules
    /// that the next boot accepts now.
    pub(super) fn foresee(context: &Context, plan: &WriterPlan, newly: bool) -> Refused {
        let mut system = System::observe(context, &mut Cache::load(&context.root));
        let record = state::load::<RunRecord>(&context.root, RECORD);
        let needs = assess(&system, &context.settings, record.as_good()).needs;
        let is_used = |name: &str| needs.iter().any(|n| n.module == name && n.class > Importance::Optional);
        let refused = |system: &System| {
            let then = document(system, &record, &Progress::None, &context.settings, context.clock.now());
            let by_line = |kernel: &str| {
                let line = system.lines.iter().find(|l| l.release == kernel);
                line.is_some_and(|l| l.switch != Switch::On && l.takes_the_parameter(&system.machine))
            };
            let modules = then.modules.iter().map(|m| &m.record).filter(|m| {
                m.state == State::SignatureRefused
                    && then.next_boot.as_ref() == Some(&m.kernel)
                    && is_used(&m.module.name)
                    && by_line(&m.kernel)
            });
            let modules: Vec<String> = modules.map(|m| m.module.to_string()).collect();
            (modules, then.verdict == Verdict::Unsafe)
        };
        let (known, _) = if newly { refused(&system) } else { (Vec::new(), false) };
        system.assume(plan, true);
        let (mut modules, is_unsafe) = refused(&system);
        modules.retain(|module| !known.contains(module));
        Refused { modules, is_unsafe }
    }

    pub(super) fn code(&self) -> u8 {
        match (self.modules.is_empty(), self.is_unsafe) {
            (true, _) => exit::OK,
            (false, true) => exit::UNSAFE,
            (false, false) => exit::ATTENTION,
        }
    }

    /// Logs the refused modules, and returns the exit code.
    pub(super) fn tell(&self, plan: &WriterPlan, root: &Root) -> u8 {
        if self.modules.is_empty() {
            return exit::OK;
        }
        // The removal of our fragment and a new mask are reverted by different verbs.
        let masks = plan.steps.iter().any(|step| matches!(step, WriterStep::WriteMask(_)));
        let undo = if masks { "default" } else { "enable" };
        let modules = self.modules.join(", ");
        let undo = AdminCommand::change("clr-dkms-cmdline", &[undo]).to("undo this");
        let undo = undo.text(&CommandTarget::of_root(root));
        tracing::warn!("{modules} will be refused at the next boot; {undo}");
        self.code()
    }
}
