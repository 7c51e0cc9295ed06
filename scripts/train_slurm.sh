#!/usr/bin/env bash
#SBATCH --job-name=passl
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#
# A job for Slurm: one task a node, each of which starts a process for every GPU of its node. Two
# minutes before its time is over, and when it is pre-empted, the run saves, and the job is queued
# again; it goes on from there. After a crash it is queued again three times.
#
# usage: sbatch [OPTIONS OF sbatch] scripts/train_slurm.sh -c CONFIG [OPTIONS OF tools/train.py …]
# example, from the top of the checkout, which all nodes must see as well as data and output folder:
#   sbatch --nodes=2 scripts/train_slurm.sh -c mlp-mixer_b16_224
set -uo pipefail
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "error: this is a job for Slurm: sbatch scripts/train_slurm.sh -c CONFIG" >&2
    exit 2
fi
root="${SLURM_SUBMIT_DIR:-.}" # Slurm runs a copy of this file from somewhere else
if [ ! -f "$root/scripts/train_dist.sh" ]; then
    echo "error: $root: is not the top of the checkout; submit the job from there" >&2
    exit 2
fi
# This runs on the first node. Its address, because its name may mean 127.0.1.1 to itself.
master="$(hostname -I | cut -d ' ' -f 1)"
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs on one node do not meet
srun --kill-on-bad-exit=1 bash "$root/scripts/train_dist.sh" \
    --nnodes "$SLURM_JOB_NUM_NODES" --master "$master:$port" --log-dir "log/$SLURM_JOB_ID" "$@"
code=$?
case "$code" in
0 | 2 | 130) exit "$code" ;; # done, a mistake in the command, or Ctrl-C
esac
if [ "$code" != 143 ] && [ "${SLURM_RESTART_COUNT:-0}" -ge 3 ]; then
    echo "error: the job failed with $code after three restarts; see log/$SLURM_JOB_ID" >&2
    exit "$code"
fi
echo "the job ended with $code; queued again, it goes on from the latest checkpoint" >&2
scontrol requeue "$SLURM_JOB_ID"
