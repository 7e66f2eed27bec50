#!/usr/bin/env bash
# DeepSpeed ZeRO by its own launcher, on this node's GPUs or on those of a hostfile (needs pdsh and ssh):
#   launch/deepspeed.sh --recipe gemma2-9b --data train.csv --out runs/g
# Settings: DS (ds_configs/zero2.json), GPUS (all; on a machine without any, 1), HOSTFILE, MASTER_PORT.
set -euo pipefail
cd "$(dirname "$0")/.."
options=()
if [ -n "${GPUS:-}" ]; then options+=(--num_gpus "$GPUS"); fi
if [ -n "${HOSTFILE:-}" ]; then options+=(--hostfile "$HOSTFILE"); fi
# A port of its own: two jobs on one node would meet at DeepSpeed's fixed one.
port=${MASTER_PORT:-$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
exec deepspeed "${options[@]}" --master_port "$port" src/train.py --ds "${DS:-ds_configs/zero2.json}" "$@"
