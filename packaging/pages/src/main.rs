//! Writes the manual pages and the completions of every program: `clr-dkms-pages DIR`.
//!
//! They are generated from the arguments of the programs. DIR has the layout of `/usr/share`.

mod completion;
mod document;
mod manual;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clr_dkms::sys::{Root, RootKind};
use clr_dkms::{cli, exit};

/// The six programs, as clap knows them, with everything that they inherit filled in.
fn programs() -> [Command; 6] {
    let mut programs = [
        cli::status::AdminArguments::command(),
        cli::pre_update::PreUpdateArguments::command(),
        cli::post_update::PostUpdateArguments::command(),
        cli::cmdline::CmdlineArguments::command(),
        cli::motd::MotdArguments::command(),
        cli::variant::VariantArguments::command(),
    ];
    programs.iter_mut().for_each(Command::build);
    programs
}

/// Every file, by its path below `/usr/share`.
fn files() -> anyhow::Result<Vec<(String, String)>> {
    let programs = programs();
    let mut files = manual::pages(&programs)?;
    for program in &programs {
        files.extend(completion::of(program)?);
    }
    Ok(files)
}

fn write(directory: &Path) -> anyhow::Result<()> {
    let root = Root::open(RootKind::Image, directory)?;
    for (path, text) in files()? {
        root.write(Path::new("/").join(&path), text.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: clr-dkms-pages DIR");
        return ExitCode::from(exit::USAGE);
    };
    match write(Path::new(&directory)).context("clr-dkms-pages") {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::from(exit::FAULT)
        }
    }
}
