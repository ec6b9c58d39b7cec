//! How a screen is drawn: its width, its symbols, its colours.

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::shown;
use crate::sys::{TimeStyle, terminal};

/// How the screen of a document is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScreenStyle {
    /// Columns.
    pub width: usize,
    /// Lines of a page.
    pub height: usize,
    /// Symbols beyond ASCII may be used.
    pub unicode: bool,
    /// Everything, however long.
    pub all: bool,
    /// How times are written.
    pub times: TimeStyle,
}

impl ScreenStyle {
    /// That of where we are run, at that time; `all` is as it says.
    pub fn here(all: bool, now: Timestamp) -> ScreenStyle {
        ScreenStyle {
            width: terminal::width(),
            height: terminal::height(),
            unicode: terminal::shows_unicode(),
            all,
            times: TimeStyle::local(now),
        }
    }
}

impl ScreenStyle {
    /// How many items of a list are shown in any case: that many on the smallest page, more on a larger one.
    pub(super) fn some(&self, on_smallest: usize) -> usize {
        on_smallest + self.height.saturating_sub(super::PAGE)
    }
}

impl Default for ScreenStyle {
    /// That of a terminal of 80 columns.
    fn default() -> ScreenStyle {
        let times = TimeStyle::Utc;
        ScreenStyle { width: super::WIDTH, height: super::PAGE, unicode: true, all: false, times }
    }
}

/// How good or bad something is. Symbols and colours are made of it; the words beside them carry the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Neither.
    Plain,
    /// Somebody should look at it.
    Attention,
    /// Something is missing.
    Bad,
    /// It is being worked on.
    Busy,
    /// It cannot be determined.
    Unknown,
}

impl Tone {
    /// One column.
    pub fn symbol(self, style: &ScreenStyle) -> &'static str {
        let (unicode, ascii) = match self {
            Tone::Good => ("✔", "+"),
            Tone::Plain => ("–", "-"),
            Tone::Attention => ("!", "!"),
            Tone::Bad => ("✘", "x"),
            Tone::Busy => ("…", "~"),
            Tone::Unknown => ("?", "?"),
        };
        if style.unicode { unicode } else { ascii }
    }

    fn color(self) -> Option<AnsiColor> {
        match self {
            Tone::Good => Some(AnsiColor::Green),
            Tone::Plain => None,
            Tone::Attention | Tone::Busy | Tone::Unknown => Some(AnsiColor::Yellow),
            Tone::Bad => Some(AnsiColor::Red),
        }
    }
}

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    text: String,
    tone: Tone,
    bold: bool,
}

/// A line of a screen.
pub type StyledLine = Vec<Span>;

/// Text as it is.
pub fn plain(text: impl Into<String>) -> Span {
    Span { text: text.into(), tone: Tone::Plain, bold: false }
}

/// Text in the colour of a tone.
pub fn toned(text: impl Into<String>, tone: Tone) -> Span {
    Span { text: text.into(), tone, bold: false }
}

/// Text that stands out.
pub fn bold(text: impl Into<String>, tone: Tone) -> Span {
    Span { text: text.into(), tone, bold: true }
}

/// How many columns a line takes.
pub fn columns(line: &[Span]) -> usize {
    line.iter().map(|span| shown(&span.text).chars().count()).sum()
}

/// The lines with ANSI styles, without blanks at their ends; anyone that prints them takes the styles out
/// where they are not wanted. What came from files and programs is shown, not obeyed.
pub fn painted(lines: &[StyledLine], style: &ScreenStyle) -> String {
    let mut out = String::new();
    for line in lines {
        let last = line.iter().rposition(|span| !span.text.trim_end().is_empty());
        for (at, span) in line.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
            let text = if Some(at) == last { span.text.trim_end() } else { &span.text };
            let mut ansi = Style::new().fg_color(span.tone.color().map(Into::into));
            if span.bold {
                ansi = ansi.bold();
            }
            out.push_str(&format!("{ansi}{}{ansi:#}", display(&shown(text), style)));
        }
        out.push('\n');
    }
    out
}

/// Compilers quote with letters that a terminal without Unicode cannot show.
fn display(text: &str, style: &ScreenStyle) -> String {
    let letter = |c: char| match c {
        c if style.unicode || c.is_ascii() => c,
        '‘' | '’' => '\'',
        '“' | '”' => '"',
        _ => '?',
    };
    text.chars().map(letter).collect()
}
