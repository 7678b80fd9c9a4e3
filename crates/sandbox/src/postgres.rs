//! Private PostgreSQL clusters: their own folder, their own socket, gone at the end.
//!
//! PostgreSQL does not run as root; a cluster that root starts runs as the package's user
//! `postgres`, or as `nobody`. The server is a child of a small shell that ends it and removes the
//! folder as soon as this process is gone, however it ends.

mod host;
mod proxy;

use std::{
    fs,
    io::{self, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use self::host::{Account, account, checked, copied, free_port, programs};
pub use self::proxy::Proxy;
use crate::{Signal, signal};

/// The superuser of every private cluster.
const USER: &str = "tokenward";
/// How often a server is asked whether it is ready, and how often that is too often.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: usize = 1_500;

/// A cluster, stopped and removed when it is dropped.
#[derive(Debug)]
pub struct PostgresCluster {
    programs: PathBuf,
    folder: PathBuf,
    account: Option<Account>,
    port: u16,
    settings: Vec<String>,
    running: Option<Child>,
}

/// Ends the server when its standard input ends; that is, when we do.
const KEEPER: &str = r#"exec 3<&0 </dev/null
"$@" & server=$!
cat <&3 >/dev/null
kill -INT "$server" 2>/dev/null
wait "$server""#;

impl PostgresCluster {
    /// Starts a cluster on a socket of its own; it listens on no network.
    ///
    /// # Errors
    ///
    /// When no PostgreSQL is installed, or it does not start, with its own words.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[], None)
    }

    /// Starts a cluster with settings (`name=value`). With a `template` folder, the cluster is a
    /// copy of one that is kept there: making one takes longer than copying it.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with(settings: &[&str], template: Option<&Path>) -> io::Result<Self> {
        let mut cluster = Self::folder(settings)?;
        match template {
            Some(template) => cluster.copy(template)?,
            None => cluster.make()?,
        }
        cluster.resume()?;
        Ok(cluster)
    }

    /// A copy of this running cluster that follows it, on a socket of its own.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says.
    pub fn standby(&self, settings: &[&str]) -> io::Result<Self> {
        let mut standby = Self::folder(settings)?;
        let mut command = self.command("pg_basebackup");
        command
            .args([
                "-U",
                USER,
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ])
            .arg("-h")
            .arg(&self.folder)
            .arg(format!("-p{}", self.port))
            .arg("-D")
            .arg(standby.data());
        checked(&command.output()?)?;
        standby.resume()?;
        Ok(standby)
    }

    /// Makes a standby the primary.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says.
    pub fn promote(&self) -> io::Result<()> {
        self.sql("postgres", "SELECT pg_promote()").map(|_| ())
    }

    fn folder(settings: &[&str]) -> io::Result<Self> {
        let programs = programs()?;
        let account = account()?;
        // In memory where there is such a folder: a copy of a cluster is 40 MB. Not TMPDIR, whose
        // path may be longer than that of a socket may be.
        let base = ["/dev/shm", "/tmp"].map(Path::new);
        let base = base.into_iter().find(|base| base.is_dir());
        let base = std::env::var_os("TOKENWARD_PG_FOLDER")
            .map(PathBuf::from)
            .or(base.map(Path::to_owned))
            .unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new()
            .prefix("tokenward-pg-")
            .tempdir_in(base)?
            .keep();
        if let Some(Account { user, group }) = account {
            chown(&folder, Some(user), Some(group))?;
        }
        Ok(Self {
            programs,
            folder,
            account,
            port: free_port()?,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            running: None,
        })
    }

    fn make(&self) -> io::Result<()> {
        // No flush: it need not outlive the machine.
        let args = [
            "-A",
            "trust",
            "-U",
            USER,
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ];
        let mut command = self.command("initdb");
        command
            .args(args)
            .arg("--wal-segsize=4")
            .arg("-D")
            .arg(self.data());
        checked(&command.output()?)?;
        // Without a server: half the time of starting one.
        let mut command = self.command("postgres");
        command
            .arg("--single")
            .arg("-D")
            .arg(self.data())
            .arg("postgres");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(b"CREATE DATABASE vault;\n")?;
        }
        match child.wait()?.success() {
            true => Ok(()),
            false => Err(io::Error::other("PostgreSQL cannot make a database")),
        }
    }

    fn copy(&self, template: &Path) -> io::Result<()> {
        if !template.exists() {
            let made = Self::folder(&[])?;
            made.make()?;
            let aside = template.with_extension(std::process::id().to_string());
            copied(&made.data(), &aside)?;
            // Fails if another process was faster: theirs is as good.
            if fs::rename(&aside, template).is_err() {
                fs::remove_dir_all(&aside)?;
            }
        }
        copied(template, &self.data())?;
        if let Some(Account { user, group }) = self.account {
            let owner = format!("{user}:{group}");
            checked(
                &Command::new("chown")
                    .arg("-R")
                    .arg(owner)
                    .arg(self.data())
                    .output()?,
            )?;
        }
        Ok(())
    }

    /// Starts the server again after [`stop`](Self::stop) or [`kill`](Self::kill).
    ///
    /// # Errors
    ///
    /// When it does not become ready, with its log.
    pub fn resume(&mut self) -> io::Result<()> {
        // A server that was killed has left its file behind, which says that it is ready.
        let killed = self.pid();
        let log = fs::File::create(self.folder.join("log"))?;
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.folder)
            .arg(format!("-cport={}", self.port))
            .arg("-clisten_addresses=")
            .args(["-cmax_connections=200", "-cshared_buffers=64MB"])
            .args(self.settings.iter().map(|setting| format!("-c{setting}")))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.unprivileged(&mut command);
        let mut child = command.spawn()?;
        for _ in 0..TRIES {
            if child.try_wait()?.is_some() {
                break;
            }
            if self.pid() != killed && self.ready() {
                self.running = Some(child);
                return Ok(());
            }
            // The sessions of one that was killed may hold its memory for a moment: the new server
            // gives up at once.
            if self.pid() == killed && self.log().contains("is still in use") {
                sleep(Duration::from_millis(200));
                drop(child.stdin.take());
                child.wait()?;
                return self.resume();
            }
            sleep(PAUSE);
        }
        drop(child.stdin.take());
        child.wait()?;
        Err(io::Error::other(format!(
            "PostgreSQL did not start: {}",
            self.log()
        )))
    }

    /// Whether it takes connections: the eighth line of its own file says so.
    fn ready(&self) -> bool {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        text.lines()
            .nth(7)
            .is_some_and(|state| ["ready", "standby"].contains(&state.trim()))
    }

    /// What the server has logged since it was started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The server's process.
    pub fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }

    /// Stops the server as an operator would (`fast`): sessions end, what was committed is there.
    ///
    /// # Errors
    ///
    /// When the process cannot be waited for.
    pub fn stop(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.running.take() {
            drop(child.stdin.take());
            child.wait()?;
        }
        Ok(())
    }

    /// Kills the server: nothing is told to anybody.
    ///
    /// # Errors
    ///
    /// When there is no such process.
    pub fn kill(&mut self) -> io::Result<()> {
        let pid = self.pid().ok_or(io::ErrorKind::NotFound)?;
        signal(pid, Signal::KILL)?;
        self.stop()
    }

    /// Runs SQL as the superuser, and gives what it printed.
    ///
    /// # Errors
    ///
    /// What the server said.
    pub fn sql(&self, database: &str, sql: &str) -> io::Result<String> {
        checked(&self.psql(database, sql).output()?)
    }

    /// Runs statements in a session of their own, which ends with its process.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn session(&self, database: &str, sql: &str) -> io::Result<Child> {
        self.psql(database, sql).stdout(Stdio::null()).spawn()
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut command = self.command("psql");
        command
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                USER,
                "-d",
                database,
            ])
            .arg("-h")
            .arg(&self.folder)
            .arg(format!("-p{}", self.port))
            .args(["-c", sql]);
        command
    }

    /// The URL of the database `vault`.
    pub fn url(&self) -> String {
        self.url_of("vault")
    }

    /// The URL of a database.
    pub fn url_of(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://{USER}@{folder}:{}/{database}", self.port)
    }

    /// The URL of the database `vault` on this cluster or another one, whichever takes writes.
    pub fn url_with(&self, other: &Self) -> String {
        let place = |cluster: &Self| cluster.url().replace(&format!("postgres://{USER}@"), "");
        let (one, other) = (place(self), place(other));
        format!(
            "postgres://{USER}@{},{other}",
            one.trim_end_matches("/vault")
        )
    }

    /// The URL of the database `vault` at another address, such as a proxy's.
    pub fn url_at(&self, address: std::net::SocketAddr) -> String {
        format!("postgres://{USER}@{address}/vault")
    }

    /// Adds settings for the next [`resume`](Self::resume).
    pub fn set(&mut self, settings: &[&str]) {
        self.settings
            .extend(settings.iter().map(|&setting| setting.to_owned()));
    }

    /// Makes a file the server's own, and nobody else's.
    ///
    /// # Errors
    ///
    /// When that is not ours to do.
    pub fn hand_over(&self, file: &Path) -> io::Result<()> {
        if let Some(Account { user, group }) = self.account {
            chown(file, Some(user), Some(group))?;
        }
        fs::set_permissions(file, fs::Permissions::from_mode(0o600))
    }

    /// The server's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port))
    }

    /// The port, on networks that a setting of `listen_addresses` opens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The cluster's data folder, for its configuration files.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.stdin(Stdio::null());
        self.unprivileged(&mut command);
        command
    }

    fn unprivileged(&self, command: &mut Command) {
        command.current_dir(&self.folder);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some(Account { user, group }) = self.account {
            command.uid(user).gid(group);
        }
    }
}

impl Drop for PostgresCluster {
    fn drop(&mut self) {
        // Nobody waits for its sessions any more.
        if let Some(pid) = self.pid() {
            let _ = signal(pid, Signal::QUIT);
        }
        let _ = self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
