//! swupd's post-update hook: the main job.

use std::process::ExitCode;

use clr_dkms::app::{self, post_update};

fn main() -> ExitCode {
    app::main("clr-dkms-post-update", post_update::run)
}
