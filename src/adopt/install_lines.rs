//! The lines by which a project installs files into `modprobe.d`, `udev/rules.d` and `modules-load.d`. They
//! are read and never run.

use std::collections::BTreeMap;

use super::side_files::SideFileKind;

/// What a line installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InstallLine {
    /// The number of the line, from 1.
    pub(super) line: usize,
    pub(super) kind: SideFileKind,
    pub(super) contents: InstalledContents,
    /// The name of the installed file; none if it is that of the source.
    pub(super) name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InstalledContents {
    /// The file of the source with one of these names.
    File(Vec<String>),
    /// The text itself: `echo TEXT > FILE`.
    Text(String),
}

/// The commands that copy files. The lines of `debian/install` have no command.
const COPIES: [&str; 5] = ["cp", "install", "ln", "dh_install", "mv"];

/// Reads a Makefile, a shell script or an `install` file of debhelper (`is_list`).
pub(super) fn install_lines(text: &str, is_list: bool) -> Vec<InstallLine> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if let Some(document) = HereDocument::of(line) {
            let body = document.body(&mut lines.by_ref().map(|(_, line)| line), &values);
            let target = expanded(line, &values);
            found.extend(body.and_then(|body| written(at + 1, &target, body)));
            continue;
        }
        let line = line.trim().trim_start_matches(['@', '-']);
        if line.starts_with('#') {
            continue;
        }
        if let Some((name, value)) = assignment(line) {
            let value = expanded(value, &values);
            // The first value: what a script sets later is for other cases.
            values.entry(name.to_owned()).or_insert(value);
            continue;
        }
        found.extend(of_line(at + 1, &expanded(line, &values), is_list));
    }
    found
}

/// `NAME=VALUE` of a shell or `NAME := VALUE` of make.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end_matches([' ', '\t', ':', '?']).trim_start_matches("export ");
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then(|| (name, value.trim().trim_matches(['"', '\''])))
}

/// Replaces `$NAME`, `${NAME}` and `$(NAME)` by known values.
fn expanded(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let closing = match after.as_bytes().first() {
            Some(b'{') => Some('}'),
            Some(b'(') => Some(')'),
            _ => None,
        };
        let (name, behind) = match closing {
            Some(closing) => match after[1..].split_once(closing) {
                Some(parts) => parts,
                None => ("", after),
            },
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                after.split_at(end.unwrap_or(after.len()))
            }
        };
        match values.get(name) {
            Some(value) => out.push_str(value),
            None => {
                out.push('$');
                out.push_str(&after[..after.len() - behind.len()]);
            }
        }
        rest = behind;
    }
    out + rest
}

fn of_line(line: usize, text: &str, is_list: bool) -> Option<InstallLine> {
    let words: Vec<&str> = text.split_ascii_whitespace().map(|w| w.trim_matches(['"', '\'', ';'])).collect();
    let (at, kind, name) = words.iter().enumerate().rev().find_map(|(at, word)| {
        let (kind, name) = target(word)?;
        Some((at, kind, name))
    })?;
    let is_copy = words[..at].iter().any(|word| COPIES.contains(&word.rsplit('/').next().unwrap_or(word)));
    if is_copy || is_list {
        let is_file = |word: &&&str| !word.starts_with('-') && !word.contains('$') && target(word).is_none();
        let names: Vec<String> = words[..at]
            .iter()
            .filter(is_file)
            .map(|word| word.rsplit('/').next().unwrap_or(word).to_owned())
            .collect();
        let contents = InstalledContents::File(names);
        return Some(InstallLine { line, kind, contents, name });
    }
    let written = echoed(text)?;
    Some(InstallLine { line, kind, contents: InstalledContents::Text(written), name: Some(name?) })
}

/// The beginning of a here-document of the shell: `cat >FILE <<EOF`.
struct HereDocument<'t> {
    /// The line that ends it.
    end: &'t str,
    /// Its lines are indented by tabs that do not belong to it.
    is_indented: bool,
    /// The shell expands nothing in it.
    is_literal: bool,
}

impl<'t> HereDocument<'t> {
    fn of(line: &'t str) -> Option<HereDocument<'t>> {
        let (before, rest) = line.split_once("<<")?;
        // `<<<` gives a word.
        if before.trim_start().starts_with('#') || rest.starts_with('<') {
            return None;
        }
        let (is_indented, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, rest.trim_start()),
        };
        let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c));
        let (is_literal, end) = match quote {
            Some(quote) => (true, rest[1..].split(quote).next()?),
            None => (false, rest.split([' ', '\t', ';', '>', '|', '&', ')']).next()?),
        };
        // `1 << 3` computes.
        let is_word = end.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && end.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        is_word.then_some(HereDocument { end, is_indented, is_literal })
    }

    /// Takes its lines. None if the shell would compute a part that is unknown.
    fn body(
        &self,
        lines: &mut dyn Iterator<Item = &'t str>,
        values: &BTreeMap<String, String>,
    ) -> Option<String> {
        let mut body = String::new();
        for line in lines {
            let line = if self.is_indented { line.trim_start_matches('\t') } else { line };
            if line == self.end {
                break;
            }
            body.push_str(line);
            body.push('\n');
        }
        if self.is_literal {
            return Some(body);
        }
        let body = expanded(&body, values);
        (!body.contains(['$', '`', '\\'])).then_some(body)
    }
}

/// A line that writes a text into a file.
fn written(line: usize, text: &str, contents: String) -> Option<InstallLine> {
    let words = text.split_ascii_whitespace().map(|word| word.trim_matches(['"', '\'', ';']));
    let (kind, name) = words.rev().find_map(target)?;
    let name = name?;
    Some(InstallLine { line, kind, contents: InstalledContents::Text(contents), name: Some(name) })
}

/// The directory that a path is in, and the name of the file, if the path has one that is known.
fn target(word: &str) -> Option<(SideFileKind, Option<String>)> {
    let word = word.trim_start_matches('>');
    let (kind, rest) = SideFileKind::ALL.into_iter().find_map(|kind| {
        let (_, rest) = word.split_once(kind.directory_name())?;
        Some((kind, rest))
    })?;
    let name = rest.strip_prefix('/').or(rest.is_empty().then_some(""))?;
    let is_usable = kind.is_usable_name(name);
    Some((kind, is_usable.then(|| name.to_owned())))
}

/// The text of `echo TEXT > FILE` or `echo TEXT | tee FILE`.
fn echoed(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("echo ")?;
    let end = rest.find(['>', '|'])?;
    let written = rest[..end].trim();
    let quote = written.chars().next().filter(|c| ['"', '\''].contains(c));
    let written = match quote {
        Some(quote) => written.strip_prefix(quote)?.strip_suffix(quote)?,
        None => written,
    };
    // What the shell would compute is unknown; an option is not a part of the text.
    let is_plain =
        !written.is_empty() && !written.starts_with('-') && !written.contains(['$', '`', '\\', '"']);
    is_plain.then(|| format!("{written}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str, is_list: bool) -> Vec<(usize, String, Option<String>)> {
        let shown = |line: InstallLine| {
            let contents = match line.contents {
                InstalledContents::File(names) => names.join(" "),
                InstalledContents::Text(text) => format!("text {text}"),
            };
            (line.line, format!("{} {contents}", line.kind), line.name)
        };
        install_lines(text, is_list).into_iter().map(shown).collect()
    }

    #[test]
    fn lines_of_makefiles_and_scripts() {
        let text = "MODNAME := linuwu\n\
            \t@sudo rm -f /etc/modprobe.d/blacklist-x.conf\n\
            \t@echo \"blacklist acer_wmi\" | sudo tee /etc/modprobe.d/blacklist-x.conf > /dev/null\n\
            \techo \"$(MODNAME)\" > /etc/modules-load.d/$(MODNAME).conf\n\
            cp udev-50-tt.rules /etc/udev/rules.d/50-tt.rules\n\
            OPTIONS_FILE=\"88x2bu.conf\"\n\
            cp -f ${OPTIONS_FILE} /etc/modprobe.d\n\
            install -Dm644 a/x.conf $(DESTDIR)/etc/modprobe.d/y.conf\n\
            mkdir -p /etc/modules-load.d\n\
            echo $(date) > /etc/modprobe.d/date.conf\n\
            # cp x.rules /etc/udev/rules.d\n\
            if [ -f /etc/modprobe.d/z.conf ]; then\n";
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(
            files(text, false),
            [
                (3, "modprobe text blacklist acer_wmi\n".to_owned(), some("blacklist-x.conf")),
                (4, "modules-load text linuwu\n".to_owned(), some("linuwu.conf")),
                (5, "udev cp udev-50-tt.rules".to_owned(), some("50-tt.rules")),
                (7, "modprobe cp 88x2bu.conf".to_owned(), None),
                (8, "modprobe install x.conf".to_owned(), some("y.conf")),
            ]
        );
        let text = "DIR=/etc/modprobe.d\n\
            cat > $DIR/a.conf <<EOF\noptions $X y=1\nEOF\n\
            cat <<\"END\" > $DIR/b.conf\noptions b c=$C\nEND\n\
            cat <<-EOF | sudo tee /etc/modules-load.d/b.conf\n\tb\n\tEOF\n\
            cat <<EOF >/tmp/x\necho c > /etc/modules-load.d/c.conf\nEOF\n\
            echo $((1 << 3)) > /etc/modprobe.d/d.conf\n\
            read x <<< y\n\
            echo d > /etc/modules-load.d/d.conf\n";
        assert_eq!(
            files(text, false),
            [
                (5, "modprobe text options b c=$C\n".to_owned(), some("b.conf")),
                (8, "modules-load text b\n".to_owned(), some("b.conf")),
                (16, "modules-load text d\n".to_owned(), some("d.conf")),
            ]
        );
        assert_eq!(
            files("binder usr/src/anbox-1\nanbox.conf /etc/modules-load.d/\n", true),
            [(2, "modules-load anbox.conf".to_owned(), None)]
        );
    }
}
