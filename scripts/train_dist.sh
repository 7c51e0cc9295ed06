#!/usr/bin/env bash
# Trains on several GPUs or processors, on one host or several, and starts again after a crash.
#
# usage: bash scripts/train_dist.sh [OPTIONS] -c CONFIG [OPTIONS OF tools/train.py …]
#   --gpus 0,1,2,3      the GPUs of this host (default: all of them)
#   --processes N       N processes on the processor instead
#   --nnodes N          hosts; run this on each of them
#   --master HOST:PORT  one of the hosts and a free port of it, the same on all; the address and the
#                       interface that lead there are this host's (POD_IP, GLOO_SOCKET_IFNAME)
#   --restarts N        times to start again, from the latest checkpoint (default: 0)
#   --log-dir DIR       what each process prints (default: log)
#
# Ends with 0 when the run is done, 2 for a mistake in the command or the config, 143 or 130 when it
# was asked to stop (it has saved then), and with the launcher's code when no restarts are left.
# examples:
#   bash scripts/train_dist.sh --gpus 0,1,2,3 --restarts 3 -c mlp-mixer_b16_224
#   bash scripts/train_dist.sh --nnodes 2 --master 10.0.0.1:6170 -c mlp-mixer_b16_224   # on both hosts
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python}"
launcher=() command=() begin=(--resume auto) restarts=0 log_dir=log master=
fail() {
    echo "error: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    --gpus | --processes | --nnodes | --master | --restarts | --log-dir)
        [ $# -ge 2 ] || fail "$1 needs a value; see bash $0 --help"
        case "$1" in
        --gpus) launcher+=(--gpus "$2") ;;
        --processes)
            case "$2" in "" | *[!0-9]* | 0) fail "--processes is a number from 1 on, not '$2'" ;; esac
            launcher+=(--nproc_per_node "$2") && command+=(--device cpu)
            ;;
        --nnodes) launcher+=(--nnodes "$2") ;;
        --master) master="$2" ;;
        --restarts) restarts="$2" ;;
        --log-dir)
            log_dir="$2"
            [ ! -e "$2" ] || [ -d "$2" ] || fail "--log-dir $2: is a file, and a folder is needed"
            ;;
        esac
        shift
        ;;
    --pretrained | --resume) # where the first attempt begins; a restart goes on from what was saved
        [ $# -ge 2 ] || fail "$1 needs a value; see bash $0 --help"
        begin=("$1" "$2")
        shift
        ;;
    *) command+=("$1") ;;
    esac
    shift
done
[[ "$restarts" =~ ^[0-9]+$ ]] || fail "--restarts is a whole number, not '$restarts'"
case "$master" in
'' | *://*) [ -z "$master" ] || launcher+=(--master "$master") ;;
*)
    # Paddle's launcher and gloo go by what the host's name resolves to, which may be 127.0.1.1 or
    # nothing, and the launcher compares addresses, not names.
    found="$("$python" "$root/scripts/this_host.py" "$master")" || fail "--master: $found"
    read -r address host interface <<<"$found"
    launcher+=(--master "$address" --host "${POD_IP:-$host}")
    [ -z "$interface" ] || export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$interface}"
    ;;
esac
[ ${#command[@]} -gt 0 ] || fail "which config? See bash $0 --help"

said="$(mktemp)"
trap 'rm -f "$said"' EXIT
stopped=0 child=0
# Both reach the launcher once: it passes them on, and the run saves.
trap 'stopped=143; kill -TERM "$child" 2>/dev/null' TERM
trap 'stopped=130; kill -TERM "$child" 2>/dev/null' INT
for ((attempt = 0; ; attempt++)); do
    [ "$attempt" = 0 ] || begin=(--resume auto)
    "$python" -m paddle.distributed.launch ${launcher[@]+"${launcher[@]}"} --log_dir "$log_dir" \
        "$root/tools/train.py" "${command[@]}" "${begin[@]}" > >(tee "$said") 2>&1 &
    child=$!
    wait "$child"
    code=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ends the wait before the child has ended
        wait "$child"
        code=$?
    done
    [ "$code" = 0 ] && exit 0
    [ "$stopped" = 0 ] || exit "$stopped"
    case "$code" in 2 | 130 | 143) exit "$code" ;; esac
    # The launcher's line reads: Container rank 1 status failed cmd […] code -9 log log/workerlog.1
    failed="$(sed -n 's/^Container rank \([0-9]*\) .* code \(-\{0,1\}[0-9]*\) log \(.*\)$/process \1 of this host ended with \2 (\3)/p' "$said" | head -n 1)"
    if [ "$attempt" -ge "$restarts" ]; then
        echo "error: the run failed with $code: ${failed:-no process is named}; a negative number is" \
            "a signal. The last checkpoint is whole: --resume auto, or --restarts N" >&2
        exit "$code"
    fi
    echo "restart $((attempt + 1)) of $restarts: ${failed:-the run failed with $code}; going on from" \
        "the latest checkpoint" >&2
    sleep 3
done
