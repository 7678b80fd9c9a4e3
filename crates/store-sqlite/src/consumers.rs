//! Applications' customers.

use rusqlite::{Connection as Db, params};
use serde_json::{Map, Value};
use tokenward::{
    id::{ApplicationId, ConnectorId, ConsumerId},
    store::{Consumer, ConsumerDeletion, ConsumerFilter},
    time::StoreTime,
};

use crate::{
    grants,
    job::Outcome,
    rows::{self, CONSUMER, saturated, to_json},
};

pub(crate) fn find(
    db: &Db,
    application: &ApplicationId,
    id: &ConsumerId,
) -> Outcome<Option<Consumer>> {
    db.prepare_cached(&format!(
        "SELECT {CONSUMER} FROM consumers WHERE application = ? AND id = ?"
    ))?
    .query([application.as_str(), id.as_str()])?
    .next()?
    .map(rows::consumer)
    .transpose()
}

/// Makes it if there is none.
pub(crate) fn ensure(
    db: &Db,
    application: &ApplicationId,
    id: &ConsumerId,
    now: StoreTime,
) -> Outcome<()> {
    db.prepare_cached(&format!(
        "INSERT INTO consumers ({CONSUMER}) VALUES (?1, ?2, '{{}}', ?3, ?3)
         ON CONFLICT (application, id) DO NOTHING"
    ))?
    .execute(params![application.as_str(), id.as_str(), now.0])?;
    Ok(())
}

pub(crate) fn merge(
    db: &Db,
    application: ApplicationId,
    id: ConsumerId,
    metadata: Option<Map<String, Value>>,
) -> Outcome<Consumer> {
    let now = grants::now();
    let known = find(db, &application, &id)?;
    let new = known.is_none();
    let mut consumer = known.unwrap_or_else(|| Consumer::new(application, id, now));
    let changed = metadata.is_some_and(|metadata| consumer.merge(metadata, now));
    if new || changed {
        save(db, &consumer)?;
    }
    Ok(consumer)
}

pub(crate) fn save(db: &Db, consumer: &Consumer) -> Outcome<()> {
    db.prepare_cached(&format!(
        "INSERT OR REPLACE INTO consumers ({CONSUMER}) VALUES (?, ?, ?, ?, ?)"
    ))?
    .execute(params![
        consumer.application.as_str(),
        consumer.id.as_str(),
        to_json(&consumer.metadata)?,
        consumer.created_at.0,
        consumer.modified_at.0,
    ])?;
    Ok(())
}

pub(crate) fn of_application(
    db: &Db,
    application: &ApplicationId,
    filter: &ConsumerFilter,
    after: Option<&ConsumerId>,
    limit: usize,
) -> Outcome<Vec<Consumer>> {
    // No consumer's id is empty.
    let after = after.map_or("", ConsumerId::as_str);
    let prefix = filter.prefix.as_deref().unwrap_or_default();
    let contains = filter.contains.as_deref().unwrap_or_default();
    db.prepare_cached(&format!(
        "SELECT {CONSUMER} FROM consumers
         WHERE application = ?1 AND id > ?2 AND id >= ?3
            AND substr(id, 1, length(?3)) = ?3 AND instr(id, ?4) > 0
         ORDER BY id LIMIT ?5"
    ))?
    .query_and_then(
        params![
            application.as_str(),
            after,
            prefix,
            contains,
            saturated(limit)
        ],
        rows::consumer,
    )?
    .collect()
}

pub(crate) fn services(
    db: &Db,
    application: &ApplicationId,
    consumers: &[ConsumerId],
) -> Outcome<Vec<(ConsumerId, ConnectorId)>> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT service FROM connections WHERE application = ? AND consumer = ?
         ORDER BY service",
    )?;
    let mut consumers: Vec<&ConsumerId> = consumers.iter().collect();
    consumers.sort_unstable();
    consumers.dedup();
    let mut all = Vec::new();
    for consumer in consumers {
        let mut rows = statement.query([application.as_str(), consumer.as_str()])?;
        while let Some(row) = rows.next()? {
            all.push((consumer.clone(), row.get::<_, String>(0)?.into()));
        }
    }
    Ok(all)
}

pub(crate) fn after(
    db: &Db,
    after: Option<&(ApplicationId, ConsumerId)>,
    limit: usize,
) -> Outcome<Vec<Consumer>> {
    let (application, id) = match after {
        Some((application, id)) => (application.as_str(), id.as_str()),
        None => ("", ""),
    };
    db.prepare_cached(&format!(
        "SELECT {CONSUMER} FROM consumers WHERE (application, id) > (?, ?)
         ORDER BY application, id LIMIT ?"
    ))?
    .query_and_then(params![application, id, saturated(limit)], rows::consumer)?
    .collect()
}

pub(crate) fn delete(
    db: &Db,
    application: &ApplicationId,
    id: &ConsumerId,
) -> Outcome<ConsumerDeletion> {
    let name = [application.as_str(), id.as_str()];
    let used = db
        .prepare_cached("SELECT 1 FROM connections WHERE application = ? AND consumer = ? LIMIT 1")?
        .exists(name)?;
    if used {
        return Ok(ConsumerDeletion::InUse);
    }
    // Whoever is still at a login finds nobody to connect.
    db.prepare_cached("DELETE FROM attempts WHERE application = ? AND consumer = ?")?
        .execute(name)?;
    let deleted = db
        .prepare_cached("DELETE FROM consumers WHERE application = ? AND id = ?")?
        .execute(name)?;
    Ok(match deleted {
        0 => ConsumerDeletion::Missing,
        _ => ConsumerDeletion::Deleted,
    })
}
