#!/usr/bin/env bash
# The flight's code under shuttle: schedules.sh COUNT tries each scenario under 2 x COUNT schedules
# (or more). A failure prints the seed, and how to replay it.
set -euo pipefail
cd "$(dirname "$0")/.."
SCHEDULES=$1 cargo test --quiet -p tokenward --lib --features shuttle schedules -- --nocapture --test-threads 2
