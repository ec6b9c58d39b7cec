//! `[boot] initrd-command`: makes the initrd of a kernel after its modules are proven, and before its boot entry is made.

use std::path::{Path, PathBuf};

use crate::decide::initrds::{lost_without_initrd, without_successor};
use crate::decide::module_state::module_status;
use crate::dkms::Cache;
use crate::dkms::plan::State;
use crate::kernel::Installed;
use crate::state::Record;
use crate::sys::child::Output;
use crate::sys::{Fingerprint, RootKind};
use crate::system::System;
use crate::world::World;

/// The output that is kept of it.
const OUTPUT: u64 = 4 << 10;

/// Runs the command for each kernel whose initrd is missing or stale, once for each state of its modules: a command that
/// does not help is not run again by itself. Gives whether it was run.
pub fn make(
    world: &World,
    cache: &mut Cache,
    facts: &System,
    record: Option<&Record>,
    by_hand: bool,
) -> bool {
    if world.settings.initrd_command.is_empty() || world.root.kind() == RootKind::Image {
        return false;
    }
    let mut ran = false;
    for kernel in facts.inventory.tips().into_iter().filter(|kernel| is_due(facts, kernel, record)) {
        let release = kernel.name.release();
        let inputs = inputs(world, facts, &release);
        if !cache.is_new_initrd(&release, &inputs) && !by_hand {
            tracing::info!("initrd-command is not run again for {release}: nothing has changed since it was");
            continue;
        }
        match run(world, kernel) {
            Ok(()) => tracing::info!("initrd-command has made an initrd for {release}"),
            Err(why) => tracing::error!("initrd-command for {release}: {why}"),
        }
        ran = true;
    }
    ran
}

fn is_due(facts: &System, kernel: &Installed, record: Option<&Record>) -> bool {
    let release = kernel.name.release();
    let mut pairs = facts.of_kernel(&release);
    pairs.any(|pair| module_status(facts, pair, record).state == State::InitrdStale)
        || lost_without_initrd(facts, &release).is_some()
        || without_successor(facts).iter().any(|(of, _)| *of == release)
}

/// What it depends on: the command itself, and the proven files.
fn inputs(world: &World, facts: &System, release: &str) -> String {
    let mut inputs = Fingerprint::default();
    for word in &world.settings.initrd_command {
        inputs.add(word);
    }
    for proof in facts.of_kernel(release).flat_map(|pair| pair.proof.iter().flatten()) {
        inputs.add(proof.sha256.as_deref().unwrap_or(&proof.path));
    }
    inputs.finish()
}

fn run(world: &World, kernel: &Installed) -> Result<(), String> {
    let release = kernel.name.release();
    let words = world.settings.initrd_command.iter();
    let mut words = words.map(|word| word.replace("{kernel}", &release).replace("{id}", &kernel.id));
    let program = words.next().unwrap_or_default();
    let path: PathBuf = match program.contains('/') {
        // A root never changes which program runs.
        true if !world.root.is_slash() => return Err(format!("{program} of another root is not run")),
        true => Path::new(&program).to_owned(),
        false => world.tools.find(&program).map_err(|e| e.to_string())?,
    };
    let child = world.tools.child_at(&path, world.settings.boot_timeout).args(words);
    let child = child.output(Output::Keep(OUTPUT));
    tracing::info!("running {}", child.spelt());
    let finished = child.run().map_err(|e| e.to_string())?;
    match finished.ended.is_success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&finished.output).trim().to_owned();
            let last = said.lines().next_back().unwrap_or_default().to_owned();
            Err(format!("{}: {last}", finished.ended))
        }
    }
}
