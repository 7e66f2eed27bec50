#!/usr/bin/env bash
# DDP, or with --ds FILE DeepSpeed, on this node's GPUs by torchrun:
#   launch/torchrun.sh --recipe gemma2-9b --data train.csv --out runs/g
# Several nodes: the same command on each, with NNODES, NODE_RANK and MASTER_ADDR set (Slurm: slurm/*.sbatch).
# Settings: GPUS (ranks on this node; all GPUs, or 1), NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT, SCRIPT.
set -euo pipefail
cd "$(dirname "$0")/.."
found=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
nodes=${NNODES:-1}
if [ "$nodes" -eq 1 ]; then
  meet=(--rdzv-backend c10d --rdzv-endpoint localhost:0) # a free port
else
  meet=(--node-rank "${NODE_RANK:?set NODE_RANK: 0 on the first node}"
    --master-addr "${MASTER_ADDR:?set MASTER_ADDR: the first node}" --master-port "${MASTER_PORT:-29400}")
fi
# Signals go on to the ranks, and torchrun waits for their checkpoint; it ends with 1 where they end with 75.
exec torchrun --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2 --shutdown-timeout 300 \
  --nnodes "$nodes" --nproc-per-node "${GPUS:-$((found > 0 ? found : 1))}" "${meet[@]}" \
  "${SCRIPT:-src/train.py}" "$@"
