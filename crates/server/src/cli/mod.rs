//! The command line.

mod applications;
mod clients;
mod connections;
mod connectors;
mod migrate;
mod output;
pub(crate) mod serve;
mod signals;
mod tokens;

use std::{process::ExitCode, sync::Arc};

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
#[command(name = "tokenward", version, about, arg_required_else_help = true)]
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

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway and vault server
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
    Keys(applications::KeyCommand),
    /// Manage OAuth clients: an application's registrations at providers
    #[command(subcommand)]
    Clients(clients::Command),
    /// Manage connections and import existing tokens
    #[command(subcommand)]
    Connections(connections::Command),
    /// Print a fresh access token; many processes at once cause one refresh
    Token(tokens::TokenOptions),
    /// Force one refresh and tell how it went
    Validate(tokens::ValidateOptions),
    /// Move the vault to another store: from SQLite to PostgreSQL, or back
    Migrate(migrate::MigrateOptions),
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
                None => anyhow::bail!(
                    "there is no application `{id}`; `tokenward applications list` shows those that exist"
                ),
            },
            (None, [only]) => Ok(only.id.clone()),
            (None, []) => anyhow::bail!(
                "there is no application yet; make one with `tokenward applications create NAME`"
            ),
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
    if let Err(error) = logs::init(cli.log.as_deref().unwrap_or(default_filter), cli.log_format) {
        eprintln!("error: {error:#}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the async runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let options = &cli.vault;
    match cli.command {
        Command::Serve(serve_options) => {
            serve::serve(&serve_options, options, signals::stop_on_signal()).await?;
        }
        Command::Demo(demo_options) => return demo::run(&demo_options, &options.store).await,
        Command::Connectors(command) => connectors::run(&command, options)?,
        Command::Applications(command) => {
            applications::run(&command, &open(options).await?).await?;
        }
        Command::Keys(command) => applications::run_keys(&command, &open(options).await?).await?,
        Command::Clients(command) => clients::run(&command, &open_all(options).await?).await?,
        Command::Connections(command) => connections::run(&command, &open(options).await?).await?,
        Command::Token(token_options) => {
            return tokens::token(&token_options, &open(options).await?).await;
        }
        Command::Validate(validate_options) => {
            return tokens::validate(&validate_options, &open(options).await?).await;
        }
        Command::Migrate(migrate_options) => migrate::run(&migrate_options, options).await?,
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

async fn open_all(options: &VaultOptions) -> anyhow::Result<Opened> {
    let config = VaultConfig {
        refresh_ahead: false,
        ..VaultConfig::default()
    };
    let opened = options.open(config, Arc::new(Blind)).await?;
    if let Some(key) = &opened.new_key {
        eprintln!(
            "a new key was made in {}; without it the vault cannot be read: keep a copy of it elsewhere",
            key.display()
        );
    }
    Ok(opened)
}

async fn open(options: &VaultOptions) -> anyhow::Result<Vault> {
    Ok(open_all(options).await?.vault)
}
