//! `clr-dkms export`: a module with its source and proven binaries, for other machines.

use std::path::PathBuf;

use clap::Args;

use super::{Common, show};
use crate::context::Context;
use crate::exit::{self, ExitReason};
use crate::kernel::Inventory;
use crate::report::render::transfer::exported;
use crate::update::export;

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
    let kernels = kernels.map_err(ExitReason::attention)?;
    let plan = export::plan(context, &arguments.module, &kernels)?;
    let mut document = export::document(&plan, &arguments.file);
    if !arguments.dry_run {
        let written = export::write(context, &plan, &arguments.file);
        written.map_err(|e| ExitReason::attention(format!("{}: {e}", arguments.file.display())))?;
        document.written = true;
    }
    show(context, &document, arguments.json, common, exported)?;
    Ok(exit::OK)
}
