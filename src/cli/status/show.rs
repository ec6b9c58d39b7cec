//! `clr-dkms status`: the verdict, the kernels and the modules; or one module; once, or again and again.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::{CannotAnswer, Common, answer, show, styled};
use crate::context::Context;
use crate::dkms::Cache;
use crate::exit::ExitReason;
use crate::report::module::ModuleDocument;
use crate::report::observation::{observe_module, observe_whole, observe_with};
use crate::report::render::style::ScreenStyle;
use crate::report::render::{json, metrics, module, shown, text};
use crate::sys::{interrupt, terminal};

/// The time between two looks of `--watch`.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The time after which Ctrl-C is noticed.
const NOTICE: Duration = Duration::from_millis(100);

/// The arguments of the verb.
#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Only this module, and all that is known of it: NAME, NAME/VERSION, or a kernel module that it makes
    #[arg(value_name = "MODULE", conflicts_with_all = ["format", "all"])]
    module: Option<String>,
    /// The whole document, as JSON; the same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// How to print it
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Every kernel, module and note, on however many lines
    #[arg(long, short)]
    all: bool,
    /// Show it on the terminal until Ctrl-C, and again whenever something changes
    #[arg(long, short, conflicts_with_all = ["json", "format", "all"])]
    watch: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// The whole document.
    Json,
    /// Metrics, as node_exporter's textfile collector reads them.
    Prometheus,
}

/// `--watch` without a terminal.
#[derive(Debug, thiserror::Error)]
#[error("--watch needs a terminal; to wait until a run has ended, run `clr-dkms wait`")]
pub(in crate::cli) struct NeedsTerminal;

/// Runs it.
///
/// # Errors
/// When stdout cannot be written, or is not a terminal and `--watch` is given.
pub(super) fn run(context: &Context, asked: &StatusArguments, common: &Common) -> anyhow::Result<u8> {
    if asked.watch {
        return watch(context, asked, common);
    }
    if let Some(name) = &asked.module {
        let document = of_module(context, &mut Cache::load(&context.root), name)?;
        show(context, &document, asked.json, common, module::screen)?;
        return Ok(document.standing.exit_code());
    }
    let document = observe_whole(context);
    let text = match asked.format {
        Format::Prometheus => metrics::text(&document),
        Format::Text if !asked.json => {
            text::screen(&document, &ScreenStyle::here(asked.all, context.clock.now()))
        }
        Format::Text | Format::Json => json(&document)?,
    };
    answer(&text, common.color)?;
    Ok(document.verdict.exit_code())
}

fn of_module(context: &Context, cache: &mut Cache, name: &str) -> Result<ModuleDocument, ExitReason> {
    let list = "`clr-dkms status --all` lists the modules";
    let gone = || ExitReason::unknown(format!("there is no module {}; {list}", shown(name)));
    observe_module(context, cache, name).ok_or_else(gone)
}

/// Shows it until Ctrl-C. The exit code is that of the last look.
fn watch(context: &Context, asked: &StatusArguments, common: &Common) -> anyhow::Result<u8> {
    if !terminal::is_terminal() {
        return Err(NeedsTerminal.into());
    }
    interrupt::watch()?;
    // What is expensive to find out stays known from look to look.
    let mut cache = Cache::load(&context.root);
    let mut before = String::new();
    loop {
        let mut style = ScreenStyle::here(false, context.clock.now());
        // The line of the cursor.
        style.height = style.height.saturating_sub(1);
        let (text, code) = match &asked.module {
            Some(name) => {
                let document = of_module(context, &mut cache, name)?;
                (module::screen(&document, &style), document.standing.exit_code())
            }
            None => {
                let document = observe_with(context, &mut cache);
                (text::screen(&document, &style), document.verdict.exit_code())
            }
        };
        if text != before {
            terminal::redraw(&styled(&text, common.color), before.is_empty()).map_err(CannotAnswer)?;
            before = text;
        }
        for _ in 0..LOOK_AGAIN.as_millis() / NOTICE.as_millis() {
            if interrupt::asked() {
                return Ok(code);
            }
            std::thread::sleep(NOTICE);
        }
    }
}
