//! `clr-dkms enforcement`: whether a kernel accepts a module after the next reboot, and why.

use clap::Args;

use super::{Common, show};
use crate::context::Context;
use crate::decide::next_boot::{next_boot, presumed};
use crate::dkms::proof::{Flaw, facts_of, installed_file, vermagic_of};
use crate::dkms::tree::{Stage, TREE};
use crate::dkms::{Cache, ModuleOnKernel, Signature};
use crate::enforcement::observe::module_taint;
use crate::exit::ExitReason;
use crate::kernel::inventory::NamedKernel;
use crate::kernel::{Images, Installed, NoSuchKernel};
use crate::report::enforcement::{
    self as report, EnforcementDocument, EnforcementSubject, FileFitness, ModuleFile, Setting,
};
use crate::report::remedy::CommandTarget;
use crate::report::render::enforcement::screen;
use crate::system::{KernelCmdline, System, line, pairs_of};

/// The arguments of `enforcement`.
#[derive(Debug, Args)]
pub struct EnforcementArguments {
    /// A kernel release, a kernel id or a variant; the default is every installed kernel, the one that boots
    /// next first
    #[arg(long, short, value_name = "KERNEL")]
    kernel: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `enforcement`.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(context: &Context, arguments: &EnforcementArguments, common: &Common) -> anyhow::Result<u8> {
    let gone = || ExitReason::unknown(NoSuchKernel(arguments.kernel.clone().unwrap_or_default()));
    let document = look(context, arguments.kernel.as_deref()).ok_or_else(gone)?;
    show(context, &document, arguments.json, common, |document, style| {
        screen(document, style, common.verbose > 0)
    })?;
    Ok(document.exit_code)
}

/// Observes, and makes the document; none when the kernel that was asked for is not there.
fn look(context: &Context, asked: Option<&str>) -> Option<EnforcementDocument> {
    let mut cache = Cache::load(&context.root);
    let system = System::observe(context, &mut cache);
    let inventory = &system.inventory;
    let next = next_boot(&system);
    let default = presumed(&system).map(|k| k.name.release());
    let is_default = |release: &str| default.as_deref() == Some(release);
    let kernels: Vec<NamedKernel<'_>> = if let Some(asked) = asked {
        vec![inventory.named(&context.root, asked)?]
    } else {
        let mut kernels: Vec<&Installed> = inventory.kernels.iter().collect();
        kernels.sort_by_key(|k| (!is_default(&k.name.release()), !k.running));
        kernels.into_iter().map(NamedKernel::of).collect()
    };
    // The observation covers the kernels in use; other kernels are looked up here.
    let of = |lines: &[KernelCmdline], release: &str| lines.iter().position(|l| l.release == release);
    let others = kernels.iter().filter(|k| of(&system.lines, &k.release).is_none());
    let others: Vec<KernelCmdline> = others.map(|k| line(context, &mut cache, k)).collect();
    let policy = super::cmdline::policy(context, &system);
    let mut subjects = Vec::new();
    for kernel in &kernels {
        let release = kernel.release.as_str();
        let known = of(&system.lines, release).map(|at| &system.lines[at]);
        let Some(line) = known.or_else(|| of(&others, release).map(|at| &others[at])) else { continue };
        let modules_on_kernels = match kernel.installed {
            _ if known.is_some() => system.of_kernel(release).cloned().collect(),
            Some(installed) => pairs_of(context, &mut cache, &system.tree, installed),
            None => Vec::new(),
        };
        subjects.push(EnforcementSubject {
            line,
            installed: kernel.installed.is_some(),
            running: kernel.installed.is_some_and(|k| k.running) || inventory.runs(release),
            refreshed: kernel.installed.is_some_and(|k| k.tip || k.running),
            boots_next: next.is(release),
            entry: system.boot.of(&line.id),
            modules: modules_on_kernels
                .iter()
                .flat_map(|pair| {
                    let unsafe_without = policy.unsafe_without.contains(&pair.module.name);
                    files(context, &mut cache, pair, unsafe_without)
                })
                .collect(),
        });
    }
    // If no kernel is installed, the entries were not read.
    let nothing =
        || system.boot.loader.is_none().then(|| "there is no boot entry: no kernel is installed".to_owned());
    let hidden = system.boot.invisible.clone().or_else(nothing);
    let setting = Setting {
        machine: &system.machine,
        entries_hidden: hidden.as_deref(),
        entries_needed: context.root.is_live(),
        entry_notes: system.boot.problems.iter().map(ToString::to_string).collect(),
        policy_fix: policy.fix,
        target: CommandTarget::of(&system),
        unreadable: super::cmdline::no_kernels(&context.root, inventory),
        not_applicable: !matches!(inventory.images, Images::Unreadable { .. })
            && crate::decide::unread::blocked(&system).is_none()
            && inventory.kernels.is_empty()
            && asked.is_none(),
    };
    Some(report::document(&subjects, &setting))
}

/// The installed files of a module, with their signature data.
fn files(
    context: &Context,
    cache: &mut Cache,
    pair: &ModuleOnKernel,
    unsafe_without: bool,
) -> Vec<ModuleFile> {
    let conf = match &pair.conf {
        Ok(conf) => conf,
        // It has files, and only its dkms.conf names them.
        Err(why) if pair.is_conf_unread() && pair.stage >= Stage::Built => {
            let directory = format!("{TREE}/{}/{}", pair.module, pair.release);
            return vec![ModuleFile {
                module: pair.module.clone(),
                path: context.root.shown_path(&directory).display().to_string(),
                signature: Signature::Unsigned { note: None },
                fitness: FileFitness::Unread(why.to_string()),
                unsafe_without,
                loaded: None,
            }];
        }
        // It has no files, or only the error in its dkms.conf is known, which is the state of the module.
        Err(_) => return Vec::new(),
    };
    let mut files = Vec::new();
    for built in &conf.built {
        let Some((path, there)) = installed_file(&context.root, &pair.release, built) else { continue };
        let unsigned = Signature::Unsigned { note: None };
        let (signature, fitness) = match facts_of(&context.root, cache, &path, &there) {
            Ok(system) => {
                let flaw = vermagic_of(&system, &pair.release, &path).err();
                let fitness = flaw.map_or(FileFitness::Fit, |flaw| FileFitness::Unfit(flaw.to_string()));
                (system.signature, fitness)
            }
            Err(Flaw::Unknown { reason }) => (unsigned, FileFitness::Unread(reason)),
            Err(flaw) => (unsigned, FileFitness::Unfit(flaw.to_string())),
        };
        files.push(ModuleFile {
            module: pair.module.clone(),
            path: context.root.shown_path(&path).display().to_string(),
            signature,
            fitness,
            unsafe_without,
            loaded: module_taint(&context.root, &built.name),
        });
    }
    files
}
