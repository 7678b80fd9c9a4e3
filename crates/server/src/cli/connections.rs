//! `tokenward connections`.

use std::{collections::HashMap, io::Read as _, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use serde_json::json;
use tokenward::{
    ConnectionKey, Vault,
    refresh::ledger::{GrantRow, Standing},
    store::{Connection, ConnectionPatch, Stamped},
    time::StoreTime,
    vault::{Recovered, state::State},
};
use zeroize::Zeroizing;

use super::{AppOption, exit::NotFound, output::Output};
use crate::{front::caller::LONGEST_CONSUMER, import};

/// Grants that are read at once for a list.
const AT_ONCE: usize = 500;

const PLACE_HELP: &str =
    "CONSUMER/UNIFIED_API+SERVICE, or CONSUMER/SERVICE where the service has one unified API";

const IMPORT_HELP: &str = r#"Take over existing tokens from a file or standard input (never from an argument)

The input is a provider's token response as it is (RFC 6749), or Apideck's import format:

  {"credentials": {"access_token": "...", "refresh_token": "...",
                   "issued_at": "2026-08-08T10:00:00Z", "expires_in": 3600},
   "settings": {"tenant_id": "..."}, "metadata": {}}

Examples:

  tokenward connections import acme/xero --file tokens.json
  curl -s https://.../token ... | tokenward connections import acme/xero

expires_in is in seconds. Without issued_at or expires_in the access token counts as expired and
is refreshed when it is first asked for."#;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take over existing tokens from a file or standard input (never from an argument)
    #[command(long_about = IMPORT_HELP)]
    Import {
        #[command(flatten)]
        place: Place,
        /// The file [default: standard input]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a connection that shares another one's grant: one login, several organisations
    Link {
        #[command(flatten)]
        place: Place,
        /// The connection whose grant is shared
        #[arg(long, value_name = "CONNECTION")]
        to: String,
        /// A setting of the new connection (may be repeated)
        #[arg(long, value_name = "NAME=VALUE")]
        setting: Vec<String>,
    },
    /// Make a connection by the client credentials grant
    ClientCredentials {
        #[command(flatten)]
        place: Place,
    },
    /// Change a connection's settings, or switch it on or off
    Set {
        #[command(flatten)]
        place: Place,
        /// A setting; an empty value removes it (may be repeated)
        #[arg(long, value_name = "NAME=VALUE")]
        setting: Vec<String>,
        /// Switch it on or off
        #[arg(long)]
        enabled: Option<bool>,
    },
    /// List connections
    List {
        #[command(flatten)]
        app: AppOption,
        /// Only this consumer's
        #[arg(long)]
        consumer: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one connection and how its grant stands
    Show {
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read answers of the token endpoint again that could not be read when they came
    ///
    /// They are kept, sealed, beside their grant. Mend the connector's file first, then run this:
    /// the newest answer that can be read by now is the connection's new authorization. Nothing is
    /// sent to the provider.
    Recover {
        #[command(flatten)]
        place: Place,
    },
    /// Delete a connection; its grant is revoked if nothing else uses it
    Delete {
        #[command(flatten)]
        place: Place,
    },
}

/// Which connection.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Place {
    /// Its name
    #[arg(value_name = "CONNECTION", help = PLACE_HELP)]
    name: String,
    #[command(flatten)]
    app: AppOption,
}

impl Place {
    pub(super) async fn key(&self, vault: &Vault) -> anyhow::Result<ConnectionKey> {
        self.named(vault, &self.name).await
    }

    async fn named(&self, vault: &Vault, name: &str) -> anyhow::Result<ConnectionKey> {
        let usage =
            "a connection is named CONSUMER/UNIFIED_API+SERVICE, for example acme/accounting+xero";
        let application = self.app.find(vault).await?;
        let Some((consumer, place)) = name
            .rsplit_once('/')
            .filter(|(consumer, _)| !consumer.is_empty())
        else {
            bail!("`{name}`: {usage}");
        };
        ensure!(
            consumer.len() <= LONGEST_CONSUMER,
            "`{name}`: the consumer's id is longer than {LONGEST_CONSUMER} bytes"
        );
        if let Some((unified_api, service)) = place.split_once('+') {
            return Ok(ConnectionKey::new(
                application,
                consumer,
                unified_api,
                service,
            ));
        }
        match vault
            .catalogue()
            .find(place)
            .map(|connector| connector.unified_apis.as_slice())
        {
            Some([only]) => Ok(ConnectionKey::new(
                application,
                consumer,
                only.as_str(),
                place,
            )),
            Some(several) => bail!(
                "`{name}`: {place} belongs to several unified APIs ({}); {usage}",
                several.join(", ")
            ),
            None => Err(NotFound(format!(
                "`{name}`: there is no connector `{place}`; {usage}"
            )))?,
        }
    }
}

pub(super) async fn run(command: &Command, vault: &Vault) -> anyhow::Result<()> {
    match command {
        Command::Import { place, file, json } => {
            let key = place.key(vault).await?;
            let input = read_input(file.as_ref())?;
            let import = import::read(&input)
                .map_err(|why| anyhow::anyhow!("{why}. Nothing was imported"))?;
            let connection = vault.import(&key, import).await?;
            if vault
                .store()
                .client(&key.application, &key.service)
                .await?
                .is_none()
            {
                eprintln!(
                    "note: no OAuth client is set for {}; refreshing needs one: tokenward clients set --connector {}",
                    key.service, key.service
                );
            }
            let grant = grant_of(vault, &connection).await?;
            Output::new(*json).say(&describe(vault, &connection, grant.as_ref()), || {
                format!("connection {key} imported")
            });
        }
        Command::Link { place, to, setting } => {
            let key = place.key(vault).await?;
            let other = place.named(vault, to).await?;
            vault.link(&key, &other, settings_patch(setting)?).await?;
            println!("connection {key} shares the grant of {other}");
        }
        Command::ClientCredentials { place } => {
            let key = place.key(vault).await?;
            vault
                .add_client_credentials(&key, ConnectionPatch::default())
                .await?;
            println!("connection {key} made; its first token is fetched when it is asked for");
        }
        Command::Set {
            place,
            setting,
            enabled,
        } => {
            let key = place.key(vault).await?;
            if vault.store().connection(&key).await?.is_none() {
                return Err(NotFound(format!("there is no connection {key}")).into());
            }
            vault
                .update(
                    &key,
                    ConnectionPatch {
                        enabled: *enabled,
                        ..settings_patch(setting)?
                    },
                )
                .await?;
            println!("connection {key} changed");
        }
        Command::List {
            app,
            consumer,
            json,
        } => {
            let consumer = consumer.as_deref().map(Into::into);
            let all = vault
                .store()
                .connections(&app.find(vault).await?, consumer.as_ref())
                .await?;
            let mut list = Vec::new();
            let mut rows = Vec::new();
            for some in all.chunks(AT_ONCE) {
                let ids: Vec<_> = some.iter().filter_map(|it| it.grant.clone()).collect();
                let grants = vault.store().grants(&ids).await?;
                let at = grants.at;
                let grants: HashMap<_, _> = grants
                    .value
                    .into_iter()
                    .map(|row| (row.id.clone(), row))
                    .collect();
                for connection in some {
                    let grant = connection.grant.as_ref().map(|grant| Stamped {
                        value: grants.get(grant).cloned(),
                        at,
                    });
                    list.push(describe(vault, connection, grant.as_ref()));
                    rows.push(vec![
                        connection.key.to_string(),
                        standing(vault, connection, grant.as_ref()),
                        expiry(grant.and_then(|grant| grant.value).as_ref()),
                    ]);
                }
            }
            Output::new(*json).table(
                &list.into(),
                &["CONNECTION", "STATE", "ACCESS TOKEN EXPIRES"],
                &rows,
                "no connections",
            );
        }
        Command::Show { place, json } => {
            let key = place.key(vault).await?;
            let Some(connection) = vault.store().connection(&key).await? else {
                return Err(NotFound(format!("there is no connection {key}")).into());
            };
            let grant = grant_of(vault, &connection).await?;
            let object = describe(vault, &connection, grant.as_ref());
            Output::new(*json).say(&object, || text(&object));
        }
        Command::Recover { place } => {
            let key = place.key(vault).await?;
            match vault.recover(&key).await? {
                Recovered::Done { at, .. } => {
                    println!("connection {key} uses the tokens of the answer of {at}");
                }
                Recovered::Unreadable { answers } => bail!(
                    "{answers} answers are kept, and none can be read in the dialect of connector {}",
                    key.service
                ),
                Recovered::Outdated => {
                    bail!("the grant of connection {key} has newer tokens than what is kept")
                }
                Recovered::Nothing => bail!("no answers are kept of connection {key}"),
            }
        }
        Command::Delete { place } => {
            let key = place.key(vault).await?;
            vault.delete(&key).await?;
            println!("connection {key} deleted");
        }
    }
    Ok(())
}

fn settings_patch(settings: &[String]) -> anyhow::Result<ConnectionPatch> {
    let mut map = serde_json::Map::new();
    for setting in settings {
        let Some((name, value)) = setting.split_once('=') else {
            bail!("`{setting}` is not NAME=VALUE")
        };
        let value = if value.is_empty() {
            serde_json::Value::Null
        } else {
            value.into()
        };
        map.insert(name.to_owned(), value);
    }
    Ok(ConnectionPatch {
        settings: Some(map),
        ..ConnectionPatch::default()
    })
}

fn read_input(file: Option<&PathBuf>) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut input = Zeroizing::new(Vec::new());
    match file {
        Some(file) => {
            std::fs::File::open(file)
                .and_then(|mut file| file.read_to_end(&mut input))
                .with_context(|| format!("import file {}", file.display()))?;
        }
        None => {
            if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                eprintln!("reading the import from the terminal; end it with Ctrl-D");
            }
            std::io::stdin()
                .read_to_end(&mut input)
                .context("standard input")?;
        }
    }
    Ok(input)
}

/// A grant's row, and when it was read.
type Row = Stamped<Option<GrantRow>>;

async fn grant_of(vault: &Vault, connection: &Connection) -> anyhow::Result<Option<Row>> {
    match &connection.grant {
        Some(grant) => Ok(Some(vault.store().grant(grant).await?)),
        None => Ok(None),
    }
}

/// Where a connection stands, in the server's words and a person's.
fn standing(vault: &Vault, connection: &Connection, grant: Option<&Row>) -> String {
    let Some(connector) = vault.catalogue().find(connection.key.service.as_str()) else {
        return format!("no connector `{}`", connection.key.service);
    };
    let at = grant.map_or(StoreTime(0), |grant| grant.at);
    let row = grant.and_then(|grant| grant.value.as_ref());
    let (state, health) = vault.state(connector, Some(connection), row, at);
    match (state, row.map(|row| (&row.standing, &row.trouble))) {
        (State::Available | State::Added, _) => "not authorized".to_owned(),
        (State::Authorized, _) => "settings are missing".to_owned(),
        (State::Invalid, Some((Standing::Dead { .. }, _))) => "dead: re-authorize".to_owned(),
        (State::Invalid, _) => "expired: re-authorize".to_owned(),
        (State::Callable, Some((_, Some(trouble)))) => format!("failing since {}", trouble.since),
        (State::Callable, _) => health.as_str().to_owned(),
    }
}

fn expiry(grant: Option<&GrantRow>) -> String {
    grant
        .and_then(|grant| grant.expires_at)
        .map_or_else(|| "-".to_owned(), |at| at.to_string())
}

/// Everything about a connection that is not secret.
fn describe(vault: &Vault, connection: &Connection, row: Option<&Row>) -> serde_json::Value {
    let key = &connection.key;
    let grant = row.and_then(|row| row.value.as_ref());
    json!({
        "connection": key.to_string(),
        "application": key.application,
        "consumer": key.consumer,
        "unified_api": &*key.unified_api,
        "service": key.service,
        "enabled": connection.enabled,
        "settings": connection.settings,
        "metadata": connection.metadata,
        "state": standing(vault, connection, row),
        "grant": grant.map(|grant| json!({
            "id": grant.id,
            "version": grant.version,
            "expires_at": grant.expires_at.map(|at| at.to_string()),
            "refreshed_at": grant.refreshed_at.map(|at| at.to_string()),
            "dead": match &grant.standing {
                Standing::Live => None,
                Standing::Dead { at, reason } => Some(json!({ "at": at.to_string(), "reason": reason })),
            },
            "trouble": grant.trouble.as_ref().map(|trouble| json!({
                "since": trouble.since.to_string(),
                "failures": trouble.failures,
                "retry_at": trouble.retry_at.to_string(),
                "message": trouble.message,
            })),
            "answer_lost": grant.attempt.as_ref().and_then(|attempt| attempt.lost.as_ref()).map(|lost| json!({
                "at": lost.at.to_string(),
                "why": lost.why,
            })),
        })),
    })
}

fn text(object: &serde_json::Value) -> String {
    fn walk(lines: &mut Vec<String>, indent: usize, object: &serde_json::Value) {
        for (name, value) in object.as_object().into_iter().flatten() {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::Object(inner) if inner.is_empty() => {}
                serde_json::Value::Object(_) => {
                    lines.push(format!("{:indent$}{name}", ""));
                    walk(lines, indent + 2, value);
                }
                serde_json::Value::String(text) => {
                    lines.push(format!("{:indent$}{name:14} {text}", ""));
                }
                other => lines.push(format!("{:indent$}{name:14} {other}", "")),
            }
        }
    }
    let mut lines = Vec::new();
    walk(&mut lines, 0, object);
    lines.join("\n")
}
