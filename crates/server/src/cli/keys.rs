//! `tokenward keys`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokenward::{
    ApplicationId, Secret, Vault,
    store::{ApiKey, Scope, Scopes, Store, StoreResult},
    time::StoreTime,
};

use super::{AppOption, exit::NotFound, output::Output};
use crate::{front::caller::new_key, wall_clock};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make another API key, which is shown once
    Create {
        #[command(flatten)]
        app: AppOption,
        #[command(flatten)]
        key: KeyOptions,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List an application's keys: their beginnings, what they are good for, when they expire and
    /// were last used
    List {
        #[command(flatten)]
        app: AppOption,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key
    Revoke {
        /// The key's id, as listed
        id: String,
        #[command(flatten)]
        app: AppOption,
    },
}

/// What a new key is like.
#[derive(Debug, Args)]
pub(super) struct KeyOptions {
    /// What the key is good for: `proxy` (requests to APIs through the gateway), `vault` (the vault
    /// API), `token` (to be handed access tokens themselves) [default: proxy,vault]
    #[arg(long, value_name = "SCOPES", value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// The key stops by itself after this, for example `90d` (s, m, h, d, w) [default: never]
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    expires_in: Option<Duration>,
}

impl KeyOptions {
    /// Makes the key: what is shown once, and what is kept.
    pub(super) async fn make(
        &self,
        store: &dyn Store,
        application: &ApplicationId,
    ) -> StoreResult<(Secret, ApiKey)> {
        let scopes = match self.scopes.as_slice() {
            [] => Scopes::default(),
            asked => asked.iter().copied().collect(),
        };
        let (key, new) = new_key(application, scopes, self.expires_in);
        Ok((key, store.add_key(new).await?))
    }
}

/// A whole number of seconds, minutes, hours, days or weeks.
fn lifetime(text: &str) -> Result<Duration, String> {
    let units = [
        ("s", 1),
        ("m", 60),
        ("h", 3600),
        ("d", 86_400),
        ("w", 604_800),
    ];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds).filter(|seconds| *seconds > 0)
    });
    // What no calendar can write is a slip.
    let most = 100 * 366 * 86_400;
    seconds
        .filter(|seconds| *seconds <= most)
        .map(Duration::from_secs)
        .ok_or_else(|| "not a time such as 90d, 12h or 30m (at most 100 years)".to_owned())
}

pub(super) async fn run(command: &Command, vault: &Vault) -> anyhow::Result<()> {
    let store = vault.store();
    match command {
        Command::Create { app, key, json } => {
            let id = app.find(vault).await?;
            let (key, kept) = key.make(&**store, &id).await?;
            let mut object = shown(&kept);
            object["application"] = json!(id);
            object["api_key"] = key.expose().into();
            Output::new(*json).say(&object, || {
                format!(
                    "key     {}\nAPI key {}\nscopes  {}\nexpires {}\nThe key is shown only now; keep it safe.",
                    kept.id,
                    key.expose(),
                    kept.scopes,
                    moment(kept.expires_at)
                )
            });
        }
        Command::List { app, json } => {
            let keys = store.keys(&app.find(vault).await?).await?;
            let list = keys.iter().map(shown).collect();
            let rows: Vec<_> = keys.iter().map(row).collect();
            let headers = ["ID", "KEY", "SCOPES", "CREATED", "EXPIRES", "LAST USED"];
            Output::new(*json).table(&list, &headers, &rows, "no keys");
        }
        Command::Revoke { id, app } => {
            if !store.delete_key(&app.find(vault).await?, id).await? {
                return Err(NotFound(format!("there is no key `{id}`")).into());
            }
            println!("key {id} revoked; running servers refuse it within a second");
        }
    }
    Ok(())
}

fn shown(key: &ApiKey) -> Value {
    json!({
        "id": key.id,
        "hint": key.hint,
        "scopes": key.scopes.iter().map(Scope::name).collect::<Vec<_>>(),
        "created_at": key.created_at.to_string(),
        "expires_at": key.expires_at.map(|at| at.to_string()),
        "last_used_at": key.last_used_at.map(|at| at.to_string()),
    })
}

fn row(key: &ApiKey) -> Vec<String> {
    let over = key.expires_at.is_some_and(|at| at <= wall_clock());
    vec![
        key.id.clone(),
        format!("{}...", key.hint),
        key.scopes.to_string().replace(' ', ","),
        key.created_at.to_string(),
        moment(key.expires_at) + if over { " (expired)" } else { "" },
        moment(key.last_used_at),
    ]
}

fn moment(at: Option<StoreTime>) -> String {
    at.map_or_else(|| "never".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_a_number_and_a_unit() {
        assert_eq!(lifetime("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(lifetime("1w"), lifetime("168h"));
        for wrong in [
            "",
            "90",
            "d",
            "0d",
            "-1d",
            "1.5h",
            "3y",
            "99999999999999999w",
            "1d2h",
        ] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }
}
