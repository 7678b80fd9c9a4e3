//! `tokenward vault-key`.

use clap::Subcommand;
use serde_json::json;

use super::output::Output;
use crate::config::open::VaultOptions;

const NEW_HELP: &str = "\
Put a new key before the others in the key file

The old keys stay, and go on opening what they have sealed. To replace them:

  tokenward vault-key new      # on one machine; copy the key file to the others
  kill -HUP ...                # each server, which then reads its keys anew (or restart it)
  tokenward reseal             # everything is sealed with the new key
                               # then take the old keys out of the file, and SIGHUP once more";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Put a new key before the others in the key file
    #[command(long_about = NEW_HELP)]
    New {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the keys' ids, which are not secret; the first seals
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Command, options: &VaultOptions) -> anyhow::Result<()> {
    match command {
        Command::New { json } => {
            let (file, id) = options.add_key()?;
            let object = json!({ "key": id.to_string(), "file": file });
            Output::new(*json).say(&object, || {
                format!(
                    "key {id} is now the first of {}; keep a copy of the file elsewhere.\nNext: send SIGHUP to each \
                     server, then `tokenward reseal`.",
                    file.display()
                )
            });
        }
        Command::List { json } => {
            let ids: Vec<_> = options
                .read_keys()?
                .ids()
                .map(ToString::to_string)
                .collect();
            let rows: Vec<_> = ids
                .iter()
                .enumerate()
                .map(|(place, id)| {
                    let does = if place == 0 {
                        "seals and opens"
                    } else {
                        "opens"
                    };
                    vec![id.clone(), does.to_owned()]
                })
                .collect();
            Output::new(*json).table(&json!(ids), &["KEY", "WHAT IT DOES"], &rows, "no keys");
        }
    }
    Ok(())
}
