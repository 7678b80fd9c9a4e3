//! A replica's spool folder, which outlives the replica.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokenward::{
    GrantId,
    oauth::TokenSet,
    seal::Purpose,
    spool::{Spool, Spooled},
};

use super::{
    books::{FamilyId, Fate, read_token, token_text},
    scenario::Broken,
    time::{Life, lock},
    world::World,
};

pub(super) struct SimSpool {
    pub(super) world: Arc<World>,
    pub(super) life: Arc<Life>,
    pub(super) replica: usize,
}

impl fmt::Debug for SimSpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSpool").finish_non_exhaustive()
    }
}

impl SimSpool {
    async fn disk(&self) {
        let World { time, rng, .. } = &*self.world;
        self.life.goes_on().await;
        let latency = rng.between(Duration::from_micros(100), Duration::from_millis(5));
        time.sleep(latency).await;
        self.life.goes_on().await;
    }

    /// Which answer an entry holds.
    fn read(&self, bytes: &[u8]) -> Option<(FamilyId, u32, GrantId, u64)> {
        let envelope: Value = serde_json::from_slice(bytes).ok()?;
        let grant = GrantId::new(envelope["grant"].as_str()?);
        let sealed = STANDARD.decode(envelope["sealed"].as_str()?).ok()?;
        let purpose = Purpose::Spool { grant: &grant };
        let letter = self.world.keyring.open(purpose, &sealed).ok()?;
        let letter: Value = serde_json::from_slice(&letter).ok()?;
        let tokens = STANDARD.decode(letter["tokens"].as_str()?).ok()?;
        let (family, access) = read_token(TokenSet::from_plain(&tokens)?.access_token?.expose())?;
        let version = letter["base"].as_u64()? + 1;
        Some((family, access, grant, version))
    }
}

/// Whether an entry is an answer that could not be read.
fn unread(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Value>(bytes).is_ok_and(|envelope| envelope.get("unread").is_some())
}

#[async_trait]
impl Spool for SimSpool {
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        self.disk().await;
        if unread(bytes) {
            lock(&self.world.spools[self.replica]).insert(name.to_owned(), bytes.to_vec());
            return Ok(());
        }
        let (family, access, grant, version) = self.read(bytes).expect("the engine's own letters");
        if !self.world.broken(Broken::SpoolDrops) {
            lock(&self.world.spools[self.replica]).insert(name.to_owned(), bytes.to_vec());
        }
        // It is for this that there is a spool.
        let temptation = self.world.scenario.temptation * 10.0;
        self.world.tempt_with(temptation, self.replica, None);
        let now = self.world.now();
        let mut books = self.world.books();
        books.counts.spooled += 1;
        let text = token_text("at", family, access);
        books.spooled.insert(text, (grant, version));
        let grant = books.grant_of_family(family);
        let replica = self.replica;
        books.note(
            now,
            grant,
            format_args!("r{replica} spools at-{family}-{access}"),
        );
        let sends = books.families[family].sends.iter_mut().rev();
        let mut sends = sends.filter(|send| send.granted == Some(access));
        if let Some(send) = sends.next()
            && send.fate == Fate::Delivered
        {
            send.fate = Fate::Spooled;
        }
        Ok(())
    }

    async fn entries(&self) -> Result<Vec<Spooled>, String> {
        self.disk().await;
        let entries = lock(&self.world.spools[self.replica]);
        let entries = entries.iter().map(|(name, bytes)| Spooled {
            name: name.clone(),
            bytes: bytes.clone(),
        });
        Ok(entries.collect())
    }

    async fn remove(&self, name: &str) -> Result<(), String> {
        self.disk().await;
        lock(&self.world.spools[self.replica]).remove(name);
        Ok(())
    }

    async fn set_aside(&self, _: &str) -> Result<(), String> {
        Err("nothing here is ever unreadable".to_owned())
    }
}
