//! `clr-dkms logs` on a terminal: which pager is started, and what it may do.

use std::os::unix::fs::PermissionsExt;

use crate::support::terminal::Terminal;
use crate::support::{B, TestRoot};

/// A machine with a log, and two pagers that write down what they were started with.
fn machine() -> TestRoot {
    let root = TestRoot::updated();
    root.file(&format!("var/log/clr-dkms/hello/1.0/{B}.log"), "a line\n");
    for name in ["less", "evil"] {
        let path = root.tools().join(name);
        let record = root.tools().join("pager");
        let script =
            format!("#!/bin/sh\n{{ echo '{name}' \"$#\"; env; }} >'{}'\ncat >/dev/null\n", record.display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    root
}

/// The first line and the environment of the pager that was started.
fn started(root: &TestRoot, environment: &str) -> (String, Vec<String>) {
    Terminal::run(root, 80, environment, "clr-dkms", &["logs"]).ends();
    let text = std::fs::read_to_string(root.tools().join("pager")).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    (first.to_owned(), rest.lines().map(str::to_owned).collect())
}

const WISHES: &str = "export PAGER='evil -x' LESSOPEN='|id' LESSCLOSE=id LESSKEY=/tmp/k LESSKEYIN=/tmp/k \
     LESSKEY_CONTENT='#env' \
     LESS=+!id LESSEDIT=id LESSSECURE= HOME=/home/x XDG_CONFIG_HOME=/home/x";

#[test]
fn under_sudo_it_is_less_without_the_wishes_of_the_caller() {
    let root = machine();
    let (program, environment) = started(&root, &format!("{WISHES} SUDO_UID=1000"));
    assert_eq!(program, "less 0");
    let mut less: Vec<&str> =
        environment.iter().filter(|line| line.starts_with("LESS")).map(String::as_str).collect();
    less.sort_unstable();
    assert_eq!(less, ["LESS=FRSXMK", "LESSHISTFILE=-", "LESSSECURE=1"]);
    assert!(environment.iter().any(|line| line == "HOME=/"));
    assert!(!environment.iter().any(|line| line.starts_with("XDG_CONFIG_HOME=")));
}

#[test]
fn with_own_rights_it_is_the_one_of_the_caller() {
    let root = machine();
    let own = "unset SUDO_UID PKEXEC_UID DOAS_USER";
    let (program, environment) = started(&root, &format!("{WISHES}; {own}"));
    let login = std::fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    if !["", "4294967295"].contains(&login.trim())
        && login.trim() != rustix::process::geteuid().as_raw().to_string()
    {
        eprintln!("skipped: a login of another user has started this");
        return;
    }
    assert_eq!(program, "evil 1");
    assert!(!environment.iter().any(|line| line.starts_with("LESSOPEN=") || line.starts_with("LESSCLOSE=")));
}
