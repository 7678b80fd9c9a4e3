#!/usr/bin/env bash
# No second TLS or crypto library may come in through a dependency. cargo-deny says more
# (deny.toml) and runs if it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
for crate in ring openssl-sys native-tls; do
    if found=$(cargo tree --workspace --edges normal,build --target all -i "$crate" 2>/dev/null) && [ -n "$found" ]; then
        printf '%s is banned, but comes in:\n%s\n' "$crate" "$found" >&2
        exit 1
    fi
done
if command -v cargo-deny >/dev/null; then
    cargo deny --log-level error check bans licenses sources
fi
