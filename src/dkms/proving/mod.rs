//! The proof that a module is installed, fits its kernel and will be found: from the files alone.

pub mod depmod;
pub mod kernel_symbols;
pub mod loadable;
pub mod modfile;
pub(super) mod own_versions;
pub(super) mod pkcs7;
pub mod proof;
pub mod signature;
pub mod symbols;
