#!/usr/bin/env bash
# Train under Slurm with one process a GPU, on as many machines as it takes.
#
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS="--time=1-0"] \
#       bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
#
# GPUS is the number in total. MASTER_PORT chooses the port (default: 29500), PYTHON the interpreter.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: bash $0 PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3 work_dir=$4
tools=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
((per_node <= gpus)) || per_node=$gpus

# What train.py prints as the command that resumes.
MMKDPRUNE_LAUNCH=""
for name in GPUS GPUS_PER_NODE CPUS_PER_TASK SRUN_ARGS MASTER_PORT PYTHON; do
    [[ -z ${!name:-} ]] || MMKDPRUNE_LAUNCH+="$name=$(printf '%q' "${!name}") "
done
MMKDPRUNE_LAUNCH+=$(printf '%q ' bash "$0" "$partition" "$job" "$config" "$work_dir")
export MMKDPRUNE_LAUNCH

# shellcheck disable=SC2086  # several arguments in one variable
exec srun -p "$partition" --job-name="$job" --gres=gpu:"$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$tools/train.py" "$config" --launcher slurm --work-dir="$work_dir" "${@:5}"
