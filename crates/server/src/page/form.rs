//! The form of a connection's settings.

use maud::{Markup, html};

use super::{
    field::{CLEAR, Choice, Field, FieldKind, FieldProblem, SET, SettingsForm},
    icons::Icon,
    layout::{Tone, Ui, panel},
    paths::{Act, At},
};

/// What is wrong, at the top of the page, with links to where it is. It has the focus when the page
/// comes, so that readers begin with it.
pub(super) fn summary(ui: &Ui<'_>, form: &SettingsForm) -> Markup {
    let wrong: Vec<_> = numbered(form)
        .filter(|(_, field)| field.problem.is_some())
        .collect();
    let inner = html! {
        h2 { (ui.t.problems(wrong.len() + usize::from(form.problem.is_some()))) }
        @if let Some(problem) = &form.problem { p { (problem) } }
        ul {
            @for (id, field) in &wrong {
                li { a href={ "#" (id) } { (field.label) } }
            }
        }
    };
    html! {
        @if form.refused() {
            div role="alert" tabindex="-1" autofocus { (panel(Tone::Bad, Icon::Alert, &inner)) }
        }
    }
}

fn numbered(form: &SettingsForm) -> impl Iterator<Item = (String, &Field)> {
    let fields = form.fields.iter().enumerate();
    fields.map(|(number, field)| (format!("f{number}"), field))
}

pub(super) fn card(ui: &Ui<'_>, at: &At, form: &SettingsForm) -> Markup {
    let to = ui.frame.paths.act(at, Act::Settings);
    let inner = html! {
        @for (id, field) in numbered(form) { (question(ui, &id, field)) }
        div.do { button.b { (ui.t.save()) } }
    };
    html! {
        @if !form.fields.is_empty() {
            section #settings aria-labelledby="settings-title" {
                h2 #settings-title.group { (ui.t.settings_title()) }
                (ui.form(&to, "card fields", &inner))
            }
        }
    }
}

/// One field, with its label, what there is to know, and what is wrong.
fn question(ui: &Ui<'_>, id: &str, field: &Field) -> Markup {
    let hint_id = format!("{id}-hint");
    let problem_id = format!("{id}-wrong");
    let ids = [
        field.hint.is_some().then_some(hint_id.as_str()),
        field.problem.is_some().then_some(problem_id.as_str()),
    ];
    let described: Vec<_> = ids.into_iter().flatten().collect();
    let about = About {
        id,
        name: format!("{SET}{}", field.name),
        described: (!described.is_empty()).then(|| described.join(" ")),
        invalid: field.problem.is_some().then_some("true"),
        required: field.required,
    };
    let notes = html! {
        @if let Some(hint) = &field.hint { p.hint id=(hint_id) { (hint) } }
        @if let Some(problem) = field.problem {
            p.wrong id=(problem_id) { (Icon::Alert.draw()) span { (wrong(ui, problem)) } }
        }
    };
    let label = html! {
        (field.label)
        @if !field.required { " " span.sub { (ui.t.optional()) } }
    };
    html! {
        div.field {
            @match &field.kind {
                FieldKind::Checkbox(on) => {
                    label.tick { (about.tick(*on)) span { (label) } }
                    (notes)
                }
                FieldKind::MultiSelect { choices, values } => {
                    (about.group(&label, &notes, choices, values))
                }
                FieldKind::Secret { kept } => { (about.secret(ui, &label, &notes, field, *kept)) }
                kind => {
                    label for=(id) { (label) }
                    (notes)
                    (about.single(ui, kind))
                }
            }
        }
    }
}

fn wrong(ui: &Ui<'_>, problem: FieldProblem) -> Markup {
    let t = ui.t;
    let text = match problem {
        FieldProblem::Missing => t.wrong_missing(),
        FieldProblem::NotANumber => t.wrong_number(),
        FieldProblem::NotAHost => t.wrong_host(),
        FieldProblem::NotAChoice => t.wrong_choice(),
        FieldProblem::NotText => t.wrong_text(),
        FieldProblem::WrongForm => t.wrong_form(),
        FieldProblem::TooLong(most) => return t.wrong_length(most),
    };
    html! { (text) }
}

/// What every control carries.
struct About<'a> {
    id: &'a str,
    name: String,
    described: Option<String>,
    invalid: Option<&'static str>,
    required: bool,
}

impl About<'_> {
    fn tick(&self, on: bool) -> Markup {
        html! {
            input id=(self.id) type="checkbox" name=(self.name) value="true" checked[on]
                aria-describedby=[&self.described] aria-invalid=[self.invalid];
        }
    }

    fn single(&self, ui: &Ui<'_>, kind: &FieldKind) -> Markup {
        match kind {
            FieldKind::TextArea(text) => html! {
                // The first line break after the tag is not part of the text.
                textarea id=(self.id) name=(self.name) rows="4" required[self.required]
                    aria-describedby=[&self.described] aria-invalid=[self.invalid] { "\n" (text) }
            },
            FieldKind::Select { choices, value } => html! {
                select id=(self.id) name=(self.name) required[self.required]
                    aria-describedby=[&self.described] aria-invalid=[self.invalid] {
                    option value="" { (ui.t.please_choose()) }
                    @for choice in choices {
                        option value=(choice.value) selected[value.as_ref() == Some(&choice.value)] {
                            (choice.label.as_str())
                        }
                    }
                }
            },
            // Not `type=number`: it drops what it does not take, and turns with the wheel.
            FieldKind::Number(text) => html! {
                input id=(self.id) type="text" inputmode="decimal" name=(self.name) value=(text) dir="ltr"
                    required[self.required] aria-describedby=[&self.described] aria-invalid=[self.invalid]
                    autocomplete="off";
            },
            FieldKind::Host(text) => html! {
                input id=(self.id) type="text" inputmode="url" name=(self.name) value=(text) dir="ltr"
                    required[self.required] aria-describedby=[&self.described] aria-invalid=[self.invalid]
                    autocomplete="off" autocapitalize="none" spellcheck="false";
            },
            FieldKind::Text(text) => html! {
                input id=(self.id) type="text" name=(self.name) value=(text) dir="auto"
                    required[self.required] aria-describedby=[&self.described] aria-invalid=[self.invalid]
                    autocomplete="off";
            },
            FieldKind::Checkbox(_) | FieldKind::MultiSelect { .. } | FieldKind::Secret { .. } => {
                html! {}
            }
        }
    }

    /// Boxes to tick: a list of which several can be chosen works for few without a mouse.
    fn group(
        &self,
        label: &Markup,
        notes: &Markup,
        choices: &[Choice],
        values: &[String],
    ) -> Markup {
        html! {
            fieldset id=(self.id) tabindex="-1" aria-describedby=[&self.described] {
                legend { (label) }
                (notes)
                div.ticks {
                    @for choice in choices {
                        label.tick {
                            input type="checkbox" name=(self.name) value=(choice.value)
                                checked[values.contains(&choice.value)];
                            span { (choice.label) }
                        }
                    }
                }
            }
        }
    }

    /// Never shown; one that is there can be replaced, and taken away where nothing needs it.
    fn secret(
        &self,
        ui: &Ui<'_>,
        label: &Markup,
        notes: &Markup,
        field: &Field,
        kept: bool,
    ) -> Markup {
        let t = ui.t;
        let input = html! {
            input id=(self.id) type="password" name=(self.name) dir="ltr" autocomplete="new-password"
                required[self.required && !kept] aria-describedby=[&self.described]
                aria-invalid=[self.invalid] spellcheck="false";
        };
        if !kept {
            return html! { label for=(self.id) { (label) } (notes) (input) };
        }
        html! {
            fieldset {
                legend { (label) }
                p.kept { (Icon::Lock.draw()) span { (t.secret_kept()) } }
                (notes)
                details open[field.problem.is_some()] {
                    summary { (t.secret_replace()) }
                    label for=(self.id) { (t.secret_new()) }
                    (input)
                    @if !self.required {
                        label.tick {
                            input type="checkbox" name={ (CLEAR) (field.name) } value="yes";
                            span { (t.secret_clear()) }
                        }
                    }
                }
            }
        }
    }
}
