//! What goes wrong around the servers: kills, a full or read-only store, a corrupt spool, a
//! clock that jumps. The long run of the first test is the example `crash`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use http::Method;
use tokenward_testkit::{
    crash::{self, CrashOptions, CrashStore, Report},
    sandbox::{Fault, Rotation, SandboxConfig},
};

use crate::harness::{GRACE, HOUR, REVOKES, Server, TestVault, expired, said};

#[tokio::test(flavor = "multi_thread")]
async fn kills_stops_and_faults_break_no_promise() {
    crash_run(CrashStore::Embedded, 4).await;
}

/// The same on PostgreSQL, whose connections are cut and which is restarted and killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn kills_stops_and_faults_of_three_replicas_and_their_database_break_no_promise() {
    let report = crash_run(CrashStore::Postgres, 3).await;
    let database = report.database.unwrap();
    assert!(
        database.cuts + database.outages + database.restarts + database.kills > 0,
        "{report}"
    );
}

async fn crash_run(store: CrashStore, processes: usize) -> Report {
    let options = CrashOptions {
        program: env!("CARGO_BIN_EXE_tokenward").into(),
        environment: Vec::new(),
        kills: 12,
        longest: Duration::from_secs(20),
        kills_per_second: 2.0,
        processes,
        callers: 100,
        think: Duration::from_secs(2),
        grants: 8,
        access_ttl: Duration::from_secs(3),
        claim_ttl: Duration::from_secs(2),
        faults: true,
        store,
        wrong_policies: false,
        seed: 20_261_123,
    };
    let report = crash::run(&options).await.unwrap();
    assert!(report.violations.is_empty(), "{report}");
    assert!(
        report.chaos.kills > 0 && report.tally.committed > 0,
        "{report}"
    );
    report
}

/// What the provider takes over each refresh.
const A_WHILE: Duration = Duration::from_secs(1);

fn version(vault: &TestVault) -> u64 {
    vault.json(&["connections", "show", "acme/sandbox", "--json"])["grant"]["version"]
        .as_u64()
        .unwrap()
}

fn spooled(vault: &TestVault) -> Vec<String> {
    let entries = std::fs::read_dir(vault.path().join("spool"));
    let names = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| Path::new(name).extension().is_none_or(|end| end != "part"))
        .collect()
}

/// A server whose files can be kept from growing while it runs: `SIGXFSZ` must not end it.
async fn serve_limited(vault: &TestVault) -> Server {
    let serve = vault.serve_command(&[]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
        .arg(serve.get_program())
        .args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    vault.started(shell).await
}

/// Changes how large the files of a server may grow.
fn limit_files(server: &Server, bytes: &str) {
    let pid = server.child.id().unwrap().to_string();
    let output = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--fsize={bytes}:")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_when_the_answer_comes_leaves_it_in_the_spool() {
    let (sandbox, vault) = expired(A_WHILE, Rotation::Revokes, REVOKES).await;
    let mut server = serve_limited(&vault).await;
    let asked = server.proxy(Method::GET, "/x").try_send();
    let (_, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(5), asked), async {
        sandbox
            .when(|books| books.total.refresh_requests == 1)
            .await;
        // The claim is on record and the provider thinks: from now on the store cannot grow.
        let size = std::fs::metadata(vault.path().join("vault.db-wal"))
            .unwrap()
            .len();
        limit_files(&server, &size.to_string());
    });
    assert_eq!(spooled(&vault).len(), 1, "{}", vault.log());
    server.child.kill().await.unwrap();
    // The next start finds it, and asks the provider nothing.
    let next = vault.serve(&[]).await;
    next.serves().await;
    assert_eq!((spooled(&vault), version(&vault)), (Vec::new(), 2));
    let books = sandbox.books().total;
    assert_eq!(
        (
            books.refresh_requests,
            books.refreshes_granted,
            books.replays_refused
        ),
        (1, 1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_no_writes_serves_what_lives_and_sends_nothing() {
    let (sandbox, vault) = expired(A_WHILE, Rotation::Revokes, GRACE).await;
    let tokens =
        sandbox.issue_expiring(&SandboxConfig::default().client_id, Duration::from_secs(25));
    vault.import("acme/sandbox", &tokens, HOUR);
    let server = serve_limited(&vault).await;
    limit_files(&server, "0");
    // Stale, alive, and the claim cannot be written: served, and nothing is sent.
    for _ in 0..3 {
        server.serves().await;
    }
    assert_eq!(sandbox.books().total.refresh_requests, 0);
    limit_files(&server, "unlimited");
    sandbox.expire_access_tokens(tokens.grant_id);
    server.serves().await;
    let books = sandbox.books().total;
    assert_eq!((books.refresh_requests, books.refreshes_refused), (1, 0));
}

/// A small file system of its own.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(folder: &Path, size: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mount = Self(folder.to_owned());
        let options = format!("size={size},mode=0700");
        assert!(
            mount.run("mount", &["-t", "tmpfs", "-o", &options, "tokenward-test"]),
            "no file system can be mounted: the test needs `mount`, and root (in a container: --cap-add SYS_ADMIN)"
        );
        mount
    }

    fn run(&self, program: &str, args: &[&str]) -> bool {
        Command::new(program)
            .args(args)
            .arg(&self.0)
            .output()
            .is_ok_and(|output| output.status.success())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.run("umount", &["-l"]);
    }
}

/// A vault like the given one, on a file system of its own.
fn moved(vault: &TestVault, size: &str) -> (Mount, TestVault) {
    let mut other = TestVault {
        folder: tempfile::TempDir::new().unwrap(),
        key: vault.key.clone(),
        database: None,
    };
    let mount = Mount::tmpfs(other.path(), size);
    let copied = Command::new("cp")
        .arg("-a")
        .arg(vault.path().join("."))
        .arg(other.path())
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", said(&copied));
    other.key.clone_from(&vault.key);
    (mount, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_room_mends_it() {
    let (sandbox, vault) = expired(A_WHILE, Rotation::Revokes, REVOKES).await;
    let (_mount, vault) = moved(&vault, "4m");
    let server = vault.serve(&[]).await;
    let filler = vault.path().join("filler");
    let waiting = server
        .proxy(Method::GET, "/x")
        .header("x-apideck-timeout", "20000")
        .send();
    let (answer, ()) = tokio::join!(waiting, async {
        sandbox
            .when(|books| books.total.refresh_requests == 1)
            .await;
        // Ends when nothing more fits. Neither the store nor the spool have any room now.
        assert!(std::fs::write(&filler, vec![0; 8 << 20]).is_err());
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(vault.path().join("vault.db").exists());
        std::fs::remove_file(&filler).unwrap();
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((version(&vault), spooled(&vault)), (2, Vec::new()));
    let books = sandbox.books().total;
    assert_eq!((books.refresh_requests, books.refreshes_granted), (1, 1));
    assert!(server.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_store_is_a_loud_error_at_the_start() {
    let (sandbox, vault) = expired(A_WHILE, Rotation::Revokes, REVOKES).await;
    let (mount, vault) = moved(&vault, "4m");
    assert!(mount.run("mount", &["-o", "remount,ro"]));
    let output = vault.run(&["token", "acme/sandbox"]);
    assert!(
        !output.status.success() && said(&output).contains("can only be read"),
        "{}",
        said(&output)
    );
    let output = vault.run(&["serve", "--listen", "127.0.0.1:0", "--ops-listen", "off"]);
    assert!(
        !output.status.success() && said(&output).contains("can only be read"),
        "{}",
        said(&output)
    );
    assert_eq!(sandbox.books().total.token_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_spool_entries_are_put_aside_and_the_rest_is_adopted() {
    let (sandbox, vault) = expired(A_WHILE, Rotation::Revokes, REVOKES).await;
    let mut server = serve_limited(&vault).await;
    let asked = server.proxy(Method::GET, "/x").try_send();
    let (_, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(4), asked), async {
        sandbox
            .when(|books| books.total.refresh_requests == 1)
            .await;
        let size = std::fs::metadata(vault.path().join("vault.db-wal"))
            .unwrap()
            .len();
        limit_files(&server, &size.to_string());
    });
    server.child.kill().await.unwrap();
    let [good] = spooled(&vault).try_into().unwrap();
    let spool = vault.path().join("spool");
    let bytes = std::fs::read(spool.join(&good)).unwrap();
    let mut altered = bytes.clone();
    altered[bytes.len() / 2] ^= 1;
    for (name, bytes) in [
        ("a-cut", &bytes[..bytes.len() / 2]),
        ("b-altered", &altered),
        ("c-empty", b""),
        ("d-noise", &[0xff; 64]),
    ] {
        std::fs::write(spool.join(format!("{name}.spooled")), bytes).unwrap();
    }
    let next = vault.serve(&[]).await;
    next.serves().await;
    let mut left = spooled(&vault);
    left.sort();
    assert_eq!(
        left,
        [
            "a-cut.unreadable",
            "b-altered.unreadable",
            "c-empty.unreadable",
            "d-noise.unreadable"
        ]
    );
    assert_eq!(
        (version(&vault), sandbox.books().total.refresh_requests),
        (2, 1)
    );
    assert!(vault.log().contains("is corrupt; it is put aside"));
}

/// libfaketime, whose offset can be changed while a process runs.
fn with_clock(vault: &TestVault, mut command: Command) -> Command {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"));
    let library = library
        .into_iter()
        .find(|library| Path::new(library).exists())
        .expect("libfaketime is missing; scripts/deps.sh installs it");
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", vault.path().join("faketime"))
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

fn set_clock(vault: &TestVault, offset: &str) {
    std::fs::write(vault.path().join("faketime"), offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_costs_at_most_a_refresh() {
    let (sandbox, vault) = expired(A_WHILE, Rotation::Revokes, REVOKES).await;
    set_clock(&vault, "+0");
    let command = with_clock(&vault, vault.serve_command(&[]));
    let server = vault.started(command).await;
    server.serves().await;
    assert_eq!(sandbox.books().total.refresh_requests, 1);
    for offset in ["+2h", "-2h", "+0"] {
        let before = sandbox.books().total.refresh_requests;
        set_clock(&vault, offset);
        server.serves().await;
        // It measures on a clock that does not jump.
        assert_eq!(sandbox.books().total.refresh_requests, before, "{offset}");
        let output = with_clock(&vault, vault.command(&["token", "acme/sandbox"]))
            .output()
            .unwrap();
        assert!(output.status.success(), "{offset}: {}", said(&output));
        // What a process with another idea of time refreshed is served by all.
        server.serves().await;
    }
    let books = sandbox.books().total;
    assert!(books.refresh_requests <= 3, "{books:?}");
    assert_eq!((books.refreshes_refused, books.family_revocations), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_back_does_not_prolong_a_dead_owners_claim() {
    let (sandbox, vault) = expired(A_WHILE, Rotation::Grace(HOUR), GRACE).await;
    set_clock(&vault, "+0");
    let claim = ["--claim-ttl-ms", "2000"];
    let command = with_clock(&vault, vault.serve_command(&claim));
    sandbox.inject(Fault::HangAfterRotation, 1);
    let mut server = vault.started(command).await;
    let call = server.proxy(Method::GET, "/x").try_send();
    let ((), _) = tokio::join!(
        sandbox.when(|books| books.total.hanging == 1),
        tokio::time::timeout(Duration::from_secs(2), call)
    );
    server.child.kill().await.unwrap();
    set_clock(&vault, "-2h");
    let next = vault
        .started(with_clock(&vault, vault.serve_command(&claim)))
        .await;
    let answer = next
        .proxy(Method::GET, "/x")
        .header("x-apideck-timeout", "20000")
        .send()
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(sandbox.books().total.replays_allowed, 1);
}
