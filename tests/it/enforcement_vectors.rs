//! What booted kernels did with modules: 283 measured rows.

use std::collections::BTreeMap;

use clr_dkms::enforcement::{
    Boot, KernelConfig, LoadOutcome, LoadRefusal, ModuleKind, Patch, Runtime, SecureBoot, at_boot, now,
};
use serde::Deserialize;

use crate::support::TestRoot;

#[derive(Deserialize)]
pub(crate) struct Row {
    pub(crate) kernel: String,
    pub(crate) patch: Option<String>,
    pub(crate) config: BTreeMap<String, Option<String>>,
    pub(crate) cmdline: String,
    pub(crate) secboot: Option<String>,
    params: Params,
    lockdown_level: Option<String>,
    pub(crate) loads: BTreeMap<String, String>,
    extra_loads: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Params {
    sig_enforce: Option<String>,
    sig_unenforce: Option<String>,
}

pub(crate) fn rows() -> Vec<Row> {
    let rows = include_str!("../data/enforcement-vectors.jsonl");
    rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl Row {
    /// The configuration file that says what the row says.
    pub(crate) fn config_text(&self) -> String {
        let line = |(name, value): (&String, &Option<String>)| match value.as_deref() {
            None => format!("# CONFIG_{name} is not set\n"),
            Some(value) if value.len() == 1 => format!("CONFIG_{name}={value}\n"),
            Some(value) => format!("CONFIG_{name}=\"{value}\"\n"),
        };
        self.config.iter().map(line).collect()
    }

    /// A release whose version says which form of the patch it carries.
    pub(crate) fn release(&self) -> &'static str {
        match (self.patch.as_deref(), self.kernel.as_str()) {
            (Some("v1"), _) => "5.18.3-1100.native",
            (Some(_), _) => "6.12.9-1500.native",
            (None, "debian61") => "6.1.153-1.native",
            (None, _) => "6.12.48-1.native",
        }
    }

    pub(crate) fn line(&self) -> Vec<u8> {
        // Bytes, written as the Latin-1 characters of the same numbers.
        crate::vectors::latin1(&self.cmdline)
    }

    fn name(&self) -> String {
        let shown: String = self.cmdline.chars().take(60).collect();
        format!("{} {:?} secure boot {:?}", self.kernel, shown, self.secboot)
    }

    /// The measured results, by our kinds. A module that is damaged and signed by an unknown key is "unknown
    /// key", and so on for the other soft failures.
    fn measured(&self) -> Vec<(ModuleKind, &str)> {
        let kind = |name: &str| match name {
            "signed" => ModuleKind::Trusted,
            "unsigned" | "cut_magic" | "fake_magic" | "fake_header_pgp" | "trailing_byte" => {
                ModuleKind::Unsigned
            }
            "unknown_key" | "unknown_key_corrupt" | "double_signed" | "unknown_key_sha1" => {
                ModuleKind::UnknownKey
            }
            "corrupt" | "corrupt_sigvalue" => ModuleKind::Damaged,
            "corrupt_der" | "fake_header_nozero" | "toobig_siglen" => ModuleKind::Unparsable,
            other => panic!("{other}"),
        };
        self.loads
            .iter()
            .chain(&self.extra_loads)
            .map(|(name, result)| (kind(name), result.as_str()))
            .collect()
    }
}

fn agrees(outcome: LoadOutcome, measured: &str) -> bool {
    match measured {
        "ok" => outcome.is_loaded(),
        "EKEYREJECTED" => outcome == LoadOutcome::Refused(Some(LoadRefusal::EKeyRejected)),
        "EPERM" => outcome == LoadOutcome::Refused(Some(LoadRefusal::EPerm)),
        "EACCES" => outcome == LoadOutcome::Refused(Some(LoadRefusal::EAcces)),
        "EBADMSG" => outcome == LoadOutcome::Refused(Some(LoadRefusal::EBadMsg)),
        other => panic!("{other}"),
    }
}

fn patch(row: &Row) -> Patch {
    match row.patch.as_deref() {
        Some("v1") => Patch::V1,
        Some("v2") => Patch::V2,
        None => Patch::Absent,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_verdict_is_what_was_measured() {
    let mut wrong = Vec::new();
    let rows = rows();
    assert_eq!(rows.len(), 283);
    for row in &rows {
        let config = KernelConfig::parse(row.config_text().as_bytes()).unwrap();
        let line = [b"console=ttyS0 panic=-1 ".as_slice(), &row.line()].concat();
        let boot = Boot {
            line: &line,
            config: Some(&config),
            patch: patch(row),
            secure_boot: if row.secboot.as_deref() == Some("on") { SecureBoot::On } else { SecureBoot::Off },
            version: clr_dkms::enforcement::patch::version(row.release()),
            ima_policy: false,
        };
        let booted = at_boot(&boot);
        // What the running kernel said of itself; it was measured with everything else.
        let flag = |text: &Option<String>| text.as_deref().map(|t| t == "Y");
        let disabled = row.loads["signed"] == "EPERM";
        let level = row.lockdown_level.as_deref().unwrap_or("none");
        let started = row.kernel != "lsmlate" || !row.cmdline.contains("lsm=capability");
        let runtime = Runtime {
            sig_enforce: flag(&row.params.sig_enforce),
            sig_unenforce: Some(flag(&row.params.sig_unenforce)),
            modules_disabled: Some(disabled),
            locked: Some(level != "none" && started),
            ima: None,
        };
        let running = now(&boot, &runtime);
        for (kind, measured) in row.measured() {
            for (when, verdict) in [("at boot", &booted), ("now", &running)] {
                if !agrees(verdict.of(kind), measured) {
                    wrong.push(format!(
                        "{} {when}: {kind:?} {:?}, measured {measured}: {:?}",
                        row.name(),
                        verdict.of(kind),
                        verdict
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// The kinds that the document names.
fn named(kind: ModuleKind) -> Option<&'static str> {
    match kind {
        ModuleKind::Trusted => Some("trusted"),
        ModuleKind::Unsigned => Some("unsigned"),
        ModuleKind::UnknownKey => Some("unknown_key"),
        ModuleKind::Damaged => Some("damaged"),
        ModuleKind::Unparsable => None,
    }
}

/// What the document should say: the word, and the error beside it. Each of the measured kernels checks
/// signatures.
fn words(kind: ModuleKind, measured: &str) -> (&'static str, Option<&str>) {
    match (measured, kind) {
        ("ok", ModuleKind::Trusted) => ("loads", None),
        ("ok", _) => ("taints", None),
        (error, _) => ("refused", Some(error)),
    }
}

/// The row as files: configuration, list of built-in parameters, command line, EFI variables; no image, no
/// proc.
fn written(row: &Row) -> TestRoot {
    let root = TestRoot::new();
    let release = row.release();
    let line = [b"console=ttyS0 panic=-1 ".as_slice(), &row.line(), b"\n"].concat();
    root.config(release, &row.config_text())
        .modinfo(release, row.patch.is_some())
        .file(&format!("usr/lib/kernel/cmdline-{release}"), line);
    if let Some(state) = row.secboot.as_deref() {
        root.secure_boot(state == "on");
    }
    root
}

/// What one view of the document says otherwise than it was measured.
fn differences(row: &Row, view: &serde_json::Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for (kind, measured) in row.measured() {
        let Some(name) = named(kind) else { continue };
        let predicted = (view["loads"][name].as_str().unwrap_or("nothing"), view["error"][name].as_str());
        if predicted != words(kind, measured) {
            wrong.push(format!(
                "{}: {name} {predicted:?}, measured {measured}: {}",
                row.name(),
                view["because"]
            ));
        }
    }
    wrong
}

#[test]
fn the_program_tells_what_was_measured_from_the_files_of_a_kernel() {
    let mut wrong = Vec::new();
    for row in rows() {
        let root = written(&row).live();
        let run = root.run("clr-dkms", &["enforcement", "--json", "--kernel", row.release()]);
        wrong.extend(differences(&row, &run.json()["kernels"][0]["configured"]));
        if run.json()["kernels"][0]["now"] != serde_json::Value::Null {
            wrong.push(format!("{}: something runs where there is no proc", row.name()));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// The same from what a running kernel says of itself; its files say nothing of its command line.
#[test]
fn the_program_tells_what_was_measured_from_a_running_kernel() {
    let mut wrong = Vec::new();
    for row in rows() {
        let root = written(&row).running(row.release());
        root.file(&format!("usr/lib/kernel/cmdline-{}", row.release()), "");
        root.booted("", row.params.sig_enforce.as_deref().unwrap(), row.params.sig_unenforce.as_deref())
            .file("proc/cmdline", [b"console=ttyS0 panic=-1 ".as_slice(), &row.line(), b"\n"].concat());
        if row.loads["signed"] == "EPERM" {
            root.file("proc/sys/kernel/modules_disabled", "1\n");
        }
        if let Some(level) = row.lockdown_level.as_deref() {
            root.locked_down(level);
        }
        // Whether it has a policy that appraises modules a kernel says only if it was built to say so.
        if row.config["IMA"].is_some() {
            root.directory("sys/kernel/security/ima");
        }
        // Measured: the file shows a level also where the module never started.
        if row.kernel == "lsmlate" && row.cmdline.contains("lsm=capability") {
            root.file("sys/kernel/security/lsm", "capability");
        }
        let run = root.run("clr-dkms", &["enforcement", "--json", "--kernel", row.release()]);
        wrong.extend(differences(&row, &run.json()["kernels"][0]["now"]));
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
