//! Pages that ask one thing.

use maud::{Markup, Render, html};

use super::{
    detail::primary,
    icons::Icon,
    layout::{Body, Tone, Ui, panel},
    list::clipped,
    paths::Act,
    text::{Name, Plain},
    view::{Consent, Ending, Integration, Leaving, Question, Switch, Tenant, Tenants},
};

pub(super) fn ending(ui: &Ui<'_>, question: &Question) -> Body {
    let t = ui.t;
    let Question {
        at, integration, ..
    } = question;
    let name = &integration.name;
    let plain = Plain(name.as_str());
    let (title, heading, text, yes, act) = match question.ending {
        Ending::Disconnect => (
            t.disconnect_title(plain),
            t.disconnect_title(name),
            t.disconnect_text(ui.application(), name),
            t.disconnect_yes(),
            Act::Disconnect,
        ),
        Ending::Remove => (
            t.remove_title(plain),
            t.remove_title(name),
            t.remove_text(name),
            t.remove_yes(),
            Act::Remove,
        ),
    };
    let paths = &ui.frame.paths;
    let answers = html! {
        button.b.harm { (yes) }
        a.b.second href=(paths.connection(at)) { (t.keep()) }
    };
    let main = html! {
        (ui.up())
        div.card.ask {
            (integration.tile(true))
            h1 { (heading) }
            p { (text) }
            @if let Some(account) = &question.account {
                dl.facts { div { dt { (t.fact_account()) } dd { (account) } } }
            }
            (ui.form(&paths.act(at, act), "answers", &answers))
        }
    };
    Body::new(title, main)
}

pub(super) fn switch(ui: &Ui<'_>, switch: &Switch) -> Body {
    let t = ui.t;
    let Switch {
        integration,
        kept,
        came,
        ..
    } = switch;
    let go = match came {
        Some(came) => t.switch_yes(came),
        None => t.continue_to(&integration.name),
    };
    let main = html! {
        (ui.up())
        div.card.ask {
            (integration.tile(true))
            h1 { (t.switch_title(&integration.name)) }
            p { (t.switch_text(ui.application())) }
            div.pair {
                div { span.sub { (t.switch_from()) } strong { (kept) } }
                (Icon::Forward.draw())
                div {
                    span.sub { (t.switch_to()) }
                    strong { @match came { Some(came) => (came), None => (t.switch_to_next()) } }
                }
            }
            div.answers {
                (primary(&switch.connect, &go))
                a.b.second href=(ui.frame.paths.connection(&switch.at)) { span { (t.switch_no(kept)) } }
            }
        }
    };
    Body::new(t.switch_title(Plain(integration.name.as_str())), main)
}

/// Nobody connects an account to somebody else's without having read whose it is.
pub(super) fn consent(ui: &Ui<'_>, consent: &Consent) -> Body {
    let t = ui.t;
    let Consent {
        integration,
        application,
        consumer,
        account,
        ..
    } = consent;
    let name = &integration.name;
    let answers = html! {
        input type="hidden" name="attempt" value=(consent.attempt);
        button.b name="answer" value="yes" { (t.consent_yes()) }
        button.b.second name="answer" value="no" { (t.consent_no()) }
    };
    let main = html! {
        div.card.ask {
            h1 { (t.consent_title(name, application)) }
            p { (t.consent_text(application, name)) }
            div.pair.wide {
                div { (integration.tile(false)) span.sub { (t.consent_from(name)) } strong { @match account { Some(account) => (account), None => (t.consent_from_any()) } } }
                (Icon::Forward.draw())
                div { (mine(ui, application)) span.sub { (t.consent_to(application)) } strong { (consumer) } }
            }
            (panel(Tone::Warn, Icon::Alert, &html! { p { (t.consent_warning(application)) } }))
            (ui.form(&consent.answer_to, "answers", &answers))
        }
    };
    Body::new(
        t.consent_title(Plain(name.as_str()), Plain(application.as_str())),
        main,
    )
}

/// The application, as the header shows it.
fn mine(ui: &Ui<'_>, application: &Name) -> Markup {
    match &ui.frame.theme.logo {
        Some(logo) => html! { img.tile src=(logo.src()) alt=""; },
        None => html! { span.tile.mine aria-hidden="true" { (application.initial()) } },
    }
}

pub(super) fn leaving(ui: &Ui<'_>, leaving: &Leaving) -> Body {
    let t = ui.t;
    let Integration { name, .. } = &leaving.integration;
    let main = html! {
        div.card.ask {
            (leaving.integration.tile(true))
            h1 { (t.leaving_title(name)) }
            p { (t.leaving_text()) }
            div.answers { (primary(&leaving.to, &t.continue_to(name))) }
        }
    };
    Body {
        onward: Some(leaving.to.clone()),
        ..Body::new(t.leaving_title(Plain(name.as_str())), main)
    }
}

/// How many organisations a page offers.
const MOST_TENANTS: usize = 25;

pub(super) fn tenants(ui: &Ui<'_>, view: &Tenants) -> Body {
    let t = ui.t;
    let name = &view.integration.name;
    let query = clipped(&view.query).to_lowercase();
    let matches = |tenant: &&Tenant| tenant.name.as_str().to_lowercase().contains(&query);
    let found: Vec<_> = view.tenants.iter().filter(matches).collect();
    let shown = &found[..found.len().min(MOST_TENANTS)];
    let to = ui.frame.paths.act(&view.at, Act::Tenant);
    let inner = html! {
        fieldset #tenants tabindex="-1" aria-describedby=[view.refused.then_some("tenants-wrong")] {
            legend.hidden { (t.fact_organisation()) }
            @if view.refused { p #tenants-wrong.wrong { (Icon::Alert.draw()) span { (t.wrong_tenant()) } } }
            div.choices {
                @for tenant in shown { (choice(tenant, view.chosen.as_deref())) }
            }
        }
        @if shown.len() < found.len() { p.sub { (t.tenants_some(shown.len(), found.len())) } }
        div.do { button.b { (t.tenants_save()) } a.b.second href=(ui.frame.paths.connection(&view.at)) { (t.cancel()) } }
    };
    let summary = html! {
        h2 { (t.problems(1)) }
        ul { li { a href="#tenants" { (t.fact_organisation()) } } }
    };
    let main = html! {
        (ui.up())
        @if view.refused {
            div role="alert" tabindex="-1" autofocus { (panel(Tone::Bad, Icon::Alert, &summary)) }
        }
        div.head {
            (view.integration.tile(true))
            div.who { h1 { (t.tenants_title()) } p.sub { (t.tenants_text(name, ui.application())) } }
        }
        @if view.tenants.len() > 8 {
            form.search method="get" action=(to) {
                label.hidden for="q" { (t.tenants_search()) }
                input #q type="search" name="q" value=(clipped(&view.query)) maxlength="64" autocomplete="off" placeholder=(t.tenants_search());
                button.b.second { (Icon::Search.draw()) span { (t.search_button()) } }
            }
        }
        @if shown.is_empty() {
            div.card.empty { (Icon::Building.draw()) h2 { (t.tenants_none(name)) } p { a href=(ui.frame.paths.connection(&view.at)) { (t.back()) } } }
        } @else { (ui.form(&to, "card fields", &inner)) }
    };
    Body {
        refused: view.refused,
        ..Body::new(t.tenants_title().render(), main)
    }
}

fn choice(tenant: &Tenant, chosen: Option<&str>) -> Markup {
    let chosen = chosen == Some(tenant.id.as_str());
    html! {
        label.tick.choice {
            input type="radio" name="tenant" value=(tenant.id) checked[chosen];
            span { (tenant.name) }
        }
    }
}
