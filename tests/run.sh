#!/usr/bin/env bash
# Passes all tests on a Debian or Ubuntu machine with Rust: installs what the tests talk to, if
# it is missing, builds the programs, runs every test of the workspace. Arguments go to
# `cargo test`, like `tests/run.sh -- two_hundred`.
set -euo pipefail
cd "$(dirname "$0")/.."

# What each of these programs is called as a package. nginx may lie where only root's PATH looks.
export PATH="$PATH:/usr/sbin:/sbin"
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v curl >/dev/null || missing+=(curl)
command -v nginx >/dev/null || missing+=(nginx)
command -v squid >/dev/null || missing+=(squid)
command -v chromium >/dev/null || missing+=(chromium)
command -v certutil >/dev/null || missing+=(libnss3-tools)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v prometheus >/dev/null || missing+=(prometheus)
command -v faketime >/dev/null || missing+=(faketime)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
python3 -c "import ensurepip, venv" 2>/dev/null || missing+=(python3 python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    bash deploy/install.sh ca-certificates "${missing[@]}"
fi

# Again only if the lock file has changed since. No package needs to run anything to be installed.
for node in tests/oidc tests/peers; do
    if ! cmp -s "$node/package-lock.json" "$node/node_modules/.installed"; then
        (cd "$node" && npm ci --ignore-scripts)
        cp "$node/package-lock.json" "$node/node_modules/.installed"
    fi
done

if ! cmp -s tests/python/requirements.txt tests/python/.venv/.installed; then
    python3 -m venv tests/python/.venv
    tests/python/.venv/bin/pip install --quiet --requirement tests/python/requirements.txt
    cp tests/python/requirements.txt tests/python/.venv/.installed
fi

# One build for all: the programs have the dependencies' features of the tests (tokio's test clock).
cargo build --workspace --bins --tests --examples --locked
cargo test --workspace --locked "$@"
