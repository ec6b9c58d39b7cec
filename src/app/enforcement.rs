//! `clr-dkms enforcement`: will my kernel take my module after the next reboot, and why?

use clap::Args;

use super::{Common, answer, exit, json};
use crate::decide::next_boot::{next_boot, presumed};
use crate::dkms::proof::{facts_of, installed_file, vermagic_of};
use crate::dkms::{Cache, Pair, Signature};
use crate::enforcement::observe::module_taint;
use crate::kernel::Installed;
use crate::kernel::inventory::Named;
use crate::render::enforcement::screen;
use crate::render::shown;
use crate::status::enforcement::{self as report, Document, ModuleFile, Setting, Standing, Subject};
use crate::system::{Line, System, line, pairs_of};
use crate::world::World;

/// The arguments of the verb.
#[derive(Debug, Args)]
pub struct EnforcementArguments {
    /// A kernel release, a kernel id or a variant; without it every installed kernel, the one that boots next first
    #[arg(long, short, value_name = "KERNEL")]
    kernel: Option<String>,
    /// The whole document, as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(world: &World, arguments: &EnforcementArguments, common: &Common) -> anyhow::Result<u8> {
    let Some(document) = look(world, arguments.kernel.as_deref()) else {
        let asked = arguments.kernel.as_deref().unwrap_or_default();
        tracing::error!("{} is no installed kernel; `clr-dkms status` lists them", shown(asked));
        return Ok(exit::UNKNOWN);
    };
    let text = if arguments.json { json(&document)? } else { screen(&document) };
    answer(&text, common.color)?;
    Ok(match document.standing {
        Standing::Settled => exit::OK,
        Standing::Pending => exit::ATTENTION,
        Standing::Refused => exit::UNSAFE,
        Standing::Unknown => exit::UNKNOWN,
    })
}

/// Observes, and makes the document; none when the kernel that was asked for is not there.
fn look(world: &World, asked: Option<&str>) -> Option<Document> {
    let mut cache = Cache::load(&world.root);
    let facts = System::observe(world, &mut cache);
    let inventory = &facts.inventory;
    let next = next_boot(&facts);
    let default = presumed(&facts).map(|k| k.name.release());
    let is_default = |release: &str| default.as_deref() == Some(release);
    let kernels: Vec<Named<'_>> = if let Some(asked) = asked {
        vec![inventory.named(&world.root, asked)?]
    } else {
        let mut kernels: Vec<&Installed> = inventory.kernels.iter().collect();
        kernels.sort_by_key(|k| (!is_default(&k.name.release()), !k.running));
        kernels.into_iter().map(Named::of).collect()
    };
    // The facts are of the kernels that matter; what is known of the others is looked up here.
    let of = |lines: &[Line], release: &str| lines.iter().position(|l| l.release == release);
    let others = kernels.iter().filter(|k| of(&facts.lines, &k.release).is_none());
    let others: Vec<Line> = others.map(|k| line(world, &mut cache, k)).collect();
    let mut subjects = Vec::new();
    for kernel in &kernels {
        let release = kernel.release.as_str();
        let known = of(&facts.lines, release).map(|at| &facts.lines[at]);
        let Some(line) = known.or_else(|| of(&others, release).map(|at| &others[at])) else { continue };
        let pairs = match kernel.installed {
            _ if known.is_some() => facts.of_kernel(release).cloned().collect(),
            Some(installed) => pairs_of(world, &mut cache, &facts.tree, installed),
            None => Vec::new(),
        };
        subjects.push(Subject {
            line,
            installed: kernel.installed.is_some(),
            running: kernel.installed.is_some_and(|k| k.running) || inventory.runs(release),
            refreshed: kernel.installed.is_some_and(|k| k.tip || k.running),
            boots_next: next.is(release),
            entry: facts.boot.of(&line.id),
            modules: pairs.iter().flat_map(|pair| files(world, &mut cache, pair)).collect(),
        });
    }
    let policy = super::cmdline::policy(world, &facts);
    // Without an installed kernel nobody has looked for entries.
    let nothing =
        || facts.boot.loader.is_none().then(|| "there is no boot entry: no kernel is installed".to_owned());
    let hidden = facts.boot.invisible.clone().or_else(nothing);
    let setting = Setting {
        machine: &facts.machine,
        entries_hidden: hidden.as_deref(),
        entries_needed: world.root.is_live(),
        entry_notes: facts.boot.problems.iter().map(ToString::to_string).collect(),
        policy_met: policy.met,
        policy_step: policy.step,
        unreadable: super::cmdline::no_kernels(&world.root, inventory),
    };
    Some(report::document(&subjects, &setting))
}

/// The installed files of a module, with what they say of their signatures.
fn files(world: &World, cache: &mut Cache, pair: &Pair) -> Vec<ModuleFile> {
    let Ok(conf) = &pair.conf else { return Vec::new() };
    let mut files = Vec::new();
    for built in &conf.built {
        let Some((path, there)) = installed_file(&world.root, &pair.release, built) else { continue };
        let (signature, unfit) = match facts_of(&world.root, cache, &path, &there) {
            Ok(facts) => {
                let flaw = vermagic_of(&facts, &pair.release, &path).err();
                (facts.signature, flaw.map(|flaw| flaw.to_string()))
            }
            Err(flaw) => (Signature::Unsigned { note: None }, Some(flaw.to_string())),
        };
        files.push(ModuleFile {
            module: pair.module.clone(),
            path: world.root.spell(&path).display().to_string(),
            signature,
            unfit,
            loaded: module_taint(&world.root, &built.name),
        });
    }
    files
}
