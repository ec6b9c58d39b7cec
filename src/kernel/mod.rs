//! Kernels: their names, variants and bundles, the kernels that are installed, and the files of kernel
//! modules.

pub mod config_file;
pub mod firmware;
pub mod headers;
pub mod identity;
pub mod inventory;
pub mod module_file;
pub mod module_image;
pub mod variant;

pub use headers::Headers;
pub use identity::{KernelName, MalformedName};
pub use inventory::{Images, Installed, Inventory, NoSuchKernel, Running};
pub use variant::{Family, Support, Variant};
