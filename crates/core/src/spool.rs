//! Where granted answers wait while the store does not take them (DESIGN 3.6).

use std::fmt;

use async_trait::async_trait;

mod folder;

pub use folder::FolderSpool;

/// One answer, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// Its name in the spool.
    pub name: String,
    /// Its bytes, as they were put.
    pub bytes: Vec<u8>,
}

/// Keeps sealed answers durably. No verb may lose an entry that it did not take.
#[async_trait]
pub trait Spool: Send + Sync + fmt::Debug {
    /// Keeps an entry; durable when it returns. The same name replaces.
    async fn put(&self, name: &str, bytes: &[u8]) -> Result<(), String>;
    /// All entries.
    async fn entries(&self) -> Result<Vec<Spooled>, String>;
    /// Forgets an entry whose answer is in the store (or void).
    async fn remove(&self, name: &str) -> Result<(), String>;
    /// Puts an entry aside that cannot be read, for a person to look at.
    async fn set_aside(&self, name: &str) -> Result<(), String>;
}

/// Keeps nothing: for tests, and for who can do without.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSpool;

#[async_trait]
impl Spool for NoSpool {
    async fn put(&self, _: &str, _: &[u8]) -> Result<(), String> {
        Err("there is no spool".to_owned())
    }

    async fn entries(&self) -> Result<Vec<Spooled>, String> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    async fn set_aside(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}
