//! `clr-dkms explain`: what a verdict, a state or a class means, where it comes from, and what to do.

use clap::Args;
use serde::Serialize;

use super::{Common, answer};
use crate::exit::{self, ExitReason};
use crate::report::catalog::{self, Explained};
use crate::report::render::{broken, json, shown};

/// The arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// An id (CD-102) or a word of a screen (build-failed); the default is all of them
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct ExplainDocument {
    schema: u32,
    states: Vec<Explained>,
}

/// Runs `explain`.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(arguments: &ExplainArguments, common: &Common) -> anyhow::Result<u8> {
    let rows = if let Some(asked) = &arguments.id { catalog::find(asked) } else { catalog::all() };
    if let (true, Some(asked)) = (rows.is_empty(), &arguments.id) {
        let why = "is neither an id nor a word of a screen; `clr-dkms explain` lists them";
        return Err(ExitReason::unknown(format!("{} {why}", shown(asked))).into());
    }
    let text = match (arguments.json, &arguments.id) {
        (true, _) => json(&ExplainDocument { schema: 1, states: rows })?,
        (false, None) => rows.iter().map(short).collect(),
        (false, Some(_)) => rows.iter().map(whole).collect::<Vec<_>>().join("\n"),
    };
    answer(&text, common.color)?;
    Ok(exit::OK)
}

fn short(row: &Explained) -> String {
    let first = format!("{}  {:<19} ", row.id, row.name);
    broken(row.meaning, &first, &" ".repeat(first.len())).join("\n") + "\n"
}

fn whole(row: &Explained) -> String {
    let mut lines = vec![format!("{}: {}", row.id, row.name)];
    let mut part = |name: &str, text: &str| {
        let first = format!("  {name:<10} ");
        lines.extend(broken(text, &first, &" ".repeat(first.len())));
    };
    part("meaning", row.meaning);
    part("cause", row.cause);
    part("next step", row.next.as_deref().unwrap_or("none"));
    lines.join("\n") + "\n"
}
