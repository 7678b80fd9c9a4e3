//! `tokenward clients`.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::json;
use tokenward::{
    ConnectorId, Secret,
    connector::CALLBACK_ISSUER_SETTING,
    endpoint::Endpoint,
    oauth::{
        CLIENT_AUTH_SETTING, ClientAuth, ServerMetadata, metadata_request, metadata_urls,
        read_metadata,
    },
    transport::{Patience, Transport as _},
};
use url::Url;
use zeroize::Zeroizing;

use super::{AppOption, exit::NotFound, output::Output};
use crate::{config::open::Opened, egress::HttpTransport};

const SET_EXAMPLES: &str = "\
Examples:
  tokenward clients set --connector xero --client-id ID          (asks for the secret)
  tokenward clients set --connector xero --client-id ID --client-secret-file secret.txt
  tokenward clients set --connector oidc --client-id ID --discover https://login.example/";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make or replace an OAuth client; the secret comes from a file, standard input or the terminal
    #[command(after_help = SET_EXAMPLES)]
    Set(Box<Set>),
    /// List an application's OAuth clients
    List {
        #[command(flatten)]
        app: AppOption,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete an OAuth client
    Delete {
        /// The connector's id
        #[arg(long)]
        connector: String,
        #[command(flatten)]
        app: AppOption,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// The connector's id, for example xero
    #[arg(long)]
    connector: String,
    /// The client id that the provider gave
    #[arg(long)]
    client_id: String,
    /// A file with the client secret; `-` reads standard input [default: asks at the terminal]
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// A public client without a secret
    #[arg(long, conflicts_with = "client_secret_file")]
    public: bool,
    /// A value for the connector's `{client.NAME}` places (may be repeated)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    setting: Vec<(String, String)>,
    /// A scope beside the connector's own (may be repeated)
    #[arg(long)]
    scope: Vec<String>,
    /// Read the endpoints from this issuer's metadata (RFC 8414, OpenID Connect Discovery)
    #[arg(long, value_name = "ISSUER")]
    discover: Option<Url>,
    #[command(flatten)]
    app: AppOption,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

pub(super) async fn run(command: &Command, opened: &Opened) -> anyhow::Result<()> {
    let vault = &opened.vault;
    match command {
        Command::Set(set) => {
            let application = set.app.find(vault).await?;
            let connector = ConnectorId::from(set.connector.as_str());
            let secret = if set.public {
                None
            } else {
                Some(read_secret(
                    set.client_secret_file.as_deref(),
                    &set.client_id,
                )?)
            };
            let mut settings: BTreeMap<String, String> = BTreeMap::new();
            if let Some(issuer) = &set.discover {
                settings.extend(endpoints(discover(opened, issuer).await?));
            }
            settings.extend(set.setting.iter().cloned());
            vault
                .set_client(
                    &application,
                    &connector,
                    &set.client_id,
                    secret.as_ref(),
                    settings,
                    set.scope.clone(),
                )
                .await?;
            println!(
                "OAuth client {} set for connector {connector} of application {application}",
                set.client_id
            );
        }
        Command::List { app, json } => {
            let clients = vault.store().clients(&app.find(vault).await?).await?;
            let list = clients.iter().map(|client| {
                json!({
                    "connector": client.connector,
                    "client_id": client.client_id,
                    "secret": client.sealed_secret.is_some(),
                    "settings": client.settings,
                    "scopes": client.scopes,
                })
            });
            let rows: Vec<_> = clients
                .iter()
                .map(|client| {
                    let kind = if client.sealed_secret.is_some() {
                        "confidential"
                    } else {
                        "public"
                    };
                    vec![
                        client.connector.to_string(),
                        client.client_id.clone(),
                        kind.to_owned(),
                        client.scopes.join(" "),
                    ]
                })
                .collect();
            Output::new(*json).table(
                &list.collect(),
                &["CONNECTOR", "CLIENT ID", "KIND", "SCOPES"],
                &rows,
                "no OAuth clients",
            );
        }
        Command::Delete { connector, app } => {
            let application = app.find(vault).await?;
            if !vault
                .store()
                .delete_client(&application, &ConnectorId::from(connector.as_str()))
                .await?
            {
                return Err(NotFound(format!(
                    "application {application} has no OAuth client for connector `{connector}`"
                ))
                .into());
            }
            println!("OAuth client for {connector} deleted");
        }
    }
    Ok(())
}

/// From a file, standard input, or who sits at the terminal, where it is not shown.
fn read_secret(file: Option<&Path>, client_id: &str) -> anyhow::Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    match file {
        Some(file) if file.as_os_str() == "-" => {
            std::io::stdin()
                .read_to_string(&mut text)
                .context("standard input")?;
        }
        Some(file) => {
            std::fs::File::open(file)
                .and_then(|mut file| file.read_to_string(&mut text))
                .with_context(|| format!("client secret file {}", file.display()))?;
        }
        None if std::io::stdin().is_terminal() => {
            *text = rpassword::prompt_password(format!("Client secret of {client_id}: "))
                .context("the terminal")?;
        }
        None => bail!(
            "no client secret was given: name a file with --client-secret-file (`-` is standard input), or say --public"
        ),
    }
    let secret = text.trim();
    if secret.is_empty() {
        bail!("the client secret is empty; a client without a secret is set with --public");
    }
    Ok(Secret::new(secret))
}

async fn discover(opened: &Opened, issuer: &Url) -> anyhow::Result<ServerMetadata> {
    let transport = HttpTransport::new(opened.connector.clone(), opened.vault.clock().clone());
    let patience = Patience {
        connect: Duration::from_secs(10),
        answer: Duration::from_secs(20),
        not_after: None,
        last_look: None,
    };
    let (mut wrong, mut missing) = (Vec::new(), Vec::new());
    for url in metadata_urls(issuer) {
        let request = metadata_request(Endpoint::from_operator(url.clone())?);
        match transport.exchange(request, patience.clone()).await {
            Ok(answer) if answer.status.is_success() => match read_metadata(issuer, &answer.body) {
                Ok(metadata) => return Ok(metadata),
                Err(why) => wrong.push(format!("{url}: {why}")),
            },
            Ok(answer) => missing.push(format!("{url}: HTTP {}", answer.status)),
            Err(error) => missing.push(error.to_string()),
        }
    }
    // A document that was found and is wrong is what is to be mended; it comes first.
    wrong.append(&mut missing);
    let why = wrong.join("; ");
    bail!(
        "the endpoints of {issuer} could not be read: {why}. Give them with --setting token_url=... instead"
    )
}

fn endpoints(metadata: ServerMetadata) -> impl Iterator<Item = (String, String)> {
    let ServerMetadata {
        authorization_endpoint,
        token_endpoint,
        revocation_endpoint,
        introspection_endpoint,
        token_endpoint_auth_methods_supported,
        issuer,
        authorization_response_iss_parameter_supported,
    } = metadata;
    let auth = ClientAuth::from_metadata(&token_endpoint_auth_methods_supported);
    let auth = auth.map(|auth| (CLIENT_AUTH_SETTING.to_owned(), auth.name().to_owned()));
    let named = authorization_response_iss_parameter_supported
        .then(|| (CALLBACK_ISSUER_SETTING.to_owned(), true.to_string()));
    [
        ("authorization_url", authorization_endpoint),
        ("token_url", Some(token_endpoint)),
        ("revocation_url", revocation_endpoint),
        ("introspection_url", introspection_endpoint),
    ]
    .into_iter()
    .filter_map(|(name, url)| url.map(|url| (name.to_owned(), url.to_string())))
    .chain(auth)
    .chain([("issuer".to_owned(), issuer)])
    .chain(named)
}
