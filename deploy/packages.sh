#!/usr/bin/env bash
# Packs programs for Debian, Ubuntu and their kin (.deb) and for Fedora, RHEL and theirs (.rpm).
#
#   bash deploy/packages.sh                  # what deploy/release.sh built: target/packages
#   bash deploy/packages.sh target/debug     # the programs of another folder
#
# Then they are looked at as who installs them would: what lies where, whose it is, what the programs say.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
programs=${1:-$target/profiled}
packages="$target/packages"

for tool in cargo-deb cargo-generate-rpm; do
    # Unoptimised: they have seconds to work, and minutes to build.
    command -v "$tool" >/dev/null || cargo install "$tool" --locked --quiet --debug
done
missing=()
command -v dpkg-deb >/dev/null || missing+=(dpkg)
command -v xz >/dev/null || missing+=(xz-utils)
command -v rpm >/dev/null || missing+=(rpm)
[ ${#missing[@]} -eq 0 ] || bash deploy/install.sh "${missing[@]}"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
rm -rf "$packages"
mkdir -p "$packages" "$stage/release"
for crate in relay agent connect; do
    program="culvert-$crate"
    # deploy/release.sh builds no culvert-connect: it is `cargo build --release`'s.
    from="$programs"
    [ -x "$from/$program" ] || from="$target/release"
    if [ ! -x "$from/$program" ]; then
        echo "$0: there is no $program in $programs: it is not packed" >&2
        continue
    fi
    # Both tools look for programs in the folder where cargo would build them.
    install -m 755 "$from/$program" "$stage/release/"
    # The names of functions stay: a defect's backtrace is nothing without them.
    strip --strip-debug "$stage/release/$program"
    CARGO_TARGET_DIR="$stage" cargo deb --quiet --no-build --no-strip --compress-system --package "$program" --output "$packages/"
    cargo generate-rpm --package "$crate" --target-dir "$stage" --auto-req builtin --payload-compress gzip --output "$packages/"

    deb=("$packages/${program}"_*.deb) rpm=("$packages/${program}"-*.rpm)
    dpkg-deb --extract "${deb[0]}" "$stage/deb"
    rpm --dbpath "$stage/rpmdb" --root "$stage/rpm" --nodeps --noscripts -i "${rpm[0]}"
    for file in copyright changelog.Debian.gz; do
        [ -s "$stage/deb/usr/share/doc/$program/$file" ]
    done
    for root in deb rpm; do
        # A version has what it brings in the list of changes.
        version=$("$stage/$root/usr/bin/$program" --version)
        grep -qF "(${version#* }-1)" deploy/packages/changelog
        if [ "$crate" != connect ]; then
            cmp "deploy/systemd/$program.service" "$stage/$root/usr/lib/systemd/system/$program.service"
        fi
    done
done
ls -l "$packages"
