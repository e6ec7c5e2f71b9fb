#!/usr/bin/env bash
# A search over the nodes of a SLURM job:
#
#   sbatch deploy/slurm.sh --space search_spaces/ablation.yaml --data /shared/train_set
#
# What follows the script goes to `tune.search`. Submit it in the root of the project, on a file system
# that all nodes see, with the project installed in .venv (`make setup`). On several nodes also give
# --storage with the URL of a PostgreSQL: a ledger in a file must not lie on a network file system.
#
# When the time limit comes near, or the job is preempted, running epochs have $GRACE to end, the search
# is saved, and the job is queued again; it then continues where it was.
#
#SBATCH --job-name=cell-tune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"

GRACE=${GRACE:-20s} # shorter than KillWait of your slurm.conf (30 s by default), and than the 60 s above
PORT=${PORT:-$((20000 + SLURM_JOB_ID % 20000))}
PYTHON=${PYTHON:-.venv/bin/python}
RAY=$(dirname "$PYTHON")/ray

# Ray's nodes demand this token of each other and of the search.
RAY_AUTH_TOKEN=$(head --bytes=32 /dev/urandom | od --address-radix=n --format=x1 | tr --delete ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0

head_node=$(hostname)
address=$(hostname --ip-address | cut --delimiter=' ' --fields=1):$PORT
gpus=${SLURM_GPUS_ON_NODE:-0}
cpus=${SLURM_CPUS_PER_TASK:-$(nproc)}

# SIGTERM is blocked in Ray's own processes, because the search needs them until it has ended.
start=(env --block-signal=TERM "$RAY" start --block --disable-usage-stats
  --num-cpus "$cpus" --num-gpus "$gpus")
# Ray's head is no step of SLURM: SLURM kills its steps at once when a job is cancelled.
folder=$(mktemp --directory /tmp/ray-XXXXXX) # a short path, for Ray's sockets
trap 'pkill -KILL -f "$folder/" || true; rm -rf "$folder"' EXIT
"${start[@]}" --head --port="$PORT" --node-ip-address="${address%:*}" --temp-dir="$folder" \
  --include-dashboard=false &
steps=($!)
until "$RAY" status --address "$address" >/dev/null 2>&1; do
  kill -0 "${steps[0]}" # ends this script if Ray's head did not start
  sleep 1
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --nodes="$others" --ntasks="$others" --exclude="$head_node" --export=ALL --overlap \
    "${start[@]}" --address="$address" &
  steps+=($!)
  until [ "$("$RAY" status --address "$address" 2>/dev/null | grep --count '^ 1 node_')" -gt "$others" ]; do
    kill -0 "${steps[1]}"
    sleep 1
  done
fi

# No command runs in the foreground, so that the shell handles a signal at once.
asked=""
search=""
trap 'asked=yes; [ -z "$search" ] || kill -TERM "$search" 2>/dev/null || true' TERM INT
"$PYTHON" -m tune.search --address "$address" --grace "$GRACE" "$@" &
search=$!
status=0
wait "$search" || status=$?
while kill -0 "$search" 2>/dev/null; do # a signal ended the wait, not the search
  status=0
  wait "$search" || status=$?
done

disown "${steps[@]}" 2>/dev/null || true # the shell does not report that they ended
kill -KILL "${steps[@]}" 2>/dev/null || true
echo "tune.search ended with status $status"
if [ -n "$asked" ] && [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
