//! A spool in a folder: one file each, written aside, synced, then renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use super::{Spool, Spooled};

const SUFFIX: &str = ".spooled";

/// Files of mode 0600 in a folder of mode 0700.
#[derive(Clone, Debug)]
pub struct FolderSpool {
    folder: PathBuf,
}

impl FolderSpool {
    /// Uses a folder, which is made when the first entry is put.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{SUFFIX}"))
    }

    /// Runs blocking file work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let spool = self.clone();
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || work(spool))
            .await
            .map_err(|_| "the spool's thread ended".to_owned())?
            .map_err(|error| {
                format!(
                    "the spool in {} cannot be {what}: {error}",
                    folder.display()
                )
            })
    }
}

#[async_trait]
impl Spool for FolderSpool {
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let (name, bytes) = (name.to_owned(), bytes.to_vec());
        self.blocking("written", move |spool| {
            make_folder(&spool.folder)?;
            let aside = spool.folder.join(format!("{name}.part"));
            let mut file = private_file(&aside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&aside, spool.path(&name))?;
            File::open(&spool.folder)?.sync_all()
        })
        .await
    }

    async fn entries(&self) -> Result<Vec<Spooled>, String> {
        self.blocking("read", |spool| {
            let folder = match fs::read_dir(&spool.folder) {
                Ok(folder) => folder,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut entries = Vec::new();
            for entry in folder {
                let path = entry?.path();
                let Some(name) = path
                    .file_name()
                    .and_then(|name| name.to_str()?.strip_suffix(SUFFIX))
                else {
                    continue;
                };
                match fs::read(&path) {
                    Ok(bytes) => entries.push(Spooled {
                        name: name.to_owned(),
                        bytes,
                    }),
                    // Another process has adopted it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<(), String> {
        let name = name.to_owned();
        self.blocking("cleared", move |spool| {
            match fs::remove_file(spool.path(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn set_aside(&self, name: &str) -> Result<(), String> {
        let name = name.to_owned();
        self.blocking("sorted", move |spool| {
            let path = spool.path(&name);
            match fs::rename(&path, path.with_extension("unreadable")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }
}

#[cfg(unix)]
fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

#[cfg(not(unix))]
fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
