//! Completions for bash, zsh and fish.
//!
//! clap_complete generates those of zsh and fish. For bash it completes neither the value of an option nor
//! names that exist on the system. Therefore this generates a table from the same commands, which
//! `completion.bash` reads.

use clap::builder::{PossibleValuesParser, ValueHint};
use clap::{Arg, Command};
use clap_complete::{Shell, generate};
use clr_dkms::report::catalog;

const BASH: &str = include_str!("completion.bash");
const ZSH: &str = include_str!("completion.zsh");

/// The files of one program, by their path below `/usr/share`.
///
/// # Errors
/// If the output of clap_complete does not have the expected form.
pub(crate) fn of(program: &Command) -> anyhow::Result<[(String, String); 3]> {
    let program = &worded(offered(program));
    let name = program.get_name();
    let (zsh, fish) =
        (generated(Shell::Zsh, program)?, with_words(&generated(Shell::Fish, program)?, program));
    Ok([
        (format!("bash-completion/completions/{name}"), bash(program)),
        (format!("zsh/site-functions/_{name}"), with_system(&zsh)?),
        (format!("fish/vendor_completions.d/{name}.fish"), fish),
    ])
}

/// The program without its hidden verbs, which clap_complete offers.
fn offered(program: &Command) -> Command {
    if !program.get_subcommands().any(Command::is_hide_set) {
        return program.clone();
    }
    // clap requires static names, and this program ends soon.
    let name: &'static str = program.get_name().to_owned().leak();
    let own = program.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str()));
    let verbs = program.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    let program = Command::new(name).version(env!("CARGO_PKG_VERSION"));
    let mut offered = program.args(own.cloned()).subcommands(verbs.cloned());
    // This creates `help`, which offers the verbs.
    offered.build();
    offered
}

/// Offers the ids and words that `explain` knows. The program itself still accepts any word, and reports
/// unknown ones.
fn worded(program: Command) -> Command {
    let mut words: Vec<&str> = catalog::all().iter().flat_map(|row| [row.id, row.name]).collect();
    words.sort_unstable();
    words.dedup();
    let named = |argument: &Arg| argument.get_value_names().is_some_and(|names| names == ["ID"]);
    program.mut_subcommands(|verb| {
        verb.mut_args(|argument| match named(&argument) {
            true => argument.value_parser(PossibleValuesParser::new(words.clone())),
            false => argument,
        })
    })
}

/// The values of an argument, separated by commas; or one of the words KERNEL, MODULE and DIR; or nothing.
fn kind(argument: &Arg) -> String {
    if !argument.get_num_args().is_some_and(|n| n.takes_values()) {
        return String::new();
    }
    let values: Vec<String> =
        argument.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
    if values.is_empty() {
        let names = argument.get_value_names().unwrap_or_default();
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join("|").replace([' ', '[', ']', '/'], "")
    } else {
        values.join(",")
    }
}

fn bash(program: &Command) -> String {
    let known: Vec<String> = [("", program)]
        .into_iter()
        .chain(program.get_subcommands().map(|verb| (verb.get_name(), verb)))
        .map(|(verb, command)| format!("        {}) {} ;;", quoted(verb), table(command)))
        .collect();
    BASH.replace("@KNOWN@", &known.join("\n"))
        .replace("@FUNCTION@", &program.get_name().replace('-', "_"))
        .replace("@PROGRAM@", program.get_name())
}

fn table(command: &Command) -> String {
    let (mut options, mut takes, mut operand) = (Vec::new(), String::from(" "), String::new());
    for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
        if argument.is_positional() {
            operand = kind(argument);
            continue;
        }
        let long = argument.get_long_and_visible_aliases().unwrap_or_default();
        let short = argument.get_short_and_visible_aliases().unwrap_or_default();
        let spellings = long.iter().map(|l| format!("--{l}")).chain(short.iter().map(|s| format!("-{s}")));
        for spelling in spellings {
            let kind = kind(argument);
            if !kind.is_empty() {
                takes.push_str(&format!("{spelling}={kind} "));
            }
            options.push(spelling);
        }
    }
    let verbs: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    // `help` takes a verb.
    let operand = if command.get_name() == "help" { verbs.join(",") } else { operand };
    let verbs = if command.get_name() == "help" { String::new() } else { verbs.join(" ") };
    format!(
        "verbs={} options={} takes={} operand={}",
        quoted(&verbs),
        quoted(&options.join(" ")),
        quoted(&takes),
        quoted(&operand)
    )
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn generated(shell: Shell, program: &Command) -> anyhow::Result<String> {
    let mut command = hinted(program.clone());
    let mut out = Vec::new();
    generate(shell, &mut command, program.get_name(), &mut out);
    Ok(String::from_utf8(out)?)
}

/// Three hints of clap_complete that no program uses serve as marks for kernels, modules and roots.
fn hinted(command: Command) -> Command {
    command
        .mut_args(|argument| {
            let kind = kind(&argument);
            match (kind.contains("KERNEL"), kind.contains("MODULE"), kind.contains("DIR")) {
                (true, ..) => argument.value_hint(ValueHint::Hostname),
                (_, true, true) => argument.value_hint(ValueHint::EmailAddress),
                (_, true, _) => argument.value_hint(ValueHint::Username),
                (.., true) => argument.value_hint(ValueHint::DirPath),
                _ => argument,
            }
        })
        .mut_subcommands(hinted)
}

/// The possible values of the arguments of a verb, which clap_complete omits for fish.
fn with_words(fish: &str, program: &Command) -> String {
    let function = program.get_name().replace('-', "_");
    let mut lines = fish.to_owned();
    for verb in program.get_subcommands() {
        let values = verb.get_positionals().flat_map(Arg::get_possible_values);
        let words: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        if !words.is_empty() {
            lines.push_str(&format!(
                "complete -c {} -n {} -f -a {}\n",
                program.get_name(),
                quoted(&format!("__fish_{function}_using_subcommand {}", verb.get_name())),
                quoted(&words.join(" "))
            ));
        }
    }
    lines
}

fn with_system(zsh: &str) -> anyhow::Result<String> {
    let end = zsh.rfind("if [ \"$funcstack[1]\"");
    let end = end.ok_or_else(|| anyhow::anyhow!("the completion for zsh does not end as it did"))?;
    let (body, end) = zsh.split_at(end);
    let body = body
        .replace(":_hosts'", ":_clr_dkms_kernels'")
        .replace(":_users'", ":_clr_dkms_modules'")
        .replace(":_email_addresses'", ":_clr_dkms_modules_or_directories'");
    Ok(format!("{body}{ZSH}{end}"))
}
