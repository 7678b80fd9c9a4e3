//! One run: a world is made, troubled, calmed and judged.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokenward::time::{Chance as _, Clock as _, SeededChance, TokioClock};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    callers::{Callers, pick},
    chaos::Chaos,
    database::CrashStore,
    disk::DiskWatch,
    fleet::Fleet,
    judge::{Evidence, Place, Violation, judge},
    report::Report,
    world::{Site, World, lock},
};
use crate::sandbox::{AccessId, EventKind, GrantId};

/// What is run.
#[derive(Clone, Debug)]
pub struct CrashOptions {
    /// The `tokenward` program.
    pub program: PathBuf,
    /// Its environment, beside our own.
    pub environment: Vec<(String, String)>,
    /// Ends after this many kills.
    pub kills: u64,
    /// And after this time at the latest.
    pub longest: Duration,
    /// How many kills are tried for in a second.
    pub kills_per_second: f64,
    /// Servers.
    pub processes: usize,
    /// Callers.
    pub callers: usize,
    /// How long a caller rests between two calls, on average.
    pub think: Duration,
    /// Grants.
    pub grants: usize,
    /// The life of access tokens, in whole seconds.
    pub access_ttl: Duration,
    /// The servers' claims.
    pub claim_ttl: Duration,
    /// Whether the provider misbehaves, too.
    pub faults: bool,
    /// Where the vault's rows lie.
    pub store: CrashStore,
    /// Whether the vault is told that every provider is harmless, so that the judge is tested.
    pub wrong_policies: bool,
    /// The seed of the schedule.
    pub seed: u64,
}

/// Commands at a time.
const COMMANDS: u64 = 2;

/// Runs and judges.
///
/// # Errors
///
/// When there is nothing to judge: the program cannot be run.
pub async fn run(options: &CrashOptions) -> io::Result<Report> {
    // A limit that cannot be raised shows as callers that are not answered.
    let _ = rlimit::increase_nofile_limit(65_536);
    let clock = TokioClock::default();
    let began = clock.now();
    let world = World::new(
        &options.program,
        &options.environment,
        options.grants,
        options.access_ttl,
        options.wrong_policies,
        options.store,
    );
    let world = Arc::new(world.await?);
    let stall = options.claim_ttl / 2;
    let disk = DiskWatch::start(world.path(), world.clone(), stall)?;
    let fleet = Arc::new(Fleet::new(world.clone(), options.claim_ttl));
    for slot in 0..options.processes {
        fleet.serve(slot).await?;
    }

    let (dead, mut found_dead) = mpsc::unbounded_channel();
    let callers = Arc::new(Callers::new(fleet.clone(), options.think, dead));
    let chaos = Arc::new(Chaos {
        fleet: fleet.clone(),
        claim_ttl: options.claim_ttl,
        kills: options.kills,
        kills_per_second: options.kills_per_second,
        books: Mutex::default(),
        tasks: TaskTracker::new(),
    });
    let (calm, hush) = (CancellationToken::new(), CancellationToken::new());
    let calling = TaskTracker::new();
    for number in 0..options.callers {
        let seed = options.seed ^ (number as u64) << 32;
        calling.spawn(callers.clone().call_on(seed, hush.clone()));
    }
    let helper = Arc::new(Helper {
        world: world.clone(),
        fleet: fleet.clone(),
        commands: AtomicU64::new(0),
        reauthorized: AtomicU64::new(0),
        violations: Mutex::default(),
    });
    for number in 0..COMMANDS {
        let seed = options.seed.wrapping_add(number);
        calling.spawn(helper.clone().commands(seed, hush.clone()));
    }
    let healing = TaskTracker::new();
    let healer = helper.clone();
    healing.spawn(async move {
        while let Some(site) = found_dead.recv().await {
            // Many callers find the same grant dead.
            let mut sites = BTreeSet::from([site]);
            while let Ok(site) = found_dead.try_recv() {
                sites.insert(site);
            }
            for site in sites {
                healer.heal(site).await;
            }
        }
    });
    if options.faults {
        chaos
            .tasks
            .spawn(chaos.clone().disturb(options.seed ^ 1, calm.clone()));
    }

    let database = world.database.clone();
    let trouble = database.clone().map(|database| {
        let trouble = database.trouble(options.seed ^ 3, calm.clone());
        chaos.tasks.spawn(trouble)
    });

    let killing = chaos.clone().kill_on(options.seed, calm.clone());
    let cut = tokio::time::timeout(options.longest, killing)
        .await
        .is_err();
    // Everything that was begun ends: pauses, restarts, faults, calls, cures.
    calm.cancel();
    chaos.tasks.close();
    chaos.tasks.wait().await;
    if let Some(trouble) = trouble {
        // A database that does not come back is not the vault's fault, and leaves nothing to judge.
        trouble.await.map_err(io::Error::other)??;
    }
    tokio::time::sleep(options.claim_ttl + options.access_ttl).await;
    hush.cancel();
    calling.close();
    calling.wait().await;
    let calls = callers.books();
    drop(callers);
    healing.close();
    healing.wait().await;
    for stubborn in fleet.end().await {
        helper.accuse("a server", None, stubborn);
    }

    let mut places = Vec::new();
    for site in &world.sites {
        places.push(helper.settle(site, options).await?);
    }
    helper.look_into_spool();
    let evidence = Evidence {
        events: world.sandbox.timeline(),
        lives: fleet.lives(),
        places,
        early_ms: u64::try_from(options.claim_ttl.as_millis() / 2).unwrap_or(u64::MAX),
    };
    let (tally, found) = judge(&evidence);
    let mut violations = std::mem::take(&mut *lock(&helper.violations));
    violations.extend(found);
    let books = world.sandbox.books().total;
    if books.refreshes_granted != tally.granted {
        let what = format!(
            "the provider granted {} refreshes, its timeline tells of {}",
            books.refreshes_granted, tally.granted
        );
        violations.push(general(what));
    }
    for (count, what) in [
        (calls.unanswered, "calls were not answered"),
        (calls.broken, "connections broke although the server lived"),
        (
            calls.misdirected,
            "calls were served with another grant's token",
        ),
    ] {
        if count > 0 {
            violations.push(general(format!("{count} {what}: {:?}", calls.oddities)));
        }
    }
    let chaos = lock(&chaos.books).clone();
    for failed in &chaos.failed_starts {
        violations.push(general(failed.clone()));
    }
    if cut {
        note(&format!("the time was over after {} kills", chaos.kills));
    }
    let traces = helper.traces(&violations, &evidence).await;
    Ok(Report {
        seed: options.seed,
        seconds: began.until(clock.now()).as_secs(),
        processes: options.processes,
        callers: options.callers,
        grants: options.grants,
        stalls: disk.stalls(),
        chaos,
        database: database.map(|database| database.books()),
        calls,
        commands: helper.commands.load(Ordering::Relaxed),
        reauthorized: helper.reauthorized.load(Ordering::Relaxed),
        tally,
        books,
        violations,
        traces,
    })
}

fn general(what: String) -> Violation {
    Violation {
        place: "all".to_owned(),
        grant: None,
        what,
    }
}

fn note(line: &str) {
    eprintln!("{line}");
}

/// What is done beside callers and chaos: commands, cures, the last look.
struct Helper {
    world: Arc<World>,
    fleet: Arc<Fleet>,
    commands: AtomicU64,
    reauthorized: AtomicU64,
    violations: Mutex<Vec<Violation>>,
}

impl Helper {
    fn accuse(&self, place: &str, grant: Option<GrantId>, what: String) {
        lock(&self.violations).push(Violation {
            place: place.to_owned(),
            grant,
            what,
        });
    }

    /// Runs `tokenward token` again and again.
    async fn commands(self: Arc<Self>, seed: u64, stop: CancellationToken) {
        let chance = SeededChance::new(seed ^ 2);
        while !stop.is_cancelled() {
            let pause = Duration::from_millis(300).mul_f64(chance.fraction());
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            let site = &self.world.sites[pick(self.world.sites.len(), &chance)];
            let name = site.name();
            let ran = self
                .fleet
                .run(|via| self.world.command(via, &["token", &name]));
            // Killed ones and those that name a cause are the callers' lot, too.
            let Some(Ok(said)) = ran.await else { continue };
            self.commands.fetch_add(1, Ordering::Relaxed);
            let grant = self.world.sandbox.grant_of(said.trim());
            if !grant.is_some_and(|grant| lock(&site.families).contains(&grant)) {
                self.accuse(
                    &name,
                    grant,
                    "a command printed another grant's token".to_owned(),
                );
            }
        }
    }

    /// Authorizes a dead grant anew, once the vault says that it is dead.
    async fn heal(&self, number: usize) {
        let site = &self.world.sites[number];
        let name = site.name();
        let family = site.newest_family();
        match self.world.show(&name).await {
            Ok(shown) if shown["grant"]["dead"].is_null() => {}
            Ok(_) => {
                let now = self.world.sandbox.now_ms();
                lock(&site.deaths).push((family, now));
                self.reauthorized.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = self.world.authorize(site).await {
                    self.accuse(&name, Some(family), format!("not authorized anew: {error}"));
                }
            }
            Err(error) => self.accuse(&name, Some(family), format!("cannot be shown: {error}")),
        }
    }

    /// How a grant stands when all is over.
    async fn settle(&self, site: &Site, options: &CrashOptions) -> io::Result<Place> {
        let name = site.name();
        let family = site.newest_family();
        let mut end: Option<(GrantId, AccessId)> = None;
        for _ in 0..8 {
            match self
                .world
                .run(super::world::SETUP, &["token", &name], "")
                .await
            {
                Ok(token) => {
                    end = self.world.sandbox.access_token(token.trim());
                    break;
                }
                Err(_) if !self.world.show(&name).await?["grant"]["dead"].is_null() => {
                    let now = self.world.sandbox.now_ms();
                    lock(&site.deaths).push((family, now));
                    break;
                }
                Err(error) => {
                    note(&format!("{name}: {error}; once more"));
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
        }
        let shown = self.world.show(&name).await?;
        if end.is_none() && shown["grant"]["dead"].is_null() {
            let what = "neither a token nor a dead grant in the end".to_owned();
            self.accuse(&name, Some(family), what);
        }
        if let Some(sharer) = &site.sharer {
            let other = format!("{sharer}/accounting+{}", site.kind.id);
            if self.world.show(&other).await?["grant"]["id"] != shown["grant"]["id"] {
                self.accuse(
                    &other,
                    Some(family),
                    "does not share the grant any more".to_owned(),
                );
            }
        }
        let families = lock(&site.families).clone();
        let deaths = lock(&site.deaths).clone();
        Ok(Place {
            name,
            rotation: site.kind.rotation,
            access_ttl_ms: u64::try_from(options.access_ttl.as_millis()).unwrap_or(u64::MAX),
            families,
            version: shown["grant"]["version"].as_u64().unwrap_or_default(),
            deaths,
            end,
        })
    }

    fn look_into_spool(&self) {
        let left = std::fs::read_dir(self.world.path().join("spool"));
        for entry in left.into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A write that was cut short by a kill leaves its aside file; it was never an entry.
            if !name.ends_with(".part") {
                self.accuse("the spool", None, format!("{name} is left behind"));
            }
        }
    }

    /// The timelines and the logs of the grants that were accused.
    async fn traces(&self, violations: &[Violation], evidence: &Evidence) -> Vec<String> {
        let mut traces = Vec::new();
        for site in &self.world.sites {
            let accused: Vec<_> = violations
                .iter()
                .filter(|one| one.place == site.name())
                .collect();
            if accused.is_empty() || traces.len() > 4 {
                continue;
            }
            let shown = self.world.show(&site.name()).await.unwrap_or_default();
            let id = shown["grant"]["id"].as_str().unwrap_or("?").to_owned();
            let mut lines = vec![format!("--- {} is the vault's grant {id}", site.name())];
            let families = lock(&site.families).clone();
            let wanted = |grant: Option<GrantId>| match grant {
                Some(grant) => families.contains(&grant),
                None => false,
            };
            let events = evidence.events.iter();
            let events =
                events.filter(|event| wanted(event.grant) && event.kind != EventKind::ApiRefused);
            lines.extend(events.map(ToString::to_string));
            lines.push(format!(
                "--- processes: {:?}",
                self.fates(evidence, &families)
            ));
            lines.push(format!("--- the servers' logs: {shown}"));
            lines.extend(self.logs_about(&id));
            traces.push(lines.join("\n"));
        }
        traces
    }

    fn fates(&self, evidence: &Evidence, families: &[GrantId]) -> Vec<String> {
        let mut names: Vec<&String> = Vec::new();
        for event in &evidence.events {
            if let (Some(via), Some(grant)) = (&event.via, event.grant)
                && families.contains(&grant)
                && !names.contains(&via)
            {
                names.push(via);
            }
        }
        let fate = |via: &&String| {
            let life = evidence.lives.get(*via)?;
            (life.killed.is_some() || !life.stopped.is_empty()).then(|| format!("{via}: {life:?}"))
        };
        names.iter().filter_map(fate).collect()
    }

    fn logs_about(&self, grant: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let logs = std::fs::read_dir(self.world.path().join("logs"));
        for entry in logs.into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let name = entry.file_name().to_string_lossy().into_owned();
            let about = text.lines().filter(|line| line.contains(grant));
            lines.extend(about.map(|line| (line.to_owned(), name.clone())));
        }
        // They begin with their time.
        lines.sort();
        lines
            .into_iter()
            .map(|(line, name)| format!("{name}: {line}"))
            .collect()
    }
}
