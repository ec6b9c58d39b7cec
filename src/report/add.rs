//! The document of `clr-dkms add`.

use std::ops::Deref;

use serde::Serialize;

use super::side_files::SideDocument;
use crate::adopt::{Decision, Evidence};

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    /// It is done.
    #[default]
    Done,
    /// It was left out.
    Skipped,
    /// It is done, and something should be known about it.
    Warning,
    /// It failed, and ended the run.
    Failed,
    /// It would be done: this is a dry run.
    Planned,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct AddStep {
    /// Its name.
    pub step: &'static str,
    /// How it ended.
    pub result: StepResult,
    /// What came of it.
    pub text: String,
    /// The identifier of the cause of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// The line of the source that forces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What helps after a failure or a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
}

/// The steps of a verb, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(transparent)]
pub struct Steps(Vec<AddStep>);

impl Steps {
    /// Adds a step.
    pub fn add(&mut self, step: &'static str, result: StepResult, text: impl Into<String>) {
        self.push(AddStep { step, result, text: text.into(), ..AddStep::default() });
    }

    /// Adds a step with details.
    pub fn push(&mut self, step: AddStep) {
        self.0.push(step);
    }

    /// A step has failed.
    pub fn has_failed(&self) -> bool {
        self.iter().any(|step| step.result == StepResult::Failed)
    }
}

impl Deref for Steps {
    type Target = [AddStep];

    fn deref(&self) -> &[AddStep] {
        &self.0
    }
}

/// What became of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct AddDocument {
    /// Grows when a field changes its meaning.
    pub schema: u32,
    /// The source, as it was given.
    pub source: String,
    /// The name of the module, once it is known.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The directory of the source that is built.
    pub directory: Option<String>,
    /// The modules that it makes.
    pub modules: Vec<String>,
    /// What was decided about the source, and why.
    pub decisions: Vec<Decision>,
    /// The resulting `dkms.conf`.
    pub dkms_conf: Option<String>,
    /// The changes to the project's own file.
    pub changes: Vec<String>,
    /// The project's own file; none when the file was generated.
    pub original: Option<String>,
    /// The files among which one is to be chosen with `--conf`.
    pub choices: Vec<String>,
    /// The modules that a kernel has without it.
    pub in_kernel: Vec<String>,
    pub steps: Steps,
    /// The module is installed and proven on every kernel that boots by default of its variant.
    pub installed: bool,
    /// The side files, the drivers of the same devices, and missing firmware.
    #[serde(flatten)]
    pub side: SideDocument,
    /// What takes it back.
    pub undo: Option<String>,
}
