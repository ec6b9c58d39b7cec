//! A pager: a program that shows a long text on the terminal, page by page.
//!
//! less can write files and start a shell. Where a user runs this program with more rights than their own (a
//! line for `clr-dkms logs` in sudoers(5)), both would be done with these rights. The rules are those of
//! systemd for `$SYSTEMD_PAGERSECURE`: then only less is started, and with `LESSSECURE=1`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::Tools;

/// The value of `/proc/self/loginuid` of a process that was not started by a login.
const NO_LOGIN: u32 = u32::MAX;
/// The variables by which sudo(8), pkexec(1) and doas(1) say on whose behalf they start a program.
const ON_BEHALF: [&str; 3] = ["SUDO_UID", "PKEXEC_UID", "DOAS_USER"];
/// The variables with commands that less runs on its input.
const FILTERS: [&str; 2] = ["LESSOPEN", "LESSCLOSE"];

/// A pager that waits for its text.
#[derive(Debug)]
pub struct Pager {
    child: Child,
}

impl Pager {
    /// Where the text goes.
    pub fn input(&mut self) -> Box<dyn Write + '_> {
        if let Some(input) = self.child.stdin.as_mut() { Box::new(input) } else { Box::new(std::io::sink()) }
    }

    /// Waits until the user quits the pager.
    pub fn wait(mut self) {
        drop(self.child.stdin.take());
        // The exit code of a pager has no meaning.
        self.child.wait().ok();
    }
}

/// Whose wishes a pager follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    /// The caller's own rights: `$PAGER` and the settings of less are the caller's.
    Own,
    /// More rights than the caller has.
    Borrowed,
}

impl Rights {
    fn of_this_process() -> Rights {
        let on_behalf = ON_BEHALF.iter().any(|name| std::env::var_os(name).is_some());
        let effective = nix::unistd::geteuid().as_raw();
        Rights::of(effective, nix::unistd::getuid().as_raw(), login(), on_behalf)
    }

    /// `login` is the user of the login session, if there is one.
    fn of(effective: u32, real: u32, login: Option<u32>, on_behalf: bool) -> Rights {
        match on_behalf || effective != real || login.is_some_and(|login| login != effective) {
            true => Rights::Borrowed,
            false => Rights::Own,
        }
    }
}

#[allow(clippy::disallowed_methods)] // a fact about this process, whatever the root is
fn login() -> Option<u32> {
    // A kernel without audit has no such file.
    let text = std::fs::read_to_string("/proc/self/loginuid").ok()?;
    // The kernel writes a number; anything else is as good as no login.
    text.trim().parse().ok().filter(|login| *login != NO_LOGIN)
}

/// Starts `$PAGER`, else `less`; none where there is no pager, or none is wanted (`PAGER=` or `cat`).
pub fn start(tools: &Tools) -> Option<Pager> {
    // A value that is not UTF-8 counts as not set.
    let mut command = command(tools, Rights::of_this_process(), std::env::var("PAGER").ok().as_deref())?;
    command.stdin(Stdio::piped());
    // The reason makes no difference: the text is printed without a pager.
    command.spawn().ok().map(|child| Pager { child })
}

#[allow(clippy::disallowed_methods)] // it shares our terminal, which the children of `sys::child` do not
fn command(tools: &Tools, rights: Rights, wanted: Option<&str>) -> Option<Command> {
    let mut words = wanted.unwrap_or("less").split_ascii_whitespace();
    // Not to want one is safe in any case.
    let name = words.next().filter(|name| *name != "cat")?;
    let mut command = match rights {
        Rights::Own => {
            // As below.
            let program: PathBuf = if name.starts_with('/') { name.into() } else { tools.find(name).ok()? };
            let mut command = Command::new(program);
            command.args(words);
            command
        }
        Rights::Borrowed => {
            // Without a pager the text is printed as it is.
            let mut command = Command::new(tools.find("less").ok()?);
            let variables = std::env::vars_os().map(|(name, _)| name);
            variables.filter(|name| name.as_encoded_bytes().starts_with(b"LESS")).for_each(|name| {
                command.env_remove(name);
            });
            // A lesskey file of the caller could take LESSSECURE away: less looks for one in these places.
            for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
                command.env_remove(name);
            }
            command.env("HOME", "/").env("LESSSECURE", "1").env("LESSHISTFILE", "-");
            command
        }
    };
    FILTERS.iter().for_each(|name| {
        command.env_remove(name);
    });
    // As in systemctl: a text that fits stays on the screen, colours are kept, and less quits at its end.
    command.env("LESS", "FRSXMK");
    Some(command)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn whose_rights_these_are() {
        let table = [
            // Effective, real, login, on behalf of another user.
            ((1000, 1000, Some(1000), false), Rights::Own),
            ((0, 0, Some(0), false), Rights::Own),
            ((0, 0, None, false), Rights::Own),
            ((0, 0, Some(1000), false), Rights::Borrowed),
            ((0, 0, None, true), Rights::Borrowed),
            ((0, 0, Some(0), true), Rights::Borrowed),
            ((0, 1000, None, false), Rights::Borrowed),
            ((1001, 1001, Some(1000), true), Rights::Borrowed),
        ];
        for ((effective, real, login, on_behalf), rights) in table {
            assert_eq!(Rights::of(effective, real, login, on_behalf), rights, "{effective} {real} {login:?}");
        }
    }

    fn tools() -> (tempfile::TempDir, Tools) {
        let directory = tempfile::tempdir().unwrap();
        let mut tools = Tools::from_environment();
        for name in ["less", "most"] {
            let path = directory.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            tools.name(name, &path);
        }
        (directory, tools)
    }

    fn environment(command: &Command) -> BTreeMap<String, Option<String>> {
        let text = |text: &std::ffi::OsStr| text.to_str().unwrap().to_owned();
        command.get_envs().map(|(name, value)| (text(name), value.map(text))).collect()
    }

    #[test]
    fn borrowed_rights_start_less_alone_and_secure() {
        let (_directory, tools) = tools();
        for wanted in [None, Some("most -x"), Some("/tmp/evil"), Some("sh")] {
            let command = command(&tools, Rights::Borrowed, wanted).unwrap();
            assert!(command.get_program().to_str().unwrap().ends_with("/less"), "{wanted:?}");
            assert_eq!(command.get_args().count(), 0, "{wanted:?}");
            let environment = environment(&command);
            let value = |name: &str| environment.get(name).cloned();
            assert_eq!(value("LESSSECURE"), Some(Some("1".to_owned())));
            assert_eq!(value("HOME"), Some(Some("/".to_owned())));
            for name in ["LESSOPEN", "LESSCLOSE", "XDG_CONFIG_HOME"] {
                assert_eq!(value(name), Some(None), "{name}");
            }
        }
        assert!(command(&tools, Rights::Borrowed, Some("cat")).is_none());
    }

    #[test]
    fn own_rights_follow_the_caller() {
        let (_directory, tools) = tools();
        let command = |wanted| command(&tools, Rights::Own, wanted);
        let most = command(Some("most -x")).unwrap();
        assert!(most.get_program().to_str().unwrap().ends_with("/most"));
        assert_eq!(most.get_args().collect::<Vec<_>>(), ["-x"]);
        assert_eq!(environment(&most).get("LESSOPEN"), Some(&None));
        assert!(command(Some("")).is_none() && command(Some("cat")).is_none());
    }
}
