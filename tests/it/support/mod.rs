//! What the tests share: a builder of roots, stand-ins for the programs of others, and runs of our own
//! programs.

pub(crate) mod boot;
pub(crate) mod cases;
pub(crate) mod elf;
pub(crate) mod guard;
pub(crate) mod machine;
pub(crate) mod random;
pub(crate) mod root;
pub(crate) mod run;
pub(crate) mod scratch;
pub(crate) mod terminal;
pub(crate) mod tree;

pub(crate) use cases::{cases, few_or};
pub(crate) use root::{A, B, LTS, TestRoot, modules_dep_bin};
pub(crate) use run::Run;
