//! What all pages have: head, header, footer; and the small parts that they are made of.

use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use super::{
    href::Href,
    icons::{Icon, sprite},
    locale::Locale,
    messages::Messages,
    text::Plain,
    view::{Frame, Integration, Status},
};

/// A page between header and footer.
pub(super) struct Body {
    /// For the window's title; what a phrase is filled with for it is [`Plain`].
    pub(super) title: Markup,
    /// A form was refused: its title says so first.
    pub(super) refused: bool,
    /// Where the browser goes at once.
    pub(super) onward: Option<Href>,
    pub(super) main: Markup,
}

impl Body {
    pub(super) fn new(title: impl Render, main: Markup) -> Self {
        Self {
            title: title.render(),
            refused: false,
            onward: None,
            main,
        }
    }
}

/// What a page's parts need to know.
#[derive(Clone, Copy)]
pub(super) struct Ui<'a> {
    pub(super) frame: &'a Frame,
    pub(super) t: &'static Messages,
}

/// How urgent something looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warn,
    Bad,
    Calm,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Calm => "calm",
        }
    }
}

impl<'a> Ui<'a> {
    pub(super) fn new(frame: &'a Frame) -> Self {
        let t = frame.locale.messages();
        Self { frame, t }
    }

    /// What the application is called, in a sentence.
    pub(super) fn application(&self) -> Markup {
        match &self.frame.theme.name {
            Some(name) => name.render(),
            None => self.t.the_application().render(),
        }
    }

    pub(super) fn whole(&self, body: &Body) -> String {
        let Self { frame, t } = self;
        let paths = &frame.paths;
        let locale = frame.locale;
        let inner = html! {
            a.skip href="#main" { (t.skip_to_content()) }
            (self.header())
            main #main tabindex="-1" { (body.main) }
            (self.footer())
        };
        let page = html! {
            (DOCTYPE)
            html lang=(locale.tag()) dir=(locale.direction()) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    // None, so that browsers do not ask for one.
                    link rel="icon" href="data:,";
                    @if let Some(to) = &body.onward {
                        meta http-equiv="refresh" content={ "0; url=" (to) };
                    }
                    title {
                        @if body.refused { (t.error_prefix()) ": " }
                        (body.title)
                        @if let Some(name) = &frame.theme.name { " – " (Plain(name.as_str())) }
                    }
                    link rel="stylesheet" href=(paths.stylesheet());
                    @if let Some(colour) = frame.theme.colour {
                        link rel="stylesheet" href=(paths.theme(colour));
                    }
                }
                body { (sprite(&inner)) (inner) }
            }
        };
        page.into_string()
    }

    fn header(&self) -> Markup {
        let Self { frame, t } = self;
        let theme = &frame.theme;
        let fallback = || PreEscaped(t.the_connections().to_owned());
        html! {
            header.top {
                span.brand {
                    @match (&theme.logo, &theme.name) {
                        (Some(logo), _) => img.logo src=(logo.src()) alt="";,
                        (None, Some(name)) => span.mark aria-hidden="true" { (name.initial()) },
                        (None, None) => span.mark { (Icon::Plug.draw()) },
                    }
                    span.who {
                        strong {
                            @match &theme.name { Some(name) => (name), None => (fallback()) }
                        }
                        @if let Some(consumer) = &frame.consumer {
                            span.sub { (t.for_account(consumer)) }
                        }
                    }
                }
                @if let Some(href) = &frame.return_to {
                    a.leave href=(href) { (Icon::Back.draw()) span { (t.return_to(self.application())) } }
                }
            }
        }
    }

    fn footer(&self) -> Markup {
        let Self { frame, t } = self;
        html! {
            footer {
                p.trust { (Icon::Lock.draw()) span { (t.trust(self.application())) } }
                @if let Some(here) = &frame.here {
                    nav aria-label=(t.language()) {
                        ul.languages {
                            @for locale in Locale::ALL {
                                li {
                                    a href=(here.with("lang", locale.tag())) lang=(locale.tag())
                                        hreflang=(locale.tag()) dir=(locale.direction())
                                        aria-current=[(locale == frame.locale).then_some("true")]
                                        { (locale.own_name()) }
                                }
                            }
                        }
                    }
                }
                @if frame.theme.privacy.is_some() || frame.theme.terms.is_some() {
                    ul.languages {
                        @if let Some(href) = &frame.theme.privacy { li { a href=(href) { (t.privacy()) } } }
                        @if let Some(href) = &frame.theme.terms { li { a href=(href) { (t.terms()) } } }
                    }
                }
            }
        }
    }

    /// A form that changes something, with the token that shows it to be ours.
    pub(super) fn form(&self, to: &Href, class: &str, inner: &Markup) -> Markup {
        html! {
            form method="post" action=(to) class=(class) novalidate {
                input type="hidden" name="form_token" value=(self.frame.form_token.0);
                (inner)
            }
        }
    }

    pub(super) fn status_word(&self, status: Status) -> &'static str {
        let t = self.t;
        match status {
            Status::Available => t.status_available(),
            Status::Unauthorized => t.status_unauthorized(),
            Status::InputRequired => t.status_input(),
            Status::Connected => t.status_connected(),
            Status::Retrying => t.status_retrying(),
            Status::NeedsAttention => t.status_attention(),
            Status::Disabled => t.status_disabled(),
            Status::PendingConfirmation => t.status_pending(),
            Status::InvalidSettings => t.status_invalid(),
        }
    }

    pub(super) fn badge(&self, status: Status) -> Markup {
        let (tone, icon) = look(status);
        html! {
            span class={ "badge " (tone.class()) } { (icon.draw()) (self.status_word(status)) }
        }
    }

    pub(super) fn up(&self) -> Markup {
        html! {
            a.up href=(self.frame.paths.list()) { (Icon::Back.draw()) span { (self.t.to_list()) } }
        }
    }
}

/// How a status looks; what it means is said in words beside it.
pub(super) fn look(status: Status) -> (Tone, Icon) {
    match status {
        Status::Available => (Tone::Calm, Icon::Plug),
        Status::Unauthorized => (Tone::Warn, Icon::Plug),
        Status::InputRequired => (Tone::Warn, Icon::Sliders),
        Status::Connected => (Tone::Good, Icon::Check),
        Status::Retrying => (Tone::Calm, Icon::Refresh),
        Status::NeedsAttention => (Tone::Bad, Icon::Alert),
        Status::Disabled => (Tone::Calm, Icon::Pause),
        Status::PendingConfirmation => (Tone::Warn, Icon::Clock),
        Status::InvalidSettings => (Tone::Bad, Icon::Sliders),
    }
}

impl Integration {
    /// A picture of ours or a letter, beside a name that says the same.
    pub(super) fn tile(&self, large: bool) -> Markup {
        let size = if large { " big" } else { "" };
        let name = &self.name;
        html! {
            @match &self.picture {
                Some(picture) => img class={ "tile" (size) } src=(picture.src()) alt="";,
                None => span class={ "tile h" (name.pick(8)) (size) } aria-hidden="true" { (name.initial()) },
            }
        }
    }
}

/// A message in a box.
pub(super) fn panel(tone: Tone, icon: Icon, inner: &Markup) -> Markup {
    html! {
        div class={ "panel " (tone.class()) } { (icon.draw()) div { (inner) } }
    }
}
