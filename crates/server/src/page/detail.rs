//! One connection: where it stands, and what can be done.

use jiff::Timestamp;
use maud::{Markup, Render, html};
use tokenward::time::StoreTime;

use super::{
    form,
    href::Href,
    icons::Icon,
    layout::{Body, Tone, Ui, look, panel},
    paths::Act,
    text::Plain,
    view::{Detail, Notice, Status},
};

pub(super) fn page(ui: &Ui<'_>, detail: &Detail) -> Body {
    let integration = &detail.integration;
    let title = Plain(integration.name.as_str());
    // Beside something new that it works is no news.
    let news = detail.notice.is_some() || !detail.missing_permissions.is_empty();
    let goes_without_saying = detail.status == Status::Connected && news;
    let main = html! {
        (ui.up())
        @if let Some(notice) = detail.notice { (said(ui, notice)) }
        @if let Some(settings) = &detail.settings { (form::summary(ui, settings)) }
        div.head {
            (integration.tile(true))
            div.who {
                h1 { (integration.name) }
                @if let Some(about) = &integration.about { p.sub { (about) } }
            }
            (ui.badge(detail.status))
        }
        @if !goes_without_saying { (standing(ui, detail)) }
        @if !detail.missing_permissions.is_empty() { (partial(ui, detail)) }
        (facts(ui, detail))
        @if let Some(settings) = &detail.settings { (form::card(ui, &detail.at, settings)) }
        (manage(ui, detail))
    };
    Body {
        refused: detail.refused(),
        ..Body::new(title, main)
    }
}

fn said(ui: &Ui<'_>, notice: Notice) -> Markup {
    let text = match notice {
        Notice::Saved => ui.t.notice_saved(),
        Notice::Enabled => ui.t.notice_enabled(),
        Notice::Disabled => ui.t.notice_disabled(),
        Notice::Disconnected => ui.t.notice_disconnected(),
    };
    html! { div role="status" { (panel(Tone::Good, Icon::Check, &html! { p { (text) } })) } }
}

/// Where it stands, in a sentence or two, and the one thing to do about it.
fn standing(ui: &Ui<'_>, detail: &Detail) -> Markup {
    let t = ui.t;
    let name = &detail.integration.name;
    let application = ui.application();
    let text = match detail.status {
        Status::Available => t.about_available(name, application),
        Status::Unauthorized => t.about_unauthorized(name),
        Status::InputRequired if detail.has_tenants && detail.organisation.is_none() => {
            t.about_tenant().render()
        }
        Status::InputRequired => t.about_input().render(),
        Status::Connected => t.about_connected(application, name),
        Status::Retrying => t.about_retrying(name),
        Status::NeedsAttention => t.about_attention(name),
        Status::Disabled => t.about_disabled().render(),
        Status::PendingConfirmation => t.about_pending(application),
        Status::InvalidSettings => t.about_invalid(name),
    };
    let (tone, icon) = look(detail.status);
    let inner = html! {
        p { (text) }
        @if let Some(action) = first_action(ui, detail) { div.do { (action) } }
    };
    panel(tone, icon, &inner)
}

fn first_action(ui: &Ui<'_>, detail: &Detail) -> Option<Markup> {
    let t = ui.t;
    match detail.status {
        Status::Available | Status::Unauthorized => {
            let connect = detail.connect.as_ref()?;
            Some(primary(connect, &t.connect(&detail.integration.name)))
        }
        Status::NeedsAttention => {
            let connect = detail
                .connect
                .as_ref()
                .filter(|_| detail.allowed.reauthorize)?;
            Some(primary(connect, &t.reconnect().render()))
        }
        Status::InputRequired if detail.has_tenants && detail.organisation.is_none() => {
            let to = ui.frame.paths.act(&detail.at, Act::Tenant);
            Some(primary(&to, &t.tenant_choose().render()))
        }
        Status::InputRequired | Status::InvalidSettings => {
            detail.settings.as_ref()?;
            Some(html! { a.b href="#settings" { (t.to_settings()) } })
        }
        Status::Disabled => {
            let to = ui.frame.paths.act(&detail.at, Act::Enable);
            Some(ui.form(&to, "", &html! { button.b { (t.enable()) } }))
        }
        Status::Connected | Status::Retrying | Status::PendingConfirmation => None,
    }
}

pub(super) fn primary(to: &Href, text: &Markup) -> Markup {
    html! { a.b href=(to) { span { (text) } } }
}

fn partial(ui: &Ui<'_>, detail: &Detail) -> Markup {
    /// More than these fit no page.
    const MOST: usize = 12;
    let t = ui.t;
    let inner = html! {
        h2 { (t.partial_title()) }
        p { (t.partial(&detail.integration.name)) }
        ul.scopes { @for scope in detail.missing_permissions.iter().take(MOST) { li { (scope) } } }
    };
    panel(Tone::Warn, Icon::Alert, &inner)
}

fn facts(ui: &Ui<'_>, detail: &Detail) -> Markup {
    let t = ui.t;
    let tenants = ui.frame.paths.act(&detail.at, Act::Tenant);
    let change = detail.has_tenants && detail.organisation.is_some();
    let none = detail.account.is_none() && detail.organisation.is_none() && detail.since.is_none();
    html! {
        @if !none {
            dl.card.facts {
                @if let Some(account) = &detail.account { div { dt { (t.fact_account()) } dd { (account) } } }
                @if let Some(organisation) = &detail.organisation {
                    div {
                        dt { (t.fact_organisation()) }
                        dd { (organisation) @if change { " " a href=(tenants) { (t.tenant_change()) } } }
                    }
                }
                @if let Some(since) = detail.since { div { dt { (t.fact_since()) } dd { (day(since)) } } }
            }
        }
    }
}

/// A day in the form that every language reads alike.
fn day(time: StoreTime) -> Markup {
    let day = Timestamp::from_millisecond(time.0).unwrap_or_default();
    let day = day.strftime("%Y-%m-%d").to_string();
    html! { time datetime=(day) { bdi { (day) } } }
}

/// What else can be done, the harmless first.
fn manage(ui: &Ui<'_>, detail: &Detail) -> Markup {
    let t = ui.t;
    let Detail {
        status,
        allowed,
        at,
        integration,
        ..
    } = detail;
    let act = |act: Act| ui.frame.paths.act(at, act);
    let signed_in = status.signed_in();
    let mut rows: Vec<(&str, Markup, Markup)> = Vec::new();
    if let Some(connect) = detail
        .connect
        .as_ref()
        .filter(|_| signed_in && allowed.reauthorize)
    {
        let link = html! { a.b.second href=(connect) { (Icon::Refresh.draw()) span { (t.reauthorize()) } } };
        rows.push((
            t.reauthorize_what(),
            t.reauthorize_hint(&integration.name),
            link,
        ));
        let link = html! { a.b.second href=(act(Act::Switch)) { (Icon::Swap.draw()) span { (t.switch()) } } };
        rows.push((t.switch_what(), t.switch_hint().render(), link));
    }
    if *status != Status::Available && *status != Status::Disabled && allowed.disable {
        let button = html! { button.b.second { (Icon::Pause.draw()) span { (t.disable()) } } };
        let form = ui.form(&act(Act::Disable), "", &button);
        rows.push((t.disable_what(), t.disable_hint(ui.application()), form));
    }
    if signed_in && allowed.disconnect {
        let link = html! { a.b.danger href=(act(Act::Disconnect)) { (t.disconnect()) } };
        rows.push((
            t.disconnect_what(),
            t.disconnect_hint(ui.application()),
            link,
        ));
    } else if *status != Status::Available && allowed.delete {
        let link = html! { a.b.danger href=(act(Act::Remove)) { (t.remove()) } };
        rows.push((t.remove_what(), t.remove_hint().render(), link));
    }
    html! {
        @if !rows.is_empty() {
            section aria-labelledby="manage" {
                h2 #manage.group { (t.manage_title()) }
                ul.card.rows.acts {
                    @for (what, hint, control) in rows {
                        li { span.who { strong { (what) } " " span.sub { (hint) } } (control) }
                    }
                }
            }
        }
    }
}
