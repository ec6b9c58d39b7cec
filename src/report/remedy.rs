//! What an admin can do about a problem, as values, and the text of these values. Which remedy a problem has
//! is decided in `remedies.rs` and the other files whose names end in `remedies` or `remedy`; a fault in the
//! boot files brings its own ([`MenuFault::clear`](crate::boot::MenuFault::clear)).

use std::path::{Path, PathBuf};

use super::problem::listed;
use crate::kernel::Running;
use crate::sys::shell::quoted;
use crate::sys::{Root, RootKind};
use crate::system::System;

/// What helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// A command.
    Run(AdminCommand),
    /// A step without a command, as a phrase.
    Do(String),
    /// A reboot, and the modules that it makes available.
    Reboot(Vec<String>),
    /// Waiting for the active run.
    Wait,
    /// Several steps, in this order.
    Then(Vec<Remedy>),
    /// Alternatives, the best one first.
    Or(Vec<Remedy>),
}

/// A command line as values. Its paths are inside the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCommand {
    program: &'static str,
    arguments: Vec<String>,
    as_root: bool,
    /// Its purpose, if the name does not say it: `to …`.
    purpose: Option<String>,
}

impl AdminCommand {
    /// A command that only reads, which every user may run.
    pub fn look(program: &'static str, arguments: &[&str]) -> AdminCommand {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        AdminCommand { program, arguments, as_root: false, purpose: None }
    }

    /// A command that changes the system, which requires root.
    pub fn change(program: &'static str, arguments: &[&str]) -> AdminCommand {
        AdminCommand { as_root: true, ..AdminCommand::look(program, arguments) }
    }

    /// Adds the purpose, such as `install the headers`.
    #[must_use]
    pub fn to(self, purpose: impl Into<String>) -> AdminCommand {
        AdminCommand { purpose: Some(purpose.into()), ..self }
    }

    /// The words of the command line for a root, without `sudo`.
    pub fn words(&self, target: &CommandTarget) -> Vec<String> {
        let own = std::iter::once(self.program.to_owned()).chain(self.arguments.iter().cloned());
        let Some(root) = &target.image else { return own.collect() };
        let root = root.display().to_string();
        match self.program {
            "swupd" => own.chain(["--path".to_owned(), root]).collect(),
            "clr-boot-manager" => own.chain([format!("--path={root}")]).collect(),
            program if program.starts_with("clr-dkms") => own.chain(["--root".to_owned(), root]).collect(),
            // These programs have no option for another root.
            _ => ["chroot".to_owned(), root].into_iter().chain(own).collect(),
        }
    }

    /// The command as text. Commands that require root always begin with `sudo`.
    pub fn text(&self, target: &CommandTarget) -> String {
        let purpose = self.purpose.iter().map(|purpose| format!(" to {purpose}"));
        format!("run `{}`{}", self.line(target), purpose.collect::<String>())
    }

    /// The command line alone, as it can be pasted into a shell.
    pub fn line(&self, target: &CommandTarget) -> String {
        let words = self.words(target);
        let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        let sudo = if self.as_root { "sudo " } else { "" };
        format!("{sudo}{}", quoted.join(" "))
    }
}

impl From<AdminCommand> for Remedy {
    fn from(command: AdminCommand) -> Remedy {
        Remedy::Run(command)
    }
}

/// The system that commands are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTarget {
    /// The root of an image; none if the commands are for the system that they run on.
    image: Option<PathBuf>,
}

impl CommandTarget {
    /// The system that the commands run on.
    pub fn here() -> CommandTarget {
        CommandTarget { image: None }
    }

    /// Whether they are for an image.
    pub fn is_image(&self) -> bool {
        self.image.is_some()
    }

    /// The target for a root.
    pub fn of_root(root: &Root) -> CommandTarget {
        let is_image = root.kind() == RootKind::Image && !root.is_slash();
        CommandTarget { image: is_image.then(|| root.path().to_owned()) }
    }

    /// The target for an image in a directory.
    pub fn image(directory: &Path) -> CommandTarget {
        CommandTarget { image: Some(directory.to_owned()) }
    }

    /// The target for an observation. For an image the commands name that image.
    pub fn of(system: &System) -> CommandTarget {
        let is_image = system.inventory.running == Running::None && system.root != Path::new("/");
        CommandTarget { image: is_image.then(|| system.root.clone()) }
    }
}

impl Remedy {
    /// A step without a command.
    pub fn by_hand(what: impl Into<String>) -> Remedy {
        Remedy::Do(what.into())
    }

    /// This step, followed by another one.
    #[must_use]
    pub fn then(self, other: impl Into<Remedy>) -> Remedy {
        let mut all = if let Remedy::Then(all) = self { all } else { vec![self] };
        all.push(other.into());
        Remedy::Then(all)
    }

    /// This step, or another one.
    #[must_use]
    pub fn or(self, other: impl Into<Remedy>) -> Remedy {
        let mut all = if let Remedy::Or(all) = self { all } else { vec![self] };
        all.push(other.into());
        Remedy::Or(all)
    }

    /// The command, if one command is the whole remedy.
    pub fn command(&self) -> Option<&AdminCommand> {
        if let Remedy::Run(command) = self { Some(command) } else { None }
    }

    /// The remedy as text. Commands that require root always begin with `sudo`.
    pub fn text(&self, target: &CommandTarget) -> String {
        let joined = |all: &[Remedy], by: &str| {
            all.iter().map(|remedy| remedy.text(target)).collect::<Vec<_>>().join(by)
        };
        match self {
            Remedy::Run(command) => command.text(target),
            Remedy::Do(what) => what.clone(),
            Remedy::Reboot(brings) if brings.is_empty() => "reboot when it suits you".to_owned(),
            Remedy::Reboot(brings) => format!("reboot: it brings {} back", listed(brings)),
            Remedy::Wait => "wait for the run to end, and do not reboot until then".to_owned(),
            Remedy::Then(all) => joined(all, ", then "),
            Remedy::Or(all) => joined(all, "; or "),
        }
    }
}
