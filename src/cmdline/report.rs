//! A report on one kernel's command line: each word with its origin, and configured words that are not on the
//! line, with the reason.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::merge::{CmdlineWord, Effect, Merged, WordOrigin, words_of};
use super::parameter::{KernelArguments, LINE_LIMIT, LINE_WARNING};
use super::sources::{ADMIN, CmdlineSources, Fragment, Mask};
use super::{PARAMETER, Switch, parameter};

/// Whether a configured word is on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WordState {
    /// It is on the line.
    Effective,
    /// A removal removed it.
    Removed,
    /// A removal removed a part of it. The rest is on the line as another word.
    PartRemoved,
    /// Its fragment is masked.
    Masked,
}

/// A word of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CmdlineWordReport {
    /// The word. Bytes that are not valid UTF-8 are replaced.
    pub word: String,
    pub state: WordState,
    /// The lines that it comes from.
    pub origins: Vec<WordOrigin>,
    /// What removes or masks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A fragment that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Masked {
    pub path: PathBuf,
    /// The file that masks it.
    pub by: PathBuf,
    /// How: `same-name` or `dev-null`.
    pub how: &'static str,
}

/// One line of a removal file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemovalReport {
    /// The line of the removal file.
    pub by: WordOrigin,
    pub text: String,
    /// `removed`, `part-removed` or `none`.
    pub effect: &'static str,
    /// What is left of the word, or why there was no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// One kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineReport {
    pub release: String,
    pub id: String,
    /// The line. Bytes that are not valid UTF-8 are replaced; `--raw` prints them.
    pub cmdline: String,
    /// The bytes of the line in hexadecimal, if they are not valid UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline_hex: Option<String>,
    /// `on`, `off` or `unknown`.
    pub sig_unenforce: Switch,
    /// The masked fragments, as sentences.
    pub masked: Vec<String>,
    /// The length of the line in bytes.
    pub length: usize,
    /// Every word that a file configures.
    pub words: Vec<CmdlineWordReport>,
    pub masks: Vec<Masked>,
    /// What the removal lines did.
    pub removals: Vec<RemovalReport>,
    /// What is unusual about the line.
    pub remarks: Vec<String>,
    /// Files that could not be read and that may be part of the line.
    pub unreadable: Vec<String>,
}

/// Composes the report.
pub fn report(release: &str, id: &str, sources: &CmdlineSources, merged: &Merged) -> LineReport {
    let switch: Switch = parameter::read_switch(&merged.line, PARAMETER);
    LineReport {
        release: release.to_owned(),
        id: id.to_owned(),
        cmdline: text(&merged.line),
        // The place of the byte makes no difference: readers get the whole line.
        cmdline_hex: std::str::from_utf8(&merged.line)
            .is_err()
            .then(|| merged.line.iter().map(|b| format!("{b:02x}")).collect()),
        sig_unenforce: switch,
        masked: all_fragments(sources).filter_map(masked_in_words).collect(),
        length: merged.line.len(),
        words: rows(sources, merged),
        masks: all_fragments(sources).filter_map(mask_of).collect(),
        removals: merged.removed.iter().map(removal).collect(),
        remarks: remarks(sources, merged),
        unreadable: sources.unreadable.iter().map(ToString::to_string).collect(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn all_fragments(sources: &CmdlineSources) -> impl Iterator<Item = &Fragment> {
    sources.vendor.iter().chain(&sources.local)
}

fn mask_of(fragment: &Fragment) -> Option<Masked> {
    let (by, how) = match fragment.mask.as_ref()? {
        Mask::SameName => (Path::new(super::sources::LOCAL).join(&fragment.name), "same-name"),
        Mask::DevNull => (PathBuf::from("/dev/null"), "dev-null"),
    };
    Some(Masked { path: fragment.path.clone(), by, how })
}

fn masked_in_words(fragment: &Fragment) -> Option<String> {
    let by = match fragment.mask.as_ref()? {
        Mask::SameName => "an entry of the same name in /etc/kernel/cmdline.d",
        Mask::DevNull => "a symlink to /dev/null",
    };
    Some(format!("{} by {by}", fragment.path.display()))
}

fn rows(sources: &CmdlineSources, merged: &Merged) -> Vec<CmdlineWordReport> {
    let row = |word: &CmdlineWord, state, by: Option<String>| CmdlineWordReport {
        word: text(&word.bytes),
        state,
        origins: word.origins.clone(),
        by,
    };
    let mut rows: Vec<CmdlineWordReport> =
        merged.words.iter().map(|w| row(w, WordState::Effective, None)).collect();
    for removed in &merged.removed {
        let (words, state) = match &removed.effect {
            Effect::Took(words) => (words, WordState::Removed),
            Effect::TookPart { of, .. } => (of, WordState::PartRemoved),
            Effect::NotThere | Effect::NotAtAnEnd => continue,
        };
        rows.extend(words.iter().map(|w| row(w, state, Some(removed.by.to_string()))));
    }
    for fragment in all_fragments(sources) {
        let Some(mask) = mask_of(fragment) else { continue };
        let words = words_of(&fragment.bytes, &fragment.path);
        rows.extend(words.iter().map(|w| row(w, WordState::Masked, Some(mask.by.display().to_string()))));
    }
    rows
}

fn removal(removed: &super::merge::Removed) -> RemovalReport {
    let (effect, detail) = match &removed.effect {
        Effect::Took(_) => ("removed", None),
        Effect::TookPart { left, .. } => ("part-removed", Some(format!("it left {} behind", text(left)))),
        Effect::NotThere => ("none", Some("it is not on the line".to_owned())),
        Effect::NotAtAnEnd => (
            "none",
            Some("its first occurrence is inside of a word; later occurrences are not tried".to_owned()),
        ),
    };
    RemovalReport { by: removed.by.clone(), text: text(&removed.text), effect, detail }
}

fn remarks(sources: &CmdlineSources, merged: &Merged) -> Vec<String> {
    let mut remarks = KernelArguments::read(&merged.line).remarks(PARAMETER);
    for origin in &merged.cut_at {
        let whose = if origin.path == sources.kernel_path { "of this file" } else { "of all fragments" };
        remarks.push(format!("a NUL byte in {origin} cuts off what follows it {whose}"));
    }
    if merged.line.len() > LINE_LIMIT {
        let length = merged.line.len();
        remarks.push(format!("the line has {length} bytes: the kernel cuts it at {LINE_LIMIT}"));
    } else if merged.line.len() > LINE_WARNING {
        let length = merged.line.len();
        remarks.push(format!(
            "the line has {length} bytes, and the boot loader adds some words: the kernel keeps {LINE_LIMIT}"
        ));
    }
    if sources.glob_blind {
        remarks.push(format!(
            "the root's path has a character of glob(7): below it clr-boot-manager finds no fragment and no \
             removal, only {ADMIN}"
        ));
    }
    remarks
}
