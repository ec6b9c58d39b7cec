//! The log: to the journal when this is the live system and its socket exists, and to stderr unless that is
//! the journal too. stdout is for answers only.

use tracing::field::{Field, Value, Visit};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::live;
use super::printable::printable_lines;

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Informational messages for an admin.
    Normal,
    /// Each step.
    Verbose,
    /// Everything.
    Debug,
}

impl Verbosity {
    fn filter(self) -> LevelFilter {
        match self {
            Verbosity::Quiet => LevelFilter::ERROR,
            Verbosity::Normal => LevelFilter::INFO,
            Verbosity::Verbose => LevelFilter::DEBUG,
            Verbosity::Debug => LevelFilter::TRACE,
        }
    }
}

/// `program: warning: text`, the form that compilers and swupd use too.
struct Plain {
    program: &'static str,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let word = match *event.metadata().level() {
            tracing::Level::ERROR => "error: ",
            tracing::Level::WARN => "warning: ",
            _ => "",
        };
        // The other fields are for the journal.
        let mut texts = Texts::default();
        event.record(&mut texts);
        let message = texts.0.iter().find(|(field, _)| field.name() == "message");
        writeln!(writer, "{}: {word}{}", self.program, message.map_or("", |(_, text)| text))
    }
}

/// The most fields of an event.
const FIELDS: usize = 8;

/// A layer that passes on the text of each event as [`printable_lines`] returns it. journalctl(1) prints a
/// message unchanged if its output is not a terminal, and replaces one with an unprintable byte by the word
/// "blob data".
struct Printable<L>(L);

impl<S: tracing::Subscriber, L: Layer<S>> Layer<S> for Printable<L> {
    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut texts = Texts::default();
        event.record(&mut texts);
        let known = event.metadata().fields();
        let Some(first) = known.iter().next().filter(|_| texts.0.len() <= FIELDS) else { return };
        let text = |at: usize| texts.0.get(at).map(|(field, text)| (field, Some(text as &dyn Value)));
        // A field without a value is left out.
        let values = std::array::from_fn::<_, FIELDS, _>(|at| text(at).unwrap_or((&first, None)));
        self.0.on_event(&tracing::Event::new(event.metadata(), &known.value_set(&values)), context);
    }
}

/// The fields of an event as text, which can hold names and messages from files and other programs.
#[derive(Default)]
struct Texts(Vec<(Field, String)>);

impl Visit for Texts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.clone(), printable_lines(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push((field.clone(), printable_lines(&format!("{value:?}"))));
    }
}

/// Whether systemd has connected our stderr to the journal: `$JOURNAL_STREAM` names its device and inode.
fn stderr_is_the_journal() -> bool {
    // Without it, or with a closed stderr, it is not connected.
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    // As above.
    nix::sys::stat::fstat(std::io::stderr()).is_ok_and(|s| stream == format!("{}:{}", s.st_dev, s.st_ino))
}

/// Starts the log of `program`. `live` is whether this program works on the system that it runs on.
pub fn start(program: &'static str, talk: Verbosity, live: bool) {
    // Without its socket, as in a container, messages go to stderr alone.
    let journal = if live { tracing_journald::layer().ok() } else { None };
    let journal = journal.map(|layer| {
        use tracing_journald::{Priority, PriorityMappings};
        let layer = layer
            .with_syslog_identifier(program.to_owned())
            // `message_id` becomes MESSAGE_ID, by which the journal's catalog is searched.
            .with_field_prefix(None)
            .with_priority_mappings(PriorityMappings {
                // The default maps INFO to "notice", which journalctl shows in bold.
                info: Priority::Informational,
                debug: Priority::Debug,
                ..PriorityMappings::new()
            });
        Printable(layer).with_filter(talk.filter())
    });
    // swupd shows stderr on its terminal. Only where stderr is the journal already, it is left out.
    let stderr = (journal.is_none() || !stderr_is_the_journal()).then(|| {
        tracing_subscriber::fmt::layer()
            .event_format(Plain { program })
            .with_ansi(false)
            .with_writer(|| live::Above)
            .with_filter(talk.filter())
    });
    // A second call, as in tests, changes nothing.
    tracing_subscriber::registry().with(journal).with(stderr).try_init().ok();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Kept(Arc<Mutex<Vec<(String, String)>>>);

    impl<S: tracing::Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            struct Pairs<'k>(&'k mut Vec<(String, String)>);
            impl Visit for Pairs<'_> {
                fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                    self.0.push((field.name().to_owned(), format!("{value:?}")));
                }
                fn record_str(&mut self, field: &Field, value: &str) {
                    self.0.push((field.name().to_owned(), value.to_owned()));
                }
            }
            event.record(&mut Pairs(&mut self.0.lock().unwrap()));
        }
    }

    #[test]
    fn nothing_hidden_reaches_the_journal() {
        let kept = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Printable(Kept(Arc::clone(&kept))));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(
                message_id = "abc",
                dkms_kernel = "6\u{202e}1",
                "{}\nnext\u{1b}[31m",
                "evil\u{200b}"
            );
            tracing::info!("{}", "x".repeat(9000));
        });
        let kept = kept.lock().unwrap();
        let text = |at: usize| (kept[at].0.as_str(), kept[at].1.as_str());
        let expected = [
            ("dkms_kernel", "6\\u{202e}1"),
            ("message", "evil\\u{200b}\nnext\\u{1b}[31m"),
            ("message_id", "abc"),
        ];
        let mut found = [text(0), text(1), text(2)];
        found.sort_unstable();
        assert_eq!(found, expected);
        assert!(text(3).1.len() < 4200 && text(3).1.ends_with("... (4904 bytes more)"));
    }
}
