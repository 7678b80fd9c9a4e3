//! `tokenward connectors`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;
use tokenward::{
    connector::{Catalogue, Connector, Rotation},
    refresh::replay::ReplayPolicy,
};

use super::output::Output;
use crate::config::open::VaultOptions;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all connectors
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one connector, with the sources of its facts
    Show {
        /// The connector's id, for example xero
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a connector file without using it
    Check {
        /// The TOML file
        file: PathBuf,
    },
}

pub(super) fn run(command: &Command, options: &VaultOptions) -> anyhow::Result<()> {
    match command {
        Command::List { json } => {
            let catalogue = options.catalogue()?;
            let all: Vec<_> = catalogue
                .iter()
                .map(|connector| describe(connector))
                .collect();
            let rows: Vec<Vec<String>> = catalogue
                .iter()
                .map(|connector| {
                    vec![
                        connector.id.to_string(),
                        connector.name.clone(),
                        connector.unified_apis.join(", "),
                        replay(connector.refresh.replay),
                    ]
                })
                .collect();
            Output::new(*json).table(
                &all.into(),
                &[
                    "ID",
                    "NAME",
                    "UNIFIED APIS",
                    "A USED REFRESH TOKEN SENT AGAIN",
                ],
                &rows,
                "",
            );
        }
        Command::Show { id, json } => {
            let catalogue = options.catalogue()?;
            let Some(connector) = catalogue.find(id) else {
                bail!(
                    "there is no connector `{id}`; `tokenward connectors list` shows those that exist"
                );
            };
            Output::new(*json).say(&describe(connector), || text(connector));
        }
        Command::Check { file } => {
            let text = std::fs::read_to_string(file)?;
            let connector = Catalogue::default().add(&file.display().to_string(), &text)?;
            println!(
                "{}: connector {} is well-formed",
                file.display(),
                connector.id
            );
        }
    }
    Ok(())
}

fn describe(connector: &Connector) -> serde_json::Value {
    json!({
        "id": connector.id,
        "name": connector.name,
        "description": connector.description,
        "website": connector.website,
        "unified_apis": connector.unified_apis,
        "authorization_url": connector.authorization.as_ref().map(|a| a.url.to_string()),
        "scopes": connector.authorization.as_ref().map(|a| a.scopes.clone()),
        "token_url": connector.token.url.to_string(),
        "revocation_url": connector.revocation.as_ref().map(|r| r.url.to_string()),
        "client_auth": connector.token.client_auth,
        "rotation": rotation(connector.refresh.rotation),
        "replay": connector.refresh.replay,
        "assumed_lifetime_s": connector.token.assumed_lifetime_s,
        "longest_lifetime_s": connector.token.longest_lifetime_s,
        "idle_lifetime_s": connector.refresh.idle_lifetime_s,
        "api_base_url": connector.api.base_url.as_ref().map(ToString::to_string),
        "api_hosts": connector.api.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "settings": connector.settings.iter().map(|(name, setting)| (name.clone(), setting.label.clone())).collect::<std::collections::BTreeMap<_, _>>(),
        "sources": connector.sources,
    })
}

fn text(connector: &Connector) -> String {
    let mut lines = vec![format!("{} ({})", connector.name, connector.id)];
    lines.extend(connector.description.clone());
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            lines.push(format!("  {name:18} {value}"));
        }
    };
    line("unified APIs", Some(connector.unified_apis.join(", ")));
    line(
        "authorize",
        connector.authorization.as_ref().map(|a| a.url.to_string()),
    );
    line(
        "scopes",
        connector
            .authorization
            .as_ref()
            .map(|a| a.scopes.join(&a.scope_separator)),
    );
    line("token", Some(connector.token.url.to_string()));
    line(
        "revoke",
        connector.revocation.as_ref().map(|r| r.url.to_string()),
    );
    line(
        "rotation",
        Some(rotation(connector.refresh.rotation).to_owned()),
    );
    line("sent again", Some(replay(connector.refresh.replay)));
    line(
        "assumed lifetime",
        connector
            .token
            .assumed_lifetime_s
            .map(|s| format!("{s} s, where the reply does not say")),
    );
    line(
        "longest lifetime",
        connector
            .token
            .longest_lifetime_s
            .map(|s| format!("{s} s, whatever the reply says")),
    );
    line(
        "idle lifetime",
        connector
            .refresh
            .idle_lifetime_s
            .map(|s| format!("{} days without use", s / 86_400)),
    );
    line(
        "API",
        connector.api.base_url.as_ref().map(ToString::to_string),
    );
    line(
        "tokens go to",
        Some(
            connector
                .api
                .hosts
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        ),
    );
    for (name, setting) in &connector.settings {
        line("setting", Some(format!("{name}: {}", setting.label)));
    }
    lines.push("  sources".to_owned());
    for (fact, sources) in &connector.sources {
        lines.push(format!("    {fact:24} {}", sources.join("; ")));
    }
    lines.join("\n")
}

fn rotation(rotation: Rotation) -> &'static str {
    match rotation {
        Rotation::Always => "always",
        Rotation::Optional => "optional",
        Rotation::Never => "never",
    }
}

fn replay(policy: ReplayPolicy) -> String {
    match policy {
        ReplayPolicy::Harmless => "harmless".to_owned(),
        ReplayPolicy::Grace { seconds } => format!("accepted for {seconds} s"),
        ReplayPolicy::Refused => "refused".to_owned(),
        ReplayPolicy::Revokes => "revokes the grant".to_owned(),
    }
}
