//! `clr-dkms-post-update`, the main job: after an update it builds missing modules, proves them, corrects the
//! command line and the boot entries, and writes a record.

use std::io::IsTerminal;
use std::path::Path;

use clap::Parser;

use super::{Common, answer, need_root};
use crate::exit;
use crate::report::render::json;
use crate::sys::{chroot, interrupt};
use crate::update::engine::Order;
use crate::update::progress::ProgressMode;
use crate::update::{dry_run, sequence};

/// Rebuild the DKMS modules for the kernels of an update, and prepare the next boot.
///
/// systemd runs it after an update; running it by hand is harmless. For the default kernel of each variant,
/// every DKMS module with AUTOINSTALL is built and installed unless it is proven to be installed already.
/// Modules that this machine needs on the kernel that is to boot are built first. As soon as they are proven,
/// module.sig_unenforce is set if it is needed, and the boot entries are refreshed if kernels or fragments
/// have changed; all other modules are built after that. Finally the record and the message of the day are
/// written. If nothing is to be done, nothing is changed.
///
/// Exit code 0: done, or nothing to do; 1: not all done; 2: the next boot lacks a module that is needed; 3:
/// what is to be done cannot be determined; 75: another run is active; 77: no permission; 78: configuration
/// error (everything else is done).
#[derive(Debug, Parser)]
#[command(
    name = "clr-dkms-post-update",
    version,
    after_help = "Examples:\n  clr-dkms-post-update\n  \
    clr-dkms-post-update --dry-run\n  clr-dkms-post-update --root /mnt"
)]
pub struct PostUpdateArguments {
    /// Print what would be done and why; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// With --dry-run: the plan as JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Wait for a running swupd: modules cannot be built for an incomplete kernel (clr-dkms.service)
    #[arg(long, hide = true, conflicts_with = "dry_run")]
    after_swupd: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs `clr-dkms-post-update`.
///
/// # Errors
/// If it cannot start, or cannot write its results. Failures of single modules are part of the record and of
/// the exit code.
pub fn run(arguments: PostUpdateArguments) -> anyhow::Result<u8> {
    // Before any file is opened and before the log is started: its error is logged below.
    let bare = bare_chroot(&arguments.common, arguments.dry_run);
    let (context, config_errors) = arguments.common.context("clr-dkms-post-update")?;
    // A typing error must not prevent modules from being built: the valid part of the configuration applies.
    let faults: Vec<String> = config_errors.iter().map(ToString::to_string).collect();
    let known: Vec<String> = faults.iter().cloned().chain(bare).collect();
    for fault in &known {
        tracing::error!("{fault}");
    }
    let code = if arguments.dry_run {
        let plan = dry_run::plan(&context);
        let text = if arguments.json { json(&plan)? } else { plan.text() };
        answer(&text, arguments.common.color)?;
        plan.code()
    } else {
        need_root(&context, "clr-dkms-post-update")?;
        interrupt::watch()?;
        if arguments.after_swupd {
            sequence::wait_for_swupd(&context);
        }
        let _lock = sequence::lock(&context)?;
        // swupd's hooks and systemd run it without a terminal on stdin, and keep its output: no progress is
        // drawn.
        let watched = std::io::stdin().is_terminal();
        let show = if watched {
            ProgressMode::live_or(ProgressMode::Nothing, arguments.common.quiet)
        } else {
            ProgressMode::Nothing
        };
        sequence::work(&context, known, &Order::default(), show)?.code
    };
    Ok(if code == exit::OK && !faults.is_empty() { exit::CONFIG } else { code })
}

/// If update-trigger.sh runs the program in a plain chroot, mounts what dkms needs in a private namespace.
/// Returns why that failed, for the next report.
fn bare_chroot(common: &Common, dry_run: bool) -> Option<String> {
    let is_slash = common.root.as_deref() == Some(Path::new("/"));
    if !is_slash || !nix::unistd::geteuid().is_root() {
        return None;
    }
    let refused = chroot::furnish(!dry_run).err();
    (!chroot::is_furnished()).then(|| {
        format!(
            "no module could be examined or built: this chroot has no /proc or no /dev/null, and they cannot be \
             mounted ({}); run `clr-dkms-post-update --root DIR` on the system around it",
            refused.map_or_else(|| "nothing was tried".to_owned(), |e| e.to_string())
        )
    })
}
