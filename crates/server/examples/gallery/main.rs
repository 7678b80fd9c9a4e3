//! Writes every state of the customers' page in every language to files, for people to look at and
//! for `e2e/page` to judge: `cargo run -p tokenward-server --example gallery -- FOLDER`.

mod states;

use std::{fs, path::Path};

use tokenward_server::page::{
    self, HEADERS, Locale, Rgb,
    view::{Frame, View},
};

/// Colours whose corrections differ: too light, too dark, neither.
const COLOURS: [&str; 3] = ["ffd400", "101820", "e4572e"];

fn main() -> std::io::Result<()> {
    let folder = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "target/gallery".to_owned());
    let folder = Path::new(&folder);
    let mut index = Vec::new();
    let mut put = |file: String, frame: &Frame, view: &View| {
        let html = page::render(frame, view);
        // What the page names is written beside it.
        for part in html
            .text()
            .split('"')
            .filter_map(|it| it.strip_prefix("/vault/page/"))
        {
            if let Some(asset) = page::asset(part) {
                write(&folder.join("vault/page").join(part), asset.text())?;
            }
        }
        write(&folder.join(&file), html.text())?;
        index.push(file);
        Ok::<_, std::io::Error>(())
    };
    for (name, view) in states::views() {
        for locale in Locale::ALL {
            let file = format!("{}/{name}.html", locale.tag());
            put(file, &states::frame(locale), &view)?;
        }
        for colour in COLOURS.into_iter().filter(|it| Rgb::parse(it).is_some()) {
            let file = format!("{colour}/{name}.html");
            put(file, &states::coloured(Locale::En, colour), &view)?;
        }
    }
    let headers: serde_json::Map<_, _> = HEADERS
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.into())))
        .collect();
    let about = serde_json::json!({ "pages": index, "headers": headers });
    write(&folder.join("index.json"), &about.to_string())?;
    println!("{} pages in {}", index.len(), folder.display());
    Ok(())
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, text)
}
