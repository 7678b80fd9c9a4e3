//! What a seed stands for: the cluster, its load and its troubles.

use std::time::Duration;

use tokenward::{VaultConfig, connector::Catalogue};
use tokenward_testkit::sandbox::ledger::{Rotation, Terms};

use super::rng::Rng;

pub(super) const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// The store's answers never take longer than twice this.
pub(super) const SLOWEST_STORE: Duration = Duration::from_secs(2);
/// How long the cluster is left in peace before the last questions.
pub(super) const PEACE: Duration = Duration::from_secs(1200);

/// A safeguard that is taken away in a simulated port, to see that the judge notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Broken {
    /// The store grants a claim that somebody else holds.
    ClaimIgnoresHolder,
    /// The store takes a commit for an older version.
    CommitIgnoresVersion,
    /// The store forgets that a refresh token was sent.
    AttemptForgotten,
    /// The transport says "not sent" when the answer was lost.
    LostIsNotSent,
    /// The transport sends when the claim is too old.
    SendsTooLate,
    /// The spool says that it keeps, and does not.
    SpoolDrops,
    /// Changes are passed over in silence.
    ChangesDropped,
    /// The store lets a superseded owner condemn the grant.
    SettleIgnoresEpoch,
}

impl Broken {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ClaimIgnoresHolder,
        Self::CommitIgnoresVersion,
        Self::AttemptForgotten,
        Self::LostIsNotSent,
        Self::SendsTooLate,
        Self::SpoolDrops,
        Self::ChangesDropped,
        Self::SettleIgnoresEpoch,
    ];
}

/// A kind of provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) id: &'static str,
    pub(super) rotation: Rotation,
    replay: &'static str,
    idle: Option<Duration>,
    /// Whether a revocation ends all that the user has granted.
    pub(super) revokes_user: bool,
}

const fn kind(id: &'static str, rotation: Rotation, replay: &'static str) -> Kind {
    Kind {
        id,
        rotation,
        replay,
        idle: None,
        revokes_user: false,
    }
}

pub(super) const KINDS: [Kind; 5] = [
    kind("harmless", Rotation::Never, r#"{ policy = "harmless" }"#),
    Kind {
        idle: Some(Duration::from_secs(4 * 3600)),
        revokes_user: true,
        ..kind(
            "grace",
            Rotation::Grace(Duration::from_secs(1800)),
            r#"{ policy = "grace", seconds = 1800 }"#,
        )
    },
    kind("refused", Rotation::Refused, r#"{ policy = "refused" }"#),
    kind("revokes", Rotation::Revokes, r#"{ policy = "revokes" }"#),
    Kind {
        idle: Some(Duration::from_secs(6 * 3600)),
        ..kind("idle", Rotation::Revokes, r#"{ policy = "revokes" }"#)
    },
];

pub(super) fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    for kind in &KINDS {
        let (id, replay) = (kind.id, kind.replay);
        let rotation = match kind.rotation {
            Rotation::Never => "never",
            _ => "always",
        };
        let scope = if kind.revokes_user { "user" } else { "grant" };
        let idle = kind.idle.map_or(String::new(), |idle| {
            format!("idle_lifetime_s = {}", idle.as_secs())
        });
        let text = format!(
            r#"
id = "{id}"
name = "{id}"
unified_apis = ["crm"]
[authorization]
url = "https://{id}.example/authorize"
[token]
url = "https://{id}.example/token"
[refresh]
rotation = "{rotation}"
replay = {replay}
{idle}
[revocation]
url = "https://{id}.example/revoke"
scope = "{scope}"
[api]
hosts = ["https://api.{id}.example"]
"#
        );
        catalogue
            .add(&format!("{id}.toml"), &text)
            .expect("a well-formed connector");
    }
    catalogue
}

/// What is wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nobody reaches the store.
    StoreDown,
    /// This replica does not.
    Partition(usize),
    /// The store takes its time.
    StoreSlow,
    /// This replica hears of no changes.
    Deaf(usize),
    /// A kind's token endpoint misbehaves.
    Endpoint(usize, Mishap),
}

/// What may happen to a request to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    NotSent,
    /// No answer; the request had no effect.
    LostBefore,
    /// No answer; the request had its effect.
    LostAfter,
    ErrorBefore,
    ErrorAfter,
    MalformedAfter,
    Throttled,
    /// Up to 100 s.
    Slow,
}

const MISHAPS: [Mishap; 8] = [
    Mishap::NotSent,
    Mishap::LostBefore,
    Mishap::LostAfter,
    Mishap::ErrorBefore,
    Mishap::ErrorAfter,
    Mishap::MalformedAfter,
    Mishap::Throttled,
    Mishap::Slow,
];

#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) trouble: Trouble,
}

/// A seed, unfolded.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) broken: Option<Broken>,
    /// Nothing goes wrong: nobody may get an error.
    pub(super) calm: bool,
    pub(super) length: Duration,
    pub(super) replicas: usize,
    pub(super) connections: usize,
    pub(super) store_fault: f64,
    pub(super) provider_fault: f64,
    /// How likely something happens in the middle of a refresh.
    pub(super) temptation: f64,
    pub(super) windows: Vec<Window>,
    /// Mean times between events, over the whole cluster.
    pub(super) crash_every: Duration,
    pub(super) stop_every: Duration,
    pub(super) admin_every: Duration,
    pub(super) burst_every: Duration,
    pub(super) config: VaultConfig,
}

impl Scenario {
    pub(super) fn new(rng: &Rng, length: Duration, broken: Option<Broken>) -> Self {
        let calm = rng.chance(0.1) && broken.is_none();
        let harsh = (rng.chance(0.3) && !calm) || broken.is_some();
        let mut replicas = rng.index(4) + 1;
        if harsh {
            // A cluster in which every safeguard is needed.
            replicas = replicas.max(3);
        }
        let mut connections = 20 + rng.index(180);
        if harsh {
            connections = 30;
        }
        let config = VaultConfig {
            change_poll: rng.between(SECOND / 2, 4 * SECOND),
            claim_poll: Duration::from_millis(100),
            ..VaultConfig::default()
        };
        let severity = rng.fraction();
        let mut scenario = Self {
            broken,
            calm,
            length,
            replicas,
            connections,
            store_fault: if calm { 0.0 } else { 0.01 * severity },
            provider_fault: if calm { 0.0 } else { 0.1 * severity },
            temptation: 0.02 * rng.fraction(),
            windows: Vec::new(),
            crash_every: rng.between(10 * MINUTE, 2 * HOUR),
            stop_every: rng.between(10 * MINUTE, 2 * HOUR),
            admin_every: rng.between(20 * SECOND, 5 * MINUTE),
            burst_every: rng.between(2 * SECOND, 15 * SECOND),
            config,
        };
        if harsh {
            scenario.store_fault = 0.02;
            scenario.provider_fault = 0.15;
            scenario.temptation = 0.1;
            scenario.burst_every = 3 * SECOND;
        }
        if !calm {
            let every = rng.between(10 * MINUTE, HOUR);
            let mut from = rng.gap(every);
            while from < length {
                let replica = rng.index(replicas);
                let trouble = match rng.index(8) {
                    0 => Trouble::StoreDown,
                    1 => Trouble::Partition(replica),
                    2 => Trouble::StoreSlow,
                    3 => Trouble::Deaf(replica),
                    _ => Trouble::Endpoint(rng.index(KINDS.len()), *rng.pick(&MISHAPS)),
                };
                let lasts = rng.between(SECOND, MINUTE) + rng.gap(4 * MINUTE).min(20 * MINUTE);
                let to = (from + lasts).min(length);
                scenario.windows.push(Window { from, to, trouble });
                from += rng.gap(every);
            }
        }
        scenario
    }

    pub(super) fn troubles(&self, now: Duration) -> impl Iterator<Item = Trouble> {
        self.windows
            .iter()
            .filter(move |window| window.from <= now && now < window.to)
            .map(|window| window.trouble)
    }

    /// What happens to a request to this kind of provider now.
    pub(super) fn mishap(&self, kind: usize, now: Duration, rng: &Rng) -> Option<Mishap> {
        let standing = self.troubles(now).find_map(|trouble| match trouble {
            Trouble::Endpoint(at, mishap) if at == kind => Some(mishap),
            _ => None,
        });
        standing
            .or_else(|| {
                (now < self.length && rng.chance(self.provider_fault)).then(|| *rng.pick(&MISHAPS))
            })
            .filter(|_| !self.calm)
    }
}

impl Kind {
    /// The terms of one grant.
    pub(super) fn terms(&self, rng: &Rng) -> Terms {
        Terms {
            rotation: self.rotation,
            access_ttl: Duration::from_secs(*rng.pick(&[300, 600, 1800, 3600, 7200])),
            refresh_ttl: None,
            refresh_idle: self.idle,
            refresh_kills_access_token: false,
        }
    }
}
