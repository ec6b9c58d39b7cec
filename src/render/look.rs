//! How a screen is drawn: its width, its symbols, its colours.

use anstyle::{AnsiColor, Style};

use super::shown;
use crate::sys::terminal;

/// How the screen of a document is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Columns.
    pub width: usize,
    /// Symbols beyond ASCII may be used.
    pub unicode: bool,
    /// Everything, however long.
    pub all: bool,
}

impl Look {
    /// That of where we are run; `all` is as it says.
    pub fn here(all: bool) -> Look {
        Look { width: terminal::width(), unicode: terminal::shows_unicode(), all }
    }
}

impl Default for Look {
    /// That of a terminal of 80 columns.
    fn default() -> Look {
        Look { width: super::WIDTH, unicode: true, all: false }
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
    /// It cannot be told.
    Unknown,
}

impl Tone {
    /// One column.
    pub fn symbol(self, look: &Look) -> &'static str {
        let (unicode, ascii) = match self {
            Tone::Good => ("✔", "+"),
            Tone::Plain => ("–", "-"),
            Tone::Attention => ("!", "!"),
            Tone::Bad => ("✘", "x"),
            Tone::Busy => ("…", "~"),
            Tone::Unknown => ("?", "?"),
        };
        if look.unicode { unicode } else { ascii }
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
pub type Line = Vec<Span>;

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

/// The lines with ANSI styles, without blanks at their ends; whoever prints them takes the styles out where they are not
/// wanted. What came from files and programs is shown, not obeyed.
pub fn painted(lines: &[Line], look: &Look) -> String {
    let mut out = String::new();
    for line in lines {
        let last = line.iter().rposition(|span| !span.text.trim_end().is_empty());
        for (at, span) in line.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
            let text = if Some(at) == last { span.text.trim_end() } else { &span.text };
            let mut style = Style::new().fg_color(span.tone.color().map(Into::into));
            if span.bold {
                style = style.bold();
            }
            out.push_str(&format!("{style}{}{style:#}", spelt(&shown(text), look)));
        }
        out.push('\n');
    }
    out
}

/// Compilers quote with letters that a terminal without Unicode cannot show.
fn spelt(text: &str, look: &Look) -> String {
    let letter = |c: char| match c {
        c if look.unicode || c.is_ascii() => c,
        '‘' | '’' => '\'',
        '“' | '”' => '"',
        _ => '?',
    };
    text.chars().map(letter).collect()
}
