//! The list of integrations.

use maud::{Markup, html};
use url::form_urlencoded;

use super::{
    href::Href,
    icons::Icon,
    layout::{Body, Ui},
    text::{Name, Plain},
    view::{Item, List, Status},
};

/// How many a page has: with the longest names it stays within its size.
const A_PAGE: usize = 15;
/// Up to here nobody needs to search.
const FEW: usize = 8;

/// Where an integration stands in the list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Attention,
    Mine,
    Available,
}

impl Group {
    fn of(status: Status) -> Self {
        match status {
            Status::Available => Self::Available,
            status if status.wants_a_person() => Self::Attention,
            _ => Self::Mine,
        }
    }
}

impl List {
    /// Those that are searched for, in their order.
    fn found(&self) -> Vec<&Item> {
        let query = clipped(&self.query).to_lowercase();
        let matches = |item: &&Item| {
            item.integration
                .name
                .as_str()
                .to_lowercase()
                .contains(&query)
                || item.at.service_id.to_lowercase().contains(&query)
        };
        let mut found: Vec<_> = self.items.iter().filter(matches).collect();
        found.sort_by_cached_key(|item| {
            let name = item.integration.name.as_str().to_lowercase();
            (Group::of(item.status), name, item.at.unified_api.clone())
        });
        found
    }
}

pub(super) fn page(ui: &Ui<'_>, list: &List) -> Body {
    let t = ui.t;
    let found = list.found();
    let pages = found.len().div_ceil(A_PAGE).max(1);
    let page = list.page.clamp(1, pages);
    let shown = found.iter().skip((page - 1) * A_PAGE).take(A_PAGE);
    let groups = [
        (Group::Attention, t.group_attention()),
        (Group::Mine, t.group_connected()),
        (Group::Available, t.group_available()),
    ];
    let main = html! {
        div.intro {
            h1 { (t.list_title()) }
            p.lead { (t.list_text(ui.application())) }
        }
        @if list.items.len() > FEW { (search(ui, list)) }
        @if list.items.is_empty() {
            div.card.empty { (Icon::Plug.draw()) h2 { (t.list_empty_title()) } p { (t.list_empty(ui.application())) } }
        } @else if found.is_empty() {
            div.card.empty {
                (Icon::Search.draw())
                h2 { (t.search_nothing()) }
                p { a href=(ui.frame.paths.list()) { (t.search_all()) } }
            }
        }
        @for (group, heading) in groups {
            @let rows: Vec<_> = shown.clone().filter(|item| Group::of(item.status) == group).collect();
            @if !rows.is_empty() {
                section {
                    h2.group { (heading) }
                    ul.card.rows { @for item in rows { (row(ui, item)) } }
                }
            }
        }
        @if pages > 1 { (pager(ui, list, page, pages)) }
    };
    Body::new(Plain(t.list_title()), main)
}

fn row(ui: &Ui<'_>, item: &Item) -> Markup {
    let about = || Name::new(item.integration.about.as_ref()?.as_str());
    let below = item.account.clone().or_else(about);
    html! {
        li {
            a.row href=(ui.frame.paths.connection(&item.at)) {
                (item.integration.tile(false))
                span.who {
                    strong { (item.integration.name) }
                    @if let Some(below) = below { " " span.sub { (below) } }
                }
                @if item.status != Status::Available { " " (ui.badge(item.status)) }
                (Icon::Forward.draw())
            }
        }
    }
}

fn search(ui: &Ui<'_>, list: &List) -> Markup {
    let t = ui.t;
    html! {
        search {
            form.search method="get" action=(ui.frame.paths.list()) {
                label.hidden for="q" { (t.search_label()) }
                input #q type="search" name="q" value=(clipped(&list.query)) maxlength="64" autocomplete="off" placeholder=(t.search_label());
                button.b.second { (Icon::Search.draw()) span { (t.search_button()) } }
            }
            @if !list.query.trim().is_empty() {
                p.sub { (t.found(list.found().len())) " " a href=(ui.frame.paths.list()) { (t.search_all()) } }
            }
        }
    }
}

/// What was searched for, as names are shown; else a pasted name would not be found.
pub(super) fn clipped(query: &str) -> String {
    Name::new(query).map_or_else(String::new, |query| query.as_str().to_owned())
}

fn pager(ui: &Ui<'_>, list: &List, page: usize, pages: usize) -> Markup {
    let t = ui.t;
    let to = |page: usize| {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("q", &clipped(&list.query))
            .append_pair("page", &page.to_string())
            .finish();
        Href::made(format!("{}?{query}", ui.frame.paths.list().as_str()))
    };
    html! {
        nav.pager aria-label=(t.pages()) {
            @if page > 1 { a.b.second rel="prev" href=(to(page - 1)) { (t.page_previous()) } }
            span.sub { (t.page_of(page, pages)) }
            @if page < pages { a.b.second rel="next" href=(to(page + 1)) { (t.page_next()) } }
        }
    }
}
