//! What an admin can do about a problem, as values, and the one place that writes it as text.

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
    /// Something that no command does, in words.
    Do(String),
    /// A reboot, and the modules that it brings back.
    Reboot(Vec<String>),
    /// Waiting for the active run.
    Wait,
    /// One after the other.
    Then(Vec<Remedy>),
    /// Any one of these; the first one is the best.
    Or(Vec<Remedy>),
}

/// A command line as values. Paths in it are those inside the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCommand {
    program: &'static str,
    arguments: Vec<String>,
    as_root: bool,
    /// What it is for, where its name does not say it: `to …`.
    purpose: Option<String>,
}

impl AdminCommand {
    /// A command that reads only: every user may run it.
    pub fn look(program: &'static str, arguments: &[&str]) -> AdminCommand {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        AdminCommand { program, arguments, as_root: false, purpose: None }
    }

    /// A command that changes the system: it needs root.
    pub fn change(program: &'static str, arguments: &[&str]) -> AdminCommand {
        AdminCommand { as_root: true, ..AdminCommand::look(program, arguments) }
    }

    /// The same with what it is for, as `install the headers`.
    #[must_use]
    pub fn to(self, purpose: impl Into<String>) -> AdminCommand {
        AdminCommand { purpose: Some(purpose.into()), ..self }
    }

    /// The words of the command line for a root, without what makes a user root.
    pub fn words(&self, target: &CommandTarget) -> Vec<String> {
        let own = std::iter::once(self.program.to_owned()).chain(self.arguments.iter().cloned());
        let Some(root) = &target.image else { return own.collect() };
        let root = root.display().to_string();
        match self.program {
            "swupd" => own.chain(["--path".to_owned(), root]).collect(),
            "clr-boot-manager" => own.chain([format!("--path={root}")]).collect(),
            program if program.starts_with("clr-dkms") => own.chain(["--root".to_owned(), root]).collect(),
            // These know no other root than their own.
            _ => ["chroot".to_owned(), root].into_iter().chain(own).collect(),
        }
    }

    /// As text. What needs root begins with `sudo`, everywhere.
    pub fn text(&self, target: &CommandTarget) -> String {
        let words = self.words(target);
        let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        let sudo = if self.as_root { "sudo " } else { "" };
        let purpose = self.purpose.iter().map(|purpose| format!(" to {purpose}"));
        let line = quoted.join(" ");
        format!("run `{sudo}{line}`{}", purpose.collect::<String>())
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
    /// The root of an image; none where they are for the system that they are run on.
    image: Option<PathBuf>,
}

impl CommandTarget {
    /// The system that the commands are run on.
    pub fn here() -> CommandTarget {
        CommandTarget { image: None }
    }

    /// They are for an image.
    pub fn is_image(&self) -> bool {
        self.image.is_some()
    }

    /// That of a root.
    pub fn of_root(root: &Root) -> CommandTarget {
        let is_image = root.kind() == RootKind::Image && !root.is_slash();
        CommandTarget { image: is_image.then(|| root.path().to_owned()) }
    }

    /// An image in a directory.
    pub fn image(directory: &Path) -> CommandTarget {
        CommandTarget { image: Some(directory.to_owned()) }
    }

    /// That of an observation. In an image the commands are for that image, and not for the system that asks.
    pub fn of(system: &System) -> CommandTarget {
        let is_image = system.inventory.running == Running::None && system.root != Path::new("/");
        CommandTarget { image: is_image.then(|| system.root.clone()) }
    }
}

impl Remedy {
    /// Something that no command does.
    pub fn by_hand(what: impl Into<String>) -> Remedy {
        Remedy::Do(what.into())
    }

    /// This, and another one afterwards.
    #[must_use]
    pub fn then(self, other: impl Into<Remedy>) -> Remedy {
        match self {
            Remedy::Then(mut all) => {
                all.push(other.into());
                Remedy::Then(all)
            }
            first => Remedy::Then(vec![first, other.into()]),
        }
    }

    /// This, or another one.
    #[must_use]
    pub fn or(self, other: impl Into<Remedy>) -> Remedy {
        match self {
            Remedy::Or(mut all) => {
                all.push(other.into());
                Remedy::Or(all)
            }
            first => Remedy::Or(vec![first, other.into()]),
        }
    }

    /// The command, where one command is all that has to be done.
    pub fn command(&self) -> Option<&AdminCommand> {
        match self {
            Remedy::Run(command) => Some(command),
            _ => None,
        }
    }

    /// As text. What needs root begins with `sudo`, everywhere.
    pub fn text(&self, target: &CommandTarget) -> String {
        let joined = |all: &[Remedy], by: &str| {
            all.iter().map(|remedy| remedy.text(target)).collect::<Vec<_>>().join(by)
        };
        match self {
            Remedy::Run(command) => command.text(target),
            Remedy::Do(what) => what.clone(),
            Remedy::Reboot(brings) if brings.is_empty() => "reboot when it suits you".to_owned(),
            Remedy::Reboot(brings) => {
                let names: Vec<&str> = brings.iter().map(String::as_str).collect();
                format!("reboot: it brings {} back", listed(&names))
            }
            Remedy::Wait => "wait for the run to end, and do not reboot until then".to_owned(),
            Remedy::Then(all) => joined(all, ", then "),
            Remedy::Or(all) => joined(all, "; or "),
        }
    }
}
