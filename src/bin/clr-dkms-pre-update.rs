//! swupd's pre-update hook.

use std::process::ExitCode;

use clr_dkms::app::{self, pre_update};

fn main() -> ExitCode {
    app::main("clr-dkms-pre-update", pre_update::run)
}
