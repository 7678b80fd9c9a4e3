//! `tokenward applications` and `tokenward keys`.

use anyhow::ensure;
use clap::Subcommand;
use serde_json::json;
use tokenward::{ApplicationId, Vault};

use super::{AppOption, exit::NotFound, output::Output};
use crate::front::caller::new_key;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an application and its first API key, which is shown once
    Create {
        /// The application's name
        name: String,
        /// Its id [default: from the name]
        #[arg(long)]
        id: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List all applications
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete an application without connections, with its keys and clients
    Delete {
        /// The application's id
        id: String,
    },
}

impl Command {
    /// Whether it may be what a vault begins with.
    pub(super) fn makes_vault(&self) -> bool {
        matches!(self, Self::Create { .. })
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make another API key, which is shown once
    Create {
        #[command(flatten)]
        app: AppOption,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List an application's keys (their beginnings)
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

pub(super) async fn run(command: &Command, vault: &Vault) -> anyhow::Result<()> {
    let store = vault.store();
    match command {
        Command::Create { name, id, json } => {
            let id = id.clone().unwrap_or_else(|| id_from(name));
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            ensure!(
                !id.is_empty() && id.chars().all(fits),
                "`{id}` is not an id: use letters, digits, `-`, `_` and `.`, or give --id"
            );
            let id = ApplicationId::from(id);
            store.add_application(&id, name).await?;
            let (key, kept) = new_key(&id);
            store.add_key(kept).await?;
            Output::new(*json).say(&json!({ "id": id, "name": name, "api_key": key.expose() }), || {
                format!("application {id}\nAPI key     {}\nThe key is shown only now; keep it safe.", key.expose())
            });
        }
        Command::List { json } => {
            let all = store.applications().await?;
            let list = all.iter().map(
                |a| json!({ "id": a.id, "name": a.name, "created_at": a.created_at.to_string() }),
            );
            let rows: Vec<_> = all
                .iter()
                .map(|a| vec![a.id.to_string(), a.name.clone(), a.created_at.to_string()])
                .collect();
            let nothing = "no application yet; make one with `tokenward applications create NAME`";
            Output::new(*json).table(&list.collect(), &["ID", "NAME", "CREATED"], &rows, nothing);
        }
        Command::Delete { id } => {
            if !store
                .delete_application(&ApplicationId::from(id.as_str()))
                .await?
            {
                return Err(NotFound(format!("there is no application `{id}`")).into());
            }
            println!("application {id} deleted");
        }
    }
    Ok(())
}

fn id_from(name: &str) -> String {
    let words = name.to_lowercase();
    let words: Vec<&str> = words
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    words.join("-")
}

pub(super) async fn run_keys(command: &KeyCommand, vault: &Vault) -> anyhow::Result<()> {
    let store = vault.store();
    match command {
        KeyCommand::Create { app, json } => {
            let id = app.find(vault).await?;
            let (key, kept) = new_key(&id);
            let key_id = kept.id.clone();
            store.add_key(kept).await?;
            Output::new(*json).say(
                &json!({ "id": key_id, "application": id, "api_key": key.expose() }),
                || {
                    format!(
                        "key     {key_id}\nAPI key {}\nThe key is shown only now; keep it safe.",
                        key.expose()
                    )
                },
            );
        }
        KeyCommand::List { app, json } => {
            let keys = store.keys(&app.find(vault).await?).await?;
            let list = keys.iter().map(
                |k| json!({ "id": k.id, "hint": k.hint, "created_at": k.created_at.to_string() }),
            );
            let rows: Vec<_> = keys
                .iter()
                .map(|k| {
                    vec![
                        k.id.clone(),
                        format!("{}...", k.hint),
                        k.created_at.to_string(),
                    ]
                })
                .collect();
            Output::new(*json).table(&list.collect(), &["ID", "KEY", "CREATED"], &rows, "no keys");
        }
        KeyCommand::Revoke { id, app } => {
            if !store.delete_key(&app.find(vault).await?, id).await? {
                return Err(NotFound(format!("there is no key `{id}`")).into());
            }
            println!("key {id} revoked; running servers refuse it within a second");
        }
    }
    Ok(())
}
