//! A pager: a program that shows a long text on the terminal, page by page.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use super::Tools;

/// A pager that waits for its text.
#[derive(Debug)]
pub struct Pager {
    child: Child,
}

impl Pager {
    /// Where the text goes.
    pub fn input(&mut self) -> Box<dyn Write + '_> {
        match self.child.stdin.as_mut() {
            Some(input) => Box::new(input),
            None => Box::new(std::io::sink()),
        }
    }

    /// Until the person has seen enough.
    pub fn wait(mut self) {
        drop(self.child.stdin.take());
        // How a pager ends says nothing.
        self.child.wait().ok();
    }
}

/// Starts `$PAGER`, else `less`; none where there is no pager, or none is wanted (`PAGER=` or `cat`).
#[allow(clippy::disallowed_methods)] // it shares our terminal, which the children of `sys::child` do not
pub fn start(tools: &Tools) -> Option<Pager> {
    let wanted = std::env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    let mut words = wanted.split_ascii_whitespace();
    let name = words.next().filter(|name| *name != "cat")?;
    let program = if name.starts_with('/') { name.into() } else { tools.find(name).ok()? };
    let mut command = Command::new(program);
    // As systemctl has it: a text that fits stays on the screen, colours are kept, and the end of it is the end.
    command.args(words).env("LESS", "FRSXMK").stdin(Stdio::piped());
    command.spawn().ok().map(|child| Pager { child })
}
