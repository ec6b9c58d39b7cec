//! What stands below a module in the table of the status screen: what is wrong, the log, and the next
//! command. What is the same on several kernels is said once.

use super::style::{ScreenStyle, StyledLine, plain};
use super::text::wrapped;
use super::{grouped, shown};
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
    let worth = |m: &&ModuleStatus| m.record.state != State::Ok && m.record.reason.is_some();
    let is_several = module.iter().filter(|m| m.missed).count() > 1;
    let is_same = |one: &&ModuleStatus, other: &&ModuleStatus| {
        one.missed == other.missed && one.next_step == other.next_step
    };
    let groups = grouped(module.iter().copied().filter(worth), is_same);
    let is_named = |group: &[&ModuleStatus]| is_several || group.iter().any(|m| !m.missed || !is_seen(m));
    groups.iter().map(|group| ModuleDetail::of(group, is_named(group), style)).collect()
}

impl ModuleDetail {
    pub(super) const LEVELS: usize = 5;

    fn of(group: &[&ModuleStatus], is_named: bool, style: &ScreenStyle) -> ModuleDetail {
        let short = |m: &ModuleStatus| {
            let error = m.record.error.as_ref().filter(|_| m.missed);
            error.map_or_else(|| m.record.reason.clone().unwrap_or_default(), FirstError::short)
        };
        let is_same =
            |one: &&ModuleStatus, other: &&ModuleStatus| one.id == other.id && short(one) == short(other);
        let same = grouped(group.iter().copied(), is_same).into_iter();
        let causes: Vec<SameCause<'_>> = same.map(|on| SameCause { short: short(on[0]), on }).collect();
        let missed = group.iter().any(|m| m.missed);
        let whole = |cause: &SameCause<'_>| said(&cause.short, &cause.id(is_named, false), style);
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
        let next: Vec<StyledLine> = steps.map(|step| said(step, "next: ", style)).unwrap_or_default();
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

/// A text in lines below a module or a kernel.
pub(super) fn said(text: &str, first: &str, style: &ScreenStyle) -> Vec<StyledLine> {
    wrapped(None, text, [&format!("{BELOW}{first}"), "      "], style)
}

/// The lines around an error. They are not broken: a caret must stay below what it points to.
pub(super) fn around(error: &FirstError, style: &ScreenStyle) -> impl Iterator<Item = StyledLine> {
    let lines = error.context.iter();
    lines.map(|line| vec![plain(cut(&format!("{BELOW}  {}", shown(line)), style.width))])
}

/// The reason, the error with its context, and the logs.
fn everything(causes: &[SameCause<'_>], is_named: bool, style: &ScreenStyle) -> Vec<StyledLine> {
    let mut all: Vec<StyledLine> = Vec::new();
    for cause in causes {
        let Some(first) = cause.on.first() else { continue };
        let reason = first.record.reason.as_deref().unwrap_or_default();
        all.extend(said(reason, &cause.id(is_named, true), style));
        if let Some(error) = &first.record.error {
            all.extend(said(&error.to_string(), "", style));
            all.extend(around(error, style));
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
fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(3)).chain("...".chars()).collect()
}
