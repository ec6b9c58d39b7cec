//! Reads a Makefile or Kbuild file of a module without running make. The result is only good for advice,
//! because only make can evaluate variables and conditions.

use std::collections::BTreeMap;

use crate::dkms::uname::asks_release;

/// An entry of `obj-m` or `obj-$(CONFIG_X)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KbuildObject {
    /// The module: the name of the file without `.o` and without its directory.
    pub name: String,
    /// The directory of its files, relative to the Makefile; empty for the same one.
    pub directory: String,
    /// The option that decides whether it is built.
    pub option: Option<String>,
    /// The line number, from 1.
    pub line: usize,
}

/// The findings in one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Makefile {
    /// The modules that it names.
    pub objects: Vec<KbuildObject>,
    /// Some of the names are given by a variable, a function or another file.
    pub is_partial: bool,
    /// Uses of `uname -r`: the line, and the variable that is assigned.
    pub running_kernel: Vec<(usize, Option<String>)>,
    /// The first line with `SUBDIRS=` and without `M=`.
    pub subdirs: Option<usize>,
    /// The variables that it assigns, each with the words of all assignments, because it is unknown which of
    /// them is effective.
    pub variables: BTreeMap<String, Vec<String>>,
    /// The text, without comments.
    text: String,
}

impl Makefile {
    /// Reads a file with any contents.
    pub fn read(bytes: &[u8]) -> Makefile {
        let text = String::from_utf8_lossy(bytes);
        let mut makefile = Makefile::default();
        let lines = logical_lines(&text);
        for (number, line) in &lines {
            makefile.text += line;
            makefile.text.push('\n');
            let words = line.split_ascii_whitespace().collect::<Vec<_>>();
            makefile.is_partial |= matches!(words.first(), Some(&("include" | "-include" | "sinclude")));
            let assigned = assignment(line);
            if asks_release(line) {
                makefile.running_kernel.push((*number, assigned.map(|(name, _)| name.to_owned())));
            }
            if words.iter().any(|w| w.starts_with("SUBDIRS=")) && !words.iter().any(|w| w.starts_with("M=")) {
                makefile.subdirs.get_or_insert(*number);
            }
            if let Some((name, value)) = assigned {
                let words = value.split_ascii_whitespace().map(str::to_owned);
                makefile.variables.entry(name.to_owned()).or_default().extend(words);
            }
        }
        for (number, line) in &lines {
            if let Some((name, value)) = assignment(line) {
                makefile.objects_of(*number, name, value);
            }
        }
        makefile
    }

    /// Whether the value of a variable is used.
    pub fn uses(&self, variable: &str) -> bool {
        [format!("$({variable})"), format!("${{{variable}}}")].iter().any(|use_| self.text.contains(use_))
    }

    /// Whether it sets an option, for itself or for a make that it calls.
    pub fn gives(&self, option: &str) -> bool {
        self.variables.contains_key(option) || self.text.contains(&format!("{option}="))
    }

    fn objects_of(&mut self, line: usize, name: &str, value: &str) {
        let Some(condition) = name.strip_prefix("obj-") else { return };
        let option = match condition {
            "m" => None,
            // Nothing of an external module is built in.
            "y" | "n" => return,
            other => match variable(other) {
                Some(option) if option.starts_with("CONFIG_") => Some(option.to_owned()),
                _ => {
                    self.is_partial = true;
                    return;
                }
            },
        };
        for word in value.split_ascii_whitespace().flat_map(|word| self.expanded(word)).collect::<Vec<_>>() {
            match word.strip_suffix(".o") {
                Some(object) if !object.contains('$') => {
                    let (directory, name) = object.rsplit_once('/').unwrap_or(("", object));
                    let (directory, name) = (directory.to_owned(), name.to_owned());
                    self.objects.push(KbuildObject { name, directory, option: option.clone(), line });
                }
                // A subdirectory has its own file.
                None if word.ends_with('/') && !word.contains('$') => {}
                _ => self.is_partial = true,
            }
        }
    }

    /// A word with the variables that the file itself sets, expanded one level deep.
    fn expanded(&self, word: &str) -> Vec<String> {
        if let Some(words) = variable(word).and_then(|name| self.variables.get(name)) {
            return words.clone();
        }
        let mut word = word.to_owned();
        for (name, words) in &self.variables {
            if let [value] = words.as_slice() {
                word = word.replace(&format!("$({name})"), value).replace(&format!("${{{name}}}"), value);
            }
        }
        vec![word]
    }
}

/// The lines without comments. Lines that end with a backslash are joined. Each has the number of its first
/// line.
pub(crate) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (at, line) in text.lines().enumerate() {
        let (part, goes_on) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        let part = part.split_once('#').map_or(part, |(before, _)| before);
        match lines.last_mut().filter(|_| continues) {
            Some((_, last)) => {
                last.push(' ');
                last.push_str(part);
            }
            None => lines.push((at + 1, part.to_owned())),
        }
        continues = goes_on;
    }
    lines
}

/// `NAME = VALUE` with any operator of make; recipes are excluded.
pub(crate) fn assignment(line: &str) -> Option<(&str, &str)> {
    if line.starts_with('\t') && !line.trim_start().starts_with("obj-") {
        return None;
    }
    let (left, value) = line.split_once('=')?;
    let words = left.trim().trim_end_matches([':', '+', '?']);
    let name = words.trim().rsplit([' ', '\t']).next()?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.$(){}".contains(&b);
    let is_prefixed = words.split_ascii_whitespace().rev().skip(1).all(|w| w == "export" || w == "override");
    (!name.is_empty() && is_prefixed && name.bytes().all(is_plain)).then_some((name, value))
}

/// `NAME` in `$(NAME)` and `${NAME}`.
fn variable(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("$(").and_then(|rest| rest.strip_suffix(')'));
    inner.or_else(|| text.strip_prefix("${")?.strip_suffix('}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let made = Makefile::read(text.as_bytes());
        let shown = |o: &KbuildObject| match &o.option {
            Some(option) => format!("{}:{} {option}", o.line, o.name),
            None => format!("{}:{}", o.line, o.name),
        };
        let partial = made.is_partial.then(|| "and more".to_owned());
        made.objects.iter().map(shown).chain(partial).collect()
    }

    #[test]
    fn modules_that_are_made() {
        for (text, expected) in [
            ("obj-m := hello.o\n", &["1:hello"][..]),
            ("# obj-m := no.o\nobj-m += a.o \\\n  sub/b-c.o # x.o\n", &["2:a", "2:b-c"]),
            ("obj-$(CONFIG_X) += x.o\nobj-${CONFIG_Y}=y.o\n", &["1:x CONFIG_X", "2:y CONFIG_Y"]),
            ("NAME := hi\nobj-m := $(NAME).o\n", &["2:hi"]),
            ("obj-m := $(NAME).o\nNAME=late\n", &["1:late"]),
            ("obj-m := $(ALL)\nALL := a.o b.o\nALL += c.o\n", &["1:a", "1:b", "1:c"]),
            ("obj-m := $(ALL)\nALL := a.o $(MORE)\n", &["1:a", "and more"]),
            ("obj-m := $(patsubst %.c,%.o,$(wildcard *.c))\n", &["and more"]),
            ("obj-$(KIND) := x.o\n", &["and more"]),
            ("include ../common.mk\nobj-m += a.o\n", &["2:a", "and more"]),
            ("obj-m += sub/\nobj-y += z.o\nx-objs := a.o\n", &[]),
            ("ifneq ($(KERNELRELEASE),)\n\tobj-m := in.o\nendif\n", &["2:in"]),
            ("all:\n\tmake obj-m=x.o\n", &[]),
        ] {
            assert_eq!(names(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_kernel_that_it_builds_for() {
        let text =
            "KVER ?= $(shell uname -r)\nall:\n\tmake -C /lib/modules/`uname -r`/build SUBDIRS=$(PWD)\n";
        let made = Makefile::read(text.as_bytes());
        assert_eq!(made.running_kernel, [(1, Some("KVER".to_owned())), (3, None)]);
        assert_eq!(made.subdirs, Some(3));
        assert_eq!(Makefile::read(b"x:\n\tmake SUBDIRS=. M=.\n# SUBDIRS=x uname -r\n").subdirs, None);
        let made = Makefile::read(b"export KDIR := /lib/modules/$(KVER)/build\n");
        assert!(made.uses("KVER") && !made.uses("KDIR"));
        assert!(Makefile::read(b"all:\n\tmake CONFIG_X=m\n").gives("CONFIG_X") && !made.gives("CONFIG_X"));
        assert_eq!(made.variables.len(), 1);
    }
}
