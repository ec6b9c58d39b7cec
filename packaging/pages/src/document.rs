//! clr-dkms-status(5): the document of `clr-dkms status --json`, field by field, generated from its schema.

use anyhow::Context;
use indexmap::IndexMap;
use roff::{Roff, bold, roman};
use serde::Deserialize;
use serde_json::Value;

use crate::manual::{begun, highlighted};

const SCHEMA: &str = include_str!("../../status.schema.json");

/// The part of JSON Schema that our schema uses. Properties keep the order of the document.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Schema {
    description: Option<String>,
    #[serde(rename = "$ref")]
    reference: Option<String>,
    #[serde(rename = "type")]
    kind: Value,
    format: Option<String>,
    #[serde(rename = "const")]
    only: Option<Value>,
    #[serde(rename = "enum")]
    words: Vec<Value>,
    #[serde(rename = "anyOf")]
    any_of: Vec<Schema>,
    required: Vec<String>,
    properties: IndexMap<String, Schema>,
    items: Option<Box<Schema>>,
    #[serde(rename = "$defs")]
    definitions: IndexMap<String, Schema>,
}

impl Schema {
    /// The referenced schema. A description of this one takes precedence.
    fn resolved(&self, whole: &Schema) -> anyhow::Result<Schema> {
        let Some(reference) = &self.reference else { return Ok(self.clone()) };
        let name = reference.trim_start_matches("#/$defs/");
        let mut found =
            whole.definitions.get(name).with_context(|| format!("there is no {reference}"))?.clone();
        if self.description.is_some() {
            found.description.clone_from(&self.description);
        }
        Ok(found)
    }

    /// The type of a value: `string or null`, `array of objects`, `one of allow, defer`.
    fn shape(&self, whole: &Schema) -> anyhow::Result<String> {
        let schema = self.resolved(whole)?;
        let mut shapes: Vec<String> = match &schema.kind {
            Value::String(kind) => vec![kind.clone()],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        if let (Some(items), Some(shape)) = (&schema.items, shapes.first_mut()) {
            *shape = format!("array of {}s", items.resolved(whole)?.kind.as_str().unwrap_or("value"));
        }
        if let (Some("date-time"), Some(shape)) = (schema.format.as_deref(), shapes.first_mut()) {
            "time".clone_into(shape);
        }
        shapes.extend(schema.only.iter().map(ToString::to_string));
        let word = |word: &Value| word.as_str().map_or_else(|| word.to_string(), str::to_owned);
        if !schema.words.is_empty() {
            let words: Vec<String> = schema.words.iter().map(word).collect();
            shapes.push(format!("one of {}", words.join(", ")));
        }
        for alternative in &schema.any_of {
            shapes.push(alternative.shape(whole)?);
        }
        Ok(shapes.join(" or "))
    }
}

/// The page, with its path below `/usr/share`.
///
/// # Errors
/// If the schema is invalid, or a field has no description.
pub(crate) fn page() -> anyhow::Result<(String, String)> {
    let whole: Schema = serde_json::from_str(SCHEMA)?;
    let mut roff = begun("clr-dkms-status", "5", "File Formats", "the JSON document of clr-dkms status");
    roff.control("SH", ["SYNOPSIS"]).text([bold("clr-dkms status --json")]).control("SH", ["DESCRIPTION"]);
    roff.text([roman(whole.description.as_deref().context("the schema has no description")?)]);
    roff.control("PP", []).text([roman(
        "Brackets after a name denote each value of an array, a dot denotes a field of an object. A field is \
         always present unless it is marked as optional.",
    )]);
    let mut explained = Vec::new();
    roff.control("SH", ["FIELDS"]);
    fields(&mut roff, &whole, &whole, "", &mut explained)?;
    roff.control("SH", ["EXAMPLES"]).control("EX", []);
    roff.text([roman("clr-dkms status --json | jq -r .verdict")]);
    roff.text([roman("clr-dkms status --json | jq '.modules[] | select(.state != \"ok\")'")]);
    roff.control("EE", []).control("SH", ["FILES"]);
    roff.control("TP", []).text([bold("/usr/share/clr-dkms/status.schema.json")]);
    roff.text([roman("The schema from which this page is generated (JSON Schema, draft 2020-12).")]);
    let also = "clr-dkms(8), clr-dkms-status(8), clr-dkms-guard(8), clr-dkms.conf(5), clr-dkms-states(7)";
    roff.control("SH", ["SEE ALSO"]).text([roman(also)]);
    Ok(("man/man5/clr-dkms-status.5".to_owned(), highlighted(&roff.to_roff())))
}

/// The fields of an object, each followed by its own fields. `explained` lists the definitions that were
/// explained before, and where.
fn fields(
    roff: &mut Roff,
    whole: &Schema,
    object: &Schema,
    way: &str,
    explained: &mut Vec<(String, String)>,
) -> anyhow::Result<()> {
    for (name, field) in &object.properties {
        let way = format!("{way}{name}");
        let resolved = field.resolved(whole)?;
        let optional = if object.required.contains(name) { "" } else { "optional " };
        roff.control("TP", []).text([bold(&way), roman(format!(" ({optional}{})", field.shape(whole)?))]);
        let said = resolved.description.as_deref().with_context(|| format!("{way} is not described"))?;
        let inner = resolved.items.as_deref().or(resolved.any_of.iter().find(|s| s.reference.is_some()));
        let inner = inner.unwrap_or(field);
        let below = if resolved.items.is_some() { format!("{way}[]") } else { way };
        let before = inner.reference.as_ref().and_then(|r| explained.iter().find(|(known, _)| known == r));
        let inside = inner.resolved(whole)?;
        if let (Some((_, place)), false) = (before, inside.properties.is_empty()) {
            roff.text([roman(format!("{said} Its fields are those of {place}."))]);
            continue;
        }
        roff.text([roman(said)]);
        explained.extend(inner.reference.iter().map(|r| (r.clone(), below.clone())));
        fields(roff, whole, &inside, &format!("{below}."), explained)?;
    }
    Ok(())
}
