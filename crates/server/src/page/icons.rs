//! Icons of our own: lines on a grid of 24, drawn once a page and used by name.

use maud::{Markup, PreEscaped, html};

/// An icon. What it says stands beside it in words, so that readers pass it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Icon {
    Check,
    Alert,
    Info,
    Clock,
    Plug,
    Pause,
    Sliders,
    Forward,
    Back,
    Lock,
    Search,
    Refresh,
    Swap,
    Building,
    Cross,
}

impl Icon {
    const ALL: [Self; 15] = [
        Self::Check,
        Self::Alert,
        Self::Info,
        Self::Clock,
        Self::Plug,
        Self::Pause,
        Self::Sliders,
        Self::Forward,
        Self::Back,
        Self::Lock,
        Self::Search,
        Self::Refresh,
        Self::Swap,
        Self::Building,
        Self::Cross,
    ];

    fn id(self) -> &'static str {
        match self {
            Self::Check => "#i-a",
            Self::Alert => "#i-b",
            Self::Info => "#i-c",
            Self::Clock => "#i-d",
            Self::Plug => "#i-e",
            Self::Pause => "#i-f",
            Self::Sliders => "#i-g",
            Self::Forward => "#i-h",
            Self::Back => "#i-i",
            Self::Lock => "#i-j",
            Self::Search => "#i-k",
            Self::Refresh => "#i-l",
            Self::Swap => "#i-m",
            Self::Building => "#i-n",
            Self::Cross => "#i-o",
        }
    }

    fn lines(self) -> &'static str {
        match self {
            Self::Check => "M5 12.5l4.5 4.5L19 7.5",
            Self::Alert => {
                "M12 8.5v4.5m0 3.5v.01M10.4 4.2L3 17.2a1.9 1.9 0 0 0 1.6 2.8h14.8a1.9 1.9 0 0 0 1.6-2.8L13.6 4.2a1.9 1.9 0 0 0-3.2 0z"
            }
            Self::Info => "M12 11v5m0-8.5v.01M21 12a9 9 0 1 1-18 0a9 9 0 0 1 18 0z",
            Self::Clock => "M12 7.5V12l3 2m6-2a9 9 0 1 1-18 0a9 9 0 0 1 18 0z",
            Self::Plug => "M9 3v5m6-5v5M6 8h12v3a6 6 0 0 1-12 0zm6 9v4",
            Self::Pause => "M8.5 6v12m7-12v12",
            Self::Sliders => {
                "M4 7h8m6 0h2M4 17h2m6 0h8M18 7a3 3 0 1 1-6 0a3 3 0 0 1 6 0zM12 17a3 3 0 1 1-6 0a3 3 0 0 1 6 0z"
            }
            Self::Forward => "M9.5 6l6 6l-6 6",
            Self::Back => "M19 12H5m6-6l-6 6l6 6",
            Self::Lock => "M6 11h12v9H6zm2.5 0V7.5a3.5 3.5 0 0 1 7 0V11",
            Self::Search => "M20 20l-4.2-4.2M18 11a7 7 0 1 1-14 0a7 7 0 0 1 14 0z",
            Self::Refresh => {
                "M20 5v5h-5M4 19v-5h5M5.6 9.5A7 7 0 0 1 18 8l2 2M4 14l2 2a7 7 0 0 0 12.4-1.5"
            }
            Self::Swap => "M4 8h15l-4-4m5 12H5l4 4",
            Self::Building => "M5 20V5h9v15m0-10h5v10M3 20h18M8.5 9h2m-2 3.5h2m-2 3.5h2",
            Self::Cross => "M6.5 6.5l11 11m0-11l-11 11",
        }
    }

    /// Whether it points somewhere, so that it turns with the direction of writing.
    fn turns(self) -> bool {
        matches!(self, Self::Forward | Self::Back)
    }

    pub(super) fn draw(self) -> Markup {
        let class = if self.turns() { "i flip" } else { "i" };
        html! { svg class=(class) aria-hidden="true" { use href=(self.id()) {} } }
    }
}

/// The drawings, for those of them that a page uses.
pub(super) fn sprite(body: &Markup) -> Markup {
    let used = |icon: &Icon| body.0.contains(&format!("href=\"{}\"", icon.id()));
    html! {
        svg.sprite aria-hidden="true" width="0" height="0" {
            @for icon in Icon::ALL.into_iter().filter(used) {
                symbol id=(&icon.id()[1..]) viewBox="0 0 24 24" { path d=(PreEscaped(icon.lines())) {} }
            }
        }
    }
}
