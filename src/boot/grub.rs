//! `grub.cfg`, as grub-mkconfig writes it with the script that clr-boot-manager installs in `/etc/grub.d`.
//!
//! The file is a script. Only its menu is read here, not what its commands do. The script of clr-boot-manager
//! passes each command line to `echo` inside of double quotes, so the file may differ from what was
//! configured. The contents of the file are what boots.

use super::menu::{BootEntry, DefaultEntry, EntryPlace, Menu, MenuFault, SetBy, base_name, image_name};
use crate::sys::FileError;

/// The configuration, relative to the top of the boot partition.
pub const CONFIGURATION: &str = "grub/grub.cfg";
/// The variables that GRUB keeps between boots.
const ENVIRONMENT: &str = "grub/grubenv";
/// How many nested menus are followed.
const DEPTH: usize = 16;

/// Reads the boot files.
///
/// # Errors
///
/// If they cannot be read.
pub(super) fn read(place: &EntryPlace, namespace: &str) -> Result<Menu, FileError> {
    let text = match place.configuration(CONFIGURATION, None)? {
        Ok(text) => text.unwrap_or_default(),
        Err(fault) => return Ok(Menu { problems: vec![fault], ..Menu::default() }),
    };
    let (environment, unreadable) = match place.read(ENVIRONMENT) {
        Ok(text) => (text.unwrap_or_default(), None),
        Err(e) if e.is_no_file() => (Vec::new(), Some(MenuFault::odd(e.to_string(), None))),
        // The file may name another default.
        Err(e) => return Err(e),
    };
    let mut menu = parse(&text, &environment, namespace, &place.shown_path(CONFIGURATION));
    menu.problems.extend(unreadable);
    Ok(menu)
}

/// An item of the menu: its title, its `--id`, and the entry or the items below it.
#[derive(Debug)]
struct Item {
    title: String,
    id: Option<String>,
    /// The number of the entry. None for a submenu.
    entry: Option<usize>,
    below: Vec<Item>,
}

/// Parses the file at `path`, and `grubenv`.
pub fn parse(text: &[u8], environment: &[u8], namespace: &str, path: &str) -> Menu {
    let mut menu = Menu::default();
    // The open blocks: a submenu or an entry with its items, or None for a function.
    let mut open: Vec<Option<Item>> = Vec::new();
    let mut items: Vec<Item> = Vec::new();
    let mut assigned = None;
    for line in text.split(|b| *b == b'\n') {
        let words = words(line);
        let word = |at: usize| words.get(at).map_or(&b""[..], |w| w.text.as_slice());
        let opens = words.len() > 1 && words.last().is_some_and(|w| w.text == b"{");
        match word(0) {
            b"menuentry" | b"submenu" if opens && open.len() < DEPTH => {
                let title = String::from_utf8_lossy(word(1)).into_owned();
                let marks = |w: &GrubWord| w.text == b"--id" || w.text.starts_with(b"$menuentry_id_option");
                let id =
                    words.iter().position(marks).map(|at| String::from_utf8_lossy(word(at + 1)).into_owned());
                let entry = (word(0) == b"menuentry").then(|| {
                    menu.entries.push(BootEntry::new(&title, None, namespace, Vec::new()));
                    menu.entries.len() - 1
                });
                open.push(Some(Item { title, id, entry, below: Vec::new() }));
            }
            b"}" => {
                if let Some(Some(item)) = open.pop() {
                    let above = open.iter_mut().rev().find_map(Option::as_mut);
                    above.map_or(&mut items, |above| &mut above.below).push(item);
                }
            }
            b"linux" | b"linux16" | b"linuxefi" => {
                let current = open.iter().rev().flatten().next().and_then(|item| item.entry);
                if let (Some(at), Some(file)) = (current, words.get(1)) {
                    let title = menu.entries[at].file.clone();
                    let options = line[file.end..].trim_ascii().to_vec();
                    menu.entries[at] =
                        BootEntry::new(&title, Some(image_name(&file.text)), namespace, options);
                }
            }
            b"initrd" | b"initrd16" | b"initrdefi" => {
                let current = open.iter().rev().flatten().next().and_then(|item| item.entry);
                if let Some(entry) = current.map(|at| &mut menu.entries[at]) {
                    entry.initrds.extend(words[1..].iter().map(|file| base_name(&file.text)));
                }
            }
            b"set" if word(1).starts_with(b"default=") => {
                let value = String::from_utf8_lossy(&word(1)[8..]).into_owned();
                // grub-mkconfig reads the entry of the next boot first, then the configured one.
                if value != "${next_entry}" {
                    assigned = Some(value);
                }
            }
            _ if opens => open.push(None),
            _ => {}
        }
    }
    choose(&mut menu, &items, assigned.as_deref(), environment, path);
    menu
}

/// Determines the default. Without a configured one GRUB boots the first item.
fn choose(menu: &mut Menu, items: &[Item], assigned: Option<&str>, environment: &[u8], path: &str) {
    let kept = |name: &str| {
        let lines = environment.split(|b| *b == b'\n');
        let mut values = lines.filter_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        values.next_back().map(|v| String::from_utf8_lossy(v).into_owned()).filter(|v| !v.is_empty())
    };
    let next = kept("next_entry");
    let (wanted, set_by) = match (next, assigned) {
        (Some(next), _) => (next, SetBy::GrubNextEntry),
        (None, Some("${saved_entry}")) => {
            (kept("saved_entry").unwrap_or_else(|| "0".to_owned()), SetBy::GrubSavedEntry)
        }
        (None, assigned) => (assigned.unwrap_or("0").to_owned(), SetBy::GrubDefault),
    };
    match find(items, &wanted) {
        Some(at) => {
            let entry = &menu.entries[at];
            if set_by == SetBy::GrubNextEntry {
                let what = format!("next_entry of grubenv chooses {} for the next boot only", entry.named());
                menu.problems.push(MenuFault::odd(what, None));
            }
            menu.default = Some(DefaultEntry { entry: entry.file.clone(), id: entry.id.clone(), set_by });
        }
        None if menu.entries.is_empty() => {}
        None => {
            let what =
                format!("the default of {path} is {wanted}: only the boot loader knows which entry that is");
            menu.problems.push(MenuFault::odd(what, None));
        }
    }
}

/// The entry that a number (from 0), a title or an id selects. `>` selects an item of a submenu.
fn find(items: &[Item], wanted: &str) -> Option<usize> {
    // A title may contain `>`.
    let whole = items.iter().find(|i| i.title == wanted || i.id.as_deref() == Some(wanted));
    if let Some(entry) = whole.and_then(|i| i.entry) {
        return Some(entry);
    }
    let (first, rest) = wanted.split_once('>').map_or((wanted, None), |(first, rest)| (first, Some(rest)));
    // What is not a number is a title or an id.
    let numbered = first.parse::<usize>().ok().and_then(|at| items.get(at));
    let item =
        numbered.or_else(|| items.iter().find(|i| i.title == first || i.id.as_deref() == Some(first)))?;
    match rest {
        Some(rest) => find(&item.below, rest),
        // A submenu opens, and its first item boots.
        None => item.entry.or_else(|| find(&item.below, "0")),
    }
}

/// A word of a line, without its quotes.
#[derive(Debug)]
struct GrubWord {
    text: Vec<u8>,
    /// The position after the word.
    end: usize,
}

/// The words of a line, with the quoting of a shell. A comment has none.
fn words(line: &[u8]) -> Vec<GrubWord> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        at += line[at..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        if at >= line.len() || (words.is_empty() && line[at] == b'#') {
            return words;
        }
        let (mut text, mut quote) = (Vec::new(), None);
        while let Some(byte) = line.get(at) {
            match (quote, byte) {
                (None, b) if b.is_ascii_whitespace() => break,
                (None, b'\'' | b'"') => quote = Some(*byte),
                (Some(open), b) if open == *b => quote = None,
                (None | Some(b'"'), b'\\') => {
                    at += 1;
                    text.extend(line.get(at));
                }
                (_, b) => text.push(*b),
            }
            at += 1;
        }
        at = at.min(line.len());
        words.push(GrubWord { text, end: at });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const NS: &str = "org.clearlinux";

    fn entry(tab: &str, release: &str, image: &str, line: &str) -> String {
        format!(
            "{tab}menuentry 'Clear Linux OS ({release})' --class clear-linux-os --class os $menuentry_id_option \
             'clear-linux-os-{release}' {{\n{tab}\tload_video\n{tab}\tinsmod gzio\n{tab}\tif [ x$feature = xy ]; then\n\
             {tab}\t  search --no-floppy --fs-uuid --set=root 1\n{tab}\tfi\n{tab}\techo 'Loading Clear Linux OS ...'\n\
             {tab}\tlinux /boot/{image} root=UUID=1 {line}\n{tab}\tinitrd /boot/initrd\n{tab}}}\n"
        )
    }

    /// A file as grub-mkconfig writes it with clr-boot-manager's script, between parts of others.
    fn file(default: &str) -> String {
        let new = entry("", "6.15.8-1592.native", "org.clearlinux.native.6.15.8-1592", "quiet  rw ");
        let old = entry("\t", "6.15.7-1591.native", "org.clearlinux.native.6.15.7-1591", "quiet");
        let other = entry("", "6.1.0-9-amd64", "vmlinuz-6.1.0-9-amd64", "ro");
        format!(
            "if [ -s $prefix/grubenv ]; then\n  load_env\nfi\nif [ \"${{next_entry}}\" ] ; then\n   \
             set default=\"${{next_entry}}\"\n   set next_entry=\nelse\n   set default=\"{default}\"\nfi\n\
             function savedefault {{\n  if [ -z \"${{boot_once}}\" ]; then\n    save_env saved_entry\n  fi\n}}\n{new}\
             submenu 'Clear Linux OS (alternative boot entries)' $menuentry_id_option 'org.clearlinux-cbm-submenu' {{\n\
             {old}}}\n### 30_os-prober ###\n# menuentry 'no' {{\n{other}"
        )
    }

    fn default(default: &str, environment: &str) -> Option<(String, SetBy)> {
        let menu = parse(file(default).as_bytes(), environment.as_bytes(), NS, "P");
        menu.default.map(|d| (d.id.unwrap_or(d.entry), d.set_by))
    }

    #[test]
    fn clr_boot_managers_entries() {
        let menu = parse(file("0").as_bytes(), b"", NS, "P");
        let found: Vec<_> = menu.entries.iter().map(|e| (e.id.as_deref(), e.options.as_slice())).collect();
        assert_eq!(
            found,
            [
                (Some("org.clearlinux.native.6.15.8-1592"), &b"root=UUID=1 quiet  rw"[..]),
                (Some("org.clearlinux.native.6.15.7-1591"), b"root=UUID=1 quiet"),
                (None, b"root=UUID=1 ro"),
            ]
        );
        assert_eq!(menu.entries[0].initrds, ["initrd"]);
        assert_eq!(menu.entries[0].file, "Clear Linux OS (6.15.8-1592.native)");
        assert_eq!(menu.problems, []);
    }

    #[test]
    fn the_default() {
        use SetBy::{GrubDefault, GrubNextEntry, GrubSavedEntry};
        let (old, new) = ("org.clearlinux.native.6.15.7-1591", "org.clearlinux.native.6.15.8-1592");
        let by_id = "org.clearlinux-cbm-submenu>clear-linux-os-6.15.7-1591.native";
        for (value, environment, expected) in [
            ("0", "", Some((new, GrubDefault))),
            ("1", "", Some((old, GrubDefault))),
            ("1>0", "", Some((old, GrubDefault))),
            (by_id, "", Some((old, GrubDefault))),
            ("Clear Linux OS (6.15.8-1592.native)", "", Some((new, GrubDefault))),
            ("2", "", Some(("Clear Linux OS (6.1.0-9-amd64)", GrubDefault))),
            ("7", "", None),
            ("1>7", "", None),
            ("gnulinux-simple", "", None),
            (
                "${saved_entry}",
                "# GRUB Environment Block\nsaved_entry=1>0\n####",
                Some((old, GrubSavedEntry)),
            ),
            ("${saved_entry}", "", Some((new, GrubSavedEntry))),
            ("0", "saved_entry=1>0\n", Some((new, GrubDefault))),
            ("0", "next_entry=1\n", Some((old, GrubNextEntry))),
            ("0", "next_entry=\n", Some((new, GrubDefault))),
        ] {
            let expected = expected.map(|(name, by)| (name.to_owned(), by));
            assert_eq!(default(value, environment), expected, "{value} {environment}");
        }
        let shown = |value: &str, environment: &str| {
            let menu = parse(file(value).as_bytes(), environment.as_bytes(), NS, "P");
            menu.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(shown("7", ""), "the default of P is 7: only the boot loader knows which entry that is");
        assert!(
            shown("0", "next_entry=1\n").starts_with(&format!("next_entry of grubenv chooses {old} (entry "))
        );
    }

    #[test]
    fn words_of_a_line() {
        let texts = |line: &str| -> Vec<String> {
            words(line.as_bytes()).iter().map(|w| String::from_utf8_lossy(&w.text).into_owned()).collect()
        };
        assert_eq!(texts("menuentry 'a b' \"c \\\" d\"e {"), ["menuentry", "a b", "c \" de", "{"]);
        assert_eq!(texts("  # menuentry"), [""; 0]);
        assert_eq!(texts("open 'for ever"), ["open", "for ever"]);
        assert_eq!(texts("a \\"), ["a", ""]);
    }

    proptest! {
        #[test]
        fn any_bytes(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse(&text, &text, NS, "P");
        }

        #[test]
        fn any_lines(text in "((menuentry|submenu|function|linux|set default=|[01>]|'|\"|\\\\| |x|\\{|\\}){0,5}\n){0,20}") {
            parse(text.as_bytes(), b"next_entry=1>0", NS, "P");
        }
    }
}
