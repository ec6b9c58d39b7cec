//! Runs the PRE_INSTALL, POST_INSTALL and POST_REMOVE scripts of a module.
//!
//! dkms runs them on the machine where it runs itself, whatever trees it works on: a script for an image
//! would write its udev rule on this machine. For an image the scripts are therefore left out of the call of
//! dkms and are run here with the image as `/`. As in dkms, the words of the directive are the command, and
//! the first one is a file of the source. POST_INSTALL is run here on the live system too, because dkms
//! neither prints nor returns its result (measured with 3.0.10).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use crate::dkms::ModuleName;
use crate::dkms::log::note;
use crate::dkms::tree::TREE;
use crate::sys::{Child, Ended, FileKind, Output, Presence, Root, Sandbox, Tools};

/// A script of dkms.conf that runs when a module is installed or uninstalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Hook {
    /// Before the installation.
    PreInstall,
    /// After the installation.
    PostInstall,
    /// After the removal of the files.
    PostRemove,
}

/// Why a script was not successful.
#[derive(Debug, thiserror::Error)]
pub enum HookFailure {
    /// It is missing or not executable: dkms warns and continues.
    #[error("{0}")]
    NotExecutable(String),
    /// It failed, or could not be run.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for HookFailure {
    fn from(error: anyhow::Error) -> HookFailure {
        HookFailure::Failed(error)
    }
}

impl Hook {
    /// The directive.
    pub fn directive(self) -> &'static str {
        self.into()
    }
}

/// Runs a script of a module; for an image with the image as `/`.
///
/// # Errors
///
/// If it is missing or not executable, cannot be run, or fails.
pub(in crate::dkms) fn run(
    (root, tools): (&Root, &Tools),
    module: &ModuleName,
    (hook, command): (Hook, &str),
    deadline: Duration,
    log: &File,
) -> Result<(), HookFailure> {
    let what = format!("{} of {module}", hook.directive());
    let child = child_in_image((root, tools), module, (hook, command), deadline)?;
    let Some(child) = child else {
        let why = format!("{what} is not an executable file: {command}");
        note(log, &why);
        return Err(HookFailure::NotExecutable(why));
    };
    let place = if root.is_slash() { "" } else { ", with the image as /" };
    note(log, &format!("{what}{place}: {command}"));
    let output = log.try_clone().context("cannot share the log")?;
    let done = child.output(Output::Into(output)).run();
    let done = done.with_context(|| format!("{what} was not run"))?;
    note(log, &format!("{} after {:.1} s", done.ended, done.took.as_secs_f64()));
    match done.ended {
        Ended::Exit(0) => Ok(()),
        ended => Err(anyhow!("{what}: {ended}").into()),
    }
}

/// A script of a module, prepared to run in an image with the image as `/`; none if dkms would only warn.
///
/// # Errors
///
/// If it cannot run in the image.
pub(in crate::dkms) fn child_in_image(
    (root, tools): (&Root, &Tools),
    module: &ModuleName,
    (hook, command): (Hook, &str),
    deadline: Duration,
) -> anyhow::Result<Option<Child>> {
    let directory = PathBuf::from(format!("{TREE}/{module}/source"));
    let mut words = command.split_ascii_whitespace();
    let Some(first) = words.next() else { return Ok(None) };
    let script = directory.join(first);
    let what = format!("{} of {module}", hook.directive());
    match root.lookup(&script) {
        Presence::There(stat) if stat.kind == FileKind::File && stat.mode & 0o111 != 0 => {}
        Presence::Unreadable(e) => bail!("{what}: {e}"),
        Presence::There(_) | Presence::Absent => return Ok(None),
    }
    if !root.is_slash()
        && let Some(interpreter) = interpreter(root, &script)
        && !root.lookup(&interpreter).is_there()
    {
        let interpreter = interpreter.display();
        bail!("{what} was not run: its interpreter {interpreter} is not in the image");
    }
    let child = tools.child_at(&script, deadline).args(words).env("dkms_tree", TREE);
    Ok(Some(match root.is_slash() {
        // dkms runs it in the source directory, with its own rights.
        true => child.in_directory(&directory),
        false => child.confined(Sandbox::image(root.path(), &directory)),
    }))
}

/// The interpreter in the first line of a script.
fn interpreter(root: &Root, script: &Path) -> Option<PathBuf> {
    /// As many bytes as the kernel reads.
    const FIRST_LINE: u64 = 256;
    // A script that cannot be read fails when it is run.
    let start = root.read_start(script, FIRST_LINE).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let word = line.split(|b| b.is_ascii_whitespace()).find(|word| !word.is_empty())?;
    // An interpreter whose name is not UTF-8 is not looked for; running the script reports it.
    Some(PathBuf::from(std::str::from_utf8(word).ok()?))
}
