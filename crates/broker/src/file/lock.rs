//! One engine at a time.

use std::{
    fs::{File, TryLockError},
    io::{Read as _, Write as _},
    path::Path,
};

use super::FileError;

/// Longer than what is written there, should the file be foreign.
const MOST: u64 = 200;

/// The directory is ours as long as this is there. The system ends it with the process.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    #[expect(
        clippy::incompatible_msrv,
        reason = "this feature needs Rust 1.89, as its documentation says"
    )]
    pub(super) fn take(dir: &Path) -> Result<Self, FileError> {
        let path = dir.join("lock");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(FileError::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(FileError::InUse { path: dir.to_owned(), holder: holder(file) });
            }
            Err(TryLockError::Error(error)) => return Err(FileError::io(&path)(error)),
        }
        let lock = Self(file);
        // Only for whoever comes second, so it need not succeed.
        let _ = lock.0.set_len(0).and_then(|()| (&lock.0).write_all(own_name().as_bytes()));
        Ok(lock)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.set_len(0);
    }
}

fn own_name() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(Path::file_name).unwrap_or_default();
    format!("process {} ({})", std::process::id(), name.to_string_lossy())
}

fn holder(file: File) -> Option<String> {
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).ok()?;
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    Some(clean).filter(|text| !text.is_empty())
}
