//! What goes on while modules are built: a count, and a line for each that is at work.

use std::time::Duration;

use super::shown;

/// How things stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressBoard {
    /// Modules that are done, well or not.
    pub done: usize,
    /// All that were planned.
    pub total: usize,
    /// Since the begin.
    pub took: Duration,
    /// We were asked to stop.
    pub stopping: bool,
    /// What is at work.
    pub rows: Vec<ProgressRow>,
}

/// One at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressRow {
    /// A module and a kernel, or a kernel.
    pub what: String,
    /// What is being done.
    pub stage: &'static str,
    /// For how long it has been at work.
    pub took: Duration,
}

/// How long the words for stages are.
const STAGE: usize = 7;

/// The lines, at most `rows` of at most `columns`. Of a row that is too long the name is cut.
pub fn lines(board: &ProgressBoard, rows: usize, columns: usize) -> Vec<String> {
    let stopping = if board.stopping { "; stopping, what was begun is taken back" } else { "" };
    let sum = format!("{} of {} done, {}{stopping}", board.done, board.total, whole(board.took));
    let times: Vec<String> = board.rows.iter().map(|r| whole(r.took)).collect();
    let width = times.iter().map(String::len).max().unwrap_or(0);
    let ends: Vec<String> =
        board.rows.iter().zip(&times).map(|(r, time)| format!("{:STAGE$} {time:>width$}", r.stage)).collect();
    let end = ends.iter().map(String::len).max().unwrap_or(0);
    let names: Vec<String> = board.rows.iter().map(|r| shown(&r.what)).collect();
    let longest = names.iter().map(|name| console::measure_text_width(name)).max().unwrap_or(0);
    let room = longest.min(columns.saturating_sub(end + 4));
    let row = |(name, end): (&String, &String)| {
        let name = console::pad_str(name, room, console::Alignment::Left, Some(".."));
        format!("  {name}  {end}")
    };
    let all = std::iter::once(sum).chain(names.iter().zip(&ends).map(row));
    all.take(rows).map(|line| console::truncate_str(line.trim_end(), columns, "").into_owned()).collect()
}

/// A time in whole seconds: something that stays the same for a moment.
fn whole(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s => format!("{}:{:02} min", s / 60, s % 60),
    }
}

/// A time, as exact as it matters.
pub fn spent(time: Duration) -> String {
    if time.as_secs() < 60 { format!("{:.1} s", time.as_secs_f64()) } else { whole(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> ProgressBoard {
        let row = |what: &str, stage, seconds| ProgressRow {
            what: what.to_owned(),
            stage,
            took: Duration::from_secs(seconds),
        };
        let rows = vec![
            row("hello/1.0 on 6.15.8-1592.native", "build", 12),
            row("v4l2loopback/0.15.1 on 6.15.8-1592.native", "install", 187),
        ];
        ProgressBoard { done: 2, total: 5, took: Duration::from_secs(200), stopping: false, rows }
    }

    #[test]
    fn a_line_for_each_at_work() {
        assert_eq!(
            lines(&board(), 24, 79),
            [
                "2 of 5 done, 3:20 min",
                "  hello/1.0 on 6.15.8-1592.native            build       12 s",
                "  v4l2loopback/0.15.1 on 6.15.8-1592.native  install 3:07 min",
            ]
        );
    }

    #[test]
    fn what_is_done_and_for_how_long_is_seen_on_a_narrow_terminal_too() {
        assert_eq!(
            lines(&board(), 24, 39),
            [
                "2 of 5 done, 3:20 min",
                "  hello/1.0 on 6.15..  build       12 s",
                "  v4l2loopback/0.15..  install 3:07 min",
            ]
        );
    }

    #[test]
    fn nothing_is_longer_or_more_than_the_terminal() {
        let mut board = board();
        board.stopping = true;
        board.rows[0].what = "w\u{1b}[31m\u{6a21}\u{5757}\u{6a21}\u{5757}/1\n on 6".to_owned();
        for columns in 0..100 {
            for rows in 0..5 {
                let lines = lines(&board, rows, columns);
                assert!(lines.len() <= rows);
                for line in lines {
                    assert!(console::measure_text_width(&line) <= columns, "{columns}: {line}");
                    assert!(!line.chars().any(char::is_control), "{line:?}");
                }
            }
        }
    }

    #[test]
    fn times_are_short() {
        let text = |ms| spent(Duration::from_millis(ms));
        assert_eq!(
            [text(40), text(3_240), text(60_000), text(7_384_000)],
            ["0.0 s", "3.2 s", "1:00 min", "123:04 min"]
        );
    }
}
