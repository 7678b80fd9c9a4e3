//! `tokenward applications`.

use anyhow::{bail, ensure};
use clap::Subcommand;
use serde_json::json;
use tokenward::{
    ApplicationId, Vault,
    store::{Application, ApplicationSettings, Scope, Store, check_redirect_url},
};

use super::{exit::NotFound, keys::KeyOptions, output::Output};

const UPDATE_EXAMPLES: &str = "\
Examples:
  tokenward applications update shop --redirect-url https://shop.example/integrations
  tokenward applications update shop --remove-redirect-url https://old.shop.example/back
  tokenward applications update shop --vault-name 'The Shop' --primary-color '#1d4ed8' --require-nonce true
  tokenward applications update shop --logo ''

As soon as one redirect URL is registered, browsers are sent to registered ones only.";

#[derive(Debug, clap::Args)]
pub(super) struct UpdateOptions {
    /// The application's id
    id: String,
    /// Register a URL that browsers may be sent to when a connection is made; may be repeated
    #[arg(long, value_name = "URL", value_parser = web_url)]
    redirect_url: Vec<String>,
    /// Register it no longer; may be repeated
    #[arg(long, value_name = "URL")]
    remove_redirect_url: Vec<String>,
    /// Where browsers are sent if nobody says; empty: to a page of this server
    #[arg(long, value_name = "URL", value_parser = web_url_or_nothing)]
    default_redirect_url: Option<String>,
    /// Whether each attempt to connect must carry a nonce and be confirmed by the application
    #[arg(long, value_name = "true|false")]
    require_nonce: Option<bool>,
    /// The name that customers know the application by; empty: none
    #[arg(long, value_name = "NAME", value_parser = short_text)]
    vault_name: Option<String>,
    /// Its logo; empty: none
    #[arg(long, value_name = "URL", value_parser = web_url_or_nothing)]
    logo: Option<String>,
    /// Its colour; empty: none
    #[arg(long, value_name = "#RRGGBB", value_parser = colour)]
    primary_color: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn web_url(text: &str) -> Result<String, String> {
    check_redirect_url(text).map_err(|error| format!("it {error}"))?;
    Ok(text.to_owned())
}

fn web_url_or_nothing(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Ok(String::new())
    } else {
        web_url(text)
    }
}

fn short_text(text: &str) -> Result<String, String> {
    if text.chars().count() <= 80 && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("at most 80 characters, on one line".to_owned())
}

fn colour(text: &str) -> Result<String, String> {
    let digits = |digits: &str| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if text.is_empty() || text.strip_prefix('#').is_some_and(digits) {
        return Ok(text.to_owned());
    }
    Err("six hexadecimal digits after #, such as #1d4ed8".to_owned())
}

impl UpdateOptions {
    /// The settings as they are to be.
    fn apply(&self, mut settings: ApplicationSettings) -> anyhow::Result<ApplicationSettings> {
        let urls = &mut settings.redirect_urls;
        for url in &self.remove_redirect_url {
            ensure!(urls.contains(url), "`{url}` is not registered");
            urls.retain(|known| known != url);
        }
        for url in &self.redirect_url {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        ensure!(
            urls.len() <= MOST_URLS,
            "at most {MOST_URLS} redirect URLs can be registered"
        );
        let set = |place: &mut Option<String>, given: &Option<String>| {
            if let Some(given) = given {
                *place = Some(given.clone()).filter(|given| !given.is_empty());
            }
        };
        set(
            &mut settings.default_redirect_url,
            &self.default_redirect_url,
        );
        set(&mut settings.theme.vault_name, &self.vault_name);
        set(&mut settings.theme.logo, &self.logo);
        set(&mut settings.theme.primary_color, &self.primary_color);
        settings.nonce_required = self.require_nonce.unwrap_or(settings.nonce_required);
        if let Some(url) = &settings.default_redirect_url {
            ensure!(
                settings.redirect(Some(url)).is_ok(),
                "the default redirect URL `{url}` is not among the registered ones; register it, or take it away \
                 with --default-redirect-url ''"
            );
        }
        Ok(settings)
    }
}

const MOST_URLS: usize = 64;

async fn find(store: &dyn Store, id: &str) -> anyhow::Result<Application> {
    let found = store.application(&ApplicationId::from(id)).await?;
    found.ok_or_else(|| NotFound(format!("there is no application `{id}`")).into())
}

async fn update(store: &dyn Store, options: &UpdateOptions) -> anyhow::Result<Application> {
    for _ in 0..8 {
        let mut application = find(store, &options.id).await?;
        let settings = options.apply(application.settings.clone())?;
        let (id, read) = (&application.id, &application.settings);
        if store.replace_settings(id, read, settings.clone()).await? {
            application.settings = settings;
            if application.settings.redirect_urls.is_empty()
                && !options.remove_redirect_url.is_empty()
            {
                eprintln!(
                    "no redirect URL is registered any more: browsers may be sent to any `http` or `https` URL"
                );
            }
            return Ok(application);
        }
    }
    bail!("the application's settings are being changed by others; try again")
}

fn show(application: &Application, json: bool) {
    let Application {
        id,
        name,
        created_at,
        settings,
    } = application;
    let said = json!({
        "id": id, "name": name, "created_at": created_at.to_string(), "settings": settings,
    });
    Output::new(json).say(&said, || {
        let or =
            |value: &Option<String>, none: &str| value.clone().unwrap_or_else(|| none.to_owned());
        let urls = match settings.redirect_urls.as_slice() {
            [] => "any".to_owned(),
            urls => urls.join("\n                     "),
        };
        let nonce = if settings.nonce_required {
            "required"
        } else {
            "if given"
        };
        let theme = &settings.theme;
        [
            format!("application          {id}"),
            format!("name                 {name}"),
            format!("redirect URLs        {urls}"),
            format!(
                "default redirect URL {}",
                or(&settings.default_redirect_url, "a page of this server")
            ),
            format!("nonce                {nonce}"),
            format!("name for customers   {}", or(&theme.vault_name, name)),
            format!("logo                 {}", or(&theme.logo, "none")),
            format!(
                "colour               {}",
                or(&theme.primary_color, "the default")
            ),
        ]
        .join("\n")
    });
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an application and its first API key, which is shown once
    Create {
        /// The application's name
        name: String,
        /// Its id [default: from the name]
        #[arg(long)]
        id: Option<String>,
        #[command(flatten)]
        key: KeyOptions,
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
    /// Show an application and what it has settled
    Show {
        /// The application's id
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Settle how an application's customers connect: where browsers may be sent, how pages look
    #[command(after_help = UPDATE_EXAMPLES)]
    Update(UpdateOptions),
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

pub(super) async fn run(command: &Command, vault: &Vault) -> anyhow::Result<()> {
    let store = vault.store();
    match command {
        Command::Create {
            name,
            id,
            key,
            json,
        } => {
            let id = id.clone().unwrap_or_else(|| id_from(name));
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            ensure!(
                !id.is_empty() && id.chars().all(fits),
                "`{id}` is not an id: use letters, digits, `-`, `_` and `.`, or give --id"
            );
            let id = ApplicationId::from(id);
            store.add_application(&id, name).await?;
            let (key, kept) = key.make(&**store, &id).await?;
            let object = json!({
                "id": id,
                "name": name,
                "api_key": key.expose(),
                "scopes": kept.scopes.iter().map(Scope::name).collect::<Vec<_>>(),
                "expires_at": kept.expires_at.map(|at| at.to_string()),
            });
            Output::new(*json).say(&object, || {
                format!(
                    "application {id}\nAPI key     {}\nThe key is shown only now; keep it safe.",
                    key.expose()
                )
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
        Command::Show { id, json } => show(&find(&**store, id).await?, *json),
        Command::Update(options) => show(&update(&**store, options).await?, options.json),
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
