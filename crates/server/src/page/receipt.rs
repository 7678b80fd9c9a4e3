//! What became of a login; what a developer has to mend; and pages that end.

use maud::{Markup, Render, html};

use super::{
    detail::primary,
    icons::Icon,
    layout::{Body, Tone, Ui},
    paths::Act,
    text::{Name, Plain},
    view::{Developer, Misconfiguration, Next, Outcome, Receipt},
};

/// A card with a sign, a heading, and what comes next.
fn card(tone: Tone, icon: Icon, heading: &Markup, inner: &Markup) -> Markup {
    html! {
        div.card.ask.end {
            span class={ "sign " (tone.class()) } { (icon.draw()) }
            h1 { (heading) }
            (inner)
        }
    }
}

pub(super) fn receipt(ui: &Ui<'_>, receipt: &Receipt) -> Body {
    let t = ui.t;
    let nameless = Name::new(t.the_provider()).unwrap_or_else(Name::unnamed);
    let name = receipt
        .integration
        .as_ref()
        .map_or(&nameless, |it| &it.name);
    let plain = Plain(name.as_str());
    let application = ui.application();
    // Tone, sign, title, heading, text.
    let (tone, icon, title, heading, text) = match &receipt.outcome {
        Outcome::Connected { account, next } => {
            let text = html! {
                @if let Some(account) = account { p { (t.connected_as(account)) } }
                p { (match next {
                    Next::Nothing => t.connected_text(application, name),
                    Next::Settings => t.about_input().render(),
                    Next::Tenant => t.about_tenant().render(),
                }) }
            };
            (
                Tone::Good,
                Icon::Check,
                t.connected_title(plain),
                t.connected_title(name),
                text,
            )
        }
        Outcome::AlreadyDone => (
            Tone::Good,
            Icon::Check,
            t.connected_title(plain),
            t.connected_title(name),
            html! { p { (t.already_text()) } },
        ),
        Outcome::Denied => (
            Tone::Calm,
            Icon::Cross,
            t.denied_title(plain),
            t.denied_title(name),
            html! { p { (t.denied_text(name, application)) } },
        ),
        Outcome::ProviderError { words } => {
            let text = html! {
                @match words {
                    Some(words) => { p { (t.provider_says(name)) } blockquote { (words) } }
                    None => p { (t.provider_silent(name)) },
                }
            };
            (
                Tone::Bad,
                Icon::Alert,
                t.provider_title(plain),
                t.provider_title(name),
                text,
            )
        }
        Outcome::Expired { minutes } => (
            Tone::Warn,
            Icon::Clock,
            t.expired_title().render(),
            t.expired_title().render(),
            html! { p { (t.expired_text(*minutes)) } },
        ),
        Outcome::Unknown => (
            Tone::Warn,
            Icon::Clock,
            t.unknown_title().render(),
            t.unknown_title().render(),
            html! { p { (t.unknown_text(application)) } },
        ),
        Outcome::OtherBrowser => (
            Tone::Warn,
            Icon::Lock,
            t.browser_title().render(),
            t.browser_title().render(),
            html! { p { (t.browser_text()) } },
        ),
        Outcome::OtherAccount { kept, came, .. } => (
            Tone::Warn,
            Icon::Swap,
            t.other_title().render(),
            t.other_title().render(),
            html! {
                p { (t.other_text(name)) }
                dl.facts {
                    div { dt { (t.other_kept()) } dd { (kept) } }
                    div { dt { (t.other_came()) } dd { (came) } }
                }
            },
        ),
        Outcome::Failed => (
            Tone::Bad,
            Icon::Alert,
            t.failed_title().render(),
            t.failed_title().render(),
            html! { p { (t.failed_text(name)) } },
        ),
    };
    let inner = html! {
        (text)
        (unharmed(ui, receipt))
        div.answers { (next(ui, receipt)) }
    };
    Body::new(title, card(tone, icon, &heading, &inner))
}

/// What a person fears first: that it is worse than before.
fn unharmed(ui: &Ui<'_>, receipt: &Receipt) -> Markup {
    let well = matches!(
        receipt.outcome,
        Outcome::Connected { .. } | Outcome::AlreadyDone
    );
    let (icon, text) = if receipt.still_connected {
        (Icon::Check, ui.t.still_connected())
    } else {
        (Icon::Info, ui.t.nothing_changed())
    };
    html! {
        @if !well { p.calmly { (icon.draw()) span { (text) } } }
    }
}

/// What to do now: the likeliest first.
fn next(ui: &Ui<'_>, receipt: &Receipt) -> Markup {
    let t = ui.t;
    let paths = &ui.frame.paths;
    let at = receipt.at.as_ref().filter(|_| receipt.has_session);
    let back = match (&ui.frame.return_to, receipt.has_session) {
        (Some(href), _) => {
            Some(html! { a.b.second href=(href) { span { (t.return_to(ui.application())) } } })
        }
        (None, true) => Some(html! { a.b.second href=(paths.list()) { (t.to_list()) } }),
        (None, false) => None,
    };
    let again = receipt.again.as_ref();
    let first = match (&receipt.outcome, at) {
        (
            Outcome::Connected {
                next: Next::Settings,
                ..
            },
            Some(at),
        ) => Some(primary(&paths.connection(at), &t.to_settings().render())),
        (
            Outcome::Connected {
                next: Next::Tenant, ..
            },
            Some(at),
        ) => Some(primary(
            &paths.act(at, Act::Tenant),
            &t.tenant_choose().render(),
        )),
        (Outcome::Connected { .. } | Outcome::AlreadyDone | Outcome::OtherBrowser, _) => None,
        (Outcome::OtherAccount { kept, .. }, _) => {
            again.map(|to| primary(to, &t.other_again(kept)))
        }
        (Outcome::Unknown, None) => None,
        (_, _) => again.map(|to| primary(to, &t.try_again().render())),
    };
    let switch = match &receipt.outcome {
        Outcome::OtherAccount { switch, came, .. } => {
            let link = |to| html! { a.b.second href=(to) { span { (t.switch_yes(came)) } } };
            switch.as_ref().map(link)
        }
        _ => None,
    };
    let alone = first.is_none() && switch.is_none() && back.is_none();
    html! {
        @if let Some(first) = first { (first) }
        @if let Some(switch) = switch { (switch) }
        @if let Some(back) = back { (back) }
        @if alone { p.sub { (t.close_window()) } }
    }
}

pub(super) fn developer(ui: &Ui<'_>, view: &Developer) -> Body {
    let t = ui.t;
    let name = &view.integration.name;
    let (what, uri) = match &view.problem {
        Misconfiguration::RedirectUri(uri) => (t.setup_redirect(name), Some(uri.as_str())),
        Misconfiguration::Client => (t.setup_client(name), None),
        Misconfiguration::NoClient => (t.setup_no_client(name), None),
    };
    let main = html! {
        (card(Tone::Warn, Icon::Sliders, &t.setup_title(name), &html! { p { (t.setup_text(ui.application())) } }))
        section aria-labelledby="dev" {
            h2 #dev.group { (t.setup_developers()) }
            div.card.fields {
                p { (what) }
                @if let Some(uri) = uri {
                    div.field {
                        label for="uri" { (t.setup_uri()) }
                        p #uri-hint.hint { (t.setup_copy()) }
                        // Several lines, so that all of it can be seen; a click selects it.
                        textarea #uri.uri readonly rows="3" dir="ltr" spellcheck="false" aria-describedby="uri-hint" { (uri) }
                    }
                }
                @if let Some(words) = &view.words { div { p { (t.provider_says(name)) } blockquote { (words) } } }
                dl.facts {
                    div { dt { (t.setup_application()) } dd { code { (view.application_id) } } }
                    div { dt { (t.setup_service()) } dd { code { (view.service_id) } } }
                    @if let Some(id) = &view.request_id { div { dt { (t.request_id()) } dd { code { (id) } } } }
                }
            }
        }
    };
    Body::new(t.setup_title(Plain(name.as_str())), main)
}

pub(super) fn session_expired(ui: &Ui<'_>) -> Body {
    let t = ui.t;
    let inner = html! {
        p { (t.session_text(ui.application())) }
        @if let Some(href) = &ui.frame.return_to {
            div.answers { (primary(href, &t.return_to(ui.application()))) }
        }
    };
    let heading = t.session_title().render();
    Body::new(&heading, card(Tone::Calm, Icon::Clock, &heading, &inner))
}

pub(super) fn not_found(ui: &Ui<'_>) -> Body {
    let t = ui.t;
    let inner = html! {
        p { (t.not_found_text()) }
        div.answers { (primary(&ui.frame.paths.list(), &t.to_list().render())) }
    };
    let heading = t.not_found_title().render();
    Body::new(&heading, card(Tone::Calm, Icon::Search, &heading, &inner))
}

pub(super) fn server_error(ui: &Ui<'_>, request_id: Option<&Name>) -> Body {
    let t = ui.t;
    let inner = html! {
        p { (t.error_text()) }
        @if let Some(id) = request_id {
            dl.facts { div { dt { (t.request_id()) } dd { code { (id) } } } }
        }
        div.answers { (primary(&ui.frame.paths.list(), &t.to_list().render())) }
    };
    let heading = t.error_title().render();
    Body::new(&heading, card(Tone::Bad, Icon::Alert, &heading, &inner))
}
