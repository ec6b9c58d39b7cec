//! The schema of the documents of add, remove, export, import and setup, compared with documents of each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::schema::{cover, faults, properties, strict};
use crate::support::{B, TestRoot};
use crate::transfer::{Builder, import};
use crate::{add, add_side_files, setup};

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/modules.schema.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The documents of one verb.
type OfVerb = (&'static str, Vec<Value>);

fn adds() -> OfVerb {
    let system = add_side_files::system();
    system
        .device(add_side_files::CARD, "r8169")
        .interface("eth0", add_side_files::CARD, "", &[])
        .route("eth0");
    system.file("proc/modules", "r8169 16384 1 - Live 0x0000000000000000\n");
    let source = add_side_files::usual(&system);
    let side = |more: &[&str]| add_side_files::add(&system, &source, more).json();
    let mut found = vec![side(&["--dry-run", "--json"]), side(&["--yes", "--side-files", "--json"])];
    let blacklisted = side(&["--yes", "--side-files", "--force", "--json"]);
    found.extend([blacklisted, side(&["--yes", "--json"])]);
    let script = [("local.mk", "install:\n\techo other > /etc/modules-load.d/other.conf\n")];
    let source = add_side_files::source(&system, &script);
    found.push(add_side_files::add(&system, &source, &["--dry-run", "--json"]).json());
    for layout in ["template", "several-confs", "downloads", "guide"] {
        found.push(add::looked_at(&add::fixture(layout), &[]).1);
    }
    let root = add::system();
    root.file(&format!("usr/lib/modules/{B}/modules.builtin"), "kernel/drivers/hello.ko\n");
    root.behave("code=10; said='hello.c:1:5: error: no'");
    found.push(add::add(&root, &add::fixture("conf-at-top"), &["--yes", "--json"]).json());
    ("add", found)
}

fn removals() -> OfVerb {
    let root = TestRoot::guarded();
    root.directory("var/tmp").post_update();
    let of = |more: &[&str]| root.run("clr-dkms", &[&["remove", "hello", "--json"], more].concat()).json();
    ("remove", vec![of(&[]), of(&["--dry-run", "--force"]), of(&["--force"])])
}

fn transfers() -> [OfVerb; 2] {
    let builder = Builder::new();
    let file = builder.archive().display().to_string();
    let exported = builder.root.run("clr-dkms", &["export", "hello", &file, "--json"]).json();
    let target = builder.target();
    let unsigned = import(&target, &builder.archive(), &["--dry-run", "--json"]).json();
    let signed = builder.signed();
    let of = |more: &[&str]| import(&target, &signed, &[&["--json"], more].concat()).json();
    let imported = vec![unsigned, of(&["--dry-run"]), of(&["--yes"]), of(&["--yes"])];
    [("export", vec![exported]), ("import", imported)]
}

fn setups() -> OfVerb {
    let root = setup::bare();
    setup::with_swupd(&root);
    (
        "setup",
        [&["--dry-run", "--json"][..], &["--yes", "--json"]]
            .map(|more| setup::setup(&root, more).json())
            .into(),
    )
}

fn documents() -> Vec<OfVerb> {
    let [exports, imports] = transfers();
    vec![adds(), removals(), exports, imports, setups()]
}

/// The words of a field of the schema.
fn words(schema: &Value, way: &str) -> BTreeSet<String> {
    let list = schema.pointer(&format!("/$defs/{way}/enum")).unwrap().as_array().unwrap();
    list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

#[test]
fn every_document_is_as_the_schema_says_and_has_every_field() {
    let schema = schema();
    let strict = strict(schema.clone());
    let mut seen = BTreeSet::new();
    let documents = documents();
    for (verb, documents) in &documents {
        let of = format!("#/$defs/{verb}");
        assert_eq!(faults(&strict, &of, documents.iter().map(|document| (*verb, document))), "");
        for document in documents {
            cover(&schema, &schema["$defs"][verb], document, &mut seen);
            // The whole schema takes it too, and a reader ignores fields of later versions.
            let mut later = document.clone();
            later["new"] = json!(1);
            assert_eq!(faults(&schema, "", [(*verb, &later)]), "");
            assert_ne!(faults(&strict, &of, [(*verb, &later)]), "", "{verb}: a new field is taken");
        }
    }
    let mut all = Vec::new();
    properties(&schema, "", &mut all);
    assert!(all.len() > 80, "{}", all.len());
    let stale: Vec<&str> = all
        .iter()
        .filter(|(_, property)| !seen.contains(&std::ptr::from_ref(*property)))
        .map(|(way, _)| way.as_str())
        .collect();
    assert_eq!(stale, [""; 0], "properties that no document has");
    let is_described = |property: &Value| {
        let target = property["$ref"].as_str().and_then(|r| schema.pointer(r.trim_start_matches('#')));
        property["description"].is_string() || target.is_some_and(|t| t["description"].is_string())
    };
    let mute: Vec<&str> =
        all.iter().filter(|(_, property)| !is_described(property)).map(|(way, _)| way.as_str()).collect();
    assert_eq!(mute, [""; 0], "properties without a description");
    let results = documents.iter().flat_map(|(_, documents)| documents).flat_map(|document| {
        let archives = document["archives"].as_array().into_iter().flatten();
        let steps = std::iter::once(document).chain(archives).filter_map(|of| of["steps"].as_array());
        steps.flatten().map(|step| step["result"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    });
    assert_eq!(results.collect::<BTreeSet<String>>(), words(&schema, "step/properties/result"));
}
