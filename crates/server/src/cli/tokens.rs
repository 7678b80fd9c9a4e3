//! `tokenward token` and `tokenward validate`: the embedded vault, without a server.

use std::{
    process::{self, ExitCode},
    time::Duration,
};

use serde_json::json;
use tokenward::{Held, TokenError, Vault};

use super::{
    connections::Place,
    output::Output,
    signals::{INTERRUPTED, Signals},
};

#[derive(Debug, clap::Args)]
pub(super) struct TokenOptions {
    #[command(flatten)]
    place: Place,
    /// Print JSON with the token's expiry and the provider's metadata
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ValidateOptions {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn token(options: &TokenOptions, vault: &Vault) -> anyhow::Result<ExitCode> {
    let key = options.place.key(vault).await?;
    let Some(token) = uninterrupted(vault, vault.token(&key)).await? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let object = json!({
        "access_token": token.secret().expose(),
        "expires_at": token.expires_at().map(|at| at.to_string()),
        "scope": token.scope(),
        "metadata": token.metadata(),
    });
    Output::new(options.json).say(&object, || token.secret().expose().to_owned());
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn validate(options: &ValidateOptions, vault: &Vault) -> anyhow::Result<ExitCode> {
    let key = options.place.key(vault).await?;
    let Some(token) = uninterrupted(vault, vault.validate(&key)).await? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let object = json!({
        "connection": key.to_string(),
        "state": "callable",
        "version": token.version(),
        "expires_at": token.expires_at().map(|at| at.to_string()),
    });
    Output::new(options.json).say(&object, || match token.expires_at() {
        Some(at) => format!("{key} is callable; its access token expires {at}"),
        None => format!("{key} is callable"),
    });
    Ok(ExitCode::SUCCESS)
}

/// Waits for a token. A signal ends the wait, but not a refresh that is under way: its answer
/// is saved first, unless a second signal insists. `None`: interrupted.
async fn uninterrupted(
    vault: &Vault,
    wait: impl Future<Output = Result<Held, TokenError>>,
) -> anyhow::Result<Option<Held>> {
    let longest = vault.config().answer_timeout + Duration::from_secs(5);
    let mut signals = Signals::listen()?;
    let outcome = tokio::select! {
        // An error may leave a flight behind (a deadline passed): let it land.
        result = wait => match result {
            Ok(token) => return Ok(Some(token)),
            Err(error) => Err(error.into()),
        },
        () = signals.any() => {
            eprintln!("interrupted; waiting for the refresh under way to be saved; again ends at once");
            Ok(None)
        }
    };
    tokio::select! {
        _ = vault.drain(longest) => outcome,
        () = signals.any() => process::exit(INTERRUPTED.into()),
    }
}
