//! The cmdline.d writer for `module.sig_unenforce`.

use std::process::ExitCode;

use clr_dkms::app::{self, cmdline};

fn main() -> ExitCode {
    app::main("clr-dkms-cmdline", cmdline::run)
}
