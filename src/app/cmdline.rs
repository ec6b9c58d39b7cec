//! `clr-dkms-cmdline`: `module.sig_unenforce` on the kernel command line.

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use super::{Common, LOCK, answer, exit, is_ours, json, need_root};
use crate::cmdline::writer::{self, Ours, Wish};
use crate::cmdline::{Mask, PARAMETER, Sources, effective};
use crate::facts::{Line, kernels_that_matter, line};
use crate::kernel::inventory::IMAGES;
use crate::kernel::{Images, Inventory};
use crate::render::shown;
use crate::sys::{Lock, Root};
use crate::world::World;

/// Put module.sig_unenforce on the kernel command line, or take it off, and show the line.
///
/// A Clear Linux kernel refuses every module that was not signed when the kernel was built, unless this parameter is
/// on its command line. Only files that clr-dkms-cmdline wrote itself are ever changed or removed. Afterwards
/// `clr-boot-manager update` puts the new line into the boot entries.
#[derive(Debug, Parser)]
#[command(
    name = "clr-dkms-cmdline",
    version,
    after_help = "Examples:\n  clr-dkms-cmdline show\n  \
    clr-dkms-cmdline show --kernel native --raw\n  clr-dkms-cmdline enable --dry-run\n  clr-dkms-cmdline default"
)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the parameter effective, with the smallest change
    Enable(Change),
    /// Take it off the line: mask the vendor's fragment
    Disable(Change),
    /// Take back every change that clr-dkms-cmdline made
    Default(Change),
    /// Show the command line that clr-boot-manager makes of the files of today
    Show(Show),
}

#[derive(Debug, Args)]
struct Change {
    /// Say what would be changed, and the line before and after
    #[arg(long, short = 'n')]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct Show {
    /// A kernel release, a kernel id or a variant; without it the tip of each variant
    #[arg(long, short, value_name = "KERNEL")]
    kernel: Option<String>,
    /// The line and nothing else
    #[arg(long, requires = "kernel", conflicts_with = "json")]
    raw: bool,
    /// All of it, as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// When the root or the configuration cannot be used, or a file cannot be written.
pub fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let world = arguments.common.strict_world("clr-dkms-cmdline")?;
    let (wish, change) = match arguments.verb {
        Verb::Show(show) => return self::show(&world, &show, &arguments.common),
        Verb::Enable(change) => (Wish::Enable, change),
        Verb::Disable(change) => (Wish::Disable, change),
        Verb::Default(change) => (Wish::Default, change),
    };
    if change.dry_run {
        return self::change(&world, wish, true, &arguments.common);
    }
    need_root(&world, "clr-dkms-cmdline")?;
    let _lock = Lock::take(&world.root, LOCK, world.settings.lock_wait, is_ours)?;
    self::change(&world, wish, false, &arguments.common)
}

/// The lines of the kernels that matter.
fn lines(world: &World) -> Result<Vec<Line>, Unreadable> {
    let inventory = Inventory::observe(&world.root);
    kernels_known(&world.root, &inventory)?;
    Ok(kernels_that_matter(&inventory).into_iter().map(|k| line(world, k)).collect())
}

fn kernels_known(root: &Root, inventory: &Inventory) -> Result<(), Unreadable> {
    match (&inventory.images, inventory.kernels.is_empty()) {
        (Images::Unreadable { reason }, _) => Err(Unreadable(reason.clone())),
        (_, true) => Err(Unreadable(format!("there is no kernel in {}", root.spell(IMAGES).display()))),
        _ => Ok(()),
    }
}

/// The kernels cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("{0}; is this the root of a system?")]
struct Unreadable(String);

fn change(world: &World, wish: Wish, dry_run: bool, common: &Common) -> anyhow::Result<u8> {
    let before = match lines(world) {
        Ok(lines) => lines,
        // To take back what is ours, no kernel has to be there.
        Err(e) if wish == Wish::Default => {
            tracing::debug!("{e}");
            Vec::new()
        }
        Err(e) => {
            tracing::error!("{e}");
            return Ok(exit::UNKNOWN);
        }
    };
    let sources: Vec<Sources> = before.iter().map(|l| l.sources.copy()).collect();
    let ours = Ours::load(&world.root)?;
    let plan = writer::plan(wish, &sources, &ours);
    let mut text = String::new();
    if plan.steps.is_empty() {
        text += "nothing to change\n";
    }
    for step in &plan.steps {
        text += &shown(&format!("{}{step}", if dry_run { "would " } else { "" }));
        text.push('\n');
    }
    if dry_run && !plan.steps.is_empty() {
        for line in &before {
            let then = effective(&writer::after(&line.sources, &plan.steps));
            let spelt = |bytes: &[u8]| shown(&String::from_utf8_lossy(bytes));
            text += &format!(
                "{}\n  before: {}\n  after:  {}\n",
                line.release,
                spelt(&line.effective),
                spelt(&then)
            );
        }
    }
    if !dry_run {
        writer::apply(&world.root, &plan, &ours)?;
    }
    answer(&text, common.color)?;
    for obstacle in &plan.obstacles {
        tracing::error!("{obstacle}");
    }
    if !dry_run && !plan.steps.is_empty() {
        let pending =
            "`clr-boot-manager update` puts it into the boot entries; clr-dkms-post-update runs it too";
        tracing::info!("{pending}");
    }
    Ok(if plan.obstacles.is_empty() { exit::OK } else { exit::ATTENTION })
}

#[derive(Debug, Serialize)]
struct ShownKernel {
    release: String,
    id: String,
    cmdline: String,
    sig_unenforce: &'static str,
    masked: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Document {
    schema: u32,
    parameter: &'static str,
    kernels: Vec<ShownKernel>,
}

fn show(world: &World, show: &Show, common: &Common) -> anyhow::Result<u8> {
    let inventory = Inventory::observe(&world.root);
    if let Err(e) = kernels_known(&world.root, &inventory) {
        tracing::error!("{e}");
        return Ok(exit::UNKNOWN);
    }
    let kernels = match &show.kernel {
        None => inventory.tips(),
        Some(asked) => match inventory.find(asked) {
            Some(kernel) => vec![kernel],
            None => {
                tracing::error!("{} is no installed kernel", shown(asked));
                return Ok(exit::UNKNOWN);
            }
        },
    };
    let lines: Vec<Line> = kernels.iter().map(|k| line(world, k)).collect();
    if show.raw {
        // Bytes, not text: what is on the line is not ours to repair.
        let raw: Vec<u8> = lines.iter().flat_map(|l| [l.effective.as_slice(), b"\n"].concat()).collect();
        std::io::Write::write_all(&mut std::io::stdout(), &raw)?;
        return Ok(exit::OK);
    }
    let text = if show.json {
        let kernels = lines
            .iter()
            .map(|l| ShownKernel {
                release: l.release.clone(),
                id: l.id.clone(),
                cmdline: String::from_utf8_lossy(&l.effective).into_owned(),
                sig_unenforce: l.switch.word(),
                masked: masked(&l.sources),
            })
            .collect();
        json(&Document { schema: 1, parameter: PARAMETER, kernels })?
    } else {
        let mut text = String::new();
        for line in &lines {
            let words = shown(&String::from_utf8_lossy(&line.effective));
            text += &format!("{} ({PARAMETER}: {})\n  {words}\n", line.release, line.switch.word());
            for mask in masked(&line.sources) {
                text += &format!("  masked: {}\n", shown(&mask));
            }
        }
        text
    };
    answer(&text, common.color)?;
    Ok(exit::OK)
}

fn masked(sources: &Sources) -> Vec<String> {
    let fragments = sources.vendor.iter().chain(&sources.local);
    fragments
        .filter_map(|f| {
            let by = match f.mask.as_ref()? {
                Mask::SameName => "an entry of the same name in /etc/kernel/cmdline.d",
                Mask::DevNull => "a link to /dev/null",
            };
            Some(format!("{} by {by}", f.path.display()))
        })
        .collect()
}
