//! Kernels: their names, their variants and bundles, and what is installed and running.

pub mod config_file;
pub mod identity;
pub mod inventory;
pub mod module_file;
pub mod module_image;
pub mod variant;

pub use identity::{KernelName, MalformedName};
pub use inventory::{Headers, Images, Installed, Inventory, Running};
pub use variant::{Family, Support, Variant};
