//! What stands below a module in the table of the status screen: what is wrong, the log, and the next
//! command. What is the same on several kernels is said once.

use super::style::{ScreenStyle, StyledLine, plain};
use super::{broken_to, shown};
use crate::dkms::first_error::FirstError;
use crate::dkms::plan::State;
use crate::report::ModuleStatus;

/// Indents of what stands below a module.
pub(super) const BELOW: &str = "    ";

/// What is known of a module on the kernels on which the same helps, from little to much.
pub(super) struct ModuleDetail {
    pub(super) missed: bool,
    /// 0: nothing; 1: what to do; 2: and a line on the cause; 3: and the log; 4: the whole cause; 5:
    /// everything. What is dropped last is what to do.
    pub(super) levels: [Vec<StyledLine>; ModuleDetail::LEVELS + 1],
}

/// The kernels on which the cause is the same.
struct SameCause<'a> {
    short: String,
    on: Vec<&'a ModuleStatus>,
}

impl SameCause<'_> {
    /// The id, and where the table does not show it the kernels.
    fn id(&self, is_named: bool, is_long: bool) -> String {
        let kernels: Vec<&str> = self.on.iter().map(|m| m.record.kernel.as_str()).collect();
        let on = match kernels.as_slice() {
            [one] if is_named => format!(" on {one}"),
            [_] | [] => String::new(),
            [others @ .., last] if is_long => format!(" on {} and {last}", others.join(", ")),
            many => format!(" on {} kernels", many.len()),
        };
        let id = self.on.first().map(|m| m.id).unwrap_or_default();
        format!("{id}{on}: ")
    }
}

/// The details of one module, given how it is on each kernel; `is_seen` says whether the table has a column
/// for that one.
pub(super) fn details(
    module: &[&ModuleStatus],
    is_seen: &dyn Fn(&ModuleStatus) -> bool,
    style: &ScreenStyle,
) -> Vec<ModuleDetail> {
    let worth = |m: &&&ModuleStatus| m.record.state != State::Ok && m.record.reason.is_some();
    let is_several = module.iter().filter(|m| m.missed).count() > 1;
    let mut groups: Vec<Vec<&ModuleStatus>> = Vec::new();
    for on_kernel in module.iter().filter(worth) {
        let is_same =
            |known: &ModuleStatus| known.missed == on_kernel.missed && known.next_step == on_kernel.next_step;
        match groups.iter_mut().find(|group| group.first().is_some_and(|known| is_same(known))) {
            Some(group) => group.push(on_kernel),
            None => groups.push(vec![on_kernel]),
        }
    }
    let is_named = |group: &[&ModuleStatus]| is_several || group.iter().any(|m| !m.missed || !is_seen(m));
    groups.iter().map(|group| ModuleDetail::of(group, is_named(group), style)).collect()
}

impl ModuleDetail {
    pub(super) const LEVELS: usize = 5;

    fn of(group: &[&ModuleStatus], is_named: bool, style: &ScreenStyle) -> ModuleDetail {
        let wrapped = |text: &str, first: &str| -> Vec<StyledLine> {
            let first = format!("{BELOW}{first}");
            broken_to(style.width, text, &first, "      ").into_iter().map(|text| vec![plain(text)]).collect()
        };
        let mut causes: Vec<SameCause<'_>> = Vec::new();
        for on_kernel in group {
            let reason = on_kernel.record.reason.as_deref().unwrap_or_default();
            let error = on_kernel.record.error.as_ref().filter(|_| on_kernel.missed);
            let short = error.map_or_else(|| reason.to_owned(), FirstError::short);
            let is_same = |known: &&mut SameCause<'_>| {
                known.short == short && known.on.first().is_some_and(|m| m.id == on_kernel.id)
            };
            match causes.iter_mut().find(is_same) {
                Some(known) => known.on.push(on_kernel),
                None => causes.push(SameCause { short, on: vec![on_kernel] }),
            }
        }
        let missed = group.iter().any(|m| m.missed);
        let whole = |cause: &SameCause<'_>| wrapped(&cause.short, &cause.id(is_named, false));
        let cause: Vec<StyledLine> = causes.iter().flat_map(whole).collect();
        if !missed {
            // Why it is not there is worth a line where there is room.
            let levels = [Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), cause];
            return ModuleDetail { missed, levels };
        }
        let one_line = |cause: &SameCause<'_>| {
            let line = format!("{BELOW}{}{}", cause.id(is_named, false), shown(&cause.short));
            vec![plain(cut(&line, style.width))]
        };
        let lines: Vec<StyledLine> = causes.iter().map(one_line).collect();
        let steps = group.first().and_then(|m| m.next_step.as_deref());
        let next: Vec<StyledLine> = steps.map(|step| wrapped(step, "next: ")).unwrap_or_default();
        let logs: Vec<&str> = group.iter().filter_map(|m| m.record.log.as_deref()).collect();
        let log = first_log(&logs, style);
        let all = [everything(&causes, is_named, style), next.clone()].concat();
        // Without a command, the cause is what there is to say.
        let least = if next.is_empty() { lines.clone() } else { next.clone() };
        let with_line = [lines.clone(), next.clone()].concat();
        let with_log = [lines, log.clone(), next.clone()].concat();
        let with_cause = [cause, log, next].concat();
        ModuleDetail { missed, levels: [Vec::new(), least, with_line, with_log, with_cause, all] }
    }
}

/// The reason, the error with its context, and the logs.
fn everything(causes: &[SameCause<'_>], is_named: bool, style: &ScreenStyle) -> Vec<StyledLine> {
    let wrapped = |text: &str, first: &str| {
        let first = format!("{BELOW}{first}");
        broken_to(style.width, text, &first, "      ").into_iter().map(|text| vec![plain(text)])
    };
    let mut all: Vec<StyledLine> = Vec::new();
    for cause in causes {
        let Some(first) = cause.on.first() else { continue };
        all.extend(wrapped(first.record.reason.as_deref().unwrap_or_default(), &cause.id(is_named, true)));
        if let Some(error) = &first.record.error {
            all.extend(wrapped(&error.to_string(), ""));
            // Not broken again: a caret must stay below what it points to.
            let context =
                error.context.iter().map(|line| cut(&format!("{BELOW}  {}", shown(line)), style.width));
            all.extend(context.map(|line| vec![plain(line)]));
        }
        let logs = cause.on.iter().filter_map(|m| m.record.log.as_deref());
        all.extend(logs.flat_map(|log| log_lines(log, style)));
    }
    all
}

/// The first log, and how many more there are where the line has room for that.
fn first_log(logs: &[&str], style: &ScreenStyle) -> Vec<StyledLine> {
    let Some(first) = logs.first() else { return Vec::new() };
    let with_more = format!("{BELOW}log:  {first} and {} more", logs.len() - 1);
    match logs.len() > 1 && with_more.chars().count() <= style.width {
        true => vec![vec![plain(with_more)]],
        false => log_lines(first, style),
    }
}

/// A path is not broken: it is copied. One that is too long stands on a line of its own.
pub(super) fn log_lines(log: &str, style: &ScreenStyle) -> Vec<StyledLine> {
    let line = format!("{BELOW}log:  {log}");
    match line.chars().count() <= style.width {
        true => vec![vec![plain(line)]],
        false => vec![vec![plain(format!("{BELOW}log:"))], vec![plain(format!("{BELOW}{log}"))]],
    }
}

/// A line that ends at the width of the screen.
pub(super) fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(3)).chain("...".chars()).collect()
}
