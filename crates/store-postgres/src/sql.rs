//! What statements are made of.

use tokio_postgres::types::{ToSql, Type};

/// The database's time in milliseconds.
pub(crate) const NOW: &str = "floor(extract(epoch from clock_timestamp()) * 1000)::bigint";

/// A statement's parameters, each with its type, so that one round trip does.
pub(crate) type Params<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// Writes out [`Params`].
macro_rules! params {
    ($($kind:ident $value:expr),* $(,)?) => {
        &[$((&$value as &(dyn tokio_postgres::types::ToSql + Sync), tokio_postgres::types::Type::$kind)),*]
    };
}
pub(crate) use params;
