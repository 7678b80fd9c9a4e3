//! Applications' customers.

use serde_json::{Map, Value};
use tokenward::{
    id::{ApplicationId, ConnectorId, ConsumerId},
    store::{Consumer, ConsumerDeletion, ConsumerFilter},
};

use crate::{
    fault::Outcome,
    pool::Pool,
    rows::{self, CONSUMER, saturated, to_json},
    sql::params,
    transaction::Changing,
};

pub(crate) async fn find(
    pool: &Pool,
    application: &ApplicationId,
    id: &ConsumerId,
) -> Outcome<Option<Consumer>> {
    let params = params![TEXT application.as_str(), TEXT id.as_str()];
    let rows = pool.query(&find_sql(), params).await?;
    rows.first().map(rows::consumer).transpose()
}

fn find_sql() -> String {
    format!("SELECT {CONSUMER} FROM tokenward.consumers WHERE application = $1 AND id = $2")
}

pub(crate) async fn merge(
    changing: &Changing<'_>,
    application: ApplicationId,
    id: ConsumerId,
    metadata: Option<Map<String, Value>>,
) -> Outcome<Consumer> {
    // Two who merge at once wait for one another: the second one sees what the first has merged.
    changing.fence_application(&application).await?;
    let now = changing.now().await?;
    let params = params![TEXT application.as_str(), TEXT id.as_str()];
    let rows = changing.query(&find_sql(), params).await?;
    let known = rows.first().map(rows::consumer).transpose()?;
    let new = known.is_none();
    let mut consumer = known.unwrap_or_else(|| Consumer::new(application, id, now));
    let changed = metadata.is_some_and(|metadata| consumer.merge(metadata, now));
    if new || changed {
        save(changing, &consumer).await?;
    }
    Ok(consumer)
}

pub(crate) async fn save(changing: &Changing<'_>, consumer: &Consumer) -> Outcome<()> {
    let sql = format!(
        "INSERT INTO tokenward.consumers ({CONSUMER}) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (application, id) DO UPDATE SET metadata = excluded.metadata,
            created_at = excluded.created_at, modified_at = excluded.modified_at"
    );
    let params = params![
        TEXT consumer.application.as_str(), TEXT consumer.id.as_str(),
        TEXT to_json(&consumer.metadata)?, INT8 consumer.created_at.0, INT8 consumer.modified_at.0,
    ];
    changing.query(&sql, params).await?;
    Ok(())
}

pub(crate) async fn of_application(
    pool: &Pool,
    application: &ApplicationId,
    filter: &ConsumerFilter,
    after: Option<&ConsumerId>,
    limit: usize,
) -> Outcome<Vec<Consumer>> {
    let sql = format!(
        "SELECT {CONSUMER} FROM tokenward.consumers
         WHERE application = $1 AND id > $2 AND id >= $3
            AND starts_with(id, $3) AND strpos(id, $4) > 0
         ORDER BY id LIMIT $5"
    );
    // No consumer's id is empty.
    let params = params![
        TEXT application.as_str(), TEXT after.map_or("", ConsumerId::as_str),
        TEXT filter.prefix.as_deref().unwrap_or_default(),
        TEXT filter.contains.as_deref().unwrap_or_default(), INT8 saturated(limit),
    ];
    let rows = pool.query(&sql, params).await?;
    rows.iter().map(rows::consumer).collect()
}

pub(crate) async fn services(
    pool: &Pool,
    application: &ApplicationId,
    consumers: &[ConsumerId],
) -> Outcome<Vec<(ConsumerId, ConnectorId)>> {
    let sql = "SELECT DISTINCT consumer, service FROM tokenward.connections
         WHERE application = $1 AND consumer = ANY($2) ORDER BY consumer, service";
    let consumers: Vec<&str> = consumers.iter().map(ConsumerId::as_str).collect();
    let params = params![TEXT application.as_str(), TEXT_ARRAY consumers];
    let rows = pool.query(sql, params).await?;
    rows.iter().map(rows::service).collect()
}

pub(crate) async fn after(
    pool: &Pool,
    after: Option<(&ApplicationId, &ConsumerId)>,
    limit: usize,
) -> Outcome<Vec<Consumer>> {
    let (application, id) = after.map_or(("", ""), |(application, id)| {
        (application.as_str(), id.as_str())
    });
    let sql = format!(
        "SELECT {CONSUMER} FROM tokenward.consumers WHERE (application, id) > ($1, $2)
         ORDER BY application, id LIMIT $3"
    );
    let params = params![TEXT application, TEXT id, INT8 saturated(limit)];
    let rows = pool.query(&sql, params).await?;
    rows.iter().map(rows::consumer).collect()
}

pub(crate) async fn delete(
    changing: &Changing<'_>,
    application: &ApplicationId,
    id: &ConsumerId,
) -> Outcome<ConsumerDeletion> {
    // Nobody makes a connection meanwhile.
    changing.fence_application(application).await?;
    let params = params![TEXT application.as_str(), TEXT id.as_str()];
    let used = changing
        .query(
            "SELECT 1 FROM tokenward.connections WHERE application = $1 AND consumer = $2 LIMIT 1",
            params,
        )
        .await?;
    if !used.is_empty() {
        return Ok(ConsumerDeletion::InUse);
    }
    // Whoever is still at a login finds nobody to connect.
    changing
        .query(
            "DELETE FROM tokenward.attempts WHERE application = $1 AND consumer = $2",
            params,
        )
        .await?;
    let deleted = changing
        .query(
            "DELETE FROM tokenward.consumers WHERE application = $1 AND id = $2 RETURNING 1",
            params,
        )
        .await?;
    Ok(if deleted.is_empty() {
        ConsumerDeletion::Missing
    } else {
        ConsumerDeletion::Deleted
    })
}
