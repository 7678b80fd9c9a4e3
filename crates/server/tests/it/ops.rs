//! The operators' listener.

use http::Method;
use tokio::io::AsyncReadExt as _;

use crate::harness::{TestVault, dial, said};

#[tokio::test]
async fn operators_are_answered_on_their_own_listener_only() {
    let vault = TestVault::new();
    let server = vault.serve(&[]).await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        let public = server.bare(Method::GET, path).send().await;
        public.error(404, "EntityNotFoundError");
        assert_eq!(server.operator(path).send().await.status, 200, "{path}");
    }
    assert_eq!(
        server.operator("/vault/connections").send().await.status,
        404
    );

    let plain = server.operator("/metrics").send().await;
    assert_eq!(
        plain.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let plain = String::from_utf8(plain.body.to_vec()).unwrap();
    assert!(
        plain.contains("# TYPE tokenward_refreshes_total counter\n"),
        "{plain}"
    );
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1";
    let open = server
        .operator("/metrics")
        .header("accept", accept)
        .send()
        .await;
    assert_eq!(
        open.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(open.body.ends_with(b"# EOF\n"));
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_taken_address_of_operators_names_the_option() {
    let vault = TestVault::new();
    let server = vault.serve(&[]).await;
    let taken = server.ops.strip_prefix("http://").unwrap();
    let second = ["serve", "--listen", "127.0.0.1:0", "--ops-listen", taken];
    let output = vault.run(&second);
    assert!(
        !output.status.success() && said(&output).contains("--ops-listen"),
        "{}",
        said(&output)
    );
}

#[tokio::test]
async fn who_keeps_many_connections_to_the_operators_listener_gets_no_more() {
    let vault = TestVault::new();
    let server = vault.serve(&[]).await;
    let address = server.ops.strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(dial(address).await.unwrap());
    }
    let mut more = dial(address).await.unwrap();
    assert_eq!(more.read(&mut [0; 1]).await.unwrap(), 0);
    // At once: those who came before are still given time.
    let first = silent[0].try_read(&mut [0; 1]);
    assert!(first.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    drop(silent);
    while server.operator("/healthz").try_send().await.is_err() {}
}
