//! `clr-dkms export`: a module with its source and proven binaries, for other machines.

use std::path::PathBuf;

use clap::Args;

use super::{Common, answer};
use crate::context::Context;
use crate::exit;
use crate::kernel::Inventory;
use crate::report::render::json;
use crate::report::render::style::ScreenStyle;
use crate::report::render::transfer::exported;
use crate::update::export::{self, ExportRefusal};

/// The arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// A module, as NAME or NAME/VERSION
    #[arg(value_name = "MODULE")]
    module: String,
    /// The archive to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A kernel release, a kernel id, a variant or `running`; the default is each kernel on which the module
    /// is proven
    #[arg(long, short, value_name = "KERNEL")]
    kernel: Vec<String>,
    /// Print what would be exported; write nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `export`.
///
/// # Errors
/// If the answer cannot be printed.
pub fn run(context: &Context, arguments: &ExportArguments, common: &Common) -> anyhow::Result<u8> {
    let inventory = Inventory::observe(&context.root);
    let release = |asked: &String| inventory.require(asked).map(|kernel| kernel.name.release());
    let kernels = arguments.kernel.iter().map(release).collect::<Result<Vec<_>, _>>();
    let plan = kernels
        .map_err(|e| ExportRefusal::Refused(e.to_string()))
        .and_then(|kernels| export::plan(context, &arguments.module, &kernels));
    let plan = match plan {
        Ok(plan) => plan,
        Err(why) => {
            tracing::error!("{why}");
            return Ok(if matches!(why, ExportRefusal::Unknown(_)) {
                exit::UNKNOWN
            } else {
                exit::ATTENTION
            });
        }
    };
    let mut document = export::document(&plan, &arguments.file);
    if !arguments.dry_run {
        if let Err(e) = export::write(context, &plan, &arguments.file) {
            tracing::error!("{}: {e}", arguments.file.display());
            return Ok(exit::ATTENTION);
        }
        document.written = true;
    }
    let style = ScreenStyle::here(true, context.clock.now());
    let text = if arguments.json { json(&document)? } else { exported(&document, &style) };
    answer(&text, common.color)?;
    Ok(exit::OK)
}
