//! The talk: to the journal when this is the live system and its socket is there, and to stderr unless that is the
//! journal too. stdout is for answers and never carries a word of this.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::live;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// Errors only.
    Quiet,
    /// What an admin wants to know.
    Normal,
    /// Each step.
    Verbose,
    /// Everything.
    Debug,
}

impl Talk {
    fn filter(self) -> LevelFilter {
        match self {
            Talk::Quiet => LevelFilter::ERROR,
            Talk::Normal => LevelFilter::INFO,
            Talk::Verbose => LevelFilter::DEBUG,
            Talk::Debug => LevelFilter::TRACE,
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
        let mut text = Message::default();
        event.record(&mut text);
        // Names and messages of others end up here: their control characters are shown, not obeyed.
        write!(writer, "{}: {word}", self.program)?;
        for c in text.0.chars() {
            match c {
                '\n' => writer.write_char(c)?,
                c if c.is_control() => write!(writer, "{}", c.escape_default())?,
                c => writer.write_char(c)?,
            }
        }
        writeln!(writer)
    }
}

/// What an event says, in words.
#[derive(Default)]
struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// Whether systemd has connected our stderr to the journal: `$JOURNAL_STREAM` names its device and inode.
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|s| stream == format!("{}:{}", s.st_dev, s.st_ino))
}

/// Starts the log of `program`. `live` is whether the system that runs us is the one we work on.
pub fn start(program: &'static str, talk: Talk, live: bool) {
    let journal = if live { tracing_journald::layer().ok() } else { None };
    let journal = journal.map(|layer| {
        use tracing_journald::{Priority, PriorityMappings};
        layer
            .with_syslog_identifier(program.to_owned())
            // So that `message_id` becomes MESSAGE_ID, which the catalog goes by.
            .with_field_prefix(None)
            .with_priority_mappings(PriorityMappings {
                // The default maps INFO to "notice", which many journals show in bold.
                info: Priority::Informational,
                debug: Priority::Debug,
                ..PriorityMappings::new()
            })
            .with_filter(talk.filter())
    });
    // swupd shows our stderr on its terminal, and a person reads it; only where it leads to the journal, once is enough.
    let stderr = (journal.is_none() || !stderr_is_the_journal()).then(|| {
        tracing_subscriber::fmt::layer()
            .event_format(Plain { program })
            .with_ansi(false)
            .with_writer(|| live::Above)
            .with_filter(talk.filter())
    });
    // A second start, as in tests, changes nothing.
    tracing_subscriber::registry().with(journal).with(stderr).try_init().ok();
}
