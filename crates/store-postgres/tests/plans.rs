//! The plans of the hot statements, and that their cost does not grow with the vault.

mod scene;

use scene::{cluster, open};
use tokenward_store_postgres::hot_statements;

/// Enough rows that a plan which reads them all would be another one.
const FILL: &str = "
    INSERT INTO tokenward.grants (id, application, connector, version, authorized_version, sealed,
        expires_at, keep_alive_at, keep_alive_day, fingerprint, epoch, committed_epoch, revision)
    SELECT 'g' || n, 'acme', 'books', 1, 1, 'x', n, (today + n % 60) * 86400000, today + n % 60,
        decode(lpad(to_hex(n), 64, '0'), 'hex'), 0, 0, 1 FROM generate_series(1, 50000) AS n,
        (SELECT floor(extract(epoch from now()) / 86400)::bigint AS today) AS clock;
    INSERT INTO tokenward.connections
    SELECT 'acme', 'c' || n, 'accounting', 'books', 'g' || n, true, '{}', '{}', 0, 0
    FROM generate_series(1, 50000) AS n;
    INSERT INTO tokenward.api_keys (application, id, digest, hint, created_at)
    SELECT 'acme', 'k' || n, decode(lpad(to_hex(n), 64, '0'), 'hex'), '', 0
    FROM generate_series(1, 5000) AS n;
    INSERT INTO tokenward.replaced_tokens (grant_id, slot, fingerprint, at)
    SELECT 'g' || n, 0, decode(lpad(to_hex(n + 100000), 64, '0'), 'hex'), 0
    FROM generate_series(1, 50000) AS n;
    INSERT INTO tokenward.attempts
    SELECT 'a' || n, 'acme', 'c' || n, 'accounting', 'books', n, '{}', 'x', 1
    FROM generate_series(1, 50000) AS n;
    INSERT INTO tokenward.changes (kind, a, b) SELECT 'grant', 'g' || n, '1' FROM generate_series(1, 50000) AS n;
    ANALYZE";

/// What a plan does, without figures and conditions.
fn outline(plan: &str) -> Vec<String> {
    let node = |line: &str| {
        let text = line.trim_start().trim_start_matches("-> ").trim();
        let text = text.split("  (").next().unwrap_or_default();
        let access = ["Scan", "Modify", "Update", "Insert"];
        access
            .iter()
            .any(|word| text.contains(word))
            .then(|| text.to_owned())
    };
    plan.lines()
        .filter(|line| !line.contains("Cond:"))
        .filter_map(node)
        .collect()
}

#[tokio::test]
async fn hot_statements_look_up_by_index() {
    let cluster = cluster(&[]);
    drop(open(&cluster.url()).await);
    cluster.sql("vault", FILL).unwrap();
    let mut plans = String::new();
    for (name, sql, types) in hot_statements() {
        // As the server plans a statement whose parameters it does not know.
        let nulls = vec!["NULL"; types.split(',').count()].join(", ");
        let explain = format!(
            "SET plan_cache_mode = force_generic_plan;
             PREPARE hot ({types}) AS {sql};
             EXPLAIN (COSTS OFF) EXECUTE hot ({nulls})"
        );
        let plan = cluster.sql("vault", &explain).unwrap();
        assert!(!plan.contains("Seq Scan"), "{name}: {plan}");
        plans.push_str(&format!("{name}\n"));
        for line in outline(&plan) {
            plans.push_str(&format!("    {line}\n"));
        }
    }
    let expected = include_str!("plans.txt");
    assert_eq!(
        plans, expected,
        "the plans have changed; now they are:\n{plans}"
    );
}
