//! The gallery as files, beside an `index.json` of them and of the headers they are sent with.

use std::{fs, io, path::Path};

use tokenward_server::page::{
    self, HEADERS, Locale,
    view::{Frame, View},
};

use crate::states;

/// Colours whose corrections differ: too light, too dark, between.
const COLOURS: [&str; 3] = ["ffd400", "101820", "e4572e"];

/// Writes all pages; how many there are.
pub(crate) fn write(folder: &Path) -> io::Result<usize> {
    let mut index = Vec::new();
    for (name, view) in states::views() {
        for locale in Locale::ALL {
            let file = format!("{}/{name}.html", locale.tag());
            write_page(folder, &file, &states::frame(locale), &view)?;
            index.push(file);
        }
        for colour in COLOURS {
            let file = format!("{colour}/{name}.html");
            write_page(folder, &file, &states::coloured(Locale::En, colour), &view)?;
            index.push(file);
        }
    }
    let headers: serde_json::Map<_, _> = HEADERS
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.into())))
        .collect();
    let about = serde_json::json!({ "pages": index, "headers": headers });
    write_file(&folder.join("index.json"), &about.to_string())?;
    Ok(index.len())
}

/// A page, and the files that it names.
fn write_page(folder: &Path, file: &str, frame: &Frame, view: &View) -> io::Result<()> {
    let html = page::render(frame, view);
    let named = html.text().split('"');
    for part in named.filter_map(|it| it.strip_prefix("/vault/page/")) {
        if let Some(asset) = page::asset(part) {
            write_file(&folder.join("vault/page").join(part), asset.text())?;
        }
    }
    write_file(&folder.join(file), html.text())
}

fn write_file(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, text)
}
