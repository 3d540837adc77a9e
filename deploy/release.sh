#!/usr/bin/env bash
# Builds relay and agent for production: optimised by a profile of what they do under load. A call takes a
# fifth to a third less processor time than from `cargo build --release` (docs/adr/0009, docs/performance.md).
#
#   bash deploy/release.sh          # target/profiled/culvert-relay and culvert-agent
#
# Builds the programs with counters in them, lets culvert-bench make calls and transfers through them
# on loopback, and builds them again with what was counted: twenty minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=(culvert-relay culvert-agent)
host=$(rustc -vV | sed -n 's/^host: //p')

# llvm-profdata as rustup brings it, or the newest of the system's from 19 on: older ones cannot read what
# today's rustc counts. What a newer LLVM is told by an older one, it understands.
find_profdata() {
    local own version
    own="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"
    if [ -x "$own" ]; then
        echo "$own"
        return
    fi
    for version in $(seq 40 -1 19); do
        if command -v "llvm-profdata-$version"; then return; fi
    done
    return 1
}

if ! profdata=$(find_profdata); then
    if ! command -v apt-get >/dev/null; then
        echo "$0: there is no llvm-profdata: rustup component add llvm-tools, or LLVM 19 or newer" >&2
        exit 1
    fi
    bash deploy/install.sh llvm-19
    profdata=$(find_profdata)
fi

target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
work="$target/profiled"
counts="$work/counts"
rm -rf "$counts"
mkdir -p "$counts"

# The same packages and settings for both builds, to the last one: the names of functions depend on them, and
# a function of another name has no counts. With --target, so that build scripts and macros do not count.
# With LTO over everything, which takes no longer here and saves some more (docs/performance.md).
build() {
    CARGO_PROFILE_RELEASE_LTO=fat RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --release --locked --target "$host" \
        --target-dir "$work/$2" "${programs[@]/#/--package=}"
}

echo "== Programs that count"
build "-Cprofile-generate=$counts" counting
cargo build --release --locked --package=culvert-bench

echo "== Calls and transfers through them"
# The ways that production is busy with. What is never run here is made small instead of fast.
LLVM_PROFILE_FILE="$counts/%m-%p.profraw" "$target/release/culvert-bench" \
    --programs "$work/counting/$host/release" local \
    --scenario calls-h1,calls-h2,connections,download,upload,websocket,polls,storm \
    --connections 1,16,64 --sessions 200 --rounds 1 --seconds 2 --connect \
    --relays "$(if command -v redis-server >/dev/null; then echo 2; else echo 1; fi)"
"$profdata" merge -o "$work/culvert.profdata" "$counts"/*.profraw
rm -rf "$counts"

echo "== Programs that know"
build "-Cprofile-use=$work/culvert.profdata" knowing

# Nothing says so if functions have other names than they were counted under, and the profile is of no use.
names() { nm "$work/$1/$host/release/$program" | awk '{ print $3 }' | grep culvert_proto | sort -u; }
for program in "${programs[@]}"; do
    if [ -z "$(comm -12 <(names counting) <(names knowing))" ]; then
        echo "$0: $program has no function in common with the one that counted: the profile was not used" >&2
        exit 1
    fi
    cp "$work/knowing/$host/release/$program" "$work/"
    echo "$work/$program"
done
