//! The form of a connection's settings: what it asks, and how its answer is read.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenward::connector::{Connector, Setting, SettingKind, SettingProblem};

use super::text::{Name, Words};

/// A form.
#[derive(Clone, Debug, Default)]
pub struct SettingsForm {
    /// What it asks.
    pub fields: Vec<Field>,
    /// What is wrong with all of it together, in somebody's words.
    pub problem: Option<Words>,
}

/// A question of the form.
#[derive(Clone, Debug)]
pub struct Field {
    /// The setting's name.
    pub name: String,
    /// For people.
    pub label: Name,
    /// More about it.
    pub hint: Option<Words>,
    /// Whether it has to be answered.
    pub required: bool,
    /// How it is asked, and what is there.
    pub kind: FieldKind,
    /// What is wrong with the answer.
    pub problem: Option<FieldProblem>,
}

/// How something is asked. Values come whole: a cut one would be saved.
#[derive(Clone, Debug)]
pub enum FieldKind {
    /// A line.
    Text(String),
    /// Several lines.
    TextArea(String),
    /// A number, as it was written.
    Number(String),
    /// A host name.
    Host(String),
    /// Yes or no.
    Checkbox(bool),
    /// One of some.
    Select {
        /// These.
        choices: Vec<Choice>,
        /// The value of the one.
        value: Option<String>,
    },
    /// Any of some.
    MultiSelect {
        /// These.
        choices: Vec<Choice>,
        /// The values of those.
        values: Vec<String>,
    },
    /// What is not shown again: it has no value here, so that none can be shown.
    Secret {
        /// There is one already.
        kept: bool,
    },
}

/// One of some.
#[derive(Clone, Debug)]
pub struct Choice {
    /// What is sent.
    pub value: String,
    /// For people.
    pub label: Name,
}

impl Choice {
    /// A choice that is called like its value.
    pub fn plain(value: &str) -> Self {
        Self {
            value: value.to_owned(),
            label: Name::new(value).unwrap_or_else(Name::unnamed),
        }
    }
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldProblem {
    /// There is none.
    Missing,
    /// No number.
    NotANumber,
    /// No host name.
    NotAHost,
    /// Not one of some.
    NotAChoice,
    /// Characters that nobody sees.
    NotText,
    /// Another form than it must have.
    WrongForm,
    /// Longer than so many characters.
    TooLong(usize),
}

impl FieldProblem {
    /// What core found wrong with a value of a setting.
    pub fn of(setting: &Setting, problem: &SettingProblem) -> Self {
        match problem {
            SettingProblem::TooLong(most) => Self::TooLong(*most),
            SettingProblem::NotAnOption(_) => Self::NotAChoice,
            SettingProblem::WrongType(_) => match setting.kind {
                SettingKind::Number => Self::NotANumber,
                SettingKind::Host => Self::NotAHost,
                SettingKind::Boolean => Self::NotAChoice,
                SettingKind::Text => Self::NotText,
            },
            SettingProblem::NoMatch(_)
            | SettingProblem::Unknown { .. }
            | SettingProblem::TooMuch => Self::WrongForm,
        }
    }
}

impl Field {
    /// Of a setting, and what it holds.
    pub fn of(name: &str, setting: &Setting, value: Option<&str>) -> Self {
        let value = value.or(setting.default.as_deref()).unwrap_or_default();
        let kind = match setting.kind {
            _ if !setting.options.is_empty() => FieldKind::Select {
                choices: setting.options.iter().map(|it| Choice::plain(it)).collect(),
                value: (!value.is_empty()).then(|| value.to_owned()),
            },
            SettingKind::Boolean => FieldKind::Checkbox(value == "true"),
            SettingKind::Number => FieldKind::Number(value.to_owned()),
            SettingKind::Host => FieldKind::Host(value.to_owned()),
            SettingKind::Text => FieldKind::Text(value.to_owned()),
        };
        Self {
            name: name.to_owned(),
            label: Name::new(&setting.label)
                .or_else(|| Name::new(name))
                .unwrap_or_else(Name::unnamed),
            hint: None,
            required: setting.required,
            kind,
            problem: None,
        }
    }
}

/// What the names of the form's parts begin with: of a setting, and of the wish to take one away.
pub(super) const SET: &str = "set.";
pub(super) const CLEAR: &str = "clear.";

impl SettingsForm {
    /// Of a connector, with the values that its connection has.
    pub fn of(connector: &Connector, values: &BTreeMap<String, String>) -> Self {
        let field = |(name, setting): (&String, &Setting)| {
            Field::of(name, setting, values.get(name).map(String::as_str))
        };
        Self {
            fields: connector.settings.iter().map(field).collect(),
            problem: None,
        }
    }

    /// What a sent form changes: a value for each of the form's settings, `null` for one to be
    /// taken away. A secret that was left empty stays; what the form did not ask is passed over.
    pub fn read(&self, sent: &[(String, String)]) -> Map<String, Value> {
        let mut changes = Map::new();
        for field in &self.fields {
            let set = format!("{SET}{}", field.name);
            let mut given = sent
                .iter()
                .filter(|(name, _)| *name == set)
                .map(|(_, value)| value.as_str());
            let first = given.clone().next().unwrap_or_default().trim();
            let text = |text: &str| match text {
                "" => Value::Null,
                text => Value::from(text),
            };
            let change = match &field.kind {
                FieldKind::Checkbox(_) => Value::from(first == "true"),
                FieldKind::MultiSelect { .. } => Value::from_iter(given.by_ref()),
                FieldKind::Secret { .. } if first.is_empty() => {
                    let clear = format!("{CLEAR}{}", field.name);
                    if !sent.iter().any(|(name, _)| *name == clear) {
                        continue;
                    }
                    Value::Null
                }
                FieldKind::Text(_)
                | FieldKind::TextArea(_)
                | FieldKind::Number(_)
                | FieldKind::Host(_)
                | FieldKind::Select { .. }
                | FieldKind::Secret { .. } => text(first),
            };
            changes.insert(field.name.clone(), change);
        }
        changes
    }

    /// The form as it was sent, with what is wrong with it: nothing that was typed is lost but
    /// secrets, which are never sent back. Whether all of it can be saved.
    #[must_use]
    pub fn check(&mut self, connector: &Connector, changes: &Map<String, Value>) -> bool {
        for field in &mut self.fields {
            let Some(change) = changes.get(&field.name) else {
                continue;
            };
            let text = match change {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            let has_default = |setting: &Setting| setting.default.is_some();
            if let Some(setting) = connector.settings.get(&field.name) {
                field.problem = if text.is_empty() {
                    let needed = setting.required && !has_default(setting);
                    needed.then_some(FieldProblem::Missing)
                } else {
                    let checked = setting.check_text(&text);
                    checked
                        .err()
                        .map(|problem| FieldProblem::of(setting, &problem))
                };
            }
            field.kind.hold(change, text);
        }
        !self.refused()
    }

    pub(super) fn refused(&self) -> bool {
        self.problem.is_some() || self.fields.iter().any(|field| field.problem.is_some())
    }
}

impl FieldKind {
    fn hold(&mut self, change: &Value, typed: String) {
        match self {
            Self::Text(text) | Self::TextArea(text) | Self::Number(text) | Self::Host(text) => {
                *text = typed;
            }
            Self::Checkbox(on) => *on = change == true,
            Self::Select { value, .. } => *value = (!typed.is_empty()).then_some(typed),
            Self::MultiSelect { values, .. } => {
                let given = change.as_array().into_iter().flatten();
                *values = given.filter_map(Value::as_str).map(str::to_owned).collect();
            }
            Self::Secret { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokenward::connector::Catalogue;

    use super::*;

    const CONNECTOR: &str = r#"
id = "acme"
name = "Acme"
unified_apis = ["crm"]
[authorization]
url = "https://id.acme.example/authorize"
[token]
url = "https://id.acme.example/token"
[refresh]
rotation = "always"
replay = { policy = "revokes" }
[api]
hosts = ["https://api.acme.example"]
[settings.host]
label = "Host"
type = "host"
required = true
[settings.limit]
label = "Limit"
type = "number"
[settings.region]
label = "Region"
options = ["eu", "us"]
default = "eu"
[settings.sandbox]
label = "Sandbox"
type = "boolean"
"#;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn a_connectors_settings_are_asked_read_and_checked() {
        let mut catalogue = Catalogue::default();
        catalogue.add("acme.toml", CONNECTOR).unwrap();
        let connector = catalogue.find("acme").unwrap();
        let values = connector.settings_text(&Map::new());
        let mut form = SettingsForm::of(connector, &values);

        let sent = pairs(&[
            ("set.host", " https://x "),
            ("set.limit", ""),
            ("set.region", "mars"),
            ("set.made_up", "x"),
        ]);
        let changes = form.read(&sent);
        assert_eq!(
            Value::from(changes.clone()),
            json!({"host": "https://x", "limit": null, "region": "mars", "sandbox": false})
        );
        assert!(!form.check(connector, &changes));
        let problems: Vec<_> = form.fields.iter().map(|field| field.problem).collect();
        assert_eq!(
            problems,
            [
                Some(FieldProblem::NotAHost),
                None,
                Some(FieldProblem::NotAChoice),
                None
            ]
        );
        assert!(matches!(&form.fields[0].kind, FieldKind::Host(text) if text == "https://x"));

        let changes = form.read(&pairs(&[("set.limit", "many")]));
        assert!(!form.check(connector, &changes));
        let problems: Vec<_> = form.fields.iter().map(|field| field.problem).collect();
        assert_eq!(
            problems,
            [
                Some(FieldProblem::Missing),
                Some(FieldProblem::NotANumber),
                None,
                None
            ]
        );

        let changes = form.read(&pairs(&[
            ("set.host", "a.example"),
            ("set.sandbox", "true"),
        ]));
        assert!(form.check(connector, &changes));
        assert!(matches!(form.fields[3].kind, FieldKind::Checkbox(true)));
    }

    #[test]
    fn a_secret_stays_unless_it_is_replaced_or_taken_away() {
        let form = SettingsForm {
            fields: vec![Field {
                name: "key".to_owned(),
                label: Name::unnamed(),
                hint: None,
                required: false,
                kind: FieldKind::Secret { kept: true },
                problem: None,
            }],
            problem: None,
        };
        let read = |sent: &[(&str, &str)]| Value::from(form.read(&pairs(sent)));
        assert_eq!(read(&[("set.key", "")]), json!({}));
        assert_eq!(
            read(&[("set.key", ""), ("clear.key", "yes")]),
            json!({"key": null})
        );
        assert_eq!(
            read(&[("set.key", "new"), ("clear.key", "yes")]),
            json!({"key": "new"})
        );
    }
}
