//! Where the vault's keys are: in a file for its owner alone, or in the environment.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tokenward::{
    Secret,
    seal::{Key, KeyId, Keyring},
};

use super::open::VaultOptions;

/// Holds the keys themselves.
const VARIABLE: &str = "TOKENWARD_KEY";

impl VaultOptions {
    /// The keys as they are now.
    ///
    /// # Errors
    ///
    /// When there are none, or they cannot be read.
    pub(crate) fn read_keys(&self) -> anyhow::Result<Keyring> {
        if let Some(keyring) = from_environment()? {
            return Ok(keyring);
        }
        read(&self.the_key_file(&self.folder()?))
    }

    /// Puts a new key before the others in the key file. Gives the file, and the new key's id.
    ///
    /// # Errors
    ///
    /// When the keys are not in a file, or it cannot be written.
    pub(crate) fn add_key(&self) -> anyhow::Result<(PathBuf, KeyId)> {
        if from_environment()?.is_some() {
            bail!(
                "the keys are in {VARIABLE}, not in a file; put a new one before them where they come from"
            );
        }
        let file = self.the_key_file(&self.folder()?);
        // Checks it, too.
        read(&file)?;
        let old = Secret::new(fs::read_to_string(&file)?);
        let key = Key::generate();
        let id = key.id().clone();
        let text = Secret::new(format!("{}\n{}", key.to_text().expose(), old.expose()));
        let cannot = || format!("the key file {} cannot be written", file.display());
        let aside = write_aside(&file, &text).with_context(cannot)?;
        fs::rename(&aside, &file).with_context(cannot)?;
        Ok((file, id))
    }

    fn the_key_file(&self, data_dir: &Path) -> PathBuf {
        match &self.key_file {
            Some(file) => file.clone(),
            None => data_dir.join("key"),
        }
    }

    /// The keys to open a vault with, and the file if one was just made for a new vault.
    pub(super) fn keyring(
        &self,
        data_dir: &Path,
        vault_exists: bool,
    ) -> anyhow::Result<(Keyring, Option<PathBuf>)> {
        if let Some(keyring) = from_environment()? {
            return Ok((keyring, None));
        }
        let file = self.the_key_file(data_dir);
        if self.key_file.is_none() && !vault_exists && !file.exists() {
            return make_key(&file);
        }
        let keyring = match read(&file) {
            Err(error) if vault_exists && error.is::<io::Error>() => {
                return Err(error.context(
                    "The vault exists, so a new key would not open it: put the key back, or give it with --key-file or \
                     TOKENWARD_KEY",
                ));
            }
            read => read?,
        };
        Ok((keyring, None))
    }
}

fn from_environment() -> anyhow::Result<Option<Keyring>> {
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let text = text
        .into_string()
        .map_err(|_| anyhow::anyhow!("{VARIABLE} is not text"))?;
    let keyring = Keyring::parse(&Secret::new(text)).context(VARIABLE)?;
    Ok(Some(keyring))
}

fn read(file: &Path) -> anyhow::Result<Keyring> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("the key file {} cannot be read", file.display()))?;
    let text = Secret::new(text);
    refuse_if_shared(file)?;
    Keyring::parse(&text).with_context(|| format!("key file {}", file.display()))
}

/// As ssh does: a key of ours that others can read is refused. One that belongs to somebody else (to
/// root, where secrets are mounted) is that one's concern.
#[cfg(unix)]
fn refuse_if_shared(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let about = fs::metadata(file)?;
    let ours = about.uid() == rustix::process::geteuid().as_raw();
    if ours && about.mode() & 0o077 != 0 {
        bail!(
            "the key file {} can be read by others (mode {:04o}): make it yours alone, with `chmod 600 {}`",
            file.display(),
            about.mode() & 0o7777,
            file.display()
        );
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_if_shared(_: &Path) -> anyhow::Result<()> {
    Ok(())
}

/// Makes a key file, or reads the one that another process made in the same moment.
fn make_key(file: &Path) -> anyhow::Result<(Keyring, Option<PathBuf>)> {
    let key = Key::generate();
    let text = Secret::new(format!("{}\n", key.to_text().expose()));
    let written = write_aside(file, &text).and_then(|aside| {
        // Fails if somebody else's key is there: theirs counts.
        let linked = fs::hard_link(&aside, file);
        fs::remove_file(&aside)?;
        linked
    });
    match written {
        Ok(()) => Ok((Keyring::new(vec![key])?, Some(file.to_owned()))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((read(file)?, None)),
        Err(error) => {
            Err(error).with_context(|| format!("the key file {} cannot be made", file.display()))
        }
    }
}

/// Writes keys to a private file beside the one that they are for.
fn write_aside(file: &Path, text: &Secret) -> io::Result<PathBuf> {
    let aside = file.with_extension(format!("new-{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(&aside)?;
    out.write_all(text.expose().as_bytes())?;
    out.sync_all()?;
    Ok(aside)
}
