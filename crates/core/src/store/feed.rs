//! What changed, for the copies in other processes.

use std::borrow::Cow;

use crate::id::{ApplicationId, ConnectionKey, ConnectorId, GrantId};

/// Something that other processes may hold a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A grant's row: a new version, which is named, or the death of that version. A copy of it, or
    /// of a later one, need not be read again.
    Grant(GrantId, u64),
    /// A connection.
    Connection(ConnectionKey),
    /// An application or its keys.
    Application(ApplicationId),
    /// An OAuth client.
    Client(ApplicationId, ConnectorId),
}

/// A change as a row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeColumns<'a> {
    /// What changed.
    pub kind: Cow<'a, str>,
    /// Its name, and what else belongs to it.
    pub a: Cow<'a, str>,
    /// See [`a`](Self::a).
    pub b: Option<Cow<'a, str>>,
    /// See [`a`](Self::a).
    pub c: Option<Cow<'a, str>>,
    /// See [`a`](Self::a).
    pub d: Option<Cow<'a, str>>,
}

impl Change {
    /// The columns of its row.
    pub fn to_columns(&self) -> ChangeColumns<'_> {
        let row = |kind, a, b: Option<Cow<'static, str>>| ChangeColumns {
            kind: Cow::Borrowed(kind),
            a: Cow::Borrowed(a),
            b,
            c: None,
            d: None,
        };
        match self {
            Self::Grant(id, version) => row("grant", id.as_str(), Some(version.to_string().into())),
            Self::Connection(key) => ChangeColumns {
                b: Some(key.consumer.as_str().into()),
                c: Some((*key.unified_api).into()),
                d: Some(key.service.as_str().into()),
                ..row("connection", key.application.as_str(), None)
            },
            Self::Application(id) => row("application", id.as_str(), None),
            Self::Client(application, connector) => ChangeColumns {
                b: Some(connector.as_str().into()),
                ..row("client", application.as_str(), None)
            },
        }
    }

    /// What a row tells; `None`: it makes no sense here, it may be a later version's.
    pub fn from_columns(columns: &ChangeColumns<'_>) -> Option<Self> {
        let ChangeColumns { kind, a, b, c, d } = columns;
        let a = &**a;
        match (&**kind, b.as_deref(), c.as_deref(), d.as_deref()) {
            ("grant", Some(b), None, None) => Some(Self::Grant(a.into(), b.parse().ok()?)),
            ("connection", Some(b), Some(c), Some(d)) => {
                Some(Self::Connection(ConnectionKey::new(a, b, c, d)))
            }
            ("application", None, None, None) => Some(Self::Application(a.into())),
            ("client", Some(b), None, None) => Some(Self::Client(a.into(), b.into())),
            _ => None,
        }
    }
}

/// Changes since a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Where to go on.
    pub next: u64,
    /// What changed, oldest first.
    pub changes: Vec<Change>,
    /// Changes that are not among them, and that nobody can tell any more.
    pub gap: Option<Gap>,
}

/// The numbers of changes that cannot be told: older ones that are gone, one that makes no sense,
/// one that may have come too late. Any copy may be old that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
}

impl Gap {
    /// What was a gap, and these numbers.
    #[must_use]
    pub fn with(gap: Option<Self>, from: u64, to: u64) -> Self {
        gap.map_or(Self { from, to }, |gap| Self {
            from: gap.from.min(from),
            to: gap.to.max(to),
        })
    }
}
