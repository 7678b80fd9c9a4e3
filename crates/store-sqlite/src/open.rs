//! Opening the file.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokenward::store::{StoreError, StoreResult};

use crate::{
    job::{Outcome, Queue, job},
    lanes::{Lane, Lanes},
    migrate, reader, writer,
};

/// How long a statement waits for another process that writes.
const BUSY: Duration = Duration::from_secs(10);
/// Threads for reads.
const READERS: usize = 2;
/// Prepared statements that each thread keeps.
const STATEMENTS: usize = 64;

/// A vault in one SQLite file.
///
/// Several processes may have the same file open. When the store is dropped, what is queued is
/// still written, and the threads end by themselves.
pub struct SqliteStore {
    path: PathBuf,
    writes: Queue,
    pub(crate) reads: Arc<Lanes>,
    _closing: Closing,
}

/// Why a vault could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file's folder does not exist.
    #[error("the folder {0} does not exist")]
    FolderMissing(PathBuf),
    /// The file could not be made or written.
    #[error("cannot write {path}: {source}")]
    NotWritable {
        /// The vault's file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The path is a folder, a device, or another thing that holds no database.
    #[error("{0} is not a file")]
    NotAFile(PathBuf),
    /// The file is something else.
    #[error("{0} is not a SQLite database, or it is damaged")]
    NotADatabase(PathBuf),
    /// The file is a database of another program.
    #[error("{0} is a SQLite database, but not a tokenward vault")]
    NotAVault(PathBuf),
    /// The file was written by a newer version of this program.
    #[error(
        "{path}: this vault was written by a newer tokenward (schema {schema}); this one knows schemas up to {}",
        migrate::SCHEMA
    )]
    Newer {
        /// The vault's file.
        path: PathBuf,
        /// Its schema.
        schema: i64,
    },
    /// The file, its folder or its file system can only be read.
    #[error("{0} can only be read: the file, its folder and its file system must allow writing")]
    ReadOnly(PathBuf),
    /// Another process does not let go of the file.
    #[error("{0} is locked by another process")]
    Locked(PathBuf),
    /// The file system has no shared memory maps, which WAL needs.
    #[error(
        "{path} cannot be switched to write-ahead logging (it stays `{mode}`): is it on a network file system?"
    )]
    NoWal {
        /// The vault's file.
        path: PathBuf,
        /// SQLite's answer.
        mode: String,
    },
    /// Anything else that SQLite says.
    #[error("cannot open {path}: {source}")]
    Sqlite {
        /// The vault's file.
        path: PathBuf,
        /// SQLite's word.
        source: rusqlite::Error,
    },
    /// The system gave us no thread.
    #[error("cannot start a thread for the vault: {0}")]
    Thread(io::Error),
}

impl OpenError {
    pub(crate) fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::NotADatabase(path),
            // SQLite cannot make the files beside the database.
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::ReadOnly(path)
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked(path),
            _ => Self::Sqlite { path, source },
        }
    }
}

impl SqliteStore {
    /// Opens a vault, and makes it if there is none. Blocks while another process migrates it.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        create(path)?;
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // SQLite falls back to reading, without a word.
        if connection
            .is_readonly("main")
            .map_err(|error| OpenError::from_sqlite(path, error))?
        {
            return Err(OpenError::ReadOnly(path.to_owned()));
        }
        // Before anything is changed: a file that is not ours stays as it is.
        migrate::check(&connection, path)?;
        use_wal(&connection, path)?;
        migrate::migrate(&mut connection, path)?;
        let readers = (0..READERS)
            .map(|_| connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY))
            .collect::<Result<Vec<_>, _>>()?;
        let reads = Arc::new(Lanes::default());
        // Closes the lanes when it is dropped, also if a thread cannot be started.
        let closing = Closing(reads.clone());
        let threads = reader::start(readers, &reads).map_err(OpenError::Thread)?;
        let writes = writer::start(connection, threads).map_err(OpenError::Thread)?;
        Ok(Self {
            path: path.to_owned(),
            writes,
            reads,
            _closing: closing,
        })
    }

    /// Runs a verb in a write transaction; durable when it returns. The verb runs even if the
    /// caller does not wait for its end.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (job, answer) = job(verb);
        self.writes.send(job).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Runs a read that anybody can make us do, behind the others.
    pub(crate) async fn read_for_a_stranger<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> StoreResult<T> {
        self.read_in(Lane::Stranger, verb).await
    }

    /// Runs a verb in a read transaction.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> StoreResult<T> {
        self.read_in(Lane::Known, verb).await
    }

    async fn read_in<T: Send + 'static>(
        &self,
        lane: Lane,
        verb: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (job, answer) = job(verb);
        self.reads.put(lane, job)?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> StoreError {
    StoreError::Away("the vault's thread has ended".to_owned())
}

/// Lets the threads that read end.
struct Closing(Arc<Lanes>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Makes an empty file that only its owner may read. SQLite gives the files beside it the same
/// mode.
fn create(path: &Path) -> Result<(), OpenError> {
    /// Closing a file drops every POSIX lock that this process has on it, SQLite's included: no
    /// other thread may open the new file before we have closed it.
    static CREATING: Mutex<()> = Mutex::new(());

    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(OpenError::FolderMissing(folder.to_owned()));
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);

    let _creating = CREATING.lock().expect("no panic while locked");
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(()),
            _ => Err(OpenError::NotAFile(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Err(OpenError::ReadOnly(path.to_owned()))
        }
        Err(source) => Err(OpenError::NotWritable {
            path: path.to_owned(),
            source,
        }),
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let connect = || {
        let connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // NORMAL would lose the last commits in a power failure: a rotated token among them.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // On macOS, fsync alone does not reach the disk.
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    };
    connect().map_err(|error| OpenError::from_sqlite(path, error))
}

/// Switches to write-ahead logging. While others do the same, SQLite answers "busy" at once and
/// does not wait by itself.
fn use_wal(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    const PAUSE: Duration = Duration::from_millis(10);
    let sqlite = |error| OpenError::from_sqlite(path, error);
    let mut tries = BUSY.as_millis() / PAUSE.as_millis() / 2;
    connection.busy_timeout(PAUSE).map_err(sqlite)?;
    loop {
        match connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
        {
            Ok(mode) if mode == "wal" => return connection.busy_timeout(BUSY).map_err(sqlite),
            Ok(mode) => {
                return Err(OpenError::NoWal {
                    path: path.to_owned(),
                    mode,
                });
            }
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && tries > 0 =>
            {
                tries -= 1;
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(sqlite(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the answers of the store rest upon, and what nothing else would notice.
    #[test]
    fn commits_are_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.db");
        drop(SqliteStore::open(&path).unwrap());
        let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        let pragma = |name| {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
                .unwrap()
        };
        assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
        assert_eq!(pragma("synchronous"), 2.into(), "FULL");
        assert_eq!(pragma("busy_timeout"), 10_000.into());
    }
}
