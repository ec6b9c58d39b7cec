//! Everything that is reported of a machine, and what of it has to agree.

use std::collections::BTreeSet;

use clr_dkms::report::motd;
use clr_dkms::report::render::style::ScreenStyle;
use clr_dkms::report::render::{metrics, text};
use clr_dkms::report::{StatusDocument, Verdict, catalog};
use clr_dkms::update::publish;
use serde_json::Value;

use super::scene::Staged;

const PENDING: &str = "reboot when it suits you";

/// All of it.
pub(super) struct Shown {
    pub(super) json: Value,
    pub(super) code: u8,
    screen: String,
    all: String,
    metrics: String,
    motd: String,
    check: u8,
    pending: u8,
    marker: Option<String>,
    guard: Value,
    /// What the first line says of a reboot.
    pub(super) on_reboot: Option<String>,
}

/// Without styles.
fn words(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        out.push_str(&rest[..at]);
        rest = rest[at..].split_once('m').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    out
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn timeless(value: &Value) -> String {
    crate::support::TestRoot::timeless(&serde_json::to_string_pretty(value).unwrap())
}

impl Shown {
    /// Made in this process.
    pub(super) fn inside(staged: &Staged, document: &StatusDocument) -> Shown {
        let code = document.verdict.exit_code();
        publish::write(&staged.context, document).unwrap();
        let read = |path: &str| staged.root.has(path).then(|| staged.root.text(path));
        let shipped = motd::shipped_text(document.verdict);
        let fragment = shipped.map(|text| motd::fragment(document, text)).unwrap_or_default();
        assert_eq!(read(motd::FRAGMENT).unwrap_or_default(), fragment);
        Shown {
            json: serde_json::to_value(document).unwrap(),
            code,
            screen: words(&text::screen(document, &ScreenStyle::default())),
            all: words(&text::screen(
                document,
                &ScreenStyle { all: true, width: 500, ..ScreenStyle::default() },
            )),
            metrics: metrics::text(document),
            motd: fragment,
            check: code,
            pending: u8::from(document.verdict != Verdict::RebootPending),
            marker: read(publish::REBOOT_REQUIRED),
            guard: serde_json::to_value(&document.guard).unwrap(),
            on_reboot: document.on_reboot(),
        }
    }

    /// By the programs.
    pub(super) fn by_programs(staged: &Staged, inside: &Shown) -> Shown {
        let root = &staged.root;
        let run = |arguments: &[&str]| {
            let mut command = root.command("clr-dkms", arguments);
            let output = command.env("COLUMNS", "80").output().unwrap();
            assert!(output.stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            let code = u8::try_from(output.status.code().unwrap()).unwrap();
            (code, String::from_utf8(output.stdout).unwrap())
        };
        let (code, screen) = run(&["status"]);
        let all =
            root.command("clr-dkms", &["status", "--all"]).env("COLUMNS", "500").output().unwrap().stdout;
        let (json_code, json) = run(&["status", "--json"]);
        let (metrics_code, metrics) = run(&["status", "--format", "prometheus"]);
        assert_eq!([json_code, metrics_code], [code; 2]);
        let (check, nothing) = run(&["check"]);
        let (pending, nothing_again) = run(&["check", "--reboot-pending"]);
        assert_eq!((nothing, nothing_again), (String::new(), String::new()));
        let (guard_code, guard) = run(&["guard", "--json"]);
        let guard: Value = serde_json::from_str(&guard).unwrap();
        // What rests on nothing but unread facts is unknown in both.
        assert_eq!(guard_code == 2, guard["unsafe"] == true && code != 3, "{guard:#}");
        let reported = Shown {
            json: serde_json::from_str(&json).unwrap(),
            code,
            screen,
            all: String::from_utf8(all).unwrap(),
            metrics,
            motd: String::from_utf8(root.run("clr-dkms-motd", &["--dry-run"]).code(0).raw.clone()).unwrap(),
            check,
            pending,
            marker: inside.marker.clone(),
            guard,
            on_reboot: inside.on_reboot.clone(),
        };
        // One document, anyone that makes it.
        assert_eq!(timeless(&reported.json), timeless(&inside.json));
        assert_eq!(
            (&reported.motd, &reported.metrics, reported.code),
            (&inside.motd, &inside.metrics, inside.code)
        );
        reported
    }

    pub(super) fn verdict(&self) -> &str {
        self.json["verdict"].as_str().unwrap()
    }

    pub(super) fn may_reboot(&self) -> Option<bool> {
        self.json["may_reboot"].as_bool()
    }

    fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    pub(super) fn modules(&self) -> impl Iterator<Item = &Value> {
        self.json["modules"].as_array().unwrap().iter()
    }

    /// Every next step of the document.
    pub(super) fn steps(&self) -> BTreeSet<String> {
        let all = self.modules().chain([&self.json, &self.guard]);
        all.filter_map(|value| value["next_step"].as_str().map(str::to_owned)).collect()
    }

    /// Fails where two of them contradict each other.
    pub(super) fn agrees(&self) {
        self.agrees_on_the_verdict();
        self.agrees_on_the_motd();
        self.agrees_on_metrics();
        self.agrees_on_modules();
    }

    /// The line of a table of the screen.
    #[track_caller]
    fn row(&self, title: &str, name: &str) -> &str {
        let mut table = self.all.lines().skip_while(|line| !line.starts_with(title));
        // The line of a kernel begins with a symbol.
        let is_it = |line: &str| line.chars().skip(2).collect::<String>().starts_with(&format!("{name} "));
        let row = table.find(|line| is_it(line));
        row.unwrap_or_else(|| panic!("no {name} in\n{}", self.all))
    }

    fn agrees_on_the_verdict(&self) {
        let verdict = self.verdict();
        let rows = catalog::find(self.text("id"));
        assert_eq!((rows.len(), rows[0].name), (1, verdict));
        let expected = match verdict {
            "healthy" | "reboot-pending" | "not-applicable" => 0,
            "building" | "degraded" | "held" => 1,
            "unsafe" => 2,
            "unknown" => 3,
            other => panic!("{other}"),
        };
        assert_eq!((self.code, self.check), (expected, expected), "{verdict}");
        let may = match verdict {
            "building" | "unsafe" => Some(false),
            "unknown" | "not-applicable" => None,
            _ => Some(true),
        };
        assert_eq!(self.may_reboot(), may, "{verdict}");
        let is_pending = verdict == "reboot-pending";
        assert_eq!(self.pending, u8::from(!is_pending), "check --reboot-pending");
        let marker = is_pending.then(|| format!("{}\n", self.text("summary")));
        assert_eq!(self.marker, marker, "the mark stands for a reboot that is pending and safe");
        assert_eq!(is_pending, verdict != "healthy" && self.code == 0);
        if is_pending {
            assert_ne!(self.json["running"], self.json["next_boot"]);
            assert!(self.text("summary").contains(self.text("next_boot")));
        }

        let step = self.json["next_step"].as_str();
        assert_eq!(step.is_none(), ["healthy", "not-applicable"].contains(&verdict), "{step:?}");
        assert!(!self.text("summary").is_empty());
        for screen in [&self.screen, &self.all] {
            let first = screen.lines().next().unwrap();
            let words: Vec<&str> = first.split(' ').collect();
            assert_eq!(words[1], format!("{verdict}:"), "{first}");
            let on_reboot = self.on_reboot.iter().map(String::as_str);
            let answer = on_reboot.chain([step.unwrap_or("nothing to do")]).collect::<Vec<_>>().join("; ");
            let answer = format!("{verdict}: {answer}");
            let why = format!("{} [{}]", self.text("summary"), self.text("id"));
            for part in [answer, why] {
                let shown = one_line(screen);
                assert!(shown.contains(&one_line(&part)), "no {part:?} in\n{screen}");
            }
            assert_eq!(screen.contains(PENDING), is_pending, "{screen}");
        }
        assert!(self.on_reboot.is_none() || self.may_reboot() == Some(true), "{:?}", self.on_reboot);
        if let Some(step) = step.filter(|step| step.contains("do not reboot")) {
            assert_eq!(self.may_reboot(), Some(false), "{step}");
        }
        assert!(self.is_masked() || (self.guard["unsafe"] == true) == (verdict == "unsafe"), "{verdict}");
        if let Some(next) = self.guard["boots_next"].as_str() {
            assert_eq!(next, self.text("next_boot"));
        }
    }

    /// To the guard what cannot be determined is as good as missing; others say that it cannot be determined.
    fn is_masked(&self) -> bool {
        let mut lacks = self.guard["next_lacks"].as_array().unwrap().iter();
        self.verdict() == "unknown" && lacks.all(|lack| lack["state"] == "unknown")
    }

    /// The kernel that should be the boot default.
    pub(super) fn default(&self) -> Option<&str> {
        self.guard["default"].as_str()
    }

    fn agrees_on_the_motd(&self) {
        let (motd, verdict) = (&self.motd, self.verdict());
        assert!(motd.lines().count() <= 3 && motd.lines().all(|l| l.chars().count() <= 100), "{motd}");
        let reported: Vec<&str> = motd.lines().filter(|l| !l.contains("signature enforcement is ")).collect();
        let reported: Vec<&str> =
            reported.into_iter().filter(|l| !l.starts_with(" * Kernel modules: signature ")).collect();
        assert_eq!(reported.is_empty(), ["healthy", "not-applicable"].contains(&verdict), "{motd}");
        assert_eq!(motd.contains(PENDING), verdict == "reboot-pending", "{motd}");
        assert_eq!(motd.contains("do not reboot"), verdict == "unsafe", "{motd}");
        let first = motd.lines().next().unwrap_or_default();
        match verdict {
            "reboot-pending" | "held" => assert!(motd.contains(self.text("next_boot")), "{motd}"),
            _ => {}
        }
        // The same kernel and module as the screen's summary, as far as there is room.
        if ["held", "unsafe", "degraded", "unknown"].contains(&verdict) {
            let start: String = self.text("summary").chars().take(25).collect();
            assert!(first.contains(&start), "no {start:?} in {first}");
            let summary = self.text("summary");
            let rest = match self.not_ready().as_slice() {
                // The modules that are not ready are counted before the first of them.
                all @ [_, _, ..] => {
                    let counted = format!("{} modules are not ready: {}", all.len(), all[0]);
                    assert!(summary.starts_with(&counted), "no {counted:?} in {summary}");
                    summary.split_once("; ").map_or("", |(_, first)| first)
                }
                _ => summary,
            };
            assert_eq!(rest, self.json["problems"][0], "the first problem is the summary");
        }
    }

    /// The modules that the problems are about, if the first of them is about a module on a kernel.
    fn not_ready(&self) -> Vec<&str> {
        let all = self.json["problem_list"].as_array().unwrap();
        let is_of_module =
            |p: &&Value| ["module-not-ready", "module-refused"].contains(&p["kind"].as_str().unwrap());
        let mut modules = Vec::new();
        for module in all.iter().filter(is_of_module).map(|p| p["module"].as_str().unwrap()) {
            if !modules.contains(&module) {
                modules.push(module);
            }
        }
        if all.first().is_some_and(|first| is_of_module(&first)) { modules } else { Vec::new() }
    }

    fn agrees_on_metrics(&self) {
        let value = |name: &str| -> f64 {
            let start = format!("clr_dkms_{name} ");
            let line = self.metrics.lines().find_map(|l| l.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("no {name}:\n{}", self.metrics)).parse().unwrap()
        };
        let is = |name: &str| value(name) > 0.5;
        let verdict = self.verdict();
        let hot: Vec<&str> = self
            .metrics
            .lines()
            .filter_map(|l| l.strip_prefix("clr_dkms_verdict{verdict=\"")?.strip_suffix("\"} 1"))
            .collect();
        assert_eq!(hot, [verdict]);
        assert_eq!(is("unsafe"), verdict == "unsafe");
        assert_eq!(is("may_reboot"), self.may_reboot() == Some(true));
        assert_eq!(is("reboot_pending"), verdict == "reboot-pending");
        assert_eq!(is("held_back"), verdict == "held");
        let family = |name: &str| -> BTreeSet<String> {
            let start = format!("clr_dkms_{name}{{");
            self.metrics.lines().filter(|l| l.starts_with(&start)).map(str::to_owned).collect()
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let modules: BTreeSet<String> = self
            .modules()
            .map(|m| {
                format!(
                    "clr_dkms_module_ok{{module=\"{}\",version=\"{}\",kernel=\"{}\",state=\"{}\",class=\"{}\"}} {}",
                    text(&m["name"]),
                    text(&m["version"]),
                    text(&m["kernel"]),
                    text(&m["state"]),
                    text(&m["class"]),
                    u8::from(m["state"] == "ok"),
                )
            })
            .collect();
        assert_eq!(family("module_ok"), modules);
        for kernel in self.json["kernels"].as_array().unwrap() {
            let release = text(&kernel["release"]);
            let ready = self.modules().filter(|m| m["kernel"] == kernel["release"] && m["state"] == "ok");
            assert_eq!(kernel["modules_ready"], ready.count(), "{release}");
            for count in ["modules_ready", "modules_needed"] {
                let line = format!("clr_dkms_{count}{{kernel=\"{release}\"}} {}", kernel[count]);
                assert!(family(count).contains(&line), "no {line}");
            }
            let info = format!(
                "clr_dkms_kernel_info{{kernel=\"{release}\",running=\"{}\",next_boot=\"{}\"}} 1",
                kernel["running"], kernel["next_boot"]
            );
            assert!(family("kernel_info").contains(&info), "no {info}");
            assert_eq!(kernel["next_boot"] == true, kernel["release"] == self.json["next_boot"]);
            assert_eq!(kernel["running"] == true, kernel["release"] == self.json["running"]);
            let row = self.row("Kernels", &release);
            for (role, word) in
                [("running", "running"), ("next_boot", "next boot"), ("held_back", "held back")]
            {
                assert_eq!(row.contains(word), kernel[role] == true, "{row}");
            }
            let ready = format!("{} of {}", kernel["modules_ready"], kernel["modules_needed"]);
            assert!(row.contains(&ready) || kernel["modules_needed"] == 0, "{row}");
        }
    }

    fn agrees_on_modules(&self) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        for module in self.modules() {
            let (state, id) = (text(&module["state"]), text(&module["id"]));
            let rows = catalog::find(&id);
            assert_eq!((rows.len(), rows[0].name), (1, state.as_str()), "{id}");
            assert_eq!(rows[0].next.is_none(), state == "ok", "{id}");
            let missed = module["missed"] == true;
            assert!(!(missed && self.code == 0), "{} with {module:#}", self.verdict());
            assert!(module["next_step"].is_string() || !missed, "{module:#}");
            assert!(module["next_step"].is_null() || state != "ok", "{module:#}");
            if let Some(problem) = module["problem"].as_str() {
                assert!(missed && self.json["problems"].as_array().unwrap().contains(&problem.into()));
            }
            let name = match text(&module["version"]).as_str() {
                "" => text(&module["name"]),
                version => format!("{}/{version}", text(&module["name"])),
            };
            let row = self.row("Modules", &name);
            assert!(row.contains(&state) && row.contains(&text(&module["class"])), "{row}");
            let is_reported = self.all.lines().any(|l| l.trim_start().starts_with(&id));
            // The first lines report an active run.
            assert_eq!(is_reported, !["ok", "building"].contains(&state.as_str()), "{id}:\n{}", self.all);
        }
    }
}
