//! The disk that all machines share, the machine that was booted with it, and the product that they get.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::{Machine, Outcome, answer, host};

/// The size of the disk by which the product gets into a machine: it must not depend on the product.
const PAYLOAD: u64 = 96 << 20;

/// Which clr-boot-manager the machines have.
pub(crate) fn boot_manager() -> Outcome<String> {
    let Some(real) = real_boot_manager() else { return Ok("the stand-in for clr-boot-manager".into()) };
    let text = answer(Command::new(&real).arg("version"))?;
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    Ok(format!("the real clr-boot-manager {}", version.ok_or(format!("it has no version: {text}"))?))
}

/// The real clr-boot-manager, if `CLR_BOOT_MANAGER` names it: it takes the place of the stand-in.
pub(crate) fn real_boot_manager() -> Option<PathBuf> {
    std::env::var_os("CLR_BOOT_MANAGER").map(PathBuf::from)
}

/// What a run begins with, below `target/vm`.
pub(crate) struct Image {
    top: PathBuf,
    key: String,
}

impl Image {
    /// Builds what is not there yet: some minutes for the disk, one boot for the machine.
    pub(crate) fn prepare() -> Outcome<Image> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let top = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| repository.join("target"), PathBuf::from)
            .join("vm");
        fs::create_dir_all(&top).map_err(|e| format!("{}: {e}", top.display()))?;
        let script = repository.join("tests/vm/image/build.sh");
        let disk = top.join("disk");
        let built = Command::new(&script).arg(&disk).status().map_err(|e| e.to_string())?;
        if !built.success() {
            return Err("the disk cannot be built".into());
        }
        let key = fs::read_to_string(disk.join(".disk")).map_err(|e| e.to_string())?;
        let image = Image { key: key.trim().to_owned(), top };
        for old in fs::read_dir(&image.top).map_err(|e| e.to_string())?.flatten() {
            let name = old.file_name().to_string_lossy().into_owned();
            if name.starts_with("clear-") && !name.ends_with(&image.key) {
                fs::remove_dir_all(old.path()).map_err(|e| e.to_string())?;
            }
        }
        if !image.clear().join("complete").exists() {
            image.first_boot()?;
        }
        image.pack(repository)?;
        Ok(image)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.top
    }

    fn disk(&self) -> PathBuf {
        self.top.join("disk")
    }

    /// The booted machine without the product.
    pub(crate) fn clear(&self) -> PathBuf {
        self.top.join(format!("clear-{}", self.key))
    }

    /// The booted machine with it; the first scene makes it.
    pub(crate) fn ready(&self) -> PathBuf {
        self.top.join(if real_boot_manager().is_some() { "ready-real" } else { "ready" })
    }

    fn first_boot(&self) -> Outcome<()> {
        // They are of another disk.
        for name in ["ready", "ready-real"] {
            fs::remove_dir_all(self.top.join(name)).ok();
        }
        let variables = self.disk().join("owner/variables.fd");
        let mut machine = Machine::new(&self.clear(), &self.disk().join("base.img"), &variables)?;
        let payload = fs::File::create(self.clear().join("payload.img")).map_err(|e| e.to_string())?;
        payload.set_len(PAYLOAD).map_err(|e| e.to_string())?;
        machine.switch_on(None)?;
        machine.wait_for_boot()?;
        machine.save("clear")?;
        machine.cut_power();
        fs::write(self.clear().join("complete"), "").map_err(|e| e.to_string())
    }

    /// Puts what `make install` installs onto the second disk of the machine.
    fn pack(&self, repository: &Path) -> Outcome<()> {
        let tree = self.top.join("product");
        fs::remove_dir_all(&tree).ok();
        let mut install = Command::new(repository.join("packaging/install.sh"));
        host(install.arg("install").env("DESTDIR", &tree).current_dir(repository))?;
        if let Some(real) = real_boot_manager() {
            let place = tree.join("usr/libexec/clr-boot-manager-real");
            fs::create_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
            let to = place.join("clr-boot-manager");
            fs::copy(&real, &to).map_err(|e| format!("{}: {e}", real.display()))?;
            for library in libraries(&real)? {
                let to = place.join(library.file_name().unwrap_or_default());
                fs::copy(&library, to).map_err(|e| format!("{}: {e}", library.display()))?;
            }
        }
        let archive = self.clear().join("payload.img");
        host(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&archive).arg("."))?;
        let file = fs::File::options().write(true).open(&archive).map_err(|e| e.to_string())?;
        let size = file.metadata().map_err(|e| e.to_string())?.len();
        if size > PAYLOAD {
            return Err(format!("the product has {size} bytes, which is too much for the second disk"));
        }
        file.set_len(PAYLOAD).map_err(|e| e.to_string())
    }
}

/// The shared libraries of a program, and what loads them.
fn libraries(program: &Path) -> Outcome<Vec<PathBuf>> {
    let text = answer(Command::new("ldd").arg(program))?;
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}
