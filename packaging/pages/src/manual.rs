//! The manual pages of section 8: one for each program, and one for each verb of `clr-dkms`.

use anyhow::{Context, ensure};
use clap::Command;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

/// The date of the last change to the pages. It is not the date of the build, so that builds are
/// reproducible.
const DATE: &str = "2026-11-22";

/// The exit codes of every program, in addition to its own.
const COMMON_EXITS: [(&str, &str); 5] = [
    ("64", "Wrong usage."),
    ("70", "Internal error."),
    ("75", "Another run is active, and did not end in time."),
    ("77", "No permission: changes to the system require root."),
    ("78", "Bad configuration."),
];

/// Texts for pages: what takes more than a screen of `--help`.
const GUIDES: [(&str, &str); 1] = [("clr-dkms-add", include_str!("add-guide.txt"))];

/// A path, its description, and the ends of the names of the pages that list it; an empty list means all
/// pages.
const FILES: [(&str, &str, &[&str]); 20] = [
    ("/etc/clr-dkms/clr-dkms.conf", "The configuration; see clr-dkms.conf(5).", &[]),
    (
        "/var/lib/clr-dkms/last-run.json",
        "The record of the last run: what was built and proven, with each file's size and hash.",
        &["dkms", "-status", "-post-update", "-rebuild", "-guard", "-forget", "-motd"],
    ),
    (
        "/var/log/clr-dkms/MODULE/VERSION/KERNEL.log",
        "The output of dkms and make in the last build; .log.1 to .log.4 are of earlier attempts.",
        &["dkms", "-status", "-post-update", "-rebuild", "-gc"],
    ),
    ("/var/lib/clr-dkms/before-update.json", "The kernels and modules before the update.", &["-pre-update"]),
    (
        "/var/lib/clr-dkms/boot-wishes.json",
        "What `clr-dkms hold` and `clr-dkms allow` requested: by whom, when and why.",
        &["-guard", "-hold", "-unhold", "-allow"],
    ),
    (
        "/var/lib/clr-dkms/trial.json",
        "The first boot of a new kernel: what must work in it, and what did not.",
        &["-guard", "-allow", "-post-update"],
    ),
    (
        "/var/lib/clr-dkms/added.json",
        "What `clr-dkms add` put on the machine, so that `clr-dkms remove` takes it back.",
        &["-add", "-remove"],
    ),
    (
        "/var/lib/clr-dkms/change.json",
        "The change of a module that is in progress; the next run completes or takes back what a killed one left.",
        &["-add", "-remove"],
    ),
    (
        "/run/swupd/config",
        "Keeps swupd from running clr-boot-manager before the modules are proven. clr-dkms owns only some of its \
         lines.",
        &["dkms", "-guard", "-post-update"],
    ),
    (
        "/etc/kernel/cmdline.d/clr-dkms.conf",
        "Sets module.sig_unenforce, if no bundle does.",
        &["-post-update", "-cmdline"],
    ),
    (
        "/usr/share/kernel/cmdline.d/clr-ignore-mod-sig.conf",
        "The vendor's fragment that sets module.sig_unenforce.",
        &["-cmdline", "-enforcement"],
    ),
    (
        "/run/motd.d/clr-dkms.motd",
        "The fragment of the message of the day.",
        &["dkms", "-motd", "-post-update"],
    ),
    (
        "/etc/clr-dkms/notify.d/*",
        "Programs that get the status as JSON on their standard input when the verdict changes; see clr-dkms.conf(5).",
        &["dkms", "-post-update", "-status"],
    ),
    (
        "/usr/share/clr-dkms/modules.schema.json",
        "A JSON Schema of what add, remove, export, import and setup print with --json.",
        &["-add", "-remove", "-export", "-import", "-setup"],
    ),
    (
        "/usr/share/clr-dkms/status.schema.json",
        "A JSON Schema of `clr-dkms status --json`; clr-dkms-status(5) is generated from it.",
        &["-status"],
    ),
    (
        "/run/clr-dkms/reboot-required",
        "Exists while a reboot is pending and safe.",
        &["dkms", "-post-update", "-status"],
    ),
    ("/run/clr-dkms/requested", "Exists while a run is requested that has not begun.", &["-wait"]),
    ("/etc/clr-dkms/motd.d/VERDICT", "An admin's own text for a verdict.", &["-motd"]),
    (
        "/var/lib/dkms, /usr/src",
        "The modules of DKMS, and their sources.",
        &["-rebuild", "-lint", "-gc", "-add", "-remove", "-post-update"],
    ),
    ("/usr/lib/kernel", "The installed kernels.", &["-guard", "-variant", "-gc", "-hold", "-allow"]),
];

/// Every page, by its path below `/usr/share`.
///
/// # Errors
/// If a program or a verb lacks a description, its exit codes or an example.
pub(crate) fn pages(programs: &[Command]) -> anyhow::Result<Vec<(String, String)>> {
    let mut commands: Vec<&Command> = Vec::new();
    for program in programs {
        commands.push(program);
        // The other programs have few and short verbs, which are part of the page of their program.
        if has_verb_pages(program) {
            commands.extend(verbs(program));
        }
    }
    let names: Vec<&str> = commands.iter().map(|c| name(c)).collect();
    commands
        .iter()
        .map(|command| {
            let text =
                page(command, &names).with_context(|| format!("the manual page of {}", name(command)))?;
            Ok((format!("man/man8/{}.8", name(command)), text))
        })
        .chain([states(), crate::document::page()])
        .collect()
}

/// clr-dkms-states(7): every verdict and every state of a module.
fn states() -> anyhow::Result<(String, String)> {
    let rows = clr_dkms::report::catalog::all();
    let what = "what the verdicts and states of clr-dkms mean";
    let mut roff = begun("clr-dkms-states", "7", "System Administration", what);
    roff.control("SH", ["SYNOPSIS"]).text([bold("clr-dkms explain"), roman(" [ID]")]);
    roff.control("SH", ["DESCRIPTION"]).text([roman(
        "Each verdict on a system, each state of a module on a kernel, and each class (the importance of a module for a \
         machine) has a stable id, a cause, and one next step. `clr-dkms status` shows the words, and \
         `clr-dkms explain` prints these explanations.",
    )]);
    for (title, prefix) in [
        ("VERDICTS", "CD-0"),
        ("STATES OF A MODULE", "CD-1"),
        ("CLASSES OF A MODULE", "CD-2"),
        ("OTHER PROBLEMS", "CD-3"),
    ] {
        roff.control("SH", [title]);
        for row in rows.iter().filter(|row| row.id.starts_with(prefix)) {
            roff.control("TP", []).text([bold(format!("{} {}", row.id, row.name))]);
            roff.text([roman(row.meaning)]).control("RS", []);
            roff.control("PP", []).text([roman(format!("Cause: {}", row.cause))]);
            if let Some(next) = &row.next {
                roff.control("PP", []).text([roman(format!("Next step: {next}."))]);
            }
            roff.control("RE", []);
        }
    }
    roff.control("SH", ["EXAMPLES"]).control("EX", []);
    roff.text([roman("clr-dkms explain CD-102")]).text([roman("clr-dkms explain build-failed")]);
    roff.control("EE", []).control("SH", ["FILES"]);
    roff.control("TP", []).text([bold("/etc/clr-dkms/motd.d/VERDICT")]);
    roff.text([roman("An admin's own text for a verdict, in the message of the day.")]);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("clr-dkms(8), clr-dkms-status(8), clr-dkms-explain(8)")]);
    Ok(("man/man7/clr-dkms-states.7".to_owned(), highlighted(&roff.to_roff())))
}

fn has_verb_pages(program: &Command) -> bool {
    program.get_name() == "clr-dkms"
}

/// The visible verbs, without `help`.
fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set())
}

/// `clr-dkms-status`
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command, names: &[&str]) -> anyhow::Result<String> {
    // One section for all options. Otherwise the headings of --help become sections.
    let plain = command
        .clone()
        .mut_args(|a| a.help_heading(None).hide_short_help(false))
        .override_usage(usage(command));
    let man = Man::new(plain)
        .title(name(command).to_uppercase())
        .section("8")
        .date(DATE)
        .source(format!("clr-dkms {}", env!("CARGO_PKG_VERSION")))
        .manual("System Administration");
    let (description, mut exits) = description(command)?;
    ensure!(command.get_about().is_some(), "it has no first line");

    let mut out = Vec::new();
    man.render_title(&mut out)?;
    let mut roff = Roff::new();
    // No hyphenation, because names of programs and pages are copied from the page.
    roff.control("nh", []).control("ad", ["l"]).to_writer(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    section("DESCRIPTION", &paragraphs(&description)).to_writer(&mut out)?;
    if verbs(command).next().is_some() {
        section("COMMANDS", &[]).to_writer(&mut out)?;
        for verb in verbs(command) {
            if has_verb_pages(command) {
                items(&[(verb.get_name(), &format!("{}. See {}(8).", about(verb), name(verb)))])
                    .to_writer(&mut out)?;
            } else {
                exits.extend(verb_in_page(verb, &mut out)?);
            }
        }
    }
    man.render_options_section(&mut out)?;
    for (title, lines) in more(command) {
        example(&title, &lines).to_writer(&mut out)?;
    }
    if let Some((_, text)) = GUIDES.iter().find(|(page, _)| *page == name(command)) {
        guide(text).to_writer(&mut out)?;
    }
    section("EXIT STATUS", &[]).to_writer(&mut out)?;
    ensure!(!exits.is_empty(), "it lacks \"Exit code 0:\"");
    for (of, codes) in &exits {
        let mut roff = Roff::new();
        if !of.is_empty() {
            roff.control("SS", [of.as_str()]);
        }
        roff.to_writer(&mut out)?;
        items(&codes.iter().map(|(code, what)| (code.as_str(), what.as_str())).collect::<Vec<_>>())
            .to_writer(&mut out)?;
    }
    if exits.len() > 1 {
        let mut roff = Roff::new();
        roff.control("SS", ["all"]).to_writer(&mut out)?;
    }
    let is_listed = |code: &str| exits.iter().flat_map(|(_, codes)| codes).any(|(own, _)| own == code);
    items(&COMMON_EXITS.into_iter().filter(|(code, _)| !is_listed(code)).collect::<Vec<_>>())
        .to_writer(&mut out)?;
    section("FILES", &[]).to_writer(&mut out)?;
    let files: Vec<(&str, &str)> = FILES
        .iter()
        .filter(|(.., who)| who.is_empty() || who.iter().any(|end| name(command).ends_with(end)))
        .map(|(path, what, _)| (*path, *what))
        .collect();
    items(&files).to_writer(&mut out)?;
    section("EXAMPLES", &[]).to_writer(&mut out)?;
    examples(command)?.to_writer(&mut out)?;
    section("SEE ALSO", &[see_also(command, names)]).to_writer(&mut out)?;
    // mandoc warns of a line break before and after an empty line.
    Ok(highlighted(&String::from_utf8(out)?.replace("\n.br\n\n.br\n", "\n.sp\n")))
}

/// The sections of a guide: titles in capital letters, paragraphs, and commands, which are indented.
fn guide(text: &str) -> Roff {
    let mut roff = Roff::new();
    let mut is_first = true;
    for block in text.split("\n\n").map(str::trim_end).filter(|block| !block.is_empty()) {
        if let Some(command) = block.strip_prefix("  ") {
            roff.control("PP", []).control("RS", []).control("EX", []).text([roman(command)]);
            roff.control("EE", []).control("RE", []);
        } else if block.chars().all(|c| c.is_ascii_uppercase() || c == ' ') {
            roff.control("SH", [block]);
        } else {
            if !is_first {
                roff.control("PP", []);
            }
            roff.text([roman(block)]);
        }
        is_first = block.chars().all(|c| c.is_ascii_uppercase() || c == ' ');
    }
    roff
}

/// The sections of `--help` after the examples: titles with a colon, each followed by literal lines.
fn more(command: &Command) -> Vec<(String, Vec<String>)> {
    let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let mut parts: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_suffix(':').filter(|title| !title.starts_with(' ')), parts.last_mut()) {
            (Some(title), _) => parts.push((title.replace('"', "").to_uppercase(), Vec::new())),
            (None, Some((_, lines))) => lines.push(line.strip_prefix("  ").unwrap_or(line).to_owned()),
            (None, None) => {}
        }
    }
    parts.retain(|(title, _)| title != "EXAMPLES");
    parts
}

fn example(title: &str, lines: &[String]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]).control("EX", []);
    let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    for line in &lines[..end] {
        match line.as_str() {
            "" => roff.control("sp", []),
            line => roff.text([roman(line)]),
        };
    }
    roff.control("EE", []);
    roff
}

/// A verb as a part of its program's page. Returns its exit codes, for the common list.
fn verb_in_page(verb: &Command, out: &mut Vec<u8>) -> anyhow::Result<Option<Exits>> {
    let (description, exits) = description(verb)?;
    let mut roff = Roff::new();
    roff.control("SS", [verb.get_name()]).text([roman(format!("{}.", about(verb)))]);
    for text in paragraphs(&description).iter().filter(|text| **text != format!("{}.", about(verb))) {
        roff.control("PP", []).text([roman(text)]);
    }
    roff.to_writer(out)?;
    // Options that all verbs share are listed once, for the program.
    let own = verb.clone().mut_args(|argument| {
        let hide = argument.is_global_set() || argument.get_id() == "help";
        argument.hide(hide)
    });
    let mut options = Vec::new();
    Man::new(own).render_options_section(&mut options)?;
    let options = String::from_utf8(options)?;
    out.extend(options.replace(".SH OPTIONS\n", "").into_bytes());
    Ok(exits.into_iter().next().map(|(_, codes)| (verb.get_name().to_owned(), codes)))
}

/// The name of a verb, or an empty text for the program; and each code with its meaning.
type Exits = (String, Vec<(String, String)>);

/// The description, and the exit codes in it: `Exit code 0: all is there; 1: something is not.`
fn description(command: &Command) -> anyhow::Result<(String, Vec<Exits>)> {
    let text = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string);
    let text = text.context("it has no description")?;
    let about = about(command);
    // The first line is in the NAME section.
    let text = text.strip_prefix(&about).unwrap_or(&text).trim_start_matches('.').trim().to_owned();
    let (before, codes) = match text.split_once("Exit code 0: ") {
        Some((before, codes)) => (before.trim().to_owned(), codes),
        None => return Ok((if text.is_empty() { about + "." } else { text }, Vec::new())),
    };
    let (codes, after) = codes.split_once("\n\n").unwrap_or((codes, ""));
    let mut found = vec![("0".to_owned(), String::new())];
    for part in codes.trim().trim_end_matches('.').split("; ") {
        let next = part.split_once(": ").filter(|(code, _)| code.bytes().all(|b| b.is_ascii_digit()));
        match (next, found.last_mut()) {
            (Some((code, what)), _) => found.push((code.to_owned(), what.to_owned())),
            (None, Some((_, what))) if what.is_empty() => part.clone_into(what),
            (None, Some((_, what))) => *what = format!("{what}; {part}"),
            (None, None) => {}
        }
    }
    for (_, what) in &mut found {
        *what = sentence(what);
    }
    let rest = format!("{before}\n\n{after}");
    let rest = if rest.trim().is_empty() { about + "." } else { rest.trim().to_owned() };
    Ok((rest, vec![(String::new(), found)]))
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    usage.trim_start_matches("Usage:").trim().to_owned()
}

fn paragraphs(text: &str) -> Vec<String> {
    text.split("\n\n").map(|p| p.replace('\n', " ")).filter(|p| !p.trim().is_empty()).collect()
}

/// A page that is not made from a command, up to its name.
pub(crate) fn begun(name: &str, section: &str, group: &str, what: &str) -> Roff {
    let mut roff = Roff::new();
    let version = format!("clr-dkms {}", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [name.to_uppercase().as_str(), section, DATE, &version, group]);
    roff.control("nh", []).control("ad", ["l"]);
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {what}"))]);
    roff
}

fn section(title: &str, paragraphs: &[String]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (at, text) in paragraphs.iter().enumerate() {
        if at > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(text)]);
    }
    roff
}

fn items(items: &[(&str, &str)]) -> Roff {
    let mut roff = Roff::new();
    for (term, what) in items {
        roff.control("TP", []).text([bold(*term)]).text([roman(*what)]);
    }
    roff
}

fn examples(command: &Command) -> anyhow::Result<Roff> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = text.strip_prefix("Examples:\n").context("it has no examples")?;
    let mut roff = Roff::new();
    roff.control("EX", []);
    for line in lines.lines() {
        roff.text([roman(line.trim_start())]);
    }
    roff.control("EE", []);
    Ok(roff)
}

/// The page of the program lists all pages; every other page lists only that of the program.
fn see_also(command: &Command, names: &[&str]) -> String {
    let own = name(command);
    let mut pages: Vec<String> = names
        .iter()
        .filter(|n| **n != own && (own == "clr-dkms" || **n == "clr-dkms"))
        .map(|n| format!("{n}(8)"))
        .collect();
    pages.extend(
        [
            "clr-dkms.conf(5)",
            "clr-dkms-files(5)",
            "clr-dkms-status(5)",
            "clr-dkms-exit-codes(7)",
            "clr-dkms-states(7)",
            "clr-dkms-troubleshooting(7)",
            "clr-boot-manager(1)",
            "dkms(8)",
            "swupd(1)",
        ]
        .map(str::to_owned),
    );
    pages.join(", ")
}

/// Prints text between backquotes in bold, without the backquotes.
pub(crate) fn highlighted(page: &str) -> String {
    let mut out = String::new();
    for line in page.split_inclusive('\n') {
        let parts: Vec<&str> = line.split('`').collect();
        // An odd number of backquotes does not form pairs.
        if parts.len().is_multiple_of(2) {
            out.push_str(line);
            continue;
        }
        for (at, part) in parts.iter().enumerate() {
            match at % 2 {
                0 => out.push_str(part),
                _ => out.push_str(&format!("\\fB{part}\\fR")),
            }
        }
    }
    out
}
