//! Whether a module is loaded on a kernel, whatever file it is in.

use std::fmt;

use super::command::loads_nothing;
use super::config::{ConfigLine, Directive, ModprobeConfig};
use super::kernel_line::LineWords;
use super::pattern;
use crate::kernel::module_file::kernel_name;

/// What happens when a module is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadRule {
    /// Nothing prevents it from being loaded.
    Loads,
    /// Neither its aliases nor `modules-load.d` load it, only `modprobe NAME` or a module that depends on it.
    OnlyByName(LoadBlocker),
    /// Its name leads to another module. Only its own aliases load it, or a module that depends on it.
    OnlyByAlias(LoadBlocker),
    /// An `install` command decides.
    Command(LoadBlocker),
    /// It is not loaded.
    Never(LoadBlocker),
    /// It is unknown, and why.
    Unknown(String),
}

/// What prevents a module from being loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadBlocker {
    /// `blacklist` in `modprobe.d`.
    Blacklist(ConfigLine),
    /// `modprobe.blacklist=` on the kernel command line names this module.
    LineBlacklist(String),
    /// `module_blacklist=` on the kernel command line names this module.
    LineRefuses(String),
    /// `install` in `modprobe.d`, with the command.
    Install(ConfigLine, String),
    /// `alias` in `modprobe.d` leads the name to another module, which is the second value.
    Alias(ConfigLine, String),
    /// A module that it depends on is not loaded.
    Dependency(String, Box<LoadBlocker>),
}

impl LoadBlocker {
    /// The position in `modprobe.d`. None if the cause is on the kernel command line.
    pub fn line(&self) -> Option<&ConfigLine> {
        match self {
            LoadBlocker::Blacklist(at) | LoadBlocker::Install(at, _) | LoadBlocker::Alias(at, _) => Some(at),
            LoadBlocker::LineBlacklist(_) | LoadBlocker::LineRefuses(_) => None,
            LoadBlocker::Dependency(_, blocker) => blocker.line(),
        }
    }

    /// The module that is not loaded, if it is a dependency of the requested module.
    pub fn dependency(&self) -> Option<&str> {
        if let LoadBlocker::Dependency(module, _) = self { Some(module) } else { None }
    }

    /// The parameter on the kernel command line. None if the cause is in `modprobe.d`.
    pub fn word(&self) -> Option<&'static str> {
        match self {
            LoadBlocker::LineBlacklist(_) => Some("modprobe.blacklist"),
            LoadBlocker::LineRefuses(_) => Some("module_blacklist"),
            LoadBlocker::Dependency(_, blocker) => blocker.word(),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path, self.line)
    }
}

impl LoadRule {
    fn rank(&self) -> u8 {
        match self {
            LoadRule::Loads => 0,
            LoadRule::OnlyByName(_) | LoadRule::OnlyByAlias(_) => 1,
            LoadRule::Command(_) => 2,
            LoadRule::Unknown(_) => 3,
            LoadRule::Never(_) => 4,
        }
    }
}

/// What happens to `module` on a kernel whose command line has these words. `needs` are the modules that
/// modprobe loads before it.
pub fn load_rule(config: &ModprobeConfig, line: &LineWords, module: &str, needs: &[String]) -> LoadRule {
    let mut rule = own_rule(config, line, &kernel_name(module));
    for need in needs {
        let need = kernel_name(need);
        let more = match own_rule(config, line, &need) {
            LoadRule::Never(why) => LoadRule::Never(LoadBlocker::Dependency(need, Box::new(why))),
            LoadRule::Command(why) => LoadRule::Command(LoadBlocker::Dependency(need, Box::new(why))),
            LoadRule::Unknown(reason) => LoadRule::Unknown(reason),
            // A dependency is loaded by its file.
            LoadRule::Loads | LoadRule::OnlyByName(_) | LoadRule::OnlyByAlias(_) => continue,
        };
        if more.rank() > rule.rank() {
            rule = more;
        }
    }
    rule
}

fn own_rule(config: &ModprobeConfig, line: &LineWords, module: &str) -> LoadRule {
    if line.refused.iter().any(|name| name == module) {
        return LoadRule::Never(LoadBlocker::LineRefuses(module.to_owned()));
    }
    // Only the first `install` directive counts.
    let command = config.directives.iter().find_map(|(at, directive)| match directive {
        Directive::Install { pattern, command } if pattern::matches(pattern, module) => {
            Some(LoadBlocker::Install(at.clone(), command.clone()))
        }
        _ => None,
    });
    let command = match command {
        Some(LoadBlocker::Install(at, text)) if loads_nothing(&text) => {
            return LoadRule::Never(LoadBlocker::Install(at, text));
        }
        other => other,
    };
    // An alias of that name redirects requests by name. A device still finds the module by its own aliases.
    let elsewhere = config.directives.iter().find_map(|(at, directive)| match directive {
        Directive::Alias { pattern, module: to } if to != module && pattern::matches(pattern, module) => {
            Some(LoadBlocker::Alias(at.clone(), to.clone()))
        }
        _ => None,
    });
    let listed = config.directives.iter().find_map(|(at, directive)| match directive {
        Directive::Blacklist { module: name } if name == module => Some(LoadBlocker::Blacklist(at.clone())),
        _ => None,
    });
    let on_line = line.blacklisted.iter().find(|name| *name == module);
    let on_line = on_line.map(|name| LoadBlocker::LineBlacklist(name.clone()));
    let blacklisted = listed.or(on_line);
    if let Some(reason) = config.unreadable.first() {
        return LoadRule::Unknown(reason.clone());
    }
    if line.open {
        let reason = "a quote or the end of the kernel command line leaves open what module_blacklist= says";
        return LoadRule::Unknown(reason.to_owned());
    }
    match (command, blacklisted, elsewhere) {
        (Some(command), _, _) => LoadRule::Command(command),
        // Only a module that depends on it still loads it.
        (None, Some(blacklisted), _) => LoadRule::OnlyByName(blacklisted),
        (None, None, Some(elsewhere)) => LoadRule::OnlyByAlias(elsewhere),
        (None, None, None) => LoadRule::Loads,
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::parse;
    use super::*;

    fn rule(text: &str, line: &str, module: &str, needs: &[&str]) -> String {
        let config = ModprobeConfig { directives: parse("/f", text.as_bytes()), unreadable: Vec::new() };
        let needs: Vec<String> = needs.iter().map(|n| (*n).to_owned()).collect();
        match load_rule(&config, &LineWords::read(line.as_bytes()), module, &needs) {
            LoadRule::Loads => "loads".to_owned(),
            LoadRule::OnlyByName(why) => format!("only by name {why:?}"),
            LoadRule::OnlyByAlias(why) => format!("only by alias {why:?}"),
            LoadRule::Command(why) => format!("command {why:?}"),
            LoadRule::Never(why) => format!("never {why:?}"),
            LoadRule::Unknown(reason) => format!("unknown {reason}"),
        }
    }

    #[test]
    fn what_is_loaded() {
        let table = [
            ("", "quiet", "a", &[][..], "loads"),
            ("blacklist b\noptions a x=1", "", "a", &[], "loads"),
            ("install a /bin/false", "", "a", &[], "never Install("),
            ("install snd-* /bin/true", "", "snd-x", &[], "never Install("),
            ("install snd_x /sbin/modprobe -i snd-x", "", "snd-x", &[], "command Install("),
            // The first command counts.
            ("install a /x\ninstall a /bin/false", "", "a", &[], "command Install("),
            ("blacklist snd-x", "", "snd_x", &[], "only by name Blacklist("),
            ("", "modprobe.blacklist=b,snd_x", "snd-x", &[], "only by name LineBlacklist"),
            ("", "modprobe.blacklist=snd-x", "snd-x", &[], "loads"),
            ("", "module_blacklist=snd_x", "snd-x", &[], "never LineRefuses"),
            ("", "module_blacklist=snd_x module_blacklist=b", "snd-x", &[], "loads"),
            ("", "module_blacklist=snd_x,\"", "b", &[], "unknown "),
            ("install b /bin/false", "", "a", &["b"], "never Dependency(\"b\", Install("),
            ("install b /x", "", "a", &["b"], "command Dependency(\"b\", Install("),
            ("", "module_blacklist=b", "a", &["b"], "never Dependency(\"b\", LineRefuses("),
            // A dependency is loaded by its name.
            ("blacklist b", "modprobe.blacklist=b", "a", &["b"], "loads"),
            ("blacklist a\ninstall b /bin/false", "", "a", &["b"], "never Dependency("),
            // The name leads to another module, and the module's aliases are disabled.
            ("alias a off", "", "a", &[], "only by alias Alias("),
            ("alias b off", "", "a", &["b"], "loads"),
            ("alias a off\nblacklist a", "", "a", &[], "only by name Blacklist("),
            ("alias a a", "", "a", &[], "loads"),
        ];
        for (text, line, module, needs, expected) in table {
            let found = rule(text, line, module, needs);
            assert!(found.starts_with(expected), "{text:?} {line:?} {module}: {found}");
        }
    }

    #[test]
    fn what_could_not_be_read_is_unknown() {
        let mut config = ModprobeConfig { unreadable: vec!["EIO".to_owned()], ..ModprobeConfig::default() };
        let words = LineWords::default();
        assert_eq!(load_rule(&config, &words, "a", &[]), LoadRule::Unknown("EIO".to_owned()));
        config.directives = parse("/f", b"install a /bin/false");
        // A known reason not to load it applies, whatever else is configured.
        assert!(matches!(load_rule(&config, &words, "a", &[]), LoadRule::Never(_)));
    }
}
