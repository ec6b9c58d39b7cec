//! The cmdline.d writer for `module.sig_unenforce`.

use std::process::ExitCode;

use clr_dkms::cli::{self, cmdline};

fn main() -> ExitCode {
    cli::main("clr-dkms-cmdline", cmdline::run)
}
