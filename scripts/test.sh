#!/usr/bin/env bash
# Sets up an environment of its own and runs the tests.
#
# usage: bash scripts/test.sh [--full | --soak] [--paddle VERSION] [--reference PYTHON] [PYTEST ARGUMENTS …]
#   --full              also the slow tests
#   --soak              only the tests that repeat something for minutes, such as twenty crashes
#   --paddle VERSION    on another PaddlePaddle, in an environment of its own
#   --reference PYTHON  only the comparisons with timm as it runs; PYTHON is another interpreter, which
#                       has what the extra `reference` in setup.py names, and no PaddlePaddle; with
#                       PASSL_AUTHORS_CODE=FOLDER also those with authors' code (tests/reference/authors.py)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
selection=(-m "not full and not soak")
paddle=()
venv=.venv
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        sed -n '2,10s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    --full) selection=(-m "not soak") ;;
    --soak) selection=(-m soak) ;;
    --paddle)
        [ $# -ge 2 ] || fail "--paddle needs a version, such as 2.6.2"
        paddle=("paddlepaddle==$2")
        venv=".venv-paddle-$2"
        # Paddle 2 has no builds for Python 3.13, and other tools around it.
        case "$2" in 2.*)
            export PASSL_PYTHON_BEFORE=13
            paddle+=("paddle2onnx<2")
            ;;
        esac
        shift
        ;;
    --reference)
        [ $# -ge 2 ] || fail "--reference needs an interpreter, such as .venv-reference/bin/python"
        command -v "$2" >/dev/null || fail "--reference: $2 is not a program"
        export PASSL_REFERENCE_PYTHON="$2"
        selection=(-m reference)
        shift
        ;;
    *) break ;;
    esac
    shift
done
make_environment "$venv" cpu,photos,onnx,dev ${paddle[@]+"${paddle[@]}"}
# Photographs for the tests of the pixels; the rest of the package is not needed. No cost if there.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps foolbox==3.3.4 ||
    fail "pip could not install the test photographs; its message is above; check the network"
if [ -n "${PASSL_REFERENCE_PYTHON:-}" ]; then
    PYTHON="$venv/bin/python" bash scripts/fetch_groceries.sh
fi
# A worker of pytest-xdist for each core, each with one thread: the networks of the tests are too small
# to gain by more. The tests of a file stay together and in order, and the long files come first; -n 0
# does without workers.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$venv/bin/python" -m pytest -n auto --dist loadfile --no-loadscope-reorder \
    ${selection[@]+"${selection[@]}"} "$@"
