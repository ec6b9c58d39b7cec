//! swupd's post-update hook: the main job.

use std::process::ExitCode;

use clr_dkms::cli::{self, post_update};

fn main() -> ExitCode {
    cli::main("clr-dkms-post-update", post_update::run)
}
