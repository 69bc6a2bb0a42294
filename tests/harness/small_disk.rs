//! A small file system of its own in memory, to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// Mounted; gone when dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one with tmpfs's options, "size=2m".
    pub fn mount(at: &Path, options: &str) -> Result<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            bail!(
                "this test fills a file system of its own, which only root can mount: run it as root"
            );
        }
        std::fs::create_dir_all(at)?;
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], at)?;
        Ok(SmallDisk(at.to_owned()))
    }

    /// Changes its options.
    pub fn remount(&self, options: &str) -> Result<()> {
        mount(&["-o", &format!("remount,{options}")], &self.0)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that ends just now may still have a file open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<()> {
    let output = Command::new("mount").args(arguments).arg(at).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("this test needs a file system of its own, and mount refused it: {said}");
    }
    Ok(())
}
