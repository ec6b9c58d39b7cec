//! The command line of one kernel, and how the kernel treats modules when it is booted with it.

use crate::boot::BootFiles;
use crate::boot::files::ExpectedEntry;
use crate::cmdline::{CmdlineSources, Switch, effective};
use crate::context::Context;
use crate::dkms::{Cache, Signature};
use crate::enforcement::{
    EnforcementVerdict, KernelFacts, LoadOutcome, Machine, ModuleKind, Patch, Tri, at_boot,
};
use crate::kernel::inventory::NamedKernel;
use crate::sys::FileError;

#[derive(Debug)]
pub struct KernelCmdline {
    pub release: String,
    pub id: String,
    /// The files that it is composed of.
    pub sources: CmdlineSources,
    /// The line that clr-boot-manager writes into the boot entry.
    pub effective: Vec<u8>,
    /// The value of `module.sig_unenforce` on that line.
    pub switch: Switch,
    /// Facts that decide whether the kernel loads modules without a trusted signature.
    pub kernel: KernelFacts,
}

/// How a kernel treats modules.
#[derive(Debug)]
pub(super) struct LineVerdicts {
    /// With its configured command line.
    pub(super) configured: EnforcementVerdict,
    /// With the command line of its boot entry. None if the entry is not visible.
    pub(super) entry: Option<EnforcementVerdict>,
}

impl KernelCmdline {
    pub(super) fn verdicts(&self, boot: &BootFiles, machine: &Machine) -> LineVerdicts {
        LineVerdicts {
            configured: self.configured_verdict(machine),
            entry: boot.of(&self.id).map(|entry| self.verdict_with(&entry.options, machine)),
        }
    }

    /// The first file of the line that could not be read: clr-boot-manager, which runs as root, may find more
    /// words.
    pub fn unread(&self) -> Option<&FileError> {
        self.sources.unreadable.first()
    }

    /// How the kernel treats modules when it is booted with its configured line.
    pub fn configured_verdict(&self, machine: &Machine) -> EnforcementVerdict {
        let verdict = self.verdict_with(&self.effective, machine);
        if let Some(error) = self.unread() { verdict.with_unknown_words(error.to_string()) } else { verdict }
    }

    /// How the kernel treats modules when it is booted with `line`.
    pub fn verdict_with(&self, line: &[u8], machine: &Machine) -> EnforcementVerdict {
        at_boot(&self.kernel.boot(line, machine))
    }

    /// What the kernel does with a file of that signature. `loaded` are the taint flags of the module that
    /// this kernel has loaded under that name; None if it does not run or has not loaded it.
    pub fn outcome(
        &self,
        signature: &Signature,
        loaded: Option<&str>,
        verdict: &EnforcementVerdict,
    ) -> LoadOutcome {
        match signature {
            Signature::Unsigned { .. } => verdict.of(ModuleKind::Unsigned),
            Signature::Broken { .. } => verdict.of(ModuleKind::Unparsable),
            // If nothing is enforced, an unknown signature holds nothing back.
            Signature::Unknown { .. } => verdict.of(ModuleKind::UnknownKey),
            Signature::Signed { .. } => {
                let (unknown, trusted) =
                    (verdict.of(ModuleKind::UnknownKey), verdict.of(ModuleKind::Trusted));
                // An accepted signature leaves no taint flag E, so the kernel has the key. The kernel's own
                // module of the same name would not have the flag O.
                let taken = loaded.is_some_and(|letters| letters.contains('O') && !letters.contains('E'));
                match (self.kernel.takes_foreign_keys(), taken) {
                    (false, _) => unknown,
                    (true, true) => trusted,
                    (true, false) if unknown.is_loaded() == trusted.is_loaded() => unknown,
                    (true, false) => LoadOutcome::Unknown,
                }
            }
        }
    }

    /// Whether the parameter makes a difference to this kernel. Unknown counts as yes, because Clear Linux
    /// kernels demand signatures and know the parameter.
    pub fn takes_the_parameter(&self, machine: &Machine) -> bool {
        let verdict = self.configured_verdict(machine);
        verdict.checked != Tri::No && verdict.demanded != Tri::No && self.kernel.patch != Patch::Absent
    }

    /// Whether the parameter is not configured, and would make this kernel accept modules that it refuses.
    pub fn parameter_would_help(&self, machine: &Machine) -> bool {
        self.switch != Switch::On
            && self.configured_verdict(machine).disabled != Tri::Yes
            && self.takes_the_parameter(machine)
    }
}

/// The expected boot entries.
pub fn expected_entries(lines: &[KernelCmdline]) -> Vec<ExpectedEntry> {
    let expected = |line: &KernelCmdline| {
        let is_known = line.unread().is_none();
        ExpectedEntry { id: line.id.clone(), line: is_known.then(|| line.effective.clone()) }
    };
    lines.iter().map(expected).collect()
}

/// Observes the command line of one kernel.
pub fn line(context: &Context, cache: &mut Cache, kernel: &NamedKernel<'_>) -> KernelCmdline {
    let mut sources = CmdlineSources::observe(&context.root, &kernel.release);
    let effective = effective(&sources);
    let image = kernel.installed.map(|k| k.image.as_str());
    let system = KernelFacts::observe(&context.root, cache, &kernel.release, image);
    sources.dialect = system.dialect();
    KernelCmdline {
        switch: match sources.unreadable.is_empty() {
            true => system.switch(&effective),
            false => Switch::Unknown,
        },
        kernel: system,
        id: kernel.id.clone(),
        release: kernel.release.clone(),
        sources,
        effective,
    }
}
