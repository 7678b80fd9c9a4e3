//! What the documents say of the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The tests that each row of the table names.
fn table() -> BTreeMap<usize, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("docs/failure-modes.md")).unwrap();
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit());
    rows.map(|row| {
        let number = row[2..].split(' ').next().unwrap().parse().unwrap();
        let tests = row.rsplit(" | ").next().unwrap().trim_end_matches(" |");
        let names = tests.split(", ").map(|name| name.trim_matches('`').into());
        (number, names.collect())
    })
    .collect()
}

#[test]
fn every_named_test_exists() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    let code: String = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let table = table();
    assert!(table.len() >= 35);
    for (row, tests) in table {
        for name in tests {
            assert!(
                code.contains(&format!("fn {name}(")),
                "there is no test {name}: row {row}"
            );
        }
    }
}

/// `scripts/safeguards.toml`.
#[derive(Deserialize)]
struct Safeguards {
    targets: BTreeMap<String, String>,
    safeguard: Vec<Safeguard>,
}

#[derive(Deserialize)]
struct Safeguard {
    row: usize,
    takes: String,
    caught_by: BTreeMap<String, BTreeSet<String>>,
    edit: Vec<Edit>,
}

#[derive(Deserialize)]
struct Edit {
    file: PathBuf,
    from: String,
    to: String,
}

#[test]
fn the_list_of_safeguards_fits_table_and_code() {
    let text = std::fs::read_to_string(root().join("scripts/safeguards.toml")).unwrap();
    let list: Safeguards = toml::from_str(&text).unwrap();
    let mut named: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for Safeguard {
        row,
        takes,
        caught_by,
        edit,
    } in list.safeguard
    {
        for Edit { file, from, to } in edit {
            let code = std::fs::read_to_string(root().join(&file)).unwrap();
            assert_eq!(
                code.matches(&from).count(),
                1,
                "row {row}, {takes}: not once in {}: {from}",
                file.display()
            );
            assert_ne!(from, to, "row {row}, {takes}");
        }
        for (target, tests) in caught_by {
            assert!(list.targets.contains_key(&target), "{takes}: {target}");
            named.entry(row).or_default().extend(tests);
        }
    }
    // Every test of the table has failed for an edit of its row, and the table names all that did.
    assert_eq!(named, table());
}
