//! swupd's pre-update hook.

use std::process::ExitCode;

use clr_dkms::cli::{self, pre_update};

fn main() -> ExitCode {
    cli::main("clr-dkms-pre-update", pre_update::run)
}
