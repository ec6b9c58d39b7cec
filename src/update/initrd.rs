//! `[boot] initrd-command`: builds the initrd of a kernel after its modules are proven, and before its boot
//! entry is written.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::context::Context;
use crate::decide::initrds::{lost_without_initrd, without_successor};
use crate::decide::module_state::module_status;
use crate::dkms::Cache;
use crate::dkms::plan::State;
use crate::kernel::Installed;
use crate::state::RunRecord;
use crate::sys::child::Output;
use crate::sys::{Fingerprint, RootKind};
use crate::system::System;

/// The maximum size of the command's output that is kept.
const OUTPUT: u64 = 4 << 10;

/// Runs the command for each kernel with a missing or stale initrd. It runs once for each state of the
/// modules: an unsuccessful command is not repeated automatically. Returns whether it was run.
pub fn make(
    context: &Context,
    cache: &mut Cache,
    system: &System,
    record: Option<&RunRecord>,
    by_hand: bool,
) -> bool {
    if context.settings.initrd_command.is_empty() || context.root.kind() == RootKind::Image {
        return false;
    }
    let mut ran = false;
    for kernel in system.inventory.tips().into_iter().filter(|kernel| is_due(system, kernel, record)) {
        let release = kernel.name.release();
        let inputs = inputs(context, system, &release);
        if !cache.is_new_initrd(&release, &inputs) && !by_hand {
            tracing::info!(
                "initrd-command is not run again for {release}: nothing has changed since its last run"
            );
            continue;
        }
        match run(context, kernel) {
            Ok(()) => tracing::info!("initrd-command has built an initrd for {release}"),
            Err(why) => tracing::error!("initrd-command for {release}: {why}"),
        }
        ran = true;
    }
    ran
}

fn is_due(system: &System, kernel: &Installed, record: Option<&RunRecord>) -> bool {
    let release = kernel.name.release();
    let mut modules_on_kernels = system.of_kernel(&release);
    modules_on_kernels.any(|pair| module_status(system, pair, record).state == State::InitrdStale)
        || lost_without_initrd(system, &release).is_some()
        || without_successor(system).iter().any(|(of, _)| *of == release)
}

/// The fingerprint of the command itself and of the proven files.
fn inputs(context: &Context, system: &System, release: &str) -> String {
    let mut inputs = Fingerprint::default();
    for word in &context.settings.initrd_command {
        inputs.add(word);
    }
    for proof in system.of_kernel(release).flat_map(|pair| pair.proof.iter().flatten()) {
        inputs.add(proof.sha256.as_deref().unwrap_or(&proof.path));
    }
    inputs.finish()
}

fn run(context: &Context, kernel: &Installed) -> anyhow::Result<()> {
    let release = kernel.name.release();
    let words = context.settings.initrd_command.iter();
    let mut words = words.map(|word| word.replace("{kernel}", &release).replace("{id}", &kernel.id));
    let program = words.next().unwrap_or_default();
    let path: PathBuf = match program.contains('/') {
        // The program of a root never runs on the host.
        true if !context.root.is_slash() => bail!("{program} of another root is not run"),
        true => Path::new(&program).to_owned(),
        false => context.tools.find(&program)?,
    };
    let child = context.tools.child_at(&path, context.settings.boot_timeout).args(words);
    let child = child.output(Output::Keep(OUTPUT));
    tracing::info!("running {}", child.display());
    let finished = child.run()?;
    match finished.ended.is_success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&finished.output).trim().to_owned();
            let last = said.lines().next_back().unwrap_or_default().to_owned();
            bail!("{}: {last}", finished.ended)
        }
    }
}
