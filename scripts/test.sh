#!/usr/bin/env bash
# Sets up an environment of its own and runs the tests.
#
# usage: bash scripts/test.sh [--full] [--paddle VERSION] [PYTEST ARGUMENTS …]
#   --full              also the slow tests
#   --paddle VERSION    on another PaddlePaddle, in an environment of its own
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
selection=(-m "not full")
paddle=()
venv=.venv
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        sed -n '2,6s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    --full) selection=() ;;
    --paddle)
        [ $# -ge 2 ] || fail "--paddle needs a version, such as 2.6.2"
        paddle=("paddlepaddle==$2")
        venv=".venv-paddle-$2"
        # Paddle 2 has no builds for Python 3.13.
        case "$2" in 2.*) export PASSL_PYTHON_BEFORE=13 ;; esac
        shift
        ;;
    *) break ;;
    esac
    shift
done
make_environment "$venv" cpu,photos,dev ${paddle[@]+"${paddle[@]}"}
exec "$venv/bin/python" -m pytest ${selection[@]+"${selection[@]}"} "$@"
