//! How much is read of a file that others have written. What is larger is unknown, with a message that names the file and the
//! limit: each program stays below 64 MiB of memory, whatever lies in a root.
//!
//! | what | at most |
//! | --- | --- |
//! | a configuration file, a boot entry, a fragment, a value of `/proc`, `/sys` or EFI | 256 KiB ([`crate::sys::root::READ_LIMIT`]) |
//! | all files of `modprobe.d`, or of `modules-load.d`, together | [`CONFIGURATION`] |
//! | all that a kernel's command line is made of, together | [`FRAGMENTS`] |
//! | the list of loaded modules | [`CONFIGURATION`] |
//! | a `dkms.conf`, a Makefile, a kernel's `.config`, `grub.cfg`, a boot menu | [`TEXT`] |
//! | other lists of `/proc` (mounts, routes) and `/sys` | [`SYSTEM_LIST`] |
//! | records of `/var/lib/clr-dkms`, and the cache | [`RECORD`], with [`VALUES`] values |
//! | `modules.dep`, `modules.builtin`, `modules.symbols`, `modules.order`, `modules.builtin.modinfo` | [`KERNEL_LIST`] |
//! | `modules.dep.bin`, `Module.symvers` | [`KERNEL_INDEX`] |
//! | `System.map`, line by line | [`SYMBOL_MAP`] |
//! | a kernel module: its file, and what comes of it without its compression; of one beyond 8 MiB only the sections that are asked for are kept | [`MODULE`] |
//! | an initrd, block by block; what comes of it unpacked, and the time that it takes | [`INITRD`], [`INITRD_UNPACKED`], 30 s |
//! | a decoder that keeps more than [`WINDOW`] of what it has given (`xz -9`, `zstd --ultra -22`) | 32 MiB unpacked with xz, 15 MiB with zstd |
//! | a kernel image, block by block, unpacked | 512 MiB |
//! | a build log that is shown, line by line | [`LOG`] |
//! | the entries of a directory | 65536 |

/// All configuration files of one kind together; the loaded modules, of which there are some thousands at most.
pub const CONFIGURATION: u64 = 512 << 10;
/// The parts of a kernel's command line, which itself has 2048 characters.
pub const FRAGMENTS: u64 = 128 << 10;
/// A text that is read whole.
pub const TEXT: u64 = 1 << 20;
/// A list of the running kernel.
pub const SYSTEM_LIST: u64 = 4 << 20;
/// A state file, or the cache.
pub const RECORD: u64 = 4 << 20;
/// The values of a state file: each takes some hundred bytes of memory.
pub const VALUES: usize = 100_000;
/// A list of a kernel's modules. One of all the modules that there are takes a third of it.
pub const KERNEL_LIST: u64 = 4 << 20;
/// A binary list of a kernel's modules, or the list of what it exports.
pub const KERNEL_INDEX: u64 = 6 << 20;
/// The addresses of a kernel's symbols.
pub const SYMBOL_MAP: u64 = 64 << 20;
/// A kernel module, packed or unpacked.
pub const MODULE: u64 = 512 << 20;
/// An initrd as it lies on disk.
pub const INITRD: u64 = 2 << 30;
/// All members of an initrd without their compression.
pub const INITRD_UNPACKED: u64 = 2 << 30;
/// How much of what it has given a decoder keeps: the window of zstd, the dictionary of xz; lz4 has blocks of 8 MiB.
pub const WINDOW: u64 = 8 << 20;
/// A build log; ours are kept below 32 MiB.
pub const LOG: u64 = 64 << 20;

/// Whether JSON has more than [`VALUES`] values.
pub fn has_too_many_values(json: &[u8]) -> bool {
    // One may stand in a text: the count is an upper bound.
    memchr::memchr_iter(b',', json).count() > VALUES
}
