#!/usr/bin/env bash
# FSDP2 on this node's GPUs, for full fine-tuning of what does not fit on one:
#   launch/fsdp.sh --recipe gemma2-9b --set model.method=full --data train.csv --out runs/g
# Settings as in launch/torchrun.sh.
set -euo pipefail
exec "$(dirname "$0")/torchrun.sh" --engine fsdp "$@"
