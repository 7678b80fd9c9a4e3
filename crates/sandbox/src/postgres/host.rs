//! What this machine has: PostgreSQL's programs, an account for them, free ports.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Who runs a cluster, if we are root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) user: u32,
    pub(super) group: u32,
}

/// The folder of PostgreSQL's programs: `TOKENWARD_PG_BIN`, Debian's (the newest), or of the path.
pub(super) fn programs() -> io::Result<PathBuf> {
    let has =
        |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    if let Some(folder) = std::env::var_os("TOKENWARD_PG_BIN").map(PathBuf::from) {
        return Ok(folder);
    }
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
    {
        let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        found.push((version, entry.path().join("bin")));
    }
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let newest = found.into_iter().rev().map(|(_, folder)| folder);
    newest
        .chain(std::env::split_paths(&path))
        .find(has)
        .ok_or_else(|| {
            io::Error::other(
                "no PostgreSQL server is installed (initdb and postgres were looked for in \
                 /usr/lib/postgresql and the path); on Debian: apt-get install postgresql, or name \
                 the folder of its programs in TOKENWARD_PG_BIN",
            )
        })
}

/// Another account than root's, which PostgreSQL refuses.
pub(super) fn account() -> io::Result<Option<Account>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd")?;
    let find = |name: &str| {
        let mut lines = accounts
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|fields| fields.first() == Some(&name))?;
        Some(Account {
            user: line.get(2)?.parse().ok()?,
            group: line.get(3)?.parse().ok()?,
        })
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .map(Some)
        .ok_or_else(|| {
            io::Error::other(
                "PostgreSQL does not run as root, and there is no account postgres or nobody",
            )
        })
}

/// A port that was free a moment ago. It also names the socket, so that clusters differ.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(super) fn copied(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)?;
    }
    checked(
        &Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(from)
            .arg(to)
            .output()?,
    )?;
    Ok(())
}

pub(super) fn checked(output: &Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(said))
}
