//! The schema of `clr-dkms status --json`, held against documents of each verdict and against the types that
//! write them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use boon::{Compiler, Schemas};
use clr_dkms::boot_decision::{NextBootSource, Reason, Ruling};
use clr_dkms::cmdline::Switch;
use clr_dkms::dkms::cause::{Cause, Phase};
use clr_dkms::dkms::first_error::ErrorKind;
use clr_dkms::dkms::proof::ProofSubject;
use clr_dkms::enforcement::LoadWord;
use clr_dkms::kernel::variant::Family;
use clr_dkms::report::catalog;
use clr_dkms::report::module::ModuleStanding;
use clr_dkms::report::render::metrics;
use clr_dkms::requirement::Importance;
use clr_dkms::sys::{Clock, Root, RootKind, Tools};
use clr_dkms::{config::Settings, context::Context};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};
use strum::VariantNames;

use crate::support::TestRoot;

mod roots;

/// The schema as it is installed.
pub(crate) fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/status.schema.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The same for us: what it does not name must not be there. A reader of documents of later versions has to
/// be more generous.
pub(crate) fn strict(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(|v| *v = strict(v.take()));
            if fields.get("type") == Some(&json!("object")) {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|v| *v = strict(v.take())),
        _ => {}
    }
    schema
}

/// What is wrong with documents, by their names.
pub(crate) fn faults<'d>(
    schema: &Value,
    of: &str,
    documents: impl IntoIterator<Item = (&'d str, &'d Value)>,
) -> String {
    let mut compiler = Compiler::new();
    compiler.enable_format_assertions();
    compiler.add_resource("status.schema.json", schema.clone()).unwrap();
    let mut schemas = Schemas::new();
    let index = compiler.compile(&format!("status.schema.json{of}"), &mut schemas).unwrap();
    let fault = |(name, document): (&str, &Value)| {
        schemas.validate(document, index).err().map(|e| format!("{name}: {e:#}\n"))
    };
    documents.into_iter().filter_map(fault).collect()
}

/// A fixture root, and what the program says of it.
struct Said {
    name: &'static str,
    code: i32,
    document: Value,
    /// Those of each module that it names.
    modules: Vec<Value>,
    /// Those of `--format prometheus`.
    metrics: String,
}

/// What is said of them; found out once for all tests.
fn said() -> &'static [Said] {
    static SAID: OnceLock<Vec<Said>> = OnceLock::new();
    SAID.get_or_init(|| {
        let mut said = Vec::new();
        for (name, root) in roots::all() {
            let lock = (name == "building").then(|| fs::File::open(root.at("run/clr-dkms.lock")).unwrap());
            if let Some(lock) = &lock {
                rustix::fs::flock(lock, FlockOperation::LockExclusive).unwrap();
            }
            let run = root.run("clr-dkms", &["status", "--json"]);
            let metrics = root.run("clr-dkms", &["status", "--format", "prometheus"]);
            assert_eq!(run.code, metrics.code, "{name}");
            assert_eq!(run.code, root.run("clr-dkms", &["check"]).code, "{name}");
            let document = run.json();
            let named = document["modules"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap());
            let of_one = |module| root.run("clr-dkms", &["status", module, "--json"]).json();
            let modules = named.collect::<BTreeSet<&str>>().into_iter().map(of_one).collect();
            said.push(Said { name, code: run.code, document, modules, metrics: metrics.stdout });
        }
        said
    })
}

fn documents() -> Vec<(&'static str, &'static Value)> {
    static FAILED: OnceLock<Vec<Value>> = OnceLock::new();
    // A build may have failed in each way.
    let failed = FAILED.get_or_init(|| {
        let of = |error: Value| {
            let mut document = said().iter().find(|s| s.name == "healthy").unwrap().document.clone();
            document["modules"][0]["error"] = error;
            document
        };
        crate::causes::errors().into_iter().map(of).collect()
    });
    let said = said().iter().map(|s| (s.name, &s.document));
    said.chain(failed.iter().map(|document| ("failed", document))).collect()
}

/// The golden documents that hold all of `fields`; times of files are of no clock of ours.
fn golden(fields: &[&str]) -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots");
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let documents = paths.filter(|path| path.extension().is_some_and(|e| e == "snap")).filter_map(|path| {
        let text = fs::read_to_string(&path).unwrap().replace("[time]", "2025-07-29T12:00:00Z");
        let document: Value = serde_json::from_str(text.splitn(3, "---\n").nth(2)?).ok()?;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        fields.iter().all(|f| document.get(f).is_some()).then_some((name, document))
    });
    documents.collect()
}

#[test]
fn every_document_is_as_the_schema_says() {
    assert_eq!(faults(&strict(schema()), "", documents()), "");
    let golden = golden(&["verdict", "kernels", "modules", "guard"]);
    assert!(golden.len() >= 7, "the golden files of status: {}", golden.len());
    assert_eq!(faults(&strict(schema()), "", golden.iter().map(|(name, d)| (name.as_str(), d))), "");
}

#[test]
fn the_guards_own_document_is_a_part_of_it() {
    let golden = golden(&["ruling", "because", "swupd"]);
    assert!(golden.len() >= 9, "the golden files of guard: {}", golden.len());
    let documents = golden.iter().map(|(name, d)| (name.as_str(), d));
    assert_eq!(faults(&strict(schema()), "#/$defs/guard", documents), "");
}

/// The documents of `status MODULE`, each with the name of its situation.
fn of_modules() -> impl Iterator<Item = (&'static str, &'static Value)> {
    said().iter().flat_map(|s| s.modules.iter().map(|document| (s.name, document)))
}

#[test]
fn the_document_of_one_module_is_a_part_of_it() {
    const OF_ONE: &str = "#/$defs/module_status";
    let strict = strict(schema());
    assert_eq!(faults(&strict, OF_ONE, of_modules()), "");
    let golden = golden(&["standing", "versions"]);
    assert!(golden.len() >= 2, "the golden files of status MODULE: {}", golden.len());
    assert_eq!(faults(&strict, OF_ONE, golden.iter().map(|(name, d)| (name.as_str(), d))), "");
    let standings: BTreeSet<&str> = of_modules().map(|(_, d)| d["standing"].as_str().unwrap()).collect();
    assert_eq!(standings, BTreeSet::from(["building", "missed", "ready", "unknown", "unsafe"]));
    let (_, held) = of_modules().find(|(name, _)| *name == "held").unwrap();
    let changes: [fn(&mut Value); 4] = [
        |d| d["new"] = json!(1),
        |d| d["kernels"][0]["new"] = json!(1),
        |d| d["versions"][0]["new"] = json!(1),
        |d| d["standing"] = json!("fine"),
    ];
    for change in changes {
        let mut document = held.clone();
        change(&mut document);
        assert_ne!(faults(&strict, OF_ONE, [("held", &document)]), "", "{document} is taken");
    }
    for field in held.as_object().unwrap().keys() {
        let mut document = held.clone();
        document.as_object_mut().unwrap().remove(field);
        assert_ne!(faults(&strict, OF_ONE, [("held", &document)]), "", "without {field} it is taken");
    }
}

#[test]
fn other_documents_are_refused() {
    let refuses = |what: &str, change: fn(&mut Value)| {
        let mut document = said().iter().find(|s| s.name == "held").unwrap().document.clone();
        assert_eq!(faults(&strict(schema()), "", [("held", &document)]), "");
        change(&mut document);
        assert_ne!(faults(&strict(schema()), "", [("held", &document)]), "", "{what} is taken");
    };
    refuses("an unknown field", |d| d["new"] = json!(1));
    refuses("one further below", |d| d["modules"][0]["new"] = json!(1));
    refuses("one in the guard's part", |d| d["guard"]["needs"][0]["new"] = json!(1));
    refuses("a word for a number", |d| d["kernels"][0]["modules_ready"] = json!("2"));
    refuses("null where something is always said", |d| d["summary"] = json!(null));
    refuses("a time that is none", |d| d["last_run"] = json!("yesterday"));
    refuses("a verdict that is none", |d| d["verdict"] = json!("fine"));
    refuses("a state that is none", |d| d["modules"][0]["state"] = json!("fine"));
    refuses("no bundle for a variant that has one", |d| {
        d["kernels"][0].as_object_mut().unwrap().remove("dkms_bundle");
    });
    for field in said().iter().find(|s| s.name == "held").unwrap().document.as_object().unwrap().keys() {
        let mut document = said()[0].document.clone();
        document.as_object_mut().unwrap().remove(field);
        assert_ne!(
            faults(&strict(schema()), "", [("x", &document)]),
            "",
            "a document without {field} is taken"
        );
    }
    // As a monitor should read it: what later versions add is not a fault.
    let mut later = said()[0].document.clone();
    later["new"] = json!(1);
    assert_eq!(faults(&schema(), "", [("later", &later)]), "");
}

/// Follows a document along its schema, and notes which properties say something.
pub(crate) fn cover<'s>(
    whole: &'s Value,
    mut schema: &'s Value,
    value: &Value,
    seen: &mut BTreeSet<*const Value>,
) {
    if let Some(reference) = schema["$ref"].as_str() {
        schema = whole.pointer(reference.trim_start_matches('#')).unwrap();
    }
    for alternative in schema["anyOf"].as_array().into_iter().flatten() {
        cover(whole, alternative, value, seen);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(there) = value.get(name).filter(|there| !there.is_null()) {
            seen.insert(std::ptr::from_ref(property));
            cover(whole, property, there, seen);
        }
    }
    for item in value.as_array().into_iter().flatten() {
        cover(whole, &schema["items"], item, seen);
    }
}

/// Every property below a schema, with the way to it.
pub(crate) fn properties<'s>(schema: &'s Value, way: &str, found: &mut Vec<(String, &'s Value)>) {
    for (name, part) in schema.as_object().into_iter().flatten() {
        // What is said of a property under a condition is said of the same property.
        if name == "allOf" {
            continue;
        }
        let way = format!("{way}/{name}");
        if way.ends_with(&format!("/properties/{name}")) {
            found.push((way.clone(), part));
        }
        properties(part, &way, found);
    }
    for part in schema.as_array().into_iter().flatten() {
        properties(part, way, found);
    }
}

#[test]
fn nothing_in_the_schema_is_stale_or_without_a_word() {
    let schema = schema();
    let mut seen = BTreeSet::new();
    for (_, document) in documents() {
        cover(&schema, &schema, document, &mut seen);
    }
    for (_, document) in of_modules() {
        cover(&schema, &schema["$defs"]["module_status"], document, &mut seen);
    }
    let mut all = Vec::new();
    properties(&schema, "", &mut all);
    assert!(all.len() > 80, "{}", all.len());
    let stale: Vec<&str> = all
        .iter()
        .filter(|(_, p)| !seen.contains(&std::ptr::from_ref(*p)))
        .map(|(w, _)| w.as_str())
        .collect();
    assert_eq!(stale, [""; 0], "properties that no document has");
    let shown = |property: &Value| {
        let target = property["$ref"].as_str().and_then(|r| schema.pointer(r.trim_start_matches('#')));
        property["description"].is_string() || target.is_some_and(|t| t["description"].is_string())
    };
    let mute: Vec<&str> = all.iter().filter(|(_, p)| !shown(p)).map(|(w, _)| w.as_str()).collect();
    assert_eq!(mute, [""; 0], "properties without a description");
}

/// The words of an enum. It does not compile when the type has a word that is not listed here.
macro_rules! words {
    ($type:ident: $($variant:ident)*) => {{
        fn all_are_listed(value: $type) {
            match value { $($type::$variant => ()),* }
        }
        [$($type::$variant),*].map(|value| { all_are_listed(value); json!(value) })
    }};
}

#[test]
fn the_words_are_those_of_the_program() {
    let schema = schema();
    let of = |way: &str| -> BTreeSet<String> {
        let at = way.replace(' ', "/properties/");
        let words = schema.pointer(&format!("/$defs/{at}/enum")).unwrap_or_else(|| panic!("{way}"));
        words.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let explained = |prefix: &str| -> BTreeSet<String> {
        catalog::all()
            .iter()
            .filter(|row| row.id.starts_with(prefix))
            .map(|row| row.name.to_owned())
            .collect()
    };
    assert_eq!(of("verdict"), explained("CD-0"));
    assert_eq!(of("state"), explained("CD-1"));
    let typed = |words: &[Value]| -> BTreeSet<String> {
        words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("class"), typed(&words!(Importance: Optional Wanted Critical)));
    assert_eq!(of("kernel family"), typed(&words!(Family: Native Lts Other)));
    assert_eq!(of("guard ruling"), typed(&words!(Ruling: Allow Defer)));
    assert_eq!(of("source"), typed(&words!(NextBootSource: Entry EfiVariable Remembered Expected)));
    assert_eq!(
        of("guard because"),
        typed(&words!(Reason: Proven Released Held Lacking Best Only Removed Unknown Trial))
    );
    let checks = words!(ProofSubject: Vermagic Symbols ModulesDep Dependencies Signature);
    assert_eq!(of("check check"), typed(&checks));
    let kinds = words!(ErrorKind: NoSpace NoMemory Disk Compiler Linker Modpost Objtool Patch MissingProgram Script Make Dkms Other);
    assert_eq!(of("error kind"), typed(&kinds));
    let phases = words!(Phase: Patch PreBuild Make PostBuild PreInstall Install PostInstall Other);
    assert_eq!(of("error phase"), typed(&phases));
    let standings = words!(ModuleStanding: Ready Building Missed Unsafe Unknown);
    assert_eq!(of("module_status standing"), typed(&standings));
    let words = |words: &[&str]| -> BTreeSet<String> { words.iter().map(|w| (*w).to_owned()).collect() };
    assert_eq!(of("error cause"), words(Cause::VARIANTS));
    assert_eq!(of("kernel sig_unenforce"), typed(&words!(Switch: On Off Unknown)));
    assert_eq!(of("outcome"), typed(&words!(LoadWord: Loads Taints Refused Unknown)));
}

#[test]
fn each_verdict_is_among_them_and_has_its_exit_code() {
    let found: BTreeSet<&str> = said().iter().map(|s| s.document["verdict"].as_str().unwrap()).collect();
    let all: BTreeSet<&str> =
        catalog::all().iter().filter(|row| row.id.starts_with("CD-0")).map(|row| row.name).collect();
    assert_eq!(found, all);
    for said in said() {
        // As Nagios and Icinga count: OK, WARNING, CRITICAL, UNKNOWN.
        let expected = match said.document["verdict"].as_str().unwrap() {
            "healthy" | "reboot-pending" | "not-applicable" => 0,
            "building" | "degraded" | "held" => 1,
            "unsafe" => 2,
            _ => 3,
        };
        assert_eq!(said.code, expected, "{}", said.name);
        let verdict = said.document["verdict"].as_str().unwrap();
        assert!(!all.contains(said.name) || said.name == verdict, "{}: {verdict}", said.name);
    }
}

/// Where tests/support/test-fleet.sh, which asks promtool, finds them.
fn kept(name: &str, metrics: &str) {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("metrics");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(format!("{}.prom", name.replace(' ', "-"))), metrics).unwrap();
}

#[test]
fn the_metrics_of_all_of_them_tell_the_same() {
    for said in said() {
        let verdict = said.document["verdict"].as_str().unwrap();
        let line = format!("clr_dkms_verdict{{verdict=\"{verdict}\"}} 1\n");
        assert!(said.metrics.contains(&line), "{}: {}", said.name, said.metrics);
        assert_eq!(
            said.metrics.matches("clr_dkms_verdict{").count(),
            catalog::all().iter().filter(|r| r.id < "CD-1").count()
        );
        kept(said.name, &said.metrics);
    }
}

/// No name that dkms takes has such characters; should one get through, the file must stay one.
#[test]
fn hostile_names_stay_within_their_quotes() {
    let root = TestRoot::held();
    let context = Context {
        root: Root::open(RootKind::LiveCopy, root.path()).unwrap(),
        tools: Tools::from_environment(),
        clock: Clock::from_environment(),
        settings: Settings::default(),
    };
    let mut document = clr_dkms::report::observation::observe(&context);
    let hostile = ["a\"} 1\n# TYPE x counter\nx 2", "back\\slash\\", "ü \u{1b}[31m\0\r\u{9b}", "\\n\\\"", ""];
    let module = document.modules[0].clone();
    let kernel = document.kernels[0].clone();
    for name in hostile {
        let (mut module, mut kernel) = (module.clone(), kernel.clone());
        (module.record.module.name, module.record.module.version, kernel.release) =
            (name.to_owned(), name.to_owned(), name.to_owned());
        document.modules.push(module);
        document.kernels.push(kernel);
    }
    let text = metrics::text(&document);
    let sample = regex::Regex::new(
        r#"^clr_dkms_[a-z_]+(\{([a-z_]+="([^"\\\p{Cc}]|\\[\\"n])*",?)+\})? -?[0-9]+$|^# (HELP|TYPE) clr_dkms_[a-z_]+ "#,
    );
    let sample = sample.unwrap();
    let wrong: Vec<&str> =
        text.split('\n').filter(|line| !line.is_empty() && !sample.is_match(line)).collect();
    assert_eq!(wrong, [""; 0]);
    kept("hostile names", &text);
}
