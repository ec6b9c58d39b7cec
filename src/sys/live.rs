//! Progress lines at the bottom of the terminal, redrawn while work is going on; log messages appear above
//! them. All output is on stderr: stdout is for answers.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use console::Term;

/// How often the lines are redrawn.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Produces the lines for a number of rows and columns: no more lines, and no longer ones.
pub type Lines = Box<dyn Fn(usize, usize) -> Vec<String> + Send>;

/// One for each process, as there is one stderr.
static SCREEN: Mutex<Option<Screen>> = Mutex::new(None);

struct Screen {
    term: Term,
    lines: Lines,
    drawn: Vec<String>,
}

impl Screen {
    /// Prints text above the lines, and redraws the lines that have changed.
    ///
    /// Lines are cut before the last column, and each ends with a newline, so that a terminal that becomes
    /// wider does not join them. A terminal that becomes narrower may leave parts of wrapped lines. Text
    /// above the lines is never overwritten.
    fn draw(&mut self, above: &str) -> io::Result<()> {
        let (rows, columns) = self.term.size();
        let lines = (self.lines)(usize::from(rows).saturating_sub(1), usize::from(columns).saturating_sub(1));
        if above.is_empty() && lines == self.drawn {
            return Ok(());
        }
        self.take_back()?;
        self.term.write_str(above)?;
        for line in &lines {
            self.term.write_line(line)?;
        }
        self.drawn = lines;
        // One write, so that the lines do not flicker.
        self.term.flush()
    }

    /// Removes the lines. The cursor is below the last line, possibly behind a `^C`.
    fn take_back(&mut self) -> io::Result<()> {
        self.term.move_cursor_up(self.drawn.len())?;
        self.drawn.clear();
        self.term.clear_to_end_of_screen()
    }
}

fn screen() -> MutexGuard<'static, Option<Screen>> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether stderr is a terminal that can move its cursor.
pub fn is_lively() -> bool {
    Term::stderr().is_term() && !console::is_dumb()
}

/// Lines that are shown for as long as this lives.
#[derive(Debug)]
pub struct Live {
    stop: Option<Sender<()>>,
    ticker: Option<JoinHandle<()>>,
}

impl Live {
    /// Shows them.
    pub fn show(lines: Lines) -> Live {
        let mut first = Screen { term: Term::buffered_stderr(), lines, drawn: Vec::new() };
        // A terminal that was closed needs no lines, here and below.
        first.draw("").ok();
        *screen() = Some(first);
        let (stop, stopped) = mpsc::channel::<()>();
        let tick = move || {
            while stopped.recv_timeout(LOOK_AGAIN) == Err(RecvTimeoutError::Timeout) {
                if let Some(screen) = screen().as_mut() {
                    // As above.
                    screen.draw("").ok();
                }
            }
        };
        let ticker = std::thread::Builder::new().spawn(tick);
        // Without a thread the lines change whenever something is logged.
        let ticker = ticker.map_err(|e| tracing::debug!("no thread for the progress: {e}")).ok();
        Live { stop: Some(stop), ticker }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A thread that has panicked draws no more, which is all that is needed.
        self.ticker.take().map(JoinHandle::join);
        if let Some(mut last) = screen().take() {
            // As above.
            last.take_back().and_then(|()| last.term.flush()).ok();
        }
    }
}

/// stderr, above the progress lines: whole lines, without control characters. It never fails, because a build
/// must be ended properly even if the terminal was closed.
#[derive(Debug)]
pub struct Above;

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Without stderr there is nobody to report to.
        match screen().as_mut() {
            Some(screen) => screen.draw(&String::from_utf8_lossy(bytes)).ok(),
            None => io::stderr().write_all(bytes).ok(),
        };
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
