#!/usr/bin/env bash
# Counts instructions with valgrind and compares them with instructions.toml (`check`, the
# default), or writes that file (`record`).
#
# Built on top of what the tests have built, with our own crates optimised in full and without
# debug assertions: the dependencies need not be compiled once more, and it takes seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v valgrind >/dev/null; then
    bash deploy/install.sh valgrind
fi

# Incremental compilation divides a crate in another way, which alone makes a count 7 % larger.
export CARGO_INCREMENTAL=0

full=()
for crate in culvert-proto culvert-session culvert-bench; do
    for setting in opt-level=3 codegen-units=1 debug-assertions=false overflow-checks=false; do
        full+=(--config "profile.dev.package.$crate.$setting")
    done
done
# Of the whole workspace, since with `-p` the dependencies would have other features, and be built once more.
cargo build --locked --quiet "${full[@]}" --workspace --example instructions
"${CARGO_TARGET_DIR:-target}/debug/examples/instructions" "${1:-check}"
