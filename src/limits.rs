//! How much is read of files that others have written.
//!
//! A larger file is unknown, and a message names the file and the limit. With these limits each program needs
//! less than 64 MiB of memory, whatever a root contains. Limits that are not constants of this module:
//! - a configuration file, a boot entry, a fragment, a value in `/proc`, `/sys` or EFI: 256 KiB
//!   ([`crate::sys::root::READ_LIMIT`]);
//! - a kernel image, which is unpacked block by block: 512 MiB;
//! - a directory: 65536 entries.

/// All configuration files of one kind together, such as `modprobe.d` or `modules-load.d`, and
/// `/proc/modules`.
pub const CONFIGURATION: u64 = 512 << 10;
/// All files that a kernel command line is composed of. The line itself has at most 2048 characters.
pub const FRAGMENTS: u64 = 128 << 10;
/// A text file that is read completely: a `dkms.conf`, a Makefile, a kernel's `.config`, `grub.cfg`, a boot
/// menu.
pub const TEXT: u64 = 1 << 20;
/// A list in `/proc` or `/sys`, such as mounts and routes.
pub const SYSTEM_LIST: u64 = 4 << 20;
/// A record in `/var/lib/clr-dkms`, or the cache.
pub const RECORD: u64 = 4 << 20;
/// The values in a state file. Each takes some hundred bytes of memory.
pub const VALUES: usize = 100_000;
/// `modules.dep`, `modules.builtin`, `modules.symbols`, `modules.order` and `modules.builtin.modinfo`. The
/// lists of a kernel with all modules have a third of this size.
pub const KERNEL_LIST: u64 = 4 << 20;
/// `modules.dep.bin` and `Module.symvers`.
pub const KERNEL_INDEX: u64 = 6 << 20;
/// `System.map`, which is read line by line.
pub const SYMBOL_MAP: u64 = 64 << 20;
/// A kernel module, compressed or uncompressed. Of a module above 8 MiB only the needed sections are kept.
pub const MODULE: u64 = 512 << 20;
/// The compressed size of an initrd, which is read block by block and for at most 30 seconds.
pub const INITRD: u64 = 2 << 30;
/// The uncompressed size of all members of an initrd.
pub const INITRD_UNPACKED: u64 = 2 << 30;
/// How much of its output a decoder may keep: the window of zstd, the dictionary of xz. lz4 has blocks of 8
/// MiB. If an archive needs more (`xz -9`, `zstd --ultra -22`), only 32 MiB (xz) or 15 MiB (zstd) are
/// unpacked.
pub const WINDOW: u64 = 8 << 20;
/// A build log, which is read line by line. clr-dkms keeps its own logs below 32 MiB.
pub const LOG: u64 = 64 << 20;

/// All files of a module's source that is adopted. The largest known one has 385 MB.
pub const ADOPTED_SOURCE: u64 = 1 << 30;
/// The entries of a module's source that is adopted.
pub const ADOPTED_ENTRIES: usize = 50_000;
/// How deep the directories of a module's source are nested.
pub const ADOPTED_DEPTH: usize = 32;
/// The manifest of an exported module. It lists each file of the source and each symbol of the binaries.
pub const TRANSFER_MANIFEST: u64 = 8 << 20;

/// Whether a JSON text has more than [`VALUES`] values.
pub fn has_too_many_values(json: &[u8]) -> bool {
    // Commas in strings are counted too, so the count is an upper bound.
    memchr::memchr_iter(b',', json).count() > VALUES
}
