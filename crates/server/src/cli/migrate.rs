//! `tokenward migrate`: a vault moves to another store, as it is sealed.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::digest::{self, Digest, SHA256};
use serde_json::json;
use tokenward::store::{ApiKey, Freeze, Record, Store, StoreResult};

use super::output::Output;
use crate::config::{open::VaultOptions, place::StoreUrl};

#[derive(Debug, clap::Args)]
pub(super) struct MigrateOptions {
    /// Where the vault goes: `sqlite` (in the data folder) or postgres://...; it comes from --store
    #[arg(
        long,
        value_name = "URL",
        env = "TOKENWARD_MIGRATE_TO",
        hide_env_values = true,
        required_unless_present = "undo"
    )]
    to: Option<StoreUrl>,
    /// Let --store take writes again: the move is given up. If it was finished, --to says where to,
    /// and nothing may have been written there since
    #[arg(long)]
    undo: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Rows that are written at once.
const BATCH: usize = 500;
/// The value by which a target that was begun is recognised: what it is a copy of.
const MARK: &str = "moved from";
/// How long refreshes under way are waited for: longer than any claim.
const PATIENCE: usize = 600;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(options: &MigrateOptions, vault: &VaultOptions) -> anyhow::Result<()> {
    let data_dir = vault.folder()?;
    let (source, source_shown) = vault.store.place(&data_dir).await?;
    let source = source.store();
    let output = Output::new(options.json);
    let place = match options.to.clone() {
        Some(to) => Some(
            vault
                .store
                .elsewhere(to)
                .place(&data_dir)
                .await
                .context("--to")?,
        ),
        None => None,
    };
    if let Some((_, target_shown)) = &place {
        ensure!(
            source_shown != *target_shown,
            "--store and --to are the same place"
        );
    }
    if options.undo {
        let target = place
            .as_ref()
            .map(|(target, shown)| (target.store(), &**shown));
        undo(source, &source_shown, target).await?;
        output.say(&json!({ "store": source_shown, "frozen": false }), || {
            format!("{source_shown} takes writes again")
        });
        return Ok(());
    }
    let Some((target, target_shown)) = place else {
        bail!("--to says where the vault goes");
    };
    let target = target.store();
    let Some(pepper) = source.value("pepper").await? else {
        bail!("{source_shown} holds nothing that could be moved");
    };
    let mark = digest::digest(&SHA256, &pepper).as_ref().to_vec();
    match target.value(MARK).await? {
        Some(present) => ensure!(
            present == mark,
            "{target_shown} holds a copy of another vault; give an empty one"
        ),
        None => ensure!(
            target.value("pepper").await?.is_none(),
            "{target_shown} holds a vault already; give an empty one"
        ),
    }

    settle(source).await?;
    target
        .restore(vec![Record::Value(MARK.to_owned(), mark)])
        .await?;
    let from = walk(source, Some(target)).await?;
    let there = walk(target, None).await?;
    ensure!(
        from == there,
        "the copy differs: {} rows here, {} there, or other contents. {source_shown} is unchanged \
         and takes no writes: empty {target_shown} and try again, or give up with --undo",
        from.rows,
        there.rows
    );
    // From here on the old place is what was left behind, whatever becomes of this process.
    source.freeze(Freeze::Moved).await?;
    // Last: until it has this, no process takes the target for a vault.
    let pepper = Record::Value("pepper".to_owned(), pepper);
    target.restore(vec![pepper]).await?;
    let checksum = hex(&from.checksum);
    let said = json!({ "from": source_shown, "to": target_shown, "rows": from.rows, "grants": from.grants, "sha256": checksum });
    output.say(&said, || {
        format!(
            "{} rows ({} grants) are in {target_shown}, sha256 {checksum}\n{source_shown} takes no \
             more writes; start the servers with the new --store, the same key and the same data folder",
            from.rows, from.grants
        )
    });
    Ok(())
}

/// No refresh begins any more, and those under way end. Then nothing changes any more.
async fn settle(source: &dyn Store) -> anyhow::Result<()> {
    // A move that is taken up again: what was refused must not be let in for a moment.
    if let Freeze::Writes | Freeze::Moved = source.frozen().await? {
        return Ok(());
    }
    source.freeze(Freeze::Claims).await?;
    for wait in 0.. {
        if source.claims_in_force().await? == 0 {
            break;
        }
        ensure!(
            wait < PATIENCE,
            "refreshes under way do not end; try again, or give up with --undo"
        );
        tokio::time::sleep(PAUSE).await;
    }
    source.freeze(Freeze::Writes).await?;
    Ok(())
}

/// Gives a move up. Two stores that live beside one another would each send the refresh tokens that
/// the other one has spent: once a move is finished, the old place comes back only if the new one
/// holds exactly the same, and then the new one takes no writes any more.
async fn undo(
    source: &dyn Store,
    shown: &str,
    target: Option<(&dyn Store, &str)>,
) -> anyhow::Result<()> {
    if source.frozen().await? == Freeze::Moved {
        let Some((target, target_shown)) = target else {
            bail!(
                "the move of {shown} is finished: its vault lives elsewhere. Give that place with --to, \
                 so that it can be seen that nothing was written there since"
            );
        };
        // Without it the place is no vault, or not yet.
        let lives = target.value("pepper").await?.is_some();
        let before = target.frozen().await?;
        target.freeze(Freeze::Writes).await?;
        let (here, there) = (walk(source, None).await?, walk(target, None).await?);
        if lives && here != there {
            target.freeze(before).await?;
            bail!(
                "{target_shown} has been written to since the move, and {shown} holds refresh tokens \
                 that may be spent: nothing is undone. To go back, move the vault back: migrate --store \
                 with the new place, --to with an empty one"
            );
        }
        target.freeze(Freeze::Moved).await?;
    }
    source.freeze(Freeze::Nothing).await?;
    Ok(())
}

/// What a store holds.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    rows: u64,
    grants: u64,
    checksum: Vec<u8>,
}

/// Reads everything in one order and in pages, writes it to `target`, and sums it up.
async fn walk(store: &dyn Store, target: Option<&dyn Store>) -> anyhow::Result<Contents> {
    let mut walk = Walk {
        target,
        batch: Vec::new(),
        rows: 0,
        grants: 0,
        sum: digest::Context::new(&SHA256),
    };
    for application in store.applications().await? {
        let id = application.id.clone();
        walk.take(Record::Application(application)).await?;
        for key in store.keys(&id).await? {
            walk.take(Record::Key(key)).await?;
        }
    }
    walk.clients(store).await?;
    walk.grants(store).await?;
    walk.beside_grants(store).await?;
    walk.connections(store).await?;
    walk.consumers(store).await?;
    walk.attempts(store).await?;
    walk.end().await
}

struct Walk<'a> {
    target: Option<&'a dyn Store>,
    batch: Vec<Record>,
    rows: u64,
    grants: u64,
    sum: digest::Context,
}

impl Walk<'_> {
    async fn clients(&mut self, store: &dyn Store) -> StoreResult<()> {
        let mut after = None;
        loop {
            let place = after.as_ref().map(|(application, id)| (application, id));
            let page = store.clients_after(place, BATCH).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some((last.application.clone(), last.connector.clone()));
            for client in page {
                self.take(Record::Client(client)).await?;
            }
        }
    }

    async fn grants(&mut self, store: &dyn Store) -> StoreResult<()> {
        let mut after = None;
        loop {
            let page = store.grants_after(after.as_ref(), BATCH).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.id.clone());
            for row in page {
                self.grants += 1;
                self.take(Record::Grant(Box::new(row))).await?;
            }
        }
    }

    async fn beside_grants(&mut self, store: &dyn Store) -> StoreResult<()> {
        let mut after = None;
        loop {
            let place = after.as_ref().map(|(grant, epoch)| (grant, *epoch));
            let page = store.unread_after(place, BATCH).await?;
            let Some(last) = page.last() else { break };
            after = Some((last.grant.clone(), last.epoch));
            for answer in page {
                self.take(Record::Unread(answer)).await?;
            }
        }
        let mut after = None;
        loop {
            let place = after.as_ref().map(|(grant, slot)| (grant, *slot));
            let page = store.replaced_after(place, BATCH).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some((last.grant.clone(), last.slot));
            for token in page {
                self.take(Record::Replaced(token)).await?;
            }
        }
    }

    async fn connections(&mut self, store: &dyn Store) -> StoreResult<()> {
        let mut after = None;
        loop {
            let page = store.connections_after(after.as_ref(), BATCH).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.key.clone());
            for connection in page {
                self.take(Record::Connection(Box::new(connection))).await?;
            }
        }
    }

    async fn consumers(&mut self, store: &dyn Store) -> StoreResult<()> {
        let mut after = None;
        loop {
            let place = after.as_ref().map(|(application, id)| (application, id));
            let page = store.consumers_after(place, BATCH).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some((last.application.clone(), last.id.clone()));
            for consumer in page {
                self.take(Record::Consumer(consumer)).await?;
            }
        }
    }

    async fn attempts(&mut self, store: &dyn Store) -> StoreResult<()> {
        let mut after = None;
        loop {
            let page = store.attempts_after(after.as_ref(), BATCH).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.id.clone());
            for row in page {
                self.take(Record::Attempt(Box::new(row))).await?;
            }
        }
    }

    async fn take(&mut self, record: Record) -> StoreResult<()> {
        self.rows += 1;
        // All that a row holds is in its debug form, but for digests and an answer's bytes.
        self.sum.update(format!("{record:?}\n").as_bytes());
        match &record {
            Record::Key(key) => {
                self.sum.update(&key.digest);
                let ApiKey {
                    hint,
                    scopes,
                    created_at,
                    expires_at,
                    // That a key was shown spends nothing: it is carried, and keeps nobody from going back.
                    last_used_at: _,
                    ..
                } = key;
                let times = format!("{hint} {scopes} {created_at} {expires_at:?}");
                self.sum.update(times.as_bytes());
            }
            Record::Unread(answer) => self.sum.update(&answer.sealed),
            Record::Attempt(row) => {
                let digests = serde_json::to_vec(row).unwrap_or_default();
                self.sum.update(&digests);
            }
            _ => {}
        }
        self.batch.push(record);
        if self.batch.len() >= BATCH {
            self.write().await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> StoreResult<()> {
        let batch = std::mem::take(&mut self.batch);
        match self.target {
            Some(target) => target.restore(batch).await,
            None => Ok(()),
        }
    }

    async fn end(mut self) -> anyhow::Result<Contents> {
        self.write().await?;
        let checksum: Digest = self.sum.finish();
        Ok(Contents {
            rows: self.rows,
            grants: self.grants,
            checksum: checksum.as_ref().to_vec(),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
