#!/usr/bin/env bash
# Train in several processes, one per GPU, or on the CPU where there is none:
#   tools/dist_train.sh CONFIG PROCESSES [arguments of train.py]
# On several machines set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [arguments of train.py]" >&2
    exit 2
fi
exec "$(dirname "$0")/torchrun.sh" "$2" "$(dirname "$0")/train.py" "$1" "${@:3}"
