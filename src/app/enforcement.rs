//! `clr-dkms enforcement`: will my kernel take my module after the next reboot, and why?

use clap::Args;

use super::{Common, answer, exit, json};
use crate::dkms::proof::{facts_of, installed_file, vermagic_of};
use crate::dkms::{Cache, Pair, Signature, Tree};
use crate::enforcement::observe::module_taint;
use crate::facts::{Facts, Line, line, pairs_of};
use crate::kernel::Installed;
use crate::kernel::inventory::Named;
use crate::render::enforcement::screen;
use crate::render::shown;
use crate::status::enforcement::{self as report, Document, ModuleFile, Setting, Standing, Subject};
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

/// One kernel that is looked at.
struct Looked<'a> {
    line: Line,
    installed: Option<&'a Installed>,
    modules: Vec<ModuleFile>,
}

/// Observes, and makes the document; none when the kernel that was asked for is not there.
fn look(world: &World, asked: Option<&str>) -> Option<Document> {
    let mut cache = Cache::load(&world.root);
    let facts = Facts::observe(world, &mut cache);
    let inventory = &facts.inventory;
    let default = facts.next_kernel().map(|k| k.name.release());
    let is_default = |release: &str| default.as_deref() == Some(release);
    let mut looked = Vec::new();
    if let Some(asked) = asked {
        let named = inventory.named(&world.root, asked)?;
        looked.push(look_at(world, &mut cache, &facts.tree, named));
    } else {
        let mut kernels: Vec<&Installed> = inventory.kernels.iter().collect();
        kernels.sort_by_key(|k| (!is_default(&k.name.release()), !k.running));
        for kernel in kernels {
            looked.push(look_at(world, &mut cache, &facts.tree, Named::of(kernel)));
        }
    }
    let subjects: Vec<Subject<'_>> = looked
        .iter()
        .map(|l| Subject {
            line: &l.line,
            installed: l.installed.is_some(),
            running: l.installed.is_some_and(|k| k.running) || inventory.runs(&l.line.release),
            refreshed: l.installed.is_some_and(|k| k.tip || k.running),
            boots_next: facts.boots_next().is_some_and(|k| k.name.release() == l.line.release),
            entry: facts.boot.of(&l.line.id),
            modules: l.modules.clone(),
        })
        .collect();
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

fn look_at<'a>(world: &World, cache: &mut Cache, tree: &Tree, kernel: Named<'a>) -> Looked<'a> {
    let line = line(world, cache, &kernel);
    let modules = kernel.installed.map(|k| pairs_of(world, cache, tree, k)).unwrap_or_default();
    let modules = modules.iter().flat_map(|pair| files(world, cache, pair)).collect();
    Looked { line, installed: kernel.installed, modules }
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
