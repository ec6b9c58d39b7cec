//! One file for each program and subcommand: arguments, call, print, exit code. This file has what they
//! share.

pub mod add;
mod add_side_files;
pub mod check;
pub mod cmdline;
pub mod enforcement;
pub mod explain;
pub mod export;
pub mod forget;
pub mod gc;
pub mod guard;
pub mod hold;
pub mod import;
pub mod lint;
pub mod logs;
pub mod motd;
pub mod post_update;
pub mod pre_update;
pub mod rebuild;
pub mod remove;
pub mod setup;
pub mod status;
pub mod variant;
pub mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, ValueEnum};
use serde::Serialize;

use crate::config::{self, ConfigError};
use crate::context::Context;
use crate::exit::{self, ExitReason};
use crate::report::render::json;
use crate::report::render::style::ScreenStyle;
use crate::sys::lock::LockError;
use crate::sys::log::{self, Verbosity};
use crate::sys::{Clock, FileError, FileKind, Lock, Presence, Root, RootKind, Tools, interrupt};
use crate::update::sequence::lock;

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The options of every program.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Work on the system installed in DIR, which is not running; inside a chroot, use `--root /`
    #[arg(
        long,
        short = 'p',
        visible_alias = "path",
        value_name = "DIR",
        global = true,
        help_heading = "Target"
    )]
    pub root: Option<PathBuf>,
    /// Work on the copy of a live system in DIR, with its own proc, sys and run
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "root",
        global = true,
        help_heading = "Target",
        hide_short_help = true
    )]
    pub live_root: Option<PathBuf>,
    /// Evaluate and build modules even if this machine cannot confine them
    #[arg(long, global = true, help_heading = "Target", hide_short_help = true)]
    pub trust: bool,
    /// Print errors only
    #[arg(long, short, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
    /// Increase verbosity (repeat for debug output)
    #[arg(long, short, action = ArgAction::Count, global = true, help_heading = "Output")]
    pub verbose: u8,
    /// When to use colour
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        global = true,
        help_heading = "Output"
    )]
    pub color: Color,
}

impl Common {
    fn talk(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, 1) => Verbosity::Verbose,
            (false, _) => Verbosity::Debug,
        }
    }

    /// Starts the log, opens the root and reads the configuration.
    ///
    /// # Errors
    /// If the root cannot be opened. Configuration errors are returned together with the valid part of the
    /// settings.
    pub fn context(&self, program: &'static str) -> anyhow::Result<(Context, Vec<ConfigError>)> {
        let (kind, path) = match (&self.root, &self.live_root) {
            (Some(path), _) => (RootKind::Image, path.clone()),
            (None, Some(path)) => (RootKind::LiveCopy, path.clone()),
            (None, None) => (RootKind::Live, PathBuf::from("/")),
        };
        log::start(program, self.talk(), kind == RootKind::Live);
        let root = Root::open(kind, &path).map_err(BadRoot::Unopened)?;
        if kind != RootKind::Live && !holds_system(&root) {
            return Err(BadRoot::NoSystem(root.path().to_owned()).into());
        }
        let (settings, errors) = config::load(&root);
        let mut tools = Tools::from_environment();
        for (name, path) in &settings.tools {
            tools.name(name, path);
        }
        tools.trusts_modules = self.trust || settings.build_trust;
        Ok((Context { root, tools, clock: Clock::from_environment(), settings }, errors))
    }

    /// Like [`Common::context`], for programs that stop at a faulty configuration.
    ///
    /// # Errors
    /// Also for a faulty configuration: every fault is logged, and the first one is the error.
    pub fn strict_world(&self, program: &'static str) -> anyhow::Result<Context> {
        let (context, errors) = self.context(program)?;
        let mut errors = errors.into_iter();
        let Some(first) = errors.next() else { return Ok(context) };
        errors.for_each(|e| tracing::error!("{e}"));
        Err(first.into())
    }

    /// Like [`Common::context`], for reports: an error in a configuration file is part of the report, and an
    /// unreadable file makes the answer unknown.
    ///
    /// # Errors
    /// If the root cannot be opened, or this user may not read a configuration file.
    pub fn report_world(&self, program: &'static str) -> anyhow::Result<Context> {
        let (mut context, errors) = self.context(program)?;
        for error in errors {
            match error {
                ConfigError::File(e) if e.is_denied() => return Err(ConfigError::File(e).into()),
                ConfigError::File(e) if e.leaves_open() => {}
                error => context.settings.faults.push(error.to_string()),
            }
        }
        Ok(context)
    }
}

/// `--root` or `--live-root` does not name a system.
#[derive(Debug, thiserror::Error)]
pub enum BadRoot {
    /// It cannot be opened as a directory.
    #[error("{0}; give --root or --live-root a directory that holds a system")]
    Unopened(FileError),
    /// It is a directory without a system, such as a mount point where nothing is mounted.
    #[error(
        "there is no system in {root}: it has neither etc nor usr; give --root or --live-root a directory that \
         holds a system",
        root = .0.display()
    )]
    NoSystem(PathBuf),
}

/// What cannot be looked at may be there.
fn holds_system(root: &Root) -> bool {
    ["/usr", "/etc"].iter().any(|path| match root.lookup(path) {
        Presence::There(stat) => stat.kind == FileKind::Directory,
        Presence::Absent => false,
        Presence::Unreadable(_) => true,
    })
}

/// The program must be run as root.
#[derive(Debug, thiserror::Error)]
#[error("{0} changes the system: run it as root (`{again}`), or give it a --root of your own", again = as_root())]
pub struct NeedsRoot(pub &'static str);

/// The answer cannot be written, for example because of a full disk or a closed terminal.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the answer: {0}")]
pub struct CannotAnswer(pub std::io::Error);

/// A hint for other users than root: the command that runs the same as root.
pub fn root_hint() -> String {
    match nix::unistd::geteuid().is_root() {
        true => String::new(),
        false => format!("; run it as root (`{}`)", as_root()),
    }
}

fn as_root() -> String {
    let words = std::env::args_os().map(|word| crate::report::render::shown(&word.to_string_lossy()));
    sudo(words.collect())
}

/// The command that runs the same as root, quoted for a shell.
fn sudo(words: Vec<String>) -> String {
    let quoted = words.iter().map(|word| crate::sys::shell::quoted(word));
    ["sudo".to_owned()].into_iter().chain(quoted).collect::<Vec<_>>().join(" ")
}

/// Changing the live system requires root.
///
/// # Errors
/// [`NeedsRoot`].
pub fn need_root(context: &Context, program: &'static str) -> Result<(), NeedsRoot> {
    if context.root.is_live() && !nix::unistd::geteuid().is_root() {
        return Err(NeedsRoot(program));
    }
    Ok(())
}

/// Prepares a verb that changes the system: it takes the lock, and notices a request to stop.
///
/// # Errors
/// [`NeedsRoot`], or if the lock cannot be taken.
pub fn begin(context: &Context, program: &'static str) -> anyhow::Result<Lock> {
    need_root(context, program)?;
    interrupt::watch()?;
    Ok(lock(context)?)
}

/// Parses the arguments, runs the program and returns its exit code. An error is printed once.
pub fn main<A: Parser>(program: &'static str, run: impl FnOnce(A) -> anyhow::Result<u8>) -> ExitCode {
    // Before anything else: a sandboxed child enters here and executes another program.
    if let Some(code) = crate::sys::sandbox::enter(std::env::args_os()) {
        std::process::exit(code);
    }
    crate::sys::readable_for_all();
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let code = if e.use_stderr() { exit::USAGE } else { exit::OK };
            // Nothing is left to report to if even the help cannot be printed.
            e.print().ok();
            return code.into();
        }
    };
    match run(arguments) {
        Ok(code) => code.into(),
        Err(e) if is_broken_pipe(&e) => exit::OK.into(),
        Err(e) if e.is::<ExitReason>() => {
            tracing::error!("{e}");
            code_of(&e).into()
        }
        Err(e) => {
            let code = code_of(&e);
            let hint = match code == exit::DENIED && !e.is::<NeedsRoot>() {
                true => root_hint(),
                false => String::new(),
            };
            // Not through the log, which may be the journal: the caller reads stderr.
            use std::io::Write;
            let text = crate::report::render::shown(&format!("{e:#}{hint}"));
            // If stderr is closed too, the exit code is the only report.
            writeln!(anstream::stderr(), "{program}: error: {text}").ok();
            code.into()
        }
    }
}

/// Whether the reader of the output was closed, as in `clr-dkms status | head -1`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<CannotAnswer>().is_some_and(|e| e.0.kind() == std::io::ErrorKind::BrokenPipe)
}

fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<BadRoot>() || cause.is::<status::NeedsTerminal>() {
            return exit::USAGE;
        }
        if let Some(refusal) = cause.downcast_ref::<ExitReason>() {
            return refusal.code;
        }
        if cause.is::<ConfigError>() {
            return exit::CONFIG;
        }
        if cause.is::<NeedsRoot>() {
            return exit::DENIED;
        }
        if cause.is::<CannotAnswer>() {
            return exit::ATTENTION;
        }
        match cause.downcast_ref::<LockError>() {
            Some(LockError::Busy { .. }) => return exit::BUSY,
            Some(LockError::File(e)) => return code_of_file(e),
            None => {}
        }
        if let Some(e) = cause.downcast_ref::<FileError>() {
            return code_of_file(e);
        }
    }
    exit::FAULT
}

fn code_of_file(error: &FileError) -> u8 {
    if error.is_denied() { exit::DENIED } else { exit::ATTENTION }
}

/// Prints an answer to stdout.
///
/// # Errors
/// If stdout cannot be written.
pub fn answer(text: &str, color: Color) -> anyhow::Result<()> {
    answer_by(color, |out| out.write_all(text.as_bytes()))
}

/// Prints a document, as JSON or as a screen.
///
/// # Errors
/// If stdout cannot be written.
pub fn show<T: Serialize>(
    context: &Context,
    document: &T,
    is_json: bool,
    common: &Common,
    screen: impl FnOnce(&T, &ScreenStyle) -> String,
) -> anyhow::Result<()> {
    let style = ScreenStyle::here(true, context.clock.now());
    let text = if is_json { json(document)? } else { screen(document, &style) };
    answer(&text, common.color)
}

fn choice(color: Color) -> anstream::ColorChoice {
    match color {
        Color::Auto => anstream::AutoStream::choice(&std::io::stdout()),
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
}

/// A text with its styles, or without them where they are not wanted.
fn styled(text: &str, color: Color) -> String {
    match choice(color) {
        anstream::ColorChoice::Never => anstream::adapter::strip_str(text).to_string(),
        _ => text.to_owned(),
    }
}

/// Like [`answer`], for an answer that is not completely in memory.
///
/// # Errors
/// If it cannot be written.
pub fn answer_by(
    color: Color,
    write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = anstream::AutoStream::new(std::io::stdout(), choice(color));
    write(&mut out).and_then(|()| out.flush()).map_err(CannotAnswer)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_can_be_typed() {
        let words = |words: &[&str]| sudo(words.iter().map(|&word| word.to_owned()).collect());
        assert_eq!(words(&["clr-dkms-cmdline", "enable"]), "sudo clr-dkms-cmdline enable");
        assert_eq!(
            words(&["clr-dkms", "gc", "--root", "/mnt/a b", "$(x)"]),
            "sudo clr-dkms gc --root '/mnt/a b' '$(x)'"
        );
    }

    #[test]
    fn each_error_has_its_code() {
        let full = || CannotAnswer(std::io::ErrorKind::StorageFull.into());
        assert_eq!(code_of(&full().into()), exit::ATTENTION);
        assert!(full().to_string().starts_with("cannot write the answer: "));
        assert!(is_broken_pipe(&CannotAnswer(std::io::ErrorKind::BrokenPipe.into()).into()));
        assert!(!is_broken_pipe(&full().into()));
        assert_eq!(code_of(&NeedsRoot("clr-dkms gc").into()), exit::DENIED);
        assert_eq!(code_of(&anyhow::anyhow!("?")), exit::FAULT);
    }
}
