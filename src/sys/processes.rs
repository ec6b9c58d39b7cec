//! The other processes of the machine that we run on.

/// How much of a name the kernel keeps, in bytes.
const LONGEST: usize = 15;

/// Whether a program of that name runs. A process that cannot be looked at is not counted.
#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
pub fn is_running(name: &str) -> bool {
    let kept = &name.as_bytes()[..name.len().min(LONGEST)];
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let is_process = process.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        // It may end while we look.
        is_process
            && std::fs::read(process.path().join("comm")).is_ok_and(|comm| comm.trim_ascii_end() == kept)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_process_is_found_by_the_name_that_the_kernel_keeps() {
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("a-program-with-a-long-name");
        std::fs::copy("/bin/sleep", &program).unwrap();
        assert!(!is_running("a-program-with-a-long-name"));
        let mut child = std::process::Command::new(&program).arg("60").spawn().unwrap();
        // The kernel names it a moment after it lets us go on.
        let is_found = || is_running("a-program-with-a-long-name");
        let found = (0..1000).any(|_| {
            is_found() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        });
        assert!(found && !is_running("a-program"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_running("a-program-with-a-long-name"));
    }
}
