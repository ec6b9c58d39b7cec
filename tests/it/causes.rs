//! The cause of failed builds: logs after public reports, and logs of reproductions.

use clr_dkms::dkms::cause::Cause;
use clr_dkms::dkms::first_error::{BuildFacts, FirstError, find_with};
use clr_dkms::report::cause_remedy::cause_remedy;
use clr_dkms::report::packages::Packages;
use clr_dkms::report::remedy::CommandTarget;
use clr_dkms::sys::Shortage;
use serde::Deserialize;
use strum::VariantNames;

#[derive(Deserialize)]
pub(crate) struct Labelled {
    pub(crate) name: String,
    pub(crate) log: String,
    /// The causes that are acceptable.
    cause: Vec<String>,
    /// What an admin must be shown.
    shows: Vec<String>,
    #[serde(default)]
    origin: Option<String>,
    /// The kernel that the build was for, where the log does not say it.
    #[serde(default)]
    release: Option<String>,
    #[serde(default)]
    by_clang: bool,
    #[serde(default)]
    depends: Vec<String>,
    /// What an admin is advised to do.
    pub(crate) remedy: String,
}

impl Labelled {
    fn error(&self) -> FirstError {
        let known = BuildFacts {
            release: self.release.clone(),
            by_clang: self.by_clang,
            depends: self.depends.clone(),
            ..BuildFacts::default()
        };
        find_with(&self.log, known).error.unwrap_or_else(|| panic!("{}: no error", self.name))
    }
}

pub(crate) fn labelled(file: &str) -> Vec<Labelled> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The error of each log, as documents have it.
pub(crate) fn errors() -> Vec<serde_json::Value> {
    let logs = ["build-logs-labelled.jsonl", "build-logs.jsonl"].into_iter().flat_map(labelled);
    let full = FirstError::of_full(None, "/var/lib/dkms".to_owned(), Shortage::Inodes);
    logs.map(|log| log.error()).chain([full]).map(|error| serde_json::to_value(error).unwrap()).collect()
}

/// What an admin sees of an error.
fn shown(error: &FirstError) -> String {
    format!("{error}\n{}", error.context.join("\n"))
}

/// What is said to help, on Clear Linux.
fn remedy(error: &FirstError) -> String {
    let packages = Packages::Swupd { bundle: Some("kernel-native-dkms") };
    cause_remedy(Some(error), "NAME/VERSION", &packages).text(&CommandTarget::here())
}

#[track_caller]
fn all_have_their_cause(logs: &[Labelled]) {
    let mut wrong = Vec::new();
    for log in logs {
        let error = log.error();
        let shown = shown(&error);
        let lacks: Vec<&String> = log.shows.iter().filter(|words| !shown.contains(words.as_str())).collect();
        let remedy = remedy(&error);
        let is_right = log.cause.iter().any(|word| word == error.cause.word());
        if !is_right || !lacks.is_empty() || remedy != log.remedy {
            wrong.push(format!(
                "{}: {:?}, not {:?}; lacks {lacks:?}; {remedy}\n  {}",
                log.name,
                error.cause,
                log.cause,
                shown.replace('\n', "\n  ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn labelled_logs() {
    let logs = labelled("build-logs-labelled.jsonl");
    assert_eq!(logs.len(), 15);
    all_have_their_cause(&logs);
}

#[test]
fn logs_of_reports_and_reproductions() {
    let logs = labelled("build-logs.jsonl");
    all_have_their_cause(&logs);
    let mut names: Vec<&str> = logs.iter().map(|log| log.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), logs.len(), "names are used once");
    let origin = |log: &Labelled| {
        let origin = log.origin.clone().unwrap_or_default();
        let report = origin.strip_prefix("public report: ").map(|at| at.split_once('/').is_some());
        report.unwrap_or(origin.starts_with("reproduction: "))
    };
    assert!(logs.iter().all(origin), "each has its origin");
    assert!(logs.len() >= 40);
    let unused: Vec<&&str> = Cause::VARIANTS
        .iter()
        .filter(|word| !logs.iter().any(|log| log.cause.iter().any(|c| c == **word)))
        .collect();
    // Such a build is not begun, and has no log.
    assert_eq!(unused, [&Cause::NotConfined.word()], "no log");
}

/// A record keeps the cause and its values, and one without a cause is read.
#[test]
fn a_cause_is_kept_in_a_record() {
    for log in labelled("build-logs-labelled.jsonl").iter().chain(&labelled("build-logs.jsonl")) {
        let error = log.error();
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json["cause"], error.cause.word(), "{}", log.name);
        assert_eq!(serde_json::from_value::<FirstError>(json).unwrap(), error, "{}", log.name);
    }
    let old = r#"{"kind":"make","file":null,"line":null,"message":"m"}"#;
    assert_eq!(serde_json::from_str::<FirstError>(old).unwrap().cause, Cause::Unknown);
    let newer = r#"{"kind":"make","cause":"gremlins","file":null,"line":null,"message":"m","phase":"later"}"#;
    assert_eq!(serde_json::from_str::<FirstError>(newer).unwrap().cause, Cause::Unknown);
}
