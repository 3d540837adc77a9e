#!/usr/bin/env bash
# Checks the units: no complaint at all from `systemd-analyze verify` (its exit code is 0 even
# for unknown keys, so its words count), exposure at most 1.5.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v systemd-analyze >/dev/null; then
    bash ../install.sh systemd >/dev/null
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for unit in culvert-relay culvert-agent; do
    # `verify` wants the programs to be installed; the rest of the unit is as it ships.
    sed "s|^ExecStart=/usr/bin/$unit|ExecStart=/bin/true|" "$unit.service" >"$folder/$unit.service"
    words=$(systemd-analyze verify --man=no "$folder/$unit.service" 2>&1) || true
    if [ -n "$words" ]; then
        printf '%s: systemd-analyze verify says:\n%s\n' "$unit" "$words" >&2
        exit 1
    fi
    systemd-analyze security --offline=true --threshold=15 --no-pager "$folder/$unit.service" |
        tail -n 1
done

# The user that the relay's unit names.
user=$(sed -n 's/^User=//p' culvert-relay.service)
grep -q "^u $user " culvert-relay.sysusers
SYSTEMD_LOG_LEVEL=warning systemd-sysusers --dry-run "$PWD/culvert-relay.sysusers" >/dev/null
