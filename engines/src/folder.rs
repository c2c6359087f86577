use std::{
    env, fs,
    io::ErrorKind,
    ops::Deref,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// A new and empty folder among those for temporary files, removed with the value.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// With this in its name.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let (id, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
            let folder = env::temp_dir().join(format!("gusset-{name}-{id}-{number}"));
            match fs::create_dir(&folder) {
                Ok(()) => return Self(folder),
                // Left by a process of the same id that was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make {}: {error}", folder.display()),
            }
        }
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for Folder {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
