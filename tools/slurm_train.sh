#!/usr/bin/env bash
# Train on a Slurm cluster, one process per GPU, or one per node where there are none. From the repository's folder:
#   sbatch --nodes 2 --gpus-per-node 8 --cpus-per-task 64 tools/slurm_train.sh CONFIG [arguments of train.py]
# The environment that sbatch is called from is used, so activate it first. A job that is preempted and requeued goes on
# where it was with --resume among the arguments.
#SBATCH --job-name=dense-adapters
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: sbatch [options of sbatch] $0 CONFIG [arguments of train.py]" >&2
    exit 2
fi
# Slurm runs a copy of this file from its own folder.
tools="${SLURM_SUBMIT_DIR:?run this with sbatch}/tools"
config=$1
shift
export NNODES=$SLURM_JOB_NUM_NODES
read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR
export PORT=${PORT:-$((20000 + SLURM_JOB_ID % 20000))}
# shellcheck disable=SC2016  # the node's number is known on the node only
exec srun bash -c 'NODE_RANK=$SLURM_NODEID exec "$@"' node \
    "$tools/dist_train.sh" "$config" "${SLURM_GPUS_ON_NODE:-1}" "$@"
