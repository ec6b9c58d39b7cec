//! The command line of one kernel, and what it makes the kernel do with modules.

use crate::cmdline::{CmdlineSources, Switch, effective};
use crate::context::Context;
use crate::dkms::{Cache, Signature};
use crate::enforcement::{
    EnforcementVerdict, KernelFacts, LoadOutcome, Machine, ModuleKind, Patch, Tri, at_boot,
};
use crate::kernel::inventory::NamedKernel;

/// The command line of one kernel.
#[derive(Debug)]
pub struct KernelCmdline {
    /// The kernel release.
    pub release: String,
    /// The kernel id.
    pub id: String,
    /// What it is made of.
    pub sources: CmdlineSources,
    /// What clr-boot-manager will write.
    pub effective: Vec<u8>,
    /// What that says of `module.sig_unenforce`.
    pub switch: Switch,
    /// What decides whether it takes modules without a trusted signature.
    pub kernel: KernelFacts,
}

impl KernelCmdline {
    /// What the kernel does with modules when it is booted with `line`.
    pub fn verdict_with(&self, line: &[u8], machine: &Machine) -> EnforcementVerdict {
        at_boot(&self.kernel.boot(line, machine))
    }

    /// What the kernel does with a file of that signature, where `verdict` holds. `loaded` are the taint letters of the
    /// module that this kernel, which runs, has loaded under that name.
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
                // A signature that the kernel took leaves no E behind: it has the key. (The kernel's own module of the
                // same name would have no O.)
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

    /// Whether the parameter makes a difference to this kernel. What cannot be determined counts as yes: Clear's kernels all
    /// demand signatures and know the parameter.
    pub fn takes_the_parameter(&self, machine: &Machine) -> bool {
        let verdict = self.verdict_with(&self.effective, machine);
        verdict.checked != Tri::No && verdict.demanded != Tri::No && self.kernel.patch != Patch::Absent
    }
}

/// The boot entries that there should be: kernel ids and effective command lines.
pub fn expected_entries(lines: &[KernelCmdline]) -> Vec<(String, Vec<u8>)> {
    lines.iter().map(|line| (line.id.clone(), line.effective.clone())).collect()
}

/// The command line of one kernel.
pub fn line(context: &Context, cache: &mut Cache, kernel: &NamedKernel<'_>) -> KernelCmdline {
    let mut sources = CmdlineSources::observe(&context.root, &kernel.release);
    let effective = effective(&sources);
    let image = kernel.installed.map(|k| k.image.as_str());
    let system = KernelFacts::observe(&context.root, cache, &kernel.release, image);
    sources.dialect = system.dialect();
    KernelCmdline {
        switch: system.switch(&effective),
        kernel: system,
        id: kernel.id.clone(),
        release: kernel.release.clone(),
        sources,
        effective,
    }
}
