//! The processes. Each incarnation has a name of its own, which the provider's timeline repeats.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    io,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::{
    judge::Life,
    world::{World, lock},
};
use crate::{Signal, signal};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);

/// A running process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) via: String,
    /// Its slot and address, if it is a server.
    pub(super) server: Option<(usize, String)>,
    pid: u32,
}

/// A child until somebody kills it or waits for it.
type Held = Arc<Mutex<Option<Child>>>;

/// Processes by name. Those that are about to be killed are taken out first, so that whoever
/// finds one gone knows why a connection broke.
pub(super) struct Fleet {
    pub(super) world: Arc<World>,
    claim_ttl: Duration,
    running: Mutex<BTreeMap<String, (Process, Held)>>,
    lives: Mutex<BTreeMap<String, Life>>,
    /// Stopped now: neither killed nor reaped, so that its number stays its own.
    paused: Mutex<BTreeSet<String>>,
    names: AtomicU64,
}

impl Fleet {
    pub(super) fn new(world: Arc<World>, claim_ttl: Duration) -> Self {
        Self {
            world,
            claim_ttl,
            running: Mutex::default(),
            lives: Mutex::default(),
            paused: Mutex::default(),
            names: AtomicU64::new(0),
        }
    }

    pub(super) fn lives(&self) -> BTreeMap<String, Life> {
        lock(&self.lives).clone()
    }

    /// Starts a server in a slot and waits until it listens.
    pub(super) async fn serve(&self, slot: usize) -> io::Result<()> {
        let via = self.name(&format!("s{slot}"));
        self.world.connectors(&via)?;
        let ttl = self.claim_ttl.as_millis().to_string();
        let args = [
            "serve",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--ops-listen",
            "off",
            "--claim-ttl-ms",
            &ttl,
        ];
        let args = [
            &args[..],
            &["--log", "tokenward=debug", "--shutdown-wait", "5"],
        ]
        .concat();
        let mut command = self.world.command(&via, &args);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.world.log_file(&via))?;
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let said = child.stdout.take().map(BufReader::new);
        let mut line = String::new();
        if let Some(mut said) = said {
            let _ = tokio::time::timeout(START, said.read_line(&mut line)).await;
        }
        let url = serde_json::from_str::<Value>(&line)
            .ok()
            .and_then(|said| Some(said["listening"].as_str()?.to_owned()));
        let Some(url) = url else {
            let log = std::fs::read_to_string(self.world.log_file(&via)).unwrap_or_default();
            return Err(io::Error::other(format!(
                "{via} did not start: {line}{log}"
            )));
        };
        self.enter(via, Some((slot, url)), child);
        Ok(())
    }

    /// Runs a command that may be killed. `None`: it was.
    pub(super) async fn run(
        &self,
        mut command: impl FnMut(&str) -> Command,
    ) -> Option<io::Result<String>> {
        let via = self.name("t");
        if let Err(error) = self.world.connectors(&via) {
            return Some(Err(error));
        }
        let output = async {
            let mut child = command(&via)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let held = self.enter(via.clone(), None, child);
            let (out, err) = tokio::join!(read(out), read(err));
            let child = lock(&held).take();
            let ended = match child {
                Some(mut child) => child.wait().await?.success(),
                None => false,
            };
            Ok((ended, out, err))
        };
        let output: io::Result<_> = output.await;
        let killed = lock(&self.running).remove(&via).is_none();
        self.world.forget_connectors(&via);
        match output {
            Ok(_) if killed => None,
            Ok((true, out, _)) => Some(Ok(out)),
            Ok((false, _, err)) => Some(Err(io::Error::other(err))),
            Err(error) => Some(Err(error)),
        }
    }

    fn name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    fn enter(&self, via: String, server: Option<(usize, String)>, child: Child) -> Held {
        let pid = child.id().unwrap_or_default();
        let held = Arc::new(Mutex::new(Some(child)));
        lock(&self.lives).insert(via.clone(), Life::default());
        let process = Process {
            via: via.clone(),
            server,
            pid,
        };
        lock(&self.running).insert(via, (process, held.clone()));
        held
    }

    pub(super) fn find(&self, via: &str) -> Option<Process> {
        lock(&self.running)
            .get(via)
            .map(|(process, _)| process.clone())
    }

    /// The servers that run.
    pub(super) fn servers(&self) -> Vec<Process> {
        let running = lock(&self.running);
        let servers = running
            .values()
            .filter(|(process, _)| process.server.is_some());
        servers.map(|(process, _)| process.clone()).collect()
    }

    /// Everything that runs, commands included.
    pub(super) fn all(&self) -> Vec<Process> {
        let running = lock(&self.running);
        running
            .values()
            .map(|(process, _)| process.clone())
            .collect()
    }

    /// Kills a process at once. `false`: it had ended, or is stopped.
    pub(super) async fn kill(&self, process: &Process) -> bool {
        if lock(&self.paused).contains(&process.via) {
            return false;
        }
        let Some((_, held)) = lock(&self.running).remove(&process.via) else {
            return false;
        };
        let Some(mut child) = lock(&held).take() else {
            return false;
        };
        if child.start_kill().is_err() {
            return false;
        }
        let _ = child.wait().await;
        let now = self.world.sandbox.now_ms();
        lock(&self.lives)
            .entry(process.via.clone())
            .or_default()
            .killed = Some(now);
        self.world.forget_connectors(&process.via);
        true
    }

    /// Stops a process for a while.
    pub(super) async fn pause(&self, process: &Process, pause: Duration) {
        lock(&self.paused).insert(process.via.clone());
        if self.find(&process.via).is_none() {
            lock(&self.paused).remove(&process.via);
            return;
        }
        let from = self.world.sandbox.now_ms();
        // One that has ended meanwhile is no concern of ours.
        let _ = signal(process.pid, Signal::STOP);
        tokio::time::sleep(pause).await;
        let _ = signal(process.pid, Signal::CONT);
        let to = self.world.sandbox.now_ms();
        lock(&self.paused).remove(&process.via);
        let mut lives = lock(&self.lives);
        lives
            .entry(process.via.clone())
            .or_default()
            .stopped
            .push((from, to));
    }

    /// Asks every server to end and waits for it; those that do not are killed.
    pub(super) async fn end(&self) -> Vec<String> {
        let mut stubborn = Vec::new();
        let running = std::mem::take(&mut *lock(&self.running));
        for (process, _) in running.values() {
            let _ = signal(process.pid, Signal::TERM);
        }
        for (via, (_, held)) in running {
            let child = lock(&held).take();
            let Some(mut child) = child else { continue };
            let ended = tokio::time::timeout(Duration::from_secs(90), child.wait()).await;
            if !matches!(ended, Ok(Ok(status)) if status.success()) {
                stubborn.push(format!("{via} did not end in order: {ended:?}"));
            }
        }
        stubborn
    }
}

async fn read(from: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(mut from) = from {
        // What a killed process has said so far.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut from, &mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}
