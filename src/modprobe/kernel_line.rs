//! The parameters of a kernel command line that prevent modules from being loaded.

use crate::cmdline::parameter::KernelArguments;
use crate::kernel::module_file::kernel_name;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineWords {
    /// `module_blacklist=`: the kernel refuses these modules. It compares names exactly, and the last
    /// occurrence counts.
    pub refused: Vec<String>,
    /// `modprobe.blacklist=`: like `blacklist` in `modprobe.d`. kmod compares names exactly, so a name with a
    /// dash never matches.
    pub blacklisted: Vec<String>,
    /// `rd.driver.blacklist=`: like `blacklist`, but only in an initrd of dracut.
    pub blacklisted_in_initrd: Vec<String>,
    /// `modules_load=`: systemd loads these modules by name.
    pub loaded: Vec<String>,
    /// The value of `module_blacklist=` is unknown because the end of the line is.
    pub open: bool,
}

impl LineWords {
    /// Parses a command line.
    pub fn read(line: &[u8]) -> LineWords {
        let arguments = KernelArguments::read(line);
        let listed = |values: &[u8]| -> Vec<String> {
            let values = String::from_utf8_lossy(values).into_owned();
            values.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        let all = |name: &'static str| arguments.values(name).flat_map(listed);
        let exactly = |name: &str| -> Vec<String> {
            let named = arguments.heard.iter().filter(|a| a.name == name.as_bytes());
            named.filter_map(|a| a.value.as_deref()).flat_map(listed).map(|n| kernel_name(&n)).collect()
        };
        LineWords {
            refused: arguments.values("module_blacklist").last().map(listed).unwrap_or_default(),
            blacklisted: kmod_words(line)
                .filter_map(|word| word.strip_prefix("modprobe.blacklist=").map(str::to_owned))
                .flat_map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>())
                .filter(|name| !name.is_empty())
                .collect(),
            blacklisted_in_initrd: exactly("rd.driver.blacklist"),
            loaded: all("modules_load").map(|n| kernel_name(&n)).collect(),
            open: arguments.is_open("module_blacklist"),
        }
    }
}

/// The words of `/proc/cmdline` as libkmod splits them: blanks inside of double quotes belong to a word, and
/// an open quote extends to the end. libkmod knows neither `--` nor a length limit. A quote before a name
/// belongs to the value.
fn kmod_words(line: &[u8]) -> impl Iterator<Item = String> {
    let line = String::from_utf8_lossy(line).into_owned();
    let mut words = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for c in line.chars().chain([' ']) {
        quoted ^= c == '"';
        if !quoted && c.is_ascii_whitespace() {
            let whole = std::mem::take(&mut word);
            words.push(match whole.strip_prefix('"').and_then(|inner| inner.split_once('=')) {
                Some((name, value)) => format!("{name}=\"{value}"),
                None => whole,
            });
        } else {
            word.push(c);
        }
    }
    words.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_keep_modules_away() {
        let words = LineWords::read(
            b"quiet module_blacklist=a module_blacklist=b,c-d rd.driver.blacklist=e-f,g modules_load=x-y \
              modprobe.blacklist=h,i-j -- modprobe.blacklist=k",
        );
        assert_eq!(words.refused, ["b", "c-d"]);
        assert_eq!(words.blacklisted, ["h", "i-j", "k"]);
        assert_eq!(words.blacklisted_in_initrd, ["e_f", "g"]);
        assert_eq!(words.loaded, ["x_y"]);
        assert!(!words.open);
        assert!(LineWords::read(b"quiet \"module_blacklist=a rw").open);
        assert_eq!(LineWords::read(b""), LineWords::default());
    }
}
