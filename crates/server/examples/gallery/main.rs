//! Writes every state of the customers' page in every language to files, for people to look at and
//! for `e2e/page` to judge: `cargo run -p tokenward-server --example gallery -- FOLDER`.

mod files;
mod states;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1);
    let folder = folder.as_deref().unwrap_or("target/gallery");
    let many = files::write(Path::new(folder))?;
    println!("{many} pages in {folder}");
    Ok(())
}
