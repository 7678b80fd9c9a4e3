//! How a page looks for the customers of one application.

use url::Url;

use super::{
    colour::{Accent, DARK, Ground, LIGHT, Rgb},
    href::Href,
    text::Name,
};

/// A picture within a page has to fit the page's size.
const LARGEST_PICTURE: usize = 6 * 1024;

/// What a session's claims say of the looks, checked.
#[derive(Clone, Debug, Default)]
pub struct Theme {
    /// What the customers call the application.
    pub name: Option<Name>,
    /// Its picture.
    pub logo: Option<Picture>,
    /// Its colour.
    pub colour: Option<Rgb>,
    /// Its page about privacy.
    pub privacy: Option<Href>,
    /// Its terms.
    pub terms: Option<Href>,
}

/// A session's claims about the looks, as they came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looks<'a> {
    /// `vault_name`
    pub vault_name: Option<&'a str>,
    /// `logo`
    pub logo: Option<&'a str>,
    /// `primary_color`
    pub primary_color: Option<&'a str>,
    /// `privacy_url`
    pub privacy_url: Option<&'a str>,
    /// `terms_url`
    pub terms_url: Option<&'a str>,
}

impl Theme {
    /// `origin` is this server's, as browsers see it. What cannot be used is left out.
    pub fn of(looks: &Looks<'_>, origin: Option<&Url>) -> Self {
        let page = |url: &str| Href::web(&Url::parse(url).ok()?);
        Self {
            name: looks.vault_name.and_then(Name::new),
            logo: looks.logo.and_then(|logo| Picture::of(logo, origin)),
            colour: looks.primary_color.and_then(Rgb::parse),
            privacy: looks.privacy_url.and_then(page),
            terms: looks.terms_url.and_then(page),
        }
    }
}

/// A picture that is shown without a request to strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture(String);

impl Picture {
    /// One of our own (a path, or a URL with our `origin`), or one that is in its URL (`data:`) and
    /// small. `None` for anything else: who looks at the page would be told to its host.
    pub fn of(url: &str, origin: Option<&Url>) -> Option<Self> {
        if let Some(own) = Href::own(url) {
            return Some(Self(own.as_str().to_owned()));
        }
        let parsed = Url::parse(url).ok()?;
        match parsed.scheme() {
            "data" if url.len() <= LARGEST_PICTURE => inline_picture(url),
            "http" | "https" if parsed.origin() == origin?.origin() => {
                let path = &parsed[url::Position::BeforePath..];
                Href::own(path).map(|own| Self(own.as_str().to_owned()))
            }
            _ => None,
        }
    }

    pub(super) fn src(&self) -> &str {
        &self.0
    }
}

/// Of the kinds that browsers draw, in base64, so that nothing else can stand in it.
fn inline_picture(url: &str) -> Option<Picture> {
    let (kind, data) = url.strip_prefix("data:image/")?.split_once(";base64,")?;
    let known = ["png", "jpeg", "gif", "webp", "avif", "svg+xml"].contains(&kind);
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
    (known && data.bytes().all(base64)).then(|| Picture(url.to_owned()))
}

/// The stylesheet of a colour, after the page's own.
pub(super) fn stylesheet(colour: Rgb) -> String {
    let scheme = |ground: Ground| {
        let accent = Accent::on(ground, colour);
        format!(
            ":root{{--fill:#{};--on-fill:#{};--rim:#{};--accent:#{}}}",
            accent.fill, accent.on_fill, accent.rim, accent.text
        )
    };
    format!(
        "{}\n@media (prefers-color-scheme:dark){{{}}}\n",
        scheme(LIGHT),
        scheme(DARK)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_picture_makes_a_request_to_strangers() {
        let origin = Url::parse("https://vault.example/").unwrap();
        let of = |url: &str| Picture::of(url, Some(&origin));
        let shown = [
            ("/vault/logo.svg", "/vault/logo.svg"),
            ("https://vault.example/l.png?x=1", "/l.png?x=1"),
            ("https://vault.example:443/l.png", "/l.png"),
            (
                "data:image/png;base64,iVBORw0=",
                "data:image/png;base64,iVBORw0=",
            ),
        ];
        for (url, src) in shown {
            assert_eq!(of(url).unwrap().src(), src);
        }
        let large = format!("data:image/png;base64,{}", "A".repeat(LARGEST_PICTURE));
        let others = [
            "https://cdn.example/l.png",
            "http://vault.example/l.png",
            "https://vault.example:8443/l.png",
            "//cdn.example/l.png",
            "/\\cdn.example/l.png",
            "https://vault.example//cdn.example/l.png",
            "data:text/html;base64,AAAA",
            "data:image/svg+xml,<svg onload=alert(1)>",
            "data:image/png;base64,\" onerror=\"alert(1)",
            "javascript:alert(1)",
            "l.png",
            &large,
        ];
        for url in others {
            assert_eq!(of(url), None, "{url}");
        }
        assert_eq!(Picture::of("https://vault.example/l.png", None), None);
    }
}
