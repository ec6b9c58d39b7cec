//! A real pseudo-terminal by script(1), and what a person sees on it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::TestRoot;

/// A program on a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    script: Child,
    said: Receiver<Vec<u8>>,
    bytes: Vec<u8>,
    columns: usize,
}

impl Terminal {
    /// Runs one of our programs on this root, on a terminal of so many columns and 24 rows; `first` are lines
    /// of shell before it. The terminal's settings before and after are left in the directory of the tools.
    pub(crate) fn run(
        root: &TestRoot,
        columns: usize,
        first: &str,
        name: &str,
        arguments: &[&str],
    ) -> Terminal {
        let inner = root.command(name, arguments);
        let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
        let words: Vec<String> =
            std::iter::once(inner.get_program()).chain(inner.get_args()).map(quoted).collect();
        let file = root.tools().join("on-terminal");
        let tools = root.tools().display().to_string();
        // The shell outlives a ^C, so that it can tell how the terminal was left.
        let text = format!(
            "trap : INT\nstty cols {columns} rows 24\nstty -g >'{tools}/before'\n{first}\n{}\ncode=$?\n\
             stty -g >'{tools}/after'\nexit $code\n",
            words.join(" ")
        );
        File::create(&file).unwrap().write_all(text.as_bytes()).unwrap();
        let mut command = Command::new("script");
        // In place of the shell that script(1) starts, which a ^C would end.
        command.args(["-qefc", &format!("exec sh '{}'", file.display()), "/dev/null"]);
        for (variable, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        command.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut script = command.spawn().expect("script(1) of util-linux");
        let mut out = script.stdout.take().unwrap();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { script, said, bytes: Vec::new(), columns }
    }

    /// Waits until this text was written to it, even if it has been erased since.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> &mut Terminal {
        self.wait(|terminal| terminal.text().contains(text));
        self
    }

    /// Waits until its rows are as they should be, and gives them.
    #[track_caller]
    pub(crate) fn wait_for_rows(&mut self, is_awaited: impl Fn(&[String]) -> bool) -> Vec<String> {
        self.wait(|terminal| is_awaited(&terminal.rows()));
        self.rows()
    }

    #[track_caller]
    fn wait(&mut self, is_over: impl Fn(&Terminal) -> bool) {
        let watch = Instant::now();
        while !is_over(self) {
            assert!(watch.elapsed() < Duration::from_secs(60), "not so: {:?}", self.text());
            if let Ok(bytes) = self.said.recv_timeout(Duration::from_millis(20)) {
                self.bytes.extend(bytes);
            }
        }
    }

    /// Types.
    pub(crate) fn types(&mut self, keys: &str) -> &mut Terminal {
        let keyboard = self.script.stdin.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
        keyboard.flush().unwrap();
        self
    }

    /// Closes it, as a window is closed.
    pub(crate) fn closes(self) {
        drop(self);
    }

    /// Waits for the end of the program.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        while let Ok(bytes) = self.said.recv_timeout(Duration::from_secs(60)) {
            self.bytes.extend(bytes);
        }
        self.script.wait().unwrap()
    }

    /// All that was written to it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// What stands on it, with all that has been scrolled away, in rows.
    pub(crate) fn rows(&self) -> Vec<String> {
        screen(&self.text(), self.columns)
    }
}

/// With the terminal goes what runs on it, also when a test fails.
impl Drop for Terminal {
    fn drop(&mut self) {
        self.script.kill().ok();
        self.script.wait().ok();
    }
}

/// Whether a program has left the terminal's settings as they were.
pub(crate) fn is_sane(root: &TestRoot) -> bool {
    let read = |name: &str| std::fs::read_to_string(root.tools().join(name)).unwrap();
    read("before") == read("after")
}

/// A terminal of endless height. It knows what we write: text, line ends, one row up, and the erasing of what
/// follows.
fn screen(text: &str, columns: usize) -> Vec<String> {
    let (mut rows, mut row, mut column): (Vec<Vec<char>>, usize, usize) = (vec![Vec::new()], 0, 0);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => column = 0,
            '\n' => row += 1,
            '\u{1b}' => {
                assert_eq!(chars.next(), Some('['), "{text:?}");
                let digits: String = chars.clone().take_while(char::is_ascii_digit).collect();
                let number = digits.parse().unwrap_or(0);
                match chars.nth(digits.len()) {
                    Some('A') => row = row.saturating_sub(number),
                    Some('J') if number == 0 => {
                        rows.truncate(row + 1);
                        rows[row].truncate(column);
                    }
                    other => panic!("unknown to a simple terminal: {digits}{other:?} in {text:?}"),
                }
            }
            c => {
                assert!(!c.is_control(), "{c:?} in {text:?}");
                if column == columns {
                    (row, column) = (row + 1, 0);
                    rows.resize(rows.len().max(row + 1), Vec::new());
                }
                let length = rows[row].len().max(column + 1);
                rows[row].resize(length, ' ');
                rows[row][column] = c;
                column += 1;
            }
        }
        rows.resize(rows.len().max(row + 1), Vec::new());
    }
    let line = |row: Vec<char>| row.into_iter().collect::<String>().trim_end().to_owned();
    rows.into_iter().map(line).collect()
}
