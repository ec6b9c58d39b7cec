//! What the terminal, or the program that replaces it, can show.

/// The default number of columns.
const WIDTH: usize = 80;
/// The smallest and the largest width that is used: tables need the one, readers the other.
const LIMITS: std::ops::RangeInclusive<usize> = 40..=200;

/// The columns of stdout: `$COLUMNS`, else those of the terminal, else 80.
pub fn width() -> usize {
    // What is not a number counts as not set.
    let asked = std::env::var("COLUMNS").ok().and_then(|text| text.trim().parse().ok());
    let seen = || console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
    asked.or_else(seen).filter(|columns| *columns > 0).unwrap_or(WIDTH).clamp(*LIMITS.start(), *LIMITS.end())
}

/// The default number of lines, and the smallest that a page is laid out for.
const HEIGHT: usize = 24;
/// The largest height that is used.
const HEIGHT_LIMIT: usize = 200;

/// The lines of stdout: `$LINES`, else those of the terminal, else 24.
pub fn height() -> usize {
    // What is not a number counts as not set.
    let asked = std::env::var("LINES").ok().and_then(|text| text.trim().parse().ok());
    let seen = || console::Term::stdout().size_checked().map(|(lines, _)| usize::from(lines));
    asked.or_else(seen).filter(|lines| *lines > 0).unwrap_or(HEIGHT).clamp(HEIGHT, HEIGHT_LIMIT)
}

/// Whether stdout is a terminal.
pub fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdout())
}

/// Puts a page in the place of the one before it, without a moment in which nothing is shown.
///
/// # Errors
/// When stdout cannot be written.
pub fn redraw(page: &str, is_first: bool) -> std::io::Result<()> {
    use std::io::Write;
    // What is higher than the terminal would scroll it.
    let rows = console::Term::stdout().size_checked().map_or(usize::MAX, |(rows, _)| usize::from(rows));
    // Home; then each line, and nothing behind it; then nothing below.
    let begin = if is_first { "\u{1b}[2J\u{1b}[H" } else { "\u{1b}[H" };
    let lines = page.lines().take(rows.saturating_sub(1));
    let lines: String = lines.map(|line| format!("{line}\u{1b}[K\n")).collect();
    let mut out = std::io::stdout().lock();
    write!(out, "{begin}{lines}\u{1b}[J")?;
    out.flush()
}

/// Whether the locale uses UTF-8. The Linux console has no font for the symbols.
pub fn shows_unicode() -> bool {
    // A value that is not UTF-8 counts as not set.
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
    (locale.contains("utf-8") || locale.contains("utf8")) && set("TERM").is_none_or(|term| term != "linux")
}
