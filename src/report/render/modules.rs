//! The table of modules on the status screen: by class, with the state on each kernel, and below each failure
//! what went wrong, the log, and the next command.

use super::kernels::foremost;
use super::module_detail::{BELOW, ModuleDetail, details};
use super::style::{ScreenStyle, StyledLine, Tone, bold, columns, plain, toned};
use super::{grouped, shown};
use crate::dkms::plan::State;
use crate::report::{KernelStatus, ModuleStatus, StatusDocument};
use crate::requirement::Importance;

/// Names that are longer do not widen the table.
const NAME: usize = 28;
/// Modules that are shown in any case on the smallest page, the most important first.
const SOME: usize = 6;
/// With fewer of these there is no point in a table.
const FEWEST: usize = 3;

/// One module on all kernels.
struct ModuleRow<'a> {
    name: String,
    class: Importance,
    on: Vec<&'a ModuleStatus>,
}

impl ModuleRow<'_> {
    fn is_missed(&self) -> bool {
        self.on.iter().any(|m| m.missed)
    }

    /// Where it stands: what will be missed or is being built, then what is needed most.
    fn rank(&self) -> (bool, Importance) {
        (self.on.iter().any(|m| m.missed || m.record.state == State::Building), self.class)
    }
}

/// The table, with its rows in their order.
pub(super) struct Modules<'a> {
    style: &'a ScreenStyle,
    kernels: Vec<&'a KernelStatus>,
    others: usize,
    /// Not even one kernel fits beside the names: the kernels are below each other.
    is_narrow: bool,
    rows: Vec<ModuleRow<'a>>,
}

/// How a state looks.
pub(super) fn tone_of(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::SkippedExclusive | State::NotAutoinstall => Tone::Plain,
        State::Building => Tone::Busy,
        State::Unknown => Tone::Unknown,
        State::NotBuilt | State::HookFailed => Tone::Attention,
        _ => Tone::Bad,
    }
}

/// How a module on a kernel stands. One that is required and missing is worse than one that could be built.
pub(super) fn tone_on(module: &ModuleStatus) -> Tone {
    match module.record.state {
        State::NotBuilt if module.missed && module.class > Importance::Optional => Tone::Bad,
        state => tone_of(state),
    }
}

impl<'a> Modules<'a> {
    pub(super) fn of(document: &'a StatusDocument, style: &'a ScreenStyle) -> Modules<'a> {
        let is_same = |one: &&ModuleStatus, other: &&ModuleStatus| one.record.module == other.record.module;
        let row = |on: Vec<&'a ModuleStatus>| ModuleRow {
            name: shown(&on[0].record.module.to_string()),
            class: on[0].class,
            on,
        };
        let mut rows: Vec<ModuleRow<'a>> = grouped(&document.modules, is_same).into_iter().map(row).collect();
        rows.sort_by(|a, b| b.rank().cmp(&a.rank()).then_with(|| a.name.cmp(&b.name)));
        let mut table = Modules { style, kernels: Vec::new(), others: 0, is_narrow: false, rows };
        let all = document.kernels.len();
        let needed = document.kernels.iter().filter(|k| k.next_boot || k.running || k.held_back).count();
        // As many kernels as fit beside each other, and a word on the others.
        let needed = needed.clamp(1, all.max(1));
        let with_others = |most: usize| (most, all - most);
        let at_least_needed = (needed..=all).rev().map(with_others);
        // The list of kernels counts what has no column.
        let needed_alone = std::iter::once((needed.min(all), 0));
        for (most, others) in at_least_needed.chain(needed_alone).chain((1..needed).rev().map(with_others)) {
            table.kernels = foremost(&document.kernels, most);
            table.others = others;
            if columns(&table.title()) <= style.width {
                return table;
            }
        }
        table.is_narrow = true;
        table.kernels = foremost(&document.kernels, needed);
        table.others = all - table.kernels.len();
        table
    }

    /// Those that are shown in any case.
    fn foremost(&self) -> &[ModuleRow<'a>] {
        if self.style.all { &self.rows } else { &self.rows[..self.rows.len().min(self.style.some(SOME))] }
    }

    fn name_width(&self) -> usize {
        self.foremost().iter().map(|r| r.name.chars().count()).max().unwrap_or(0).min(NAME)
    }

    fn cell_width(&self, release: &str) -> usize {
        let here = self.foremost().iter().flat_map(|row| &row.on).filter(|m| m.record.kernel == release);
        let states = here.map(|m| m.record.state.to_string().len() + 2);
        states.max().unwrap_or(0).max(release.chars().count())
    }

    fn title(&self) -> StyledLine {
        let mut title = vec![
            bold("Modules", Tone::Plain),
            plain(format!("{:w$}{:10}", "", "class", w = self.name_width().saturating_sub(7) + 4)),
        ];
        if self.is_narrow {
            return title;
        }
        title.extend(
            self.kernels
                .iter()
                .map(|k| plain(format!("{:w$}", k.release, w = self.cell_width(&k.release) + 2))),
        );
        if self.others > 0 {
            title.push(plain("other kernels"));
        }
        title
    }

    fn row(&self, row: &ModuleRow) -> Vec<StyledLine> {
        let width = self.name_width();
        let mut first = vec![plain(format!("  {:width$}  {:10}", row.name, row.class.to_string()))];
        let cells = self.kernels.iter().map(|kernel| {
            let cell = row.on.iter().find(|m| m.record.kernel == kernel.release).map(|m| {
                let tone = tone_on(m);
                (format!("{} {}", tone.symbol(self.style), m.record.state), tone)
            });
            (kernel.release.as_str(), cell)
        });
        let others = (self.others > 0).then(|| ("other kernels", self.on_others(row)));
        if self.is_narrow {
            let longest = self.kernels.iter().map(|k| k.release.chars().count()).max().unwrap_or(0);
            let below = cells.chain(others).filter_map(|(kernel, cell)| {
                let (text, tone) = cell?;
                Some(vec![plain(format!("{BELOW}{kernel:longest$}  ")), toned(text, tone)])
            });
            return std::iter::once(first).chain(below).collect();
        }
        for (kernel, cell) in cells {
            let width = self.cell_width(kernel) + 2;
            let (text, tone) = cell.unwrap_or((String::new(), Tone::Plain));
            first.push(toned(format!("{text:width$}"), tone));
        }
        first.extend(others.and_then(|(_, cell)| cell).map(|(text, tone)| toned(text, tone)));
        vec![first]
    }

    /// How a module is on the kernels without a column of their own, the worst of them first; none where
    /// nothing is known of it there.
    fn on_others(&self, row: &ModuleRow) -> Option<(String, Tone)> {
        let has_column = |m: &ModuleStatus| self.kernels.iter().any(|k| k.release == m.record.kernel);
        let hidden: Vec<&&ModuleStatus> = row.on.iter().filter(|m| !has_column(m)).collect();
        let count = |is_it: &dyn Fn(&ModuleStatus) -> bool| hidden.iter().filter(|m| is_it(m)).count();
        let (tone, text) = match (count(&|m| m.missed), count(&|m| !m.record.state.is_fine())) {
            _ if hidden.is_empty() => return None,
            (0, 0) => match count(&|m| !m.record.state.works()) {
                0 => (Tone::Good, "ok".to_owned()),
                n => (Tone::Plain, format!("not on {n}")),
            },
            (0, n) => (Tone::Attention, format!("{n} not ready")),
            (n, _) => (Tone::Bad, format!("{n} not ready")),
        };
        Some((format!("{} {text}", tone.symbol(self.style)), tone))
    }

    /// The lines, with a blank one in front; none when they do not fit into `room` lines with at least that
    /// much about the first module that will be missed, and of each other one: the levels of
    /// [`ModuleDetail`].
    pub(super) fn fitted(&self, room: usize, least: (usize, usize)) -> Option<Vec<StyledLine>> {
        self.fitted_from(FEWEST, room, least)
    }

    /// The same with at least that many rows.
    fn fitted_from(&self, fewest: usize, room: usize, least: (usize, usize)) -> Option<Vec<StyledLine>> {
        let most = self.foremost().len();
        (fewest.min(most)..=most)
            .rev()
            .map(|rows| self.table(rows, room, least))
            .find(|lines| lines.len() <= room)
    }

    /// The same, of as much as needs be.
    pub(super) fn squeezed(&self, room: usize) -> Vec<StyledLine> {
        let least = [(3, 2), (3, 1), (3, 0), (2, 1), (1, 1), (2, 0), (1, 0)];
        // Below the first module that is missed it is always said what to do.
        let few = || match self.rows.iter().any(ModuleRow::is_missed) {
            true => self.fitted_from(1, room, (1, 0)).unwrap_or_else(|| self.table(1, room, (1, 0))),
            false => self.table(FEWEST.min(self.rows.len()), room, (0, 0)),
        };
        least.into_iter().find_map(|least| self.fitted(room, least)).unwrap_or_else(few)
    }

    /// With that many rows, in `room` lines if that can be. What can be read elsewhere goes first.
    fn table(&self, most: usize, room: usize, least: (usize, usize)) -> Vec<StyledLine> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let (rows, hidden) = self.rows.split_at(most.min(self.rows.len()));
        let mut all: Vec<(usize, ModuleDetail)> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let is_seen = |m: &ModuleStatus| self.kernels.iter().any(|k| k.release == m.record.kernel);
            all.extend(details(&row.on, &is_seen, self.style).into_iter().map(|detail| (at, detail)));
        }
        let drawn: Vec<Vec<StyledLine>> = rows.iter().map(|row| self.row(row)).collect();
        let fixed = 2 + drawn.iter().map(Vec::len).sum::<usize>() + usize::from(!hidden.is_empty());
        let mut levels = vec![ModuleDetail::LEVELS; all.len()];
        let height = |levels: &[usize]| -> usize {
            fixed + all.iter().zip(levels).map(|((_, one), level)| one.levels[*level].len()).sum::<usize>()
        };
        'fits: for level in (1..=ModuleDetail::LEVELS).rev() {
            for at in (0..levels.len()).rev() {
                if height(&levels) <= room {
                    break 'fits;
                }
                let least = match (all[at].1.missed, at) {
                    (false, _) => 0,
                    (true, 0) => least.0,
                    (true, _) => least.1,
                };
                if levels[at] == level && level > least {
                    levels[at] -= 1;
                }
            }
        }
        let mut lines = vec![StyledLine::new(), self.title()];
        for (at, row) in drawn.into_iter().enumerate() {
            lines.extend(row);
            let mine = all.iter().zip(&levels).filter(|((of, _), _)| *of == at);
            lines.extend(mine.flat_map(|((_, one), level)| one.levels[*level].clone()));
        }
        if !hidden.is_empty() {
            let how = match hidden.iter().filter(|row| row.is_missed()).count() {
                0 => "none of them missed".to_owned(),
                n => format!("{n} of them not ready"),
            };
            lines.push(vec![plain(format!("  and {} more, {how}; `--all` shows them", hidden.len()))]);
        }
        lines
    }
}
