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
#   --pretrained FILE   what a run begins from that has no checkpoint yet
#   --resume PATH       what the first attempt goes on from (default: auto, the latest checkpoint)
#
# The same command, given again, goes on where the run was. Ends with 0 when the run is done, 2 for a
# mistake in the command or the config, 143 or 130 when it was asked to stop (it has saved then), and
# with the launcher's code when no restarts are left.
# examples:
#   bash scripts/train_dist.sh --gpus 0,1,2,3 --restarts 3 -c mlp-mixer_b16_224
#   bash scripts/train_dist.sh --nnodes 2 --master 10.0.0.1:6170 -c mlp-mixer_b16_224   # on both hosts
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python}"
launcher=() command=() pretrained=() resume=auto dry_run=
restarts=0 log_dir=log gpus= processes= nnodes=1 master=
fail() {
    echo "error: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    option="$1" value=
    case "$option" in
    -h | --help)
        sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    --gpus | --processes | --nnodes | --master | --restarts | --log-dir | --pretrained | --resume)
        [ $# -ge 2 ] || fail "$option needs a value; see bash $0 --help"
        value="$2"
        shift
        ;;
    --gpus=* | --processes=* | --nnodes=* | --master=* | --restarts=* | --log-dir=* | --pretrained=* | --resume=*)
        option="${1%%=*}" value="${1#*=}"
        ;;
    --dry-run) dry_run=1 ;;
    *) # of tools/train.py
        command+=("$1")
        shift
        continue
        ;;
    esac
    [ "$option" = --dry-run ] || [ -n "$value" ] || fail "$option is empty; see bash $0 --help"
    case "$option" in
    --gpus) gpus="$value" ;;
    --processes) processes="$value" ;;
    --nnodes) nnodes="$value" ;;
    --master) master="$value" ;;
    --restarts) restarts="$value" ;;
    --log-dir) log_dir="$value" ;;
    --pretrained) pretrained=(--pretrained "$value") ;;
    --resume) resume="$value" ;;
    esac
    shift
done
[ ${#command[@]} -gt 0 ] || fail "which config? See bash $0 --help"
[[ "$restarts" =~ ^[0-9]+$ ]] || fail "--restarts is a whole number, not '$restarts'"
[[ "$nnodes" =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || fail "--nnodes is a number from 1 on, not '$nnodes'"
[ "$nnodes" = 1 ] || [ -n "$master" ] || fail "--nnodes $nnodes needs --master HOST:PORT, the same on all hosts"
[ -z "$gpus" ] || [ -z "$processes" ] || fail "--gpus and --processes exclude each other: one or the other computes"
if [ -n "$processes" ]; then
    [[ "$processes" =~ ^[1-9][0-9]*$ ]] || fail "--processes is a number from 1 on, not '$processes'"
    launcher+=(--nproc_per_node "$processes")
    command+=(--device cpu)
fi
if [ -n "$gpus" ]; then
    [[ "$gpus" =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "--gpus is a list such as 0,1,2,3, not '$gpus'"
    # What the launcher will look them up in; it fails with a traceback.
    here="$("$python" -c 'from paddle.distributed.launch.context.device import Device as D
print("", *D.parse_device().labels, "")' 2>/dev/null)" || here=unknown
    for gpu in ${gpus//,/ }; do
        case "$here" in unknown | *" $gpu "*) continue ;; esac
        [ -n "${here// /}" ] || fail "--gpus $gpus: there is no GPU here that PaddlePaddle can use; on processors: --processes N"
        fail "--gpus $gpus: there is no GPU $gpu here, only${here% }"
    done
    launcher+=(--gpus "$gpus")
    command+=(--device gpu)
fi
[ "$nnodes" = 1 ] || launcher+=(--nnodes "$nnodes")
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
if [ -n "$dry_run" ]; then # is made by one process, and goes on from nothing
    begin=(${pretrained[@]+"${pretrained[@]}"} --dry-run)
    [ "$resume" = auto ] || begin+=(--resume "$resume")
    exec "$python" "$root/tools/train.py" "${command[@]}" "${begin[@]}"
fi
written="$log_dir/.written-${HOSTNAME:-}-$$" # the launcher does not say what is wrong there
{ mkdir -p "$log_dir" && : >"$written" && rm "$written"; } 2>/dev/null ||
    fail "--log-dir $log_dir: is no folder that can be written to; name another"

said="$(mktemp -d)"
trap 'rm -rf "$said"' EXIT
stopped=0 child=0
# Both reach the launcher once: it passes them on, and the run saves.
trap 'stopped=143; kill -TERM "$child" 2>/dev/null' TERM
trap 'stopped=130; kill -TERM "$child" 2>/dev/null' INT
for ((attempt = 0; ; attempt++)); do
    # What a run begins from, and goes on from: its latest checkpoint where there is one.
    begin=(${pretrained[@]+"${pretrained[@]}"} --resume "$resume")
    resume=auto
    rm -f "$said/pipe" && mkfifo "$said/pipe"
    (
        trap '' TERM # sent to all of them it would end this first, and the launcher with it
        exec tee "$said/text" <"$said/pipe"
    ) &
    tee=$!
    "$python" -m paddle.distributed.launch ${launcher[@]+"${launcher[@]}"} --log_dir "$log_dir" \
        "$root/tools/train.py" "${command[@]}" "${begin[@]}" >"$said/pipe" 2>&1 &
    child=$!
    wait "$child"
    code=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ends the wait before the child has ended
        wait "$child"
        code=$?
    done
    # All that it said is there, unless a process that is left behind keeps the pipe open.
    for ((i = 0; i < 20; i++)); do
        kill -0 "$tee" 2>/dev/null || break
        sleep 0.1
    done
    [ "$code" = 0 ] && exit 0
    [ "$stopped" = 0 ] || exit "$stopped"
    # The launcher's line reads: Container rank 1 status failed cmd […] code -9 log log/workerlog.1
    line='^Container rank \([0-9]*\) .* code \(-\{0,1\}[0-9]*\) log \(.*\)$'
    failed="$(sed -n "s/$line/process \1 of this host ended with \2 (\3)/p" "$said/text" | head -n 1)"
    # Its own code may be that of a process that it ended because another one had made a mistake.
    case "$failed" in *" ended with 2 "*) code=2 ;; esac
    case "$code" in 2 | 130 | 143) exit "$code" ;; esac
    if [ "$attempt" -ge "$restarts" ]; then
        echo "error: the run failed with $code: ${failed:-no process is named}; a negative number is" \
            "a signal. The last checkpoint is whole: --resume auto, or --restarts N" >&2
        exit "$code"
    fi
    echo "restart $((attempt + 1)) of $restarts: ${failed:-the run failed with $code}; going on from" \
        "the latest checkpoint" >&2
    sleep 3
done
