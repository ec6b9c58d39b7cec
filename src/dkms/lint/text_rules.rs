//! Rules about how a value was computed: the answers of bash, and its trace.

use super::view::{ConfView, Hit, LintPlace};
use super::{LintSubject, Severity, for_some, grouped};
use crate::dkms::conf::{DIRECTIVES, EarlyEnd, Exclusion, RefusalKind, left_side};

/// Kernels for which bash gave no answer.
pub(super) fn no_answer(subject: &LintSubject<'_>) -> Vec<Hit> {
    let silent =
        subject.answers.iter().filter_map(|a| Some((a.evaluated.as_ref().err()?.clone(), a.release.clone())));
    let all = subject.answers.len();
    let hit = |(reason, kernels): (String, Vec<String>)| {
        Hit::new(LintPlace::Conf(0, None), reason + &for_some(&kernels, all))
    };
    grouped(silent).into_iter().map(hit).collect()
}

pub(super) fn not_text(subject: &LintSubject<'_>) -> Vec<Hit> {
    let line = |bytes: &[u8]| bytes.split(|b| *b == b'\n').position(|line| line.contains(&0));
    let texts = subject.texts.iter().enumerate().filter_map(|(at, text)| Some((at, line(&text.bytes)? + 1)));
    texts
        .map(|(at, line)| {
            Hit::new(LintPlace::Conf(at, Some(line)), "it holds a NUL byte: bash leaves it out")
        })
        .collect()
}

/// `DIRECTIVE = …`: bash runs a command with that name.
pub(super) fn blank_at_equals(view: &ConfView<'_>) -> Vec<Hit> {
    let commands = view.trace.commands().iter().filter_map(|command| {
        let (word, rest) = command.text.split_once(' ')?;
        let (directive, _, behind) = left_side(word.trim_matches('\''))?;
        let assigns = rest.starts_with('=') && !rest.starts_with("==");
        (behind.is_empty() && assigns && DIRECTIVES.contains(&directive)).then_some((command.at, directive))
    });
    let what =
        |directive| format!("a blank stands between {directive} and its =: bash takes it for a command");
    commands.map(|(at, directive)| Hit::new(view.at(Some(at)), what(directive))).collect()
}

/// A variable that nothing uses, with a name that differs from a directive in one or two letters.
pub(super) fn misspelled(view: &ConfView<'_>) -> Vec<Hit> {
    let is_used = |name: &str| {
        let used = [format!("${name}"), format!("${{{name}")];
        let holds = |text: &[u8]| used.iter().any(|u| memchr::memmem::find(text, u.as_bytes()).is_some());
        view.subject.texts.iter().any(|text| holds(&text.bytes))
    };
    let hits = view.trace.assignments().filter_map(|(at, assignment)| {
        let name = assignment.name;
        // Names of four or five letters are too similar to others.
        let is_candidate = name.len() > 6 && !DIRECTIVES.contains(&name) && !is_used(name);
        let near = |directive: &&&str| strsim::osa_distance(&name.to_ascii_uppercase(), directive) <= 2;
        let meant = DIRECTIVES.iter().filter(|_| is_candidate).find(near)?;
        let what = format!("{name} is not a directive of dkms, and is ignored: {meant} was probably meant");
        Some(Hit::new(view.at(Some(at)), what))
    });
    let mut hits: Vec<Hit> = hits.collect();
    hits.dedup();
    hits
}

/// `uname -r` in the file: the running kernel may differ from the target kernel.
pub(super) fn running_kernel(view: &ConfView<'_>) -> Vec<Hit> {
    let mut lines: Vec<_> =
        view.trace.commands().iter().filter(|command| command.text == "uname -r").map(|c| c.at).collect();
    lines.dedup();
    let what = "it asks for the kernel that runs, by `uname -r`, and not for the one that is built for";
    lines.into_iter().map(|at| Hit::new(view.at(Some(at)), what)).collect()
}

/// A file that ends early where another file sets all that dkms asks for.
pub(super) fn ends_early_unused(view: &ConfView<'_>) -> Vec<Hit> {
    if view.conf.refusals.iter().any(|refusal| refusal.kind == RefusalKind::EndsEarly) {
        return Vec::new();
    }
    let hit = |end: &EarlyEnd| {
        let file = view.answer.texts.get(end.file).copied().unwrap_or_default();
        Hit::new(LintPlace::Conf(file, end.line), format!("{end}: nothing that the file sets counts"))
    };
    view.conf.early.iter().map(hit).collect()
}

pub(super) fn unterminated_quote(view: &ConfView<'_>) -> Vec<Hit> {
    broken(view, true)
}

pub(super) fn syntax_error(view: &ConfView<'_>) -> Vec<Hit> {
    broken(view, false)
}

fn broken(view: &ConfView<'_>, by_quote: bool) -> Vec<Hit> {
    let Some(error) = view.conf.syntax.as_ref().filter(|error| error.quote.is_some() == by_quote) else {
        return Vec::new();
    };
    let conf = view.conf;
    let rest = [
        (conf.package_name.is_empty(), "PACKAGE_NAME"),
        (conf.package_version.is_empty(), "PACKAGE_VERSION"),
        (conf.records.iter().all(|r| r.location.is_empty()), "DEST_MODULE_LOCATION"),
        (conf.autoinstall_value.is_empty(), "AUTOINSTALL"),
    ];
    let rest: Vec<&str> = rest.iter().filter(|(gone, _)| *gone).map(|(_, name)| *name).collect();
    let rest = match rest.as_slice() {
        [] => "what follows does not count".to_owned(),
        gone => format!("what follows does not count; without a value: {}", gone.join(", ")),
    };
    // What bash has read before the error is enough for dkms, if it is complete.
    let is_enough = conf.refusals.is_empty() && conf.autoinstall;
    let severity = if is_enough { Severity::Warning } else { Severity::Error };
    let what = match by_quote {
        true => format!("the quote that opens here is never closed: {rest}"),
        false => format!("{}: {rest}", error.message),
    };
    // If the file ends too early, bash reports the line after the last one, which does not exist.
    let file = view.answer.texts.get(error.file).copied().unwrap_or_default();
    let lines = view.subject.texts.get(file).map_or(1, |text| line_count(&text.bytes));
    let line = error.quote.or(error.line).map(|line| line.min(lines).max(1));
    vec![Hit::new(LintPlace::Conf(file, line), what).severity(severity)]
}

fn line_count(bytes: &[u8]) -> usize {
    bytes.split_inclusive(|b| *b == b'\n').count()
}

/// DOS line ends that become part of a value.
pub(super) fn carriage_return(view: &ConfView<'_>) -> Vec<Hit> {
    let conf = view.conf;
    let records = conf.records.iter().flat_map(|r| [&r.built, &r.dest, &r.location]);
    let mut values =
        [&conf.package_name, &conf.package_version, &conf.autoinstall_value].into_iter().chain(records);
    if !values.any(|value| value.ends_with('\r')) {
        return Vec::new();
    }
    let line = |bytes: &[u8]| bytes.split(|b| *b == b'\n').position(|line| line.ends_with(b"\r"));
    let mut texts = view.subject.texts.iter().enumerate();
    let at = texts.find_map(|(at, text)| Some(LintPlace::Conf(at, Some(line(&text.bytes)? + 1))));
    vec![Hit::new(
        at.unwrap_or(LintPlace::Conf(0, None)),
        "lines end with a carriage return, which becomes part of the values",
    )]
}

/// A value that extends to a line where another directive begins.
pub(super) fn quote_swallows(view: &ConfView<'_>) -> Vec<Hit> {
    let mut hits: Vec<Hit> = Vec::new();
    for command in view.trace.commands() {
        let swallowed = command.text.split('\n').enumerate().skip(1).find_map(|(below, line)| {
            let (name, _, rest) = left_side(line.trim_start())?;
            (rest.starts_with('=') && DIRECTIVES.contains(&name)).then_some((below, name))
        });
        if let Some((below, directive)) = swallowed {
            let line = command.at.1 + below;
            let what = format!("the quote that opens here goes on to line {line} and swallows {directive}");
            hits.push(Hit::new(view.at(Some(command.at)), what));
        }
    }
    hits.dedup();
    hits
}

pub(super) fn excluded(subject: &LintSubject<'_>) -> Vec<Hit> {
    let views = subject.answers.iter().filter(|a| a.matters).filter_map(|a| ConfView::of(subject, a));
    let reasons = views.flat_map(|view| {
        let is_complete = view.answer.config.is_some();
        let of =
            |e: &Exclusion| ((e.clone(), is_complete, view.place(&e.directive)), view.answer.release.clone());
        view.conf.excluded.iter().map(of).collect::<Vec<_>>()
    });
    let hit = |((reason, is_complete, at), kernels): ((Exclusion, bool, LintPlace), Vec<String>)| {
        let is = if kernels.len() == 1 { "is" } else { "are" };
        let what = format!("kernel {} {is} left out: {reason}", kernels.join(", "));
        match is_complete {
            true => Hit::new(at, what)
                .clear(format!("none, if that is intended; otherwise change {}", reason.directive)),
            // Many files search the configuration of the kernel and treat a missing one as "no".
            false => Hit::new(at, what + " (its headers are not there, which may be why)")
                .severity(Severity::Advice)
                .clear("install the headers of the kernel, and ask again"),
        }
    };
    grouped(reasons.collect::<Vec<_>>().into_iter()).into_iter().map(hit).collect()
}
