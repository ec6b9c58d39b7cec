//! Runs of our programs.

use std::path::{Path, PathBuf};
use std::process::Output;

use predicates::prelude::*;

use super::TestRoot;

/// 2025-07-29 12:00:00 UTC.
const MOMENT: &str = "1753790400";

/// The file of one of our programs.
pub(crate) fn program(name: &str) -> PathBuf {
    PathBuf::from(match name {
        "clr-dkms" => env!("CARGO_BIN_EXE_clr-dkms"),
        "clr-dkms-cmdline" => env!("CARGO_BIN_EXE_clr-dkms-cmdline"),
        "clr-dkms-motd" => env!("CARGO_BIN_EXE_clr-dkms-motd"),
        "clr-dkms-post-update" => env!("CARGO_BIN_EXE_clr-dkms-post-update"),
        "clr-dkms-pre-update" => env!("CARGO_BIN_EXE_clr-dkms-pre-update"),
        "clr-dkms-variant" => env!("CARGO_BIN_EXE_clr-dkms-variant"),
        other => panic!("no program {other}"),
    })
}

/// How a run ended; paths of the test are replaced by `ROOT`, `TOOLS` and `OUTSIDE`.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) raw: Vec<u8>,
}

impl Run {
    pub(crate) fn of(output: Output, root: &TestRoot) -> Run {
        let text = |bytes: &[u8]| root.redacted(&String::from_utf8_lossy(bytes));
        Run {
            // A signal has no code; -1 is none that a program could give.
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            raw: output.stdout,
        }
    }

    #[track_caller]
    pub(crate) fn code(&self, expected: i32) -> &Run {
        assert_eq!(self.code, expected, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn prints(&self, expected: &str) -> &Run {
        assert_eq!(self.stdout, expected, "stderr:\n{}", self.stderr);
        self
    }

    /// All of these are somewhere in stderr.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) -> &Run {
        for part in parts {
            assert!(
                predicate::str::contains(*part).eval(&self.stderr),
                "no {part:?} in\n{}\nstdout:\n{}",
                self.stderr,
                self.stdout
            );
        }
        self
    }

    /// All of these are somewhere in stdout.
    #[track_caller]
    pub(crate) fn shows(&self, parts: &[&str]) -> &Run {
        for part in parts {
            assert!(
                predicate::str::contains(*part).eval(&self.stdout),
                "no {part:?} in\n{}\nstderr:\n{}",
                self.stdout,
                self.stderr
            );
        }
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

/// A command of ours with a fixed clock, the stand-ins first, and nothing of the caller's that could matter.
pub(crate) fn command(name: &str, tools: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(program(name));
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES", "TERM"] {
        command.env_remove(variable);
    }
    command.env("SOURCE_DATE_EPOCH", MOMENT).env("CLR_DKMS_TOOL_PATH", tools).env("LC_ALL", "C.UTF-8");
    command.env("TZ", "UTC");
    // The name that a hold is recorded with.
    command.env("SUDO_USER", "admin");
    command
}

/// A shell script in mount and user namespaces of its own, where this machine allows that; `$1` … are what is
/// added.
pub(crate) fn unshared(tools: &Path, script: &str) -> std::process::Command {
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.env("SOURCE_DATE_EPOCH", MOMENT).env("CLR_DKMS_TOOL_PATH", tools).env("LC_ALL", "C");
    command
}

/// A test leaves out what this machine does not offer. Where all of it is to be run, as in `make test`, it
/// fails instead.
pub(crate) fn skipped(why: impl std::fmt::Display) {
    let is_allowed = std::env::var_os("CLR_DKMS_NO_SKIPS").is_none_or(|value| value.is_empty());
    assert!(is_allowed, "nothing may be left out: {why}");
    eprintln!("skipped: {why}");
}

/// A command of ours on that root, run by a user that does not own its files. Only root can become another
/// user: without root rights, and where the programs are out of reach for others, there is none.
pub(crate) fn as_nobody(root: &TestRoot, name: &str, arguments: &[&str]) -> Option<std::process::Command> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can run {name} as another user");
        return None;
    }
    let plain = root.command(name, arguments);
    // The directory of a test is closed to others.
    set_mode(root.path().parent().unwrap(), 0o755);
    let nobody = || {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
    };
    let reachable = nobody().args(["test", "-x"]).arg(program(name)).status();
    if !reachable.is_ok_and(|status| status.success()) {
        // The checkout may lie where only its owner may go.
        eprintln!("skipped: nobody cannot run {}", program(name).display());
        return None;
    }
    let mut command = nobody();
    command.arg(plain.get_program()).args(plain.get_args());
    for (variable, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    Some(command)
}

/// The processes of the stand-ins of a root, each with its number in its own PID namespace: their search path
/// belongs to one root.
pub(crate) fn stand_ins(root: &TestRoot) -> Vec<(u32, u32)> {
    let searched = format!("PATH={}:", root.tools().display());
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        // A process that ends meanwhile is none.
        let path = entry.unwrap().path();
        let number: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let environment = std::fs::read(path.join("environ")).ok()?;
        let status = std::fs::read_to_string(path.join("status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let inside = numbers.split_whitespace().last()?.parse().ok()?;
        String::from_utf8_lossy(&environment).contains(&searched).then_some((number, inside))
    });
    processes.collect()
}

/// The numbers here of processes that a stand-in wrote down.
pub(crate) fn numbered_here(root: &TestRoot, numbers: &str) -> Vec<u32> {
    let inside: Vec<u32> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let found: Vec<(u32, u32)> =
        stand_ins(root).into_iter().filter(|(_, number)| inside.contains(number)).collect();
    assert_eq!(found.len(), inside.len(), "{inside:?} are {found:?}");
    found.into_iter().map(|(number, _)| number).collect()
}

/// Sets the mode of a file or directory.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
