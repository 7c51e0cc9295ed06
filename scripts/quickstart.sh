#!/usr/bin/env bash
# The main job on a fresh machine: sets up, fetches real photographs, trains a small MLP-Mixer on
# them for a few minutes and evaluates it on photographs it has not seen. Run again, it goes on
# from where it was.
#
# usage: bash scripts/quickstart.sh [SEED]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
case "${1:-0}" in
-h | --help)
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*[!0-9]*) fail "SEED is a whole number, not '$1'" ;;
esac
seed="${1:-0}"
output="output/quickstart-seed$seed"

make_environment .venv cpu,photos
PYTHON=.venv/bin/python bash scripts/fetch_groceries.sh data/groceries
.venv/bin/python tools/train.py -c configs/mlp_mixer/mlp-mixer_groceries.yaml \
    --seed "$seed" --output-dir "$output" --resume auto
echo
echo "The best checkpoint, chosen on the validation photographs, on the test photographs:"
.venv/bin/python tools/eval.py -c configs/mlp_mixer/mlp-mixer_groceries.yaml \
    --weights "$output/checkpoints/best.safetensors" --split test --json "$output/test.json"
cat <<TEXT

Where to look next (first, in every new shell:  . .venv/bin/activate):
  $output/metrics.jsonl, train.log    the run's numbers
  visualdl --logdir $output/visualdl    its curves, in a browser
  configs/mlp_mixer/    the configs; mlp-mixer_b16_224.yaml is the paper's on ImageNet
  README.md    your own images: class folders and one -o option are all it takes
TEXT
