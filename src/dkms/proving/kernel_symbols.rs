//! A kernel as a module sees it when it is loaded: the index, the exported symbols, and the modules that it
//! depends on.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;

use crate::dkms::own_versions::{NotShown, OwnVersions};
use crate::dkms::proof::{Flaw, INSTALLED, find_file};
use crate::dkms::symbols::{self, Answers, Wrong};
use crate::dkms::{Cache, cache};
use crate::kernel::Headers;
use crate::kernel::inventory::{IMAGES, module_directory};
use crate::kernel::module_file::{self, kernel_name};
use crate::kernel::module_image::ModuleImage;
use crate::limits::{KERNEL_INDEX, KERNEL_LIST, SYMBOL_MAP};
use crate::modprobe::index::{DependencyEntry, Index, is_file_of};
use crate::sys::{Directory, FileError, Fingerprint, Presence, Root};

/// A kernel against which modules are checked.
#[derive(Debug)]
pub struct KernelSymbols<'a> {
    pub(in crate::dkms) root: &'a Root,
    pub(in crate::dkms) release: &'a str,
    headers: &'a Headers,
    pub(in crate::dkms) index: Index,
    pub(in crate::dkms) now: Timestamp,
    symvers: OnceCell<Result<Vec<u8>, FileError>>,
    symvers_there: OnceCell<Presence>,
    built_in: OnceCell<Result<Option<Vec<u8>>, FileError>>,
    installed: OnceCell<Option<Directory<'a>>>,
    own_versions: RefCell<OwnVersions>,
}

impl<'a> KernelSymbols<'a> {
    /// Reads the parts that are needed for every module.
    ///
    /// # Errors
    ///
    /// If `modules.dep` exists and cannot be read.
    pub fn load(
        root: &'a Root,
        release: &'a str,
        headers: &'a Headers,
        now: Timestamp,
    ) -> Result<KernelSymbols<'a>, FileError> {
        let index = Index::load(root, release)?;
        Ok(KernelSymbols {
            root,
            release,
            headers,
            index,
            now,
            symvers: OnceCell::new(),
            symvers_there: OnceCell::new(),
            built_in: OnceCell::new(),
            installed: OnceCell::new(),
            own_versions: RefCell::default(),
        })
    }

    /// The system.
    pub fn root(&self) -> &'a Root {
        self.root
    }

    /// The kernel release.
    pub fn release(&self) -> &'a str {
        self.release
    }

    /// The files of the kernel's own modules that `modules.dep` lists.
    pub fn own_modules(&self) -> impl Iterator<Item = String> {
        self.index.paths().filter(|path| path.starts_with("kernel/")).map(|path| self.inside(path))
    }

    /// The directory that dkms installs to, if it can be opened. A failed read is in `Root::unread`.
    pub(in crate::dkms) fn installed(&self) -> Option<&Directory<'a>> {
        self.installed.get_or_init(|| self.root.open_directory(self.inside(INSTALLED)).ok()).as_ref()
    }

    pub(in crate::dkms) fn inside(&self, below: &str) -> String {
        format!("{}/{below}", module_directory(self.release))
    }

    /// The name of a module as the kernel writes it, and the modules that modprobe loads before it.
    pub fn beneath(&self, module: &str) -> (String, Vec<String>) {
        // A line that modprobe does not find is a flaw of the proof.
        let needs = self.index.entry(module).map(|entry| entry.needs).unwrap_or_default();
        let names = needs.iter().filter_map(|need| module_file::stem(need)).map(str::to_owned).collect();
        (module_file::kernel_name(module), names)
    }

    /// Whether everything that a file takes from the kernel and from other modules exists. `entry` is its
    /// line of `modules.dep`; without it nothing is known of other modules.
    ///
    /// # Errors
    ///
    /// If it cannot be determined.
    pub fn symbols(
        &self,
        cache: &mut Cache,
        path: &str,
        there: &Presence,
        entry: Option<&DependencyEntry>,
    ) -> Result<Result<(), Wrong>> {
        let stat = match there {
            Presence::There(stat) => stat,
            Presence::Unreadable(e) => bail!("{e}"),
            Presence::Absent => bail!("it is not there"),
        };
        let (list, without) = self.exports()?;
        let list_there = self.root.lookup(&list);
        let needs = entry.map_or(&[][..], |entry| &entry.needs);
        let mut inputs = Fingerprint::default();
        inputs.add(list_there.stat().map(|stat| cache::identity(&stat)).unwrap_or_default());
        inputs.add(without);
        if !without.is_empty() {
            // The modules that answer then. Each installation of modules of a kernel writes this file.
            let listed = self.root.lookup(self.inside("modules.dep")).stat();
            inputs.add(listed.map(|stat| cache::identity(&stat)).unwrap_or_default());
        }
        // Without the line, only the kernel was asked.
        inputs.add(if entry.is_some() { "all" } else { "the kernel alone" });
        for need in needs {
            inputs.add(need);
            let stat = self.root.lookup(self.inside(need)).stat();
            // Only part of the key of the cache: without it the file is checked once more.
            inputs.add(stat.map(|stat| cache::identity(&stat)).unwrap_or_default());
        }
        let needs: Vec<String> = needs.iter().map(|need| self.inside(need)).collect();
        cache.symbols(path, stat, &inputs.finish(), || match without.is_empty() {
            true => self.judge(path, &list, entry.is_some(), &needs),
            false => self.judge_names(path, &list, entry.is_some(), &needs, without),
        })
    }

    /// The name and the text of the list of exported symbols: `Module.symvers`, or else `System.map` with the
    /// reason.
    fn exports(&self) -> Result<(String, &'static str)> {
        let list = self.inside("build/Module.symvers");
        let why = match self.symvers_there.get_or_init(|| self.root.lookup(&list)) {
            _ if *self.headers != Headers::Present => "the headers of this kernel are not there",
            Presence::There(_) => return Ok((list, "")),
            Presence::Unreadable(e) => bail!("{e}"),
            Presence::Absent => "the headers of this kernel have no Module.symvers",
        };
        Ok((format!("{IMAGES}/System.map-{}", self.release), why))
    }

    /// As [`KernelSymbols::judge`], if only the names of the exported symbols are known, from System.map;
    /// `without` is the reason. Versions are those that the modules of the kernel were built with.
    fn judge_names(
        &self,
        path: &str,
        map: &str,
        all: bool,
        needs: &[String],
        without: &'static str,
    ) -> Result<Result<(), Wrong>> {
        let image = self.image(path)?;
        let file = symbols::read(&image)?;
        // A module without imports cannot lack anything.
        if file.takes_nothing() {
            return Ok(Ok(()));
        }
        let path_of_map = map;
        let map: Box<dyn Read> = match self.root.open_within(map, SYMBOL_MAP) {
            Ok((file, _)) => Box::new(file.take(SYMBOL_MAP)),
            Err(e) if e.is_absent() => Box::new(std::io::empty()),
            Err(e) => return Err(e.into()),
        };
        let answer = file.against_names(BufReader::new(map), self.exported_by_modules(all)?);
        match answer.map_err(|e| self.root.read_failed(path_of_map, e))? {
            Some(Ok(true)) => return Ok(Ok(())),
            Some(Err(wrong)) => return Ok(Err(wrong)),
            // The map is empty, or the file was built with versions, which the map does not have.
            Some(Ok(false)) | None => {}
        }
        let Some(open) = file.with_versions() else { bail!(without) };
        let mut answers = Answers::new(&open);
        for path in needs {
            answers.ask(&symbols::read(&self.image(path)?)?);
        }
        let open = match answers.unanswered(self.exported_by_modules(true)?) {
            Ok(open) => open,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let mut own = self.own_versions.borrow_mut();
        let compared = own.compare(self.root, self.own_modules(), &open);
        compared.map_err(|symbol| anyhow!(NotShown { without: without.to_owned(), symbol }))
    }

    /// The same for a file that is not installed yet, with the files that will be loaded before it.
    ///
    /// # Errors
    ///
    /// If it cannot be determined.
    pub(in crate::dkms) fn symbols_with(&self, path: &str, needs: &[String]) -> Result<Result<(), Wrong>> {
        match self.exports()? {
            (list, "") => self.judge(path, &list, true, needs),
            (map, without) => self.judge_names(path, &map, true, needs, without),
        }
    }

    /// `all`: only these files are loaded before it.
    fn judge(&self, path: &str, list: &str, all: bool, needs: &[String]) -> Result<Result<(), Wrong>> {
        let list = self.symvers.get_or_init(|| self.root.read_within(list, KERNEL_INDEX));
        let list = list.as_ref().map_err(|e| anyhow!("{e}"))?;
        let image = self.image(path)?;
        let kernel = self.inside("kernel/");
        let own = |module: &str| {
            needs.iter().any(|n| n.starts_with(&kernel) && symbols::module_name(n.as_bytes()) == module)
        };
        let file = symbols::read(&image)?;
        let open = match file.against_kernel(list, own) {
            Ok(None) => bail!("the Module.symvers of this kernel lists nothing of the kernel"),
            Ok(Some(open)) => open,
            Err(wrong) => return Ok(Err(wrong)),
        };
        if open.is_empty() {
            return Ok(Ok(()));
        }
        let mut answers = Answers::new(&open);
        for path in needs {
            answers.ask(&symbols::read(&self.image(path)?)?);
        }
        Ok(answers.verdict(self.exported_by_modules(all)?))
    }

    fn image(&self, path: &str) -> Result<ModuleImage<'static>> {
        ModuleImage::of_file(self.root, path, path).map_err(|why| anyhow!(why.of(path)))
    }

    /// Whether some module of the kernel exports a symbol. Without `all` any may.
    fn exported_by_modules(&self, all: bool) -> Result<impl Fn(&str) -> bool + use<>, FileError> {
        let list = self.root.read_optional_within(self.inside("modules.symbols"), KERNEL_LIST)?;
        let list = list.unwrap_or_default();
        Ok(move |name: &str| {
            !all || memchr::memmem::find(&list, format!("alias symbol:{name} ").as_bytes()).is_some()
        })
    }

    /// Whether the modules that a module depends on exist: those that depmod found, and those that the module
    /// itself lists (`depends`). Returns the reason if not everything could be checked.
    ///
    /// # Errors
    ///
    /// All modules that do not exist.
    pub fn dependencies(
        &self,
        name: &str,
        depends: &[String],
        entry: &DependencyEntry,
    ) -> Result<Option<String>, Vec<Flaw>> {
        let (mut gone, mut unlisted, mut not_made) = (BTreeSet::new(), Vec::new(), None);
        let (listed, others): (Vec<_>, Vec<_>) = depends
            .iter()
            .map(|name| (name, self.index.modprobe(name)))
            .partition(|(_, entry)| entry.is_some());
        let depended = listed.iter().filter_map(|(_, entry)| Some(&entry.as_ref()?.path));
        for path in entry.needs.iter().chain(depended.filter(|path| !entry.needs.contains(path))) {
            match self.root.lookup(self.inside(path)) {
                Presence::There(_) => {}
                Presence::Absent => {
                    gone.insert(symbols::module_name(path.as_bytes()));
                }
                Presence::Unreadable(e) => not_made = Some(e.to_string()),
            }
        }
        for (needs, _) in others {
            match (self.is_built_in(needs), self.is_among_ours(needs)) {
                (Ok(true), _) => {}
                (_, Ok(true)) => unlisted.push(Flaw::NotListed { name: needs.clone(), instead: None }),
                (Ok(false), Ok(false)) => {
                    gone.insert(kernel_name(needs));
                }
                (Err(error), _) | (_, Err(error)) => not_made = Some(error.to_string()),
            }
        }
        let gone = gone.into_iter().map(|needs| Flaw::Dependency { name: name.to_owned(), needs });
        let flaws: Vec<Flaw> = gone.chain(unlisted).collect();
        if flaws.is_empty() { Ok(not_made) } else { Err(flaws) }
    }

    /// The files that modprobe will load before a file that depends on these modules; files of the same set
    /// are not installed yet.
    ///
    /// # Errors
    ///
    /// The first module that does not exist, or the reason why that is unknown.
    pub(in crate::dkms) fn files_before(
        &self,
        depends: &[String],
        set: &[(String, String)],
    ) -> Result<Vec<String>> {
        let mut files: Vec<String> = Vec::new();
        let mut add = |path: String| {
            if !files.contains(&path) {
                files.push(path);
            }
        };
        for name in depends {
            let of_set = set.iter().find(|(built, _)| is_file_of(format!("{built}.ko").as_bytes(), name));
            if let Some((_, path)) = of_set {
                add(path.clone());
            } else if let Some(entry) = self.index.modprobe(name) {
                add(self.inside(&entry.path));
                entry.needs.iter().for_each(|need| add(self.inside(need)));
            } else if let Some((path, _)) = find_file(self.root, &self.inside(INSTALLED), name) {
                // Installed during this run; the index follows.
                add(path);
            } else if !self.is_built_in(name)? {
                bail!("{name}, which it is loaded on top of, is not there");
            }
        }
        Ok(files)
    }

    fn is_built_in(&self, module: &str) -> Result<bool> {
        let read = || self.root.read_optional_within(self.inside("modules.builtin"), KERNEL_LIST);
        let text = self.built_in.get_or_init(read).as_ref().map_err(|e| anyhow!("{e}"))?;
        let text = text.as_ref().context("there is no modules.builtin")?;
        let base =
            |line: &[u8]| line.rsplit(|b| *b == b'/').next().is_some_and(|file| is_file_of(file, module));
        Ok(text.split(|b| *b == b'\n').any(base))
    }

    /// Whether its file is where dkms installs to.
    fn is_among_ours(&self, module: &str) -> Result<bool> {
        let files = self.root.list_optional(self.inside(INSTALLED))?;
        Ok(files.iter().any(|file| is_file_of(file.name.as_bytes(), module)))
    }
}
