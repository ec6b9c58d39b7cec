//! What the next boot would refuse once the kernel command line has changed.

use crate::app::exit;
use crate::cmdline::writer::{self, Plan, Step};
use crate::cmdline::{Switch, effective};
use crate::decide::assess;
use crate::dkms::Cache;
use crate::dkms::plan::State;
use crate::requirement::Importance;
use crate::state::{self, RECORD, Record};
use crate::status::{Progress, Verdict, document};
use crate::system::System;
use crate::world::World;

/// Modules that this machine uses, and that the next boot will refuse without the parameter.
pub(super) struct Refused {
    /// Each as `name/version`.
    pub(super) modules: Vec<String>,
    is_unsafe: bool,
}

impl Refused {
    /// Once the boot entries have the line that the plan makes. `newly`: only those that the next boot takes now.
    pub(super) fn foresee(world: &World, plan: &Plan, newly: bool) -> Refused {
        let mut facts = System::observe(world, &mut Cache::load(&world.root));
        let record = state::load::<Record>(&world.root, RECORD);
        let needs = assess(&facts, &world.settings, record.as_good()).needs;
        let is_used = |name: &str| needs.iter().any(|n| n.module == name && n.class > Importance::Optional);
        let refused = |facts: &System| {
            let then = document(facts, &record, &Progress::None, &world.settings, world.clock.now());
            let by_line = |kernel: &str| {
                let line = facts.lines.iter().find(|l| l.release == kernel);
                line.is_some_and(|l| l.switch != Switch::On && l.takes_the_parameter(&facts.machine))
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
        let (known, _) = if newly { refused(&facts) } else { (Vec::new(), false) };
        for line in &mut facts.lines {
            line.sources = writer::after(&line.sources, &plan.steps);
            line.effective = effective(&line.sources);
            line.switch = line.kernel.switch(&line.effective);
            let mine = facts.boot.entries.iter_mut().filter(|e| e.id.as_ref() == Some(&line.id));
            mine.for_each(|entry| entry.options.clone_from(&line.effective));
        }
        let (mut modules, is_unsafe) = refused(&facts);
        modules.retain(|module| !known.contains(module));
        Refused { modules, is_unsafe }
    }

    /// The exit code for it.
    pub(super) fn code(&self) -> u8 {
        match (self.modules.is_empty(), self.is_unsafe) {
            (true, _) => exit::OK,
            (false, true) => exit::UNSAFE,
            (false, false) => exit::ATTENTION,
        }
    }

    /// Says so, and gives the exit code.
    pub(super) fn tell(&self, plan: &Plan) -> u8 {
        if self.modules.is_empty() {
            return exit::OK;
        }
        // What was ours and is removed comes back by another verb than what was masked.
        let masks = plan.steps.iter().any(|step| matches!(step, Step::WriteMask(_)));
        let undo = if masks { "default" } else { "enable" };
        let modules = self.modules.join(", ");
        tracing::warn!("{modules} will be refused at the next boot; undo: `clr-dkms-cmdline {undo}`");
        self.code()
    }
}
