//! `clr-dkms-variant`: the variant of a kernel, and whether the distribution supports DKMS for it.

use anyhow::bail;
use clap::Parser;
use serde::Serialize;

use super::{Common, answer};
use crate::exit::{self, ExitReason};
use crate::kernel::{Installed, Inventory, KernelName, Running, Support, Variant};
use crate::report::render::style::{ScreenStyle, Tone};
use crate::report::render::{json, shown};

/// Print the variant of a kernel, and whether DKMS is supported for it.
///
/// The default is the running kernel. A KERNEL is named by its release (6.15.7-1591.native), by its id
/// (org.clearlinux.native.6.15.7-1591) or by its variant (native).
///
/// Exit code 0: DKMS is supported for the variant, with --all for each; 1: it is not; 3: it cannot be
/// determined, because the kernel is not one of this system.
#[derive(Debug, Parser)]
#[command(
    name = "clr-dkms-variant",
    version,
    after_help = "Examples:\n  \
    clr-dkms-variant\n  \
    clr-dkms-variant --long 6.12.38-1550.ltscurrent\n  \
    clr-dkms-variant -q native && echo supported\n  \
    clr-dkms-variant --all --json --root /mnt"
)]
pub struct VariantArguments {
    /// A kernel release, a kernel id or a variant
    #[arg(value_name = "KERNEL", conflicts_with = "all")]
    kernel: Option<String>,
    /// List every installed kernel, with its release
    #[arg(long)]
    all: bool,
    /// Print a table with family and bundles
    #[arg(long, conflicts_with = "json")]
    long: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct VariantRow {
    #[serde(flatten)]
    variant: Variant,
    release: Option<String>,
    id: Option<String>,
    installed: bool,
    running: bool,
    tip: bool,
    /// Its files on disk.
    details: Option<Installed>,
}

#[derive(Debug, Serialize)]
struct VariantDocument {
    schema: u32,
    kernels: Vec<VariantRow>,
}

/// Runs `clr-dkms-variant`.
///
/// # Errors
/// If the root or the configuration cannot be used, or stdout cannot be written.
pub fn run(arguments: VariantArguments) -> anyhow::Result<u8> {
    let context = arguments.common.strict_world("clr-dkms-variant")?;
    let inventory = Inventory::observe(&context.root);
    let rows = rows(&inventory, &arguments).map_err(ExitReason::unknown)?;
    let supported = rows.iter().all(|r| r.variant.is_supported());
    let text = if arguments.json {
        json(&VariantDocument { schema: 1, kernels: rows })?
    } else if arguments.long {
        table(&rows, &ScreenStyle::here(true, context.clock.now()))
    } else if arguments.common.quiet {
        String::new()
    } else if arguments.all {
        // Several kernels have the same variant.
        let row = |r: &VariantRow| [r.variant.name.clone(), r.release.clone().unwrap_or_default()];
        columns(&rows.iter().map(row).collect::<Vec<_>>())
    } else {
        rows.iter().map(|r| shown(&r.variant.name) + "\n").collect()
    };
    answer(&text, arguments.common.color)?;
    Ok(if supported { exit::OK } else { exit::ATTENTION })
}

fn rows(inventory: &Inventory, arguments: &VariantArguments) -> anyhow::Result<Vec<VariantRow>> {
    if arguments.all {
        if let Some(reason) = inventory.unreadable() {
            bail!(reason.to_owned());
        }
        if inventory.kernels.is_empty() {
            bail!("no kernel of this system is installed");
        }
        return Ok(inventory.kernels.iter().map(|k| installed_row(inventory, &k.name)).collect());
    }
    let asked = match (&arguments.kernel, &inventory.running) {
        (Some(kernel), _) => kernel.as_str(),
        (None, Running::Known { release }) => release,
        (None, Running::None) => bail!("in an image no kernel runs: name one, or use --all"),
        (None, Running::Unknown { reason }) => bail!("the running kernel is unknown: {reason}"),
    };
    if let Some(kernel) = inventory.find(asked) {
        return Ok(vec![installed_row(inventory, &kernel.name)]);
    }
    // The variant of a kernel that is not installed follows from its name, if the variant is a known one.
    let by_variant = Variant::of(asked);
    if by_variant.is_known() {
        return Ok(vec![VariantRow {
            variant: by_variant,
            release: None,
            id: None,
            installed: false,
            running: false,
            tip: false,
            details: None,
        }]);
    }
    match KernelName::parse(asked, &inventory.namespace) {
        Ok(name) if Variant::of(&name.variant).is_known() => Ok(vec![installed_row(inventory, &name)]),
        _ if inventory.runs(asked) => {
            bail!("{} is running, and is not one of clr-boot-manager's kernels", shown(asked))
        }
        _ => bail!("{} is not a kernel of this system", shown(asked)),
    }
}

fn installed_row(inventory: &Inventory, name: &KernelName) -> VariantRow {
    let kernel = inventory.kernels.iter().find(|k| k.name == *name);
    VariantRow {
        variant: Variant::of(&name.variant),
        release: Some(name.release()),
        id: Some(name.id()),
        installed: kernel.is_some(),
        running: kernel.is_some_and(|k| k.running)
            || inventory.running == Running::Known { release: name.release() },
        tip: kernel.is_some_and(|k| k.tip),
        details: kernel.cloned(),
    }
}

fn table(rows: &[VariantRow], style: &ScreenStyle) -> String {
    let mut lines =
        vec![["  VARIANT", "FAMILY", "DKMS", "DKMS BUNDLE", "HEADERS BUNDLE", "KERNEL"].map(str::to_owned)];
    for row in rows {
        let tone = match &row.variant.support {
            Support::Supported { .. } => Tone::Good,
            Support::Deprecated { .. } => Tone::Attention,
            Support::Unsupported => Tone::Bad,
        };
        let (dkms, bundle, headers) = match &row.variant.support {
            Support::Supported { dkms_bundle, headers_bundle } => {
                ("supported", *dkms_bundle, *headers_bundle)
            }
            Support::Deprecated { move_to } => ("deprecated", "-", *move_to),
            Support::Unsupported => ("unsupported", "-", "-"),
        };
        let kernel = row.release.clone().unwrap_or_else(|| "-".to_owned());
        lines.push([
            format!("{} {}", tone.symbol(style), row.variant.name),
            row.variant.family.to_string(),
            dkms.to_owned(),
            bundle.to_owned(),
            if dkms == "deprecated" { format!("move to {headers}") } else { headers.to_owned() },
            kernel,
        ]);
    }
    columns(&lines)
}

/// Aligns cells in columns that are separated by two spaces.
pub(super) fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    lines
        .iter()
        .map(|cells| {
            let line: Vec<String> =
                cells.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", shown(cell))).collect();
            line.join("  ").trim_end().to_owned() + "\n"
        })
        .collect()
}
