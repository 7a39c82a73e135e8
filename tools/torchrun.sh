#!/usr/bin/env bash
# torchrun.sh PROCESSES SCRIPT [arguments]: run a script with `--launcher pytorch` on this machine or on several.
set -euo pipefail
processes=$1
shift
if [ "${NNODES:-1}" = 1 ]; then
    where=(--standalone)
else
    where=(--nnodes "$NNODES" --node_rank "${NODE_RANK:-0}"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${where[@]}" --nproc_per_node "$processes" "$@" --launcher pytorch
