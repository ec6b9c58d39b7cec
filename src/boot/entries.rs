//! The files of systemd-boot, also behind shim: `loader.conf`, `entries/*.conf`, and the EFI variables that
//! override them.
//!
//! Sources: loader.conf(5) and the source code of systemd-boot.

use super::counters::{has_counters, is_named};
use super::loader_interface::is_open;
use super::menu::{BootEntry, DefaultEntry, EntryPlace, Menu, MenuFault, SetBy, base_name, image_name};
use crate::sys::{FileError, Root, efi};

/// The directory of the entries, relative to the top of the boot partition.
pub const ENTRIES: &str = "loader/entries";
/// The configuration, relative to the top of the boot partition.
pub const LOADER: &str = "loader/loader.conf";

/// The EFI variables that select an entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Variables {
    /// `LoaderEntryOneShot`: the entry of the next boot only.
    pub one_shot: Option<String>,
    /// `LoaderEntryDefault`: the entry of every boot. It overrides `loader.conf`.
    pub default: Option<String>,
}

impl Variables {
    /// Reads the variables.
    ///
    /// # Errors
    ///
    /// If a variable exists and cannot be read.
    pub fn read(root: &Root) -> Result<Variables, FileError> {
        let read = |name| efi::text(root, name, efi::LOADER);
        Ok(Variables { one_shot: read("LoaderEntryOneShot")?, default: read("LoaderEntryDefault")? })
    }
}

/// Reads the boot files. `variables` are None without firmware.
///
/// # Errors
///
/// If the entries or the configuration cannot be read: the default is unknown then.
pub(super) fn read(
    place: &EntryPlace,
    namespace: &str,
    variables: Option<&Variables>,
) -> Result<Menu, FileError> {
    let mut menu = Menu::default();
    let files = match place.list(ENTRIES) {
        Ok(files) => files,
        Err(e) if e.is_no_file() || e.is_absent() => {
            menu.problems.push(MenuFault::breaks(e.to_string(), None));
            Vec::new()
        }
        Err(e) => return Err(e),
    };
    for file in files.iter().filter_map(|f| f.text()).filter(|f| is_entry(f)) {
        let path = format!("{ENTRIES}/{file}");
        match place.read_small(&path) {
            // The boot loader ignores an empty entry; clr-boot-manager crashes on it.
            Ok(Some(text)) if text.is_empty() => {
                menu.problems.push(MenuFault::breaks(
                    format!("{} is empty", place.shown_path(&path)),
                    Some("delete it"),
                ));
            }
            Ok(Some(text)) => {
                let entry = parse(file, &text, namespace);
                // Another fault is reported of a copy.
                let is_ours = entry.id.is_some() && !entry.copy;
                let lost = files_of(&text).filter(|_| is_ours).find(|file| place.has_lost(file));
                menu.entries.push(BootEntry { lost: lost.map(|file| place.shown_path(&file)), ..entry });
            }
            Ok(None) => {}
            Err(e) if e.is_denied() => return Err(e),
            Err(e) if e.is_no_file() => menu.problems.push(MenuFault::breaks(e.to_string(), None)),
            Err(e) => {
                menu.problems.push(MenuFault::odd(e.to_string(), None));
                menu.unread.push(file.to_owned());
            }
        }
    }
    let configuration = place.configuration(LOADER, Some("delete it"))?.unwrap_or_else(|fault| {
        menu.problems.push(fault);
        None
    });
    let configured = configuration.as_deref().and_then(default_of);
    choose(&mut menu, configured.as_deref(), variables, &place.shown_path(LOADER));
    Ok(menu)
}

/// Whether the boot loader takes a file in the directory for an entry.
fn is_entry(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".conf") && !name.starts_with('.') && !name.starts_with("auto-")
}

/// The lines with a key and a value.
fn settings(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")).map(|line| {
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        (&line[..end], line[end..].trim_ascii())
    })
}

/// The files that an entry loads, relative to the top of the boot partition.
fn files_of(text: &[u8]) -> impl Iterator<Item = String> {
    let files = settings(text).filter(|(key, _)| matches!(*key, b"linux" | b"initrd"));
    files.map(|(_, path)| String::from_utf8_lossy(path).replace('\\', "/").trim_start_matches('/').to_owned())
}

/// Parses one entry. The last `linux` counts; all `options` are joined.
pub fn parse(file: &str, text: &[u8], namespace: &str) -> BootEntry {
    let (mut image, mut options, mut initrds) = (None, Vec::new(), Vec::new());
    for (key, value) in settings(text) {
        match key {
            b"linux" => image = Some(image_name(value)),
            b"initrd" => initrds.push(base_name(value)),
            b"options" => {
                if !options.is_empty() {
                    options.push(b' ');
                }
                options.extend(value);
            }
            _ => {}
        }
    }
    BootEntry::new(file, image, namespace, options).with_initrds(initrds)
}

/// The `default` of `loader.conf`. The last occurrence counts.
fn default_of(text: &[u8]) -> Option<String> {
    let values = settings(text).filter(|(key, value)| *key == b"default" && !value.is_empty());
    values.last().map(|(_, value)| String::from_utf8_lossy(value).into_owned())
}

/// What a name stands for among the entries.
#[derive(Debug, PartialEq, Eq)]
enum NamedEntry<'e> {
    /// This entry, by its exact name.
    Entry(&'e BootEntry),
    /// This entry, if the missing `.conf` is added.
    WithoutEnding(&'e BootEntry),
    /// A pattern, `@saved`, an entry that the boot loader generates, or one with boot counters: only the boot
    /// loader knows which entry it is.
    Open,
    /// No entry. The boot loader ignores the name.
    Nothing,
}

fn find<'e>(entries: &'e [BootEntry], name: &str) -> NamedEntry<'e> {
    if is_open(name) || name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("auto-")) {
        return NamedEntry::Open;
    }
    let known = |name: &str| entries.iter().find(|e| e.file.eq_ignore_ascii_case(name));
    // Whether counters are a part of the identifier depends on the version of the boot loader, which also
    // renames such an entry.
    let is_counted =
        |entry: &BootEntry| (has_counters(name) || has_counters(&entry.file)) && is_named(&entry.file, name);
    match (known(name), known(&format!("{name}.conf"))) {
        _ if entries.iter().any(is_counted) => NamedEntry::Open,
        (Some(entry), _) => NamedEntry::Entry(entry),
        (None, Some(entry)) => NamedEntry::WithoutEnding(entry),
        (None, None) => NamedEntry::Nothing,
    }
}

/// Determines the default: the first of `LoaderEntryOneShot`, `LoaderEntryDefault` and `loader.conf` that
/// names an entry. If none does, the boot loader uses an order that depends on its version.
fn choose(menu: &mut Menu, configured: Option<&str>, variables: Option<&Variables>, path: &str) {
    let one_shot = variables.and_then(|v| v.one_shot.as_deref());
    let persistent = variables.and_then(|v| v.default.as_deref());
    let mut decided = false;
    for (name, set_by) in [
        (one_shot, SetBy::LoaderEntryOneShot),
        (persistent, SetBy::LoaderEntryDefault),
        (configured, SetBy::LoaderConf),
    ] {
        let Some(name) = name else { continue };
        let source = if set_by == SetBy::LoaderConf { path.to_owned() } else { set_by.to_string() };
        // A file that cannot be read may be the entry of any kernel.
        let is_unread = menu.unread.iter().any(|file| is_named(file, name));
        let named = if is_unread { NamedEntry::Open } else { find(&menu.entries, name) };
        if !is_unread {
            menu.problems.extend(remark(&named, name, set_by, &source));
        }
        let (is_open, is_nothing) = (named == NamedEntry::Open, named == NamedEntry::Nothing);
        let entry = match named {
            NamedEntry::Entry(entry) | NamedEntry::WithoutEnding(entry) => {
                Some(DefaultEntry { entry: entry.file.clone(), id: entry.id.clone(), set_by })
            }
            NamedEntry::Open | NamedEntry::Nothing => None,
        };
        match set_by {
            SetBy::LoaderConf => menu.configured.clone_from(&entry),
            SetBy::LoaderEntryDefault => {
                let open = is_open.then(|| DefaultEntry { entry: name.to_owned(), id: None, set_by });
                menu.persistent = entry.clone().or(open);
            }
            _ => {}
        }
        if !decided {
            menu.default = entry;
        }
        decided |= !is_nothing;
    }
    if !decided && configured.is_none() && menu.entries.len() > 1 {
        let what = format!("{path} names no default: which entry boots is up to the boot loader");
        menu.problems.push(MenuFault::odd(what, None));
    }
}

/// The variable that decides, if only the boot loader knows which entry it selects.
pub(super) fn undecided(entries: &[BootEntry], variables: &Variables) -> Option<SetBy> {
    let named =
        |name: &Option<String>| name.as_deref().map_or(NamedEntry::Nothing, |name| find(entries, name));
    match (named(&variables.one_shot), named(&variables.default)) {
        (NamedEntry::Open, _) => Some(SetBy::LoaderEntryOneShot),
        (NamedEntry::Nothing, NamedEntry::Open) => Some(SetBy::LoaderEntryDefault),
        _ => None,
    }
}

/// A remark about a name that is configured as the default.
fn remark(named: &NamedEntry, name: &str, set_by: SetBy, source: &str) -> Option<MenuFault> {
    let once = set_by == SetBy::LoaderEntryOneShot;
    let take_back = set_by.taken_back_by().map(|command| format!("`{command}` takes it back"));
    Some(match (named, set_by) {
        (NamedEntry::Entry(_), SetBy::LoaderConf) => return None,
        (NamedEntry::Entry(entry) | NamedEntry::WithoutEnding(entry), _) if set_by != SetBy::LoaderConf => {
            let when =
                if once { "for the next boot only" } else { "for every boot, whatever loader.conf says" };
            let what = format!("{source} chooses {} {when}", entry.named());
            let fault = MenuFault::odd(what, take_back.as_deref());
            MenuFault { is_one_shot: once, ..fault }
        }
        // Since version 245 the suffix is a part of the name.
        (NamedEntry::Entry(entry) | NamedEntry::WithoutEnding(entry), _) => MenuFault::odd(
            format!(
                "the default of {source} is {name} without .conf, which systemd-boot ignores since version 245"
            ),
            Some(&format!("write `default {}` there", entry.file)),
        ),
        (NamedEntry::Open, SetBy::LoaderConf) => MenuFault::odd(
            format!("the default of {source} is {name}: only the boot loader knows which entry that is"),
            None,
        ),
        (NamedEntry::Open, _) => MenuFault::odd(
            format!("{source} chooses {name}: only the boot loader knows which entry that is"),
            take_back.as_deref(),
        ),
        // If the default names no entry, the boot loader chooses one itself.
        (NamedEntry::Nothing, SetBy::LoaderConf) => {
            MenuFault::breaks(format!("the default of {source} is {name}, which is not an entry"), None)
        }
        (NamedEntry::Nothing, _) => MenuFault::odd(
            format!("{source} names {name}, which is not an entry; the boot loader ignores it"),
            None,
        ),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const NS: &str = "org.clearlinux";

    #[test]
    fn an_entry() {
        let text = b"# linux /x\ninitrd /EFI/org.clearlinux/a\ninitrd \\EFI\\b\ntitle Clear Linux\nlinux /EFI/org.clearlinux/kernel-org.clearlinux.native.6.15.7-1591\n\
                     options root=PARTUUID=1 quiet  rw\r\noptions\tmore\n";
        let entry = parse("x.conf", text, NS);
        assert_eq!(entry.id.as_deref(), Some("org.clearlinux.native.6.15.7-1591"));
        assert_eq!(entry.initrds, ["a", "b"]);
        assert_eq!((entry.options.as_slice(), entry.copy), (&b"root=PARTUUID=1 quiet  rw more"[..], false));
    }

    #[test]
    fn the_kernel_is_read_off_the_linux_line() {
        for (line, id, copy) in [
            (
                "linux \\EFI\\org.clearlinux\\kernel-org.clearlinux.lts.6.1.1-2",
                Some("org.clearlinux.lts.6.1.1-2"),
                false,
            ),
            ("linux /org.clearlinux.lts.6.1.1-2", Some("org.clearlinux.lts.6.1.1-2"), false),
            ("linux /kernel-org.clearlinux.lts.6.1.1-2.bak", Some("org.clearlinux.lts.6.1.1-2"), true),
            ("linux /a\nlinux /kernel-org.clearlinux.lts.6.1.1-2", Some("org.clearlinux.lts.6.1.1-2"), false),
            ("linux /vmlinuz-linux", None, false),
            ("linux /kernel-com.solus-project.current.6.1.1-2", None, false),
            ("linux", None, false),
            ("efi /EFI/memtest/memtest.efi", None, false),
        ] {
            let entry = parse("x.conf", line.as_bytes(), NS);
            assert_eq!((entry.id.as_deref(), entry.copy), (id, copy), "{line}");
        }
    }

    fn menu() -> Menu {
        let entry = |file: &str, number: u32| {
            parse(file, format!("linux /kernel-{NS}.native.6.1.1-{number}").as_bytes(), NS)
        };
        Menu { entries: vec![entry("Clear-one.conf", 1), entry("Clear-two.conf", 2)], ..Menu::default() }
    }

    /// Messages, each with whether it is about a fault.
    type Shown = Vec<(String, bool)>;

    /// The default with its source, and messages.
    fn chosen(
        loader: &[u8],
        one_shot: Option<&str>,
        default: Option<&str>,
    ) -> (Option<(String, SetBy)>, Shown) {
        let mut menu = menu();
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let variables = Variables { one_shot: owned(one_shot), default: owned(default) };
        choose(&mut menu, default_of(loader).as_deref(), Some(&variables), "L");
        let shown = menu.problems.iter().map(|p| (p.to_string(), p.breaks)).collect();
        (menu.default.map(|d| (d.entry, d.set_by)), shown)
    }

    #[test]
    fn the_default() {
        use SetBy::{LoaderConf, LoaderEntryDefault, LoaderEntryOneShot};
        let (one, two) = ("Clear-one.conf", "Clear-two.conf");
        type Case<'a> = (&'a [u8], Option<&'a str>, Option<&'a str>, Option<(&'a str, SetBy)>, &'a [&'a str]);
        let table: [Case; 14] = [
            (b"timeout 5\ndefault Clear-one.conf\n", None, None, Some((one, LoaderConf)), &[]),
            (b"default CLEAR-ONE.CONF", None, None, Some((one, LoaderConf)), &[]),
            (b"default Clear-one.conf\ndefault Clear-two.conf", None, None, Some((two, LoaderConf)), &[]),
            (b"default Clear-one", None, None, Some((one, LoaderConf)), &["`default Clear-one.conf`"]),
            (b"default Clear-*", None, None, None, &["only the boot loader knows"]),
            (b"default @saved", None, None, None, &["only the boot loader knows"]),
            (b"default auto-windows", None, None, None, &["only the boot loader knows"]),
            (
                b"default Clear-three.conf",
                None,
                None,
                None,
                &["default of L is Clear-three.conf, which is not an entry"],
            ),
            (b"timeout 10\n", None, None, None, &["L names no default"]),
            (b"defaults Clear-one.conf", None, None, None, &["L names no default"]),
            (
                b"default Clear-one.conf",
                Some(two),
                None,
                Some((two, LoaderEntryOneShot)),
                &["for the next boot only"],
            ),
            (
                b"default Clear-one.conf",
                None,
                Some("clear-TWO.conf"),
                Some((two, LoaderEntryDefault)),
                &["every boot"],
            ),
            (
                b"default Clear-one.conf",
                Some("x"),
                Some("@saved"),
                None,
                &["x, which is not an entry", "@saved"],
            ),
            (
                b"default Clear-one.conf",
                Some("x"),
                None,
                Some((one, LoaderConf)),
                &["the boot loader ignores it"],
            ),
        ];
        for (loader, one_shot, default, expected, shown) in table {
            let case = format!("{} {one_shot:?} {default:?}", loader.escape_ascii());
            let (found, said) = chosen(loader, one_shot, default);
            assert_eq!(found, expected.map(|(name, by)| (name.to_owned(), by)), "{case}");
            assert_eq!(said.len(), shown.len(), "{case}: {said:?}");
            for ((said, breaks), shown) in said.iter().zip(shown) {
                assert!(said.contains(shown), "{case}: {said}");
                assert_eq!(*breaks, said.contains("of L is Clear-three"), "{case}: {said}");
            }
        }
    }

    #[test]
    fn files_that_are_entries() {
        for (name, yes) in [
            ("a.conf", true),
            ("A.CONF", true),
            (".a.conf", false),
            ("auto-x.conf", false),
            ("a.conf.bak", false),
        ] {
            assert_eq!(is_entry(name), yes, "{name}");
        }
    }

    #[test]
    fn the_default_with_boot_counters_is_up_to_the_version_of_the_boot_loader() {
        let file = "Clear-two+3-1.conf";
        for (name, is_open) in
            [("Clear-two.conf", true), (file, true), ("clear-TWO+2-2.conf", true), ("Clear-one.conf", false)]
        {
            let mut menu = menu();
            menu.entries[1].file = file.to_owned();
            choose(&mut menu, Some(name), None, "L");
            assert_eq!(menu.default.is_none(), is_open, "{name}");
            let said: String = menu.problems.iter().map(ToString::to_string).collect();
            assert_eq!(said.contains("only the boot loader knows"), is_open, "{name}: {said}");
            assert!(!menu.problems.iter().any(|p| p.breaks), "{name}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(text in proptest::collection::vec(any::<u8>(), 0..200), name in "\\PC{0,12}") {
            let mut menu = Menu { entries: vec![parse(&name, &text, NS)], ..Menu::default() };
            let variables = Variables { one_shot: Some(name.clone()), default: None };
            choose(&mut menu, default_of(&text).as_deref(), Some(&variables), "L");
        }
    }
}
