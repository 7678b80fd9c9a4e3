//! All connectors that are known: the shipped ones, and those that the operator drops in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Connector, check::check};
use crate::id::ConnectorId;

/// The files that ship inside the binary.
const SHIPPED: &[(&str, &str)] = &[
    (
        "connectors/oidc.toml",
        include_str!("../../../../connectors/oidc.toml"),
    ),
    (
        "connectors/salesforce.toml",
        include_str!("../../../../connectors/salesforce.toml"),
    ),
    (
        "connectors/xero.toml",
        include_str!("../../../../connectors/xero.toml"),
    ),
];

/// A connector file that cannot be used. The message names file, line and key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct ConnectorError {
    /// Which file.
    pub file: String,
    /// Which line, from 1.
    pub line: usize,
    /// The key and what is wrong with it.
    pub message: String,
}

/// Connectors by id.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    connectors: BTreeMap<ConnectorId, Arc<Connector>>,
}

impl Catalogue {
    /// The shipped connectors.
    ///
    /// # Panics
    ///
    /// Never in a release: a test reads all of them.
    pub fn shipped() -> Self {
        let mut catalogue = Self::default();
        for (file, text) in SHIPPED {
            catalogue
                .add(file, text)
                .unwrap_or_else(|error| panic!("{error}"));
        }
        catalogue
    }

    /// Adds (or replaces) a connector from a file's text.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]; the catalogue is as before then.
    pub fn add(&mut self, file: &str, text: &str) -> Result<Arc<Connector>, ConnectorError> {
        let connector = Arc::new(parse(file, text)?);
        self.connectors
            .insert(connector.id.clone(), connector.clone());
        Ok(connector)
    }

    /// Adds every `*.toml` of a folder, in the order of their names.
    ///
    /// # Errors
    ///
    /// The first [`ConnectorError`], also for a folder or file that cannot be read (line 0).
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), ConnectorError> {
        let unreadable = |path: &Path, error: std::io::Error| ConnectorError {
            file: path.display().to_string(),
            line: 0,
            message: format!("cannot be read: {error}"),
        };
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .map_err(|error| unreadable(folder, error))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            })
            .collect();
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|error| unreadable(&file, error))?;
            self.add(&file.display().to_string(), &text)?;
        }
        Ok(())
    }

    /// Finds a connector.
    pub fn find(&self, id: &str) -> Option<&Arc<Connector>> {
        self.connectors.get(id)
    }

    /// All connectors, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Connector>> {
        self.connectors.values()
    }
}

fn parse(file: &str, text: &str) -> Result<Connector, ConnectorError> {
    let error = |line: usize, message: String| ConnectorError {
        file: file.to_owned(),
        line,
        message,
    };
    let connector: Connector = toml::from_str(text).map_err(|cause| {
        let line = cause.span().map_or(0, |span| line_of(text, span.start));
        let mut message = cause.message().to_owned();
        if let Some(source) = text
            .lines()
            .nth(line.saturating_sub(1))
            .filter(|_| line > 0)
        {
            message = format!("{message} (in `{}`)", source.trim());
        }
        error(line, message)
    })?;
    if let Err((key, message)) = check(&connector) {
        return Err(error(line_of_key(text, key), format!("`{key}`: {message}")));
    }
    Ok(connector)
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset.min(text.len())].matches('\n').count() + 1
}

/// The line of a dotted key (or its table), or the first line for one that is absent.
fn line_of_key(text: &str, key: &str) -> usize {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = String::new();
    let mut table_line = 1;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            current = header.trim_matches(['[', ']']).to_owned();
            if current == table || current == key {
                table_line = index + 1;
            }
        } else if current == table
            && line
                .split('=')
                .next()
                .is_some_and(|found| found.trim() == name)
        {
            return index + 1;
        }
    }
    table_line
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
