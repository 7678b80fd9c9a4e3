//! Identifiers. All are opaque strings to the engine; newtypes keep them from being mixed up.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps an identifier as it stands.
            pub fn new(value: impl Into<Arc<str>>) -> Self {
                Self(value.into())
            }

            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                Self::new(value)
            }
        }

        impl From<String> for $name {
            fn from(value: String) -> Self {
                Self::new(value)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

string_id!(
    /// A tenant of the server (Apideck: application).
    ApplicationId
);
string_id!(
    /// A customer of an application (Apideck: consumer).
    ConsumerId
);
string_id!(
    /// A connector of the catalogue, for example `xero` (Apideck: service id).
    ConnectorId
);
string_id!(
    /// One authorization by one user for one client. The unit of refreshing.
    GrantId
);
string_id!(
    /// The holder of a claim: unique for each flight, so that a claim taken twice by the same
    /// owner is known to be the same claim.
    OwnerId
);

string_id!(
    /// One try of a person to authorize a connection. Public: it opens nothing.
    AttemptId
);

/// Names a connection: an application's consumer, at a unified API, with a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionKey {
    /// The application that owns the connection.
    pub application: ApplicationId,
    /// The consumer whose data is behind it.
    pub consumer: ConsumerId,
    /// The unified API, for example `accounting`.
    pub unified_api: Arc<str>,
    /// The service, which is the connector's id.
    pub service: ConnectorId,
}

impl ConnectionKey {
    /// Builds a key from its four parts.
    pub fn new(
        application: impl Into<ApplicationId>,
        consumer: impl Into<ConsumerId>,
        unified_api: impl Into<Arc<str>>,
        service: impl Into<ConnectorId>,
    ) -> Self {
        Self {
            application: application.into(),
            consumer: consumer.into(),
            unified_api: unified_api.into(),
            service: service.into(),
        }
    }

    /// The id on the wire: `{unified_api}+{service_id}`.
    pub fn wire_id(&self) -> String {
        format!("{}+{}", self.unified_api, self.service)
    }
}

/// A [`ConnectionKey`] whose parts are somebody else's, to look one up with.
#[derive(Hash)]
pub(crate) struct ConnectionKeyRef<'a> {
    pub(crate) application: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) unified_api: &'a str,
    pub(crate) service: &'a str,
}

impl papaya::Equivalent<ConnectionKey> for ConnectionKeyRef<'_> {
    fn equivalent(&self, key: &ConnectionKey) -> bool {
        *self.service == *key.service.as_str()
            && *self.unified_api == *key.unified_api
            && *self.consumer == *key.consumer.as_str()
            && *self.application == *key.application.as_str()
    }
}

/// The form that the command line takes and logs show: `consumer/unified_api+service`.
impl fmt::Display for ConnectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}+{}", self.consumer, self.unified_api, self.service)
    }
}
