//! The command line.

mod applications;
mod clients;
mod connections;
mod connectors;
mod exit;
mod keys;
mod migrate;
mod output;
mod reload;
pub(crate) mod serve;
mod signals;
mod tokens;
mod vault_key;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokenward::{ApplicationId, Vault, VaultConfig, observe::Blind};

pub(crate) use self::output::table;
use self::{output::Output, serve::ServeOptions};
use crate::{
    config::open::{Opened, VaultOptions},
    demo::{self, DemoOptions},
    observe::logs::{self, LogFormat},
};

/// OAuth connection vault and API gateway: a token is refreshed exactly once per expiry.
#[derive(Debug, Parser)]
#[command(
    name = "tokenward",
    version,
    about,
    arg_required_else_help = true,
    after_help = exit::HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    vault: VaultOptions,
    /// What to log: a level or directives such as tokenward=debug [default: info for serve, else warn]
    #[arg(
        long,
        global = true,
        env = "TOKENWARD_LOG",
        value_name = "FILTER",
        help_heading = "Log options"
    )]
    log: Option<String>,
    /// The form of log lines
    #[arg(
        long,
        global = true,
        env = "TOKENWARD_LOG_FORMAT",
        value_enum,
        default_value_t,
        help_heading = "Log options"
    )]
    log_format: LogFormat,
}

const SERVE_EXAMPLES: &str = "\
Examples:
  tokenward serve
  tokenward serve --listen :8700 --tls-cert cert.pem --tls-key key.pem
  tokenward serve --store postgres://tokenward@db/vault --ops-listen 10.0.0.5:8701";

const TOKEN_EXAMPLES: &str = "\
Examples:
  curl -H \"Authorization: Bearer $(tokenward token acme/xero)\" https://api.xero.com/connections
  tokenward token acme/accounting+xero --json

Ends with 3 if the connection must be authorized (again), 4 if it is worth trying later.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway and vault server
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeOptions),
    /// Show the refresh race, and how it does not happen here
    Demo(DemoOptions),
    /// Look at what is known of providers
    #[command(subcommand)]
    Connectors(connectors::Command),
    /// Manage applications, the server's tenants
    #[command(subcommand)]
    Applications(applications::Command),
    /// Manage applications' API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Manage OAuth clients: an application's registrations at providers
    #[command(subcommand)]
    Clients(clients::Command),
    /// Manage connections and import existing tokens
    #[command(subcommand)]
    Connections(connections::Command),
    /// Print a fresh access token; many processes at once cause one refresh
    #[command(after_help = TOKEN_EXAMPLES)]
    Token(tokens::TokenOptions),
    /// Force one refresh and tell how it went
    Validate(tokens::ValidateOptions),
    /// Move the vault to another store: from SQLite to PostgreSQL, or back
    Migrate(migrate::MigrateOptions),
    /// Make and list the keys that the vault is sealed with
    #[command(subcommand)]
    VaultKey(vault_key::Command),
    /// Seal everything anew with the first key of the key file
    Reseal(ResealOptions),
}

#[derive(Debug, clap::Args)]
struct ResealOptions {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which application a command is about.
#[derive(Clone, Debug, clap::Args)]
struct AppOption {
    /// The application's id; not needed while there is only one
    #[arg(long, env = "TOKENWARD_APP", value_name = "ID")]
    app: Option<String>,
}

impl AppOption {
    async fn find(&self, vault: &Vault) -> anyhow::Result<ApplicationId> {
        let all = vault.store().applications().await?;
        match (&self.app, all.as_slice()) {
            (Some(id), _) => match all.iter().find(|application| application.id.as_str() == id) {
                Some(application) => Ok(application.id.clone()),
                None => Err(exit::NotFound(format!(
                    "there is no application `{id}`; `tokenward applications list` shows those that exist"
                )))?,
            },
            (None, [only]) => Ok(only.id.clone()),
            (None, []) => Err(exit::NotFound(
                "there is no application yet; make one with `tokenward applications create NAME`"
                    .to_owned(),
            ))?,
            (None, _) => anyhow::bail!("there are several applications; choose one with --app"),
        }
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let default_filter = if matches!(cli.command, Command::Serve(_)) {
        "info"
    } else {
        "warn"
    };
    let filter = cli.log.as_deref().unwrap_or(default_filter);
    let _logs = match logs::init(filter, cli.log_format) {
        Ok(logs) => logs,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    // Threads cost a command more than its work does.
    let mut runtime = match cli.command {
        Command::Serve(_) | Command::Demo(_) | Command::Migrate(_) => {
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let ended = match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(error).context("the async runtime cannot start"),
    };
    match (ended, crate::print::failure()) {
        (Err(error), _) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit::code(&error))
        }
        (Ok(_), Some(why)) => {
            eprintln!("error: standard output could not be written: {why}");
            ExitCode::FAILURE
        }
        (Ok(code), None) => code,
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let options = &cli.vault;
    match cli.command {
        Command::Serve(serve_options) => {
            serve::serve(&serve_options, options, signals::for_server()?).await?;
        }
        Command::Demo(demo_options) => return demo::run(&demo_options, &options.store).await,
        Command::Connectors(command) => connectors::run(&command, options)?,
        Command::Applications(command) => {
            let vault = if command.makes_vault() {
                open_or_make(options).await?
            } else {
                open(options).await?
            };
            applications::run(&command, &vault).await?;
        }
        Command::Keys(command) => keys::run(&command, &open(options).await?).await?,
        Command::Clients(command) => clients::run(&command, &open_all(options).await?).await?,
        Command::Connections(command) => connections::run(&command, &open(options).await?).await?,
        Command::Token(token_options) => {
            return tokens::token(&token_options, &open(options).await?).await;
        }
        Command::Validate(validate_options) => {
            return tokens::validate(&validate_options, &open(options).await?).await;
        }
        Command::Migrate(migrate_options) => migrate::run(&migrate_options, options).await?,
        Command::VaultKey(command) => vault_key::run(&command, options)?,
        Command::Reseal(reseal_options) => {
            let vault = open(options).await?;
            let count = vault.reseal().await?;
            Output::new(reseal_options.json).say(
                &serde_json::json!({ "resealed": count, "key": vault.keyring().active().id().to_string() }),
                || format!("{count} values sealed anew with key {}", vault.keyring().active().id()),
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn config() -> VaultConfig {
    VaultConfig {
        refresh_ahead: false,
        ..VaultConfig::default()
    }
}

/// Opens the vault of a command that needs one.
async fn open_all(options: &VaultOptions) -> anyhow::Result<Opened> {
    options.open_existing(config(), Arc::new(Blind)).await
}

/// Opens the vault of a command that may be the first.
async fn open_or_make(options: &VaultOptions) -> anyhow::Result<Vault> {
    let opened = options.open(config(), Arc::new(Blind)).await?;
    if let Some(key) = &opened.new_key {
        eprintln!(
            "a new key was made in {}; without it the vault cannot be read: keep a copy of it elsewhere",
            key.display()
        );
    }
    Ok(opened.vault)
}

async fn open(options: &VaultOptions) -> anyhow::Result<Vault> {
    Ok(open_all(options).await?.vault)
}
