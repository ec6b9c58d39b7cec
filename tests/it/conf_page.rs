//! The keys of the configuration are described in three places: by the parser, in the file of defaults, and
//! in its manual page.

use std::collections::BTreeMap;
use std::path::Path;

use clr_dkms::config::{self, Settings};

/// Section, key and default.
type Keys = BTreeMap<(String, String), String>;

/// What the parser says of a file, and the settings it makes of it.
fn parse(text: &str) -> (Settings, String) {
    let (mut settings, mut errors) = (Settings::default(), Vec::new());
    config::read(Path::new("x.conf"), text.as_bytes(), true, &mut settings, &mut errors);
    (settings, errors.iter().map(|e| format!("{e}\n")).collect())
}

/// What follows "known: " in its complaint.
fn known(text: &str) -> Vec<String> {
    let (_, complaint) = parse(text);
    let list = complaint.trim().split_once("known: ").expect("it says what is known").1;
    list.split(", ").map(str::to_owned).collect()
}

fn of_the_parser() -> Vec<(String, String)> {
    let mut keys: Vec<_> = known("[no-such-section]\nx = 1\n")
        .into_iter()
        .flat_map(|section| {
            let keys = known(&format!("[{section}]\nno-such-key = 1\n"));
            keys.into_iter().map(move |key| (section.clone(), key))
        })
        .collect();
    keys.sort();
    keys
}

fn of_the_defaults() -> Keys {
    let mut section = String::new();
    let mut keys = Keys::new();
    for line in include_str!("../../packaging/clr-dkms.conf").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.strip_prefix('#').and_then(|l| l.split_once('=')) {
            // A comment has a blank behind its sign.
            if !key.starts_with(' ') {
                keys.insert((section.clone(), key.trim().to_owned()), value.trim().to_owned());
            }
        }
    }
    keys
}

fn of_the_page() -> Keys {
    let mut section = String::new();
    let mut keys = Keys::new();
    for line in include_str!("../../man/clr-dkms.conf.5").lines() {
        if let Some(title) = line.strip_prefix(".SH ") {
            title.trim_matches(['"', '[', ']']).clone_into(&mut section);
        } else if let Some((key, value)) = line.strip_prefix(".BR ").and_then(|l| l.split_once(" \" =")) {
            let value = value.trim_end_matches('"').trim().to_owned();
            keys.insert((section.clone(), key.to_owned()), value);
        }
    }
    keys
}

#[test]
fn the_page_and_the_defaults_have_the_keys_of_the_parser() {
    let parser = of_the_parser();
    assert!(parser.len() > 10, "{parser:?}");
    assert_eq!(of_the_defaults().into_keys().collect::<Vec<_>>(), parser);
    assert_eq!(of_the_page().into_keys().collect::<Vec<_>>(), parser);
}

#[test]
fn the_defaults_that_are_reported_are_those_of_the_parser() {
    for keys in [of_the_defaults(), of_the_page()] {
        for ((section, key), value) in keys {
            let (mut settings, errors) = parse(&format!("[{section}]\n{key} = {value}\n"));
            assert_eq!(errors, "", "[{section}] {key}");
            // Where a tool lies is only an example.
            settings.tools.clear();
            assert_eq!(settings, Settings::default(), "[{section}] {key} = {value}");
        }
    }
}
