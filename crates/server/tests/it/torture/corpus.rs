//! The corpus: what is in the data files, put together.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A request or an answer, and what is right for it.
#[derive(Debug)]
pub(super) struct Case {
    /// Kind and name.
    pub(super) name: String,
    send: String,
    part: String,
    pub(super) right: Vec<String>,
    /// Why it may pass although nginx refuses it.
    pub(super) looser: Option<String>,
    pub(super) method: String,
    pub(super) body: Vec<u8>,
    pub(super) absent: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    group: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    kind: String,
    rfc: String,
    send: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    bodies: BTreeMap<String, String>,
    #[serde(default)]
    absent: Vec<String>,
    cases: Vec<Vec<String>>,
}

pub(super) fn requests() -> Vec<Case> {
    read(include_str!("requests.toml"), "")
}

pub(super) fn answers() -> Vec<Case> {
    read(include_str!("answers.toml"), "hello")
}

/// What nginx does, by the cases' names.
pub(super) fn nginx(part: &str) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> =
        toml::from_str(include_str!("nginx.toml")).unwrap();
    all.remove(part).unwrap()
}

fn read(text: &str, default_body: &str) -> Vec<Case> {
    let file: File = toml::from_str(text).unwrap();
    let mut all = Vec::new();
    for group in file.group {
        assert!(!group.rfc.is_empty());
        for case in &group.cases {
            let [name, part, right, looser @ ..] = case.as_slice() else {
                panic!("{}: {case:?}", group.kind);
            };
            let body = group.bodies.get(name).or(group.body.as_ref());
            let body = body.map_or(default_body, String::as_str);
            all.push(Case {
                name: format!("{}/{name}", group.kind),
                send: group.send.clone(),
                part: part.clone(),
                right: right.split('|').map(str::to_owned).collect(),
                looser: looser.first().cloned(),
                method: group.method.clone().unwrap_or_else(|| "GET".to_owned()),
                body: bytes(&expand(body, "", "")),
                absent: group.absent.clone(),
            });
        }
        for name in group.bodies.keys() {
            let named = group.cases.iter().any(|case| &case[0] == name);
            assert!(named, "{}: no case {name}", group.kind);
        }
    }
    all
}

impl Case {
    /// What is right for it, where this reads it.
    pub(super) fn right_by(&self, http: &str) -> impl Iterator<Item = &str> {
        let library = http == "library";
        self.right
            .iter()
            .filter_map(move |right| match right.strip_prefix("library ") {
                Some(right) => library.then_some(right),
                None => Some(&**right),
            })
    }

    /// Whether the connection is closed after the bytes.
    pub(super) fn closes(&self) -> bool {
        self.send.ends_with("${close}")
    }

    /// The bytes, with these of the caller's headers and of the request that nobody may see; and
    /// whether the connection is closed after them.
    pub(super) fn bytes(&self, caller: &str, inner: &str) -> (Vec<u8>, bool) {
        let text = self.send.replace("${x}", &self.part);
        let (text, close) = match text.strip_suffix("${close}") {
            Some(text) => (text, true),
            None => (&*text, false),
        };
        (bytes(&expand(text, caller, inner)), close)
    }
}

fn expand(text: &str, caller: &str, inner: &str) -> String {
    let mut all = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (what, after) = after.split_once('}').unwrap();
        all += before;
        rest = after;
        match what {
            "caller" => all += caller,
            "inner" => all += inner,
            _ => {
                let count = what.trim_end_matches(|last: char| !last.is_ascii_digit());
                // `${9*9}`: nine nines.
                let (count, kind) = what.split_once('*').map_or_else(
                    || (count.to_owned(), what[count.len()..].to_owned()),
                    |(count, character)| (count.to_owned(), format!("*{character}")),
                );
                let count: usize = count.parse().unwrap();
                match kind.as_str() {
                    "#" => {
                        for number in 0..count {
                            all += &format!("X-{number}: v\r\n");
                        }
                    }
                    "!" => all += &"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count),
                    character => all += &character[1..].repeat(count),
                }
            }
        }
    }
    all + rest
}

/// Each character is a byte.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|one| u8::try_from(one).unwrap()).collect()
}
