#!/usr/bin/env bash
# Train with several processes: one for each GPU, or on a machine without GPU as many CPU processes as asked for.
#
#   bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#
# Several machines: run it on each with NNODES (number of machines), NODE_RANK (0, 1, …), MASTER_ADDR (address of
# machine 0) and PORT (the same everywhere) in the environment. PYTHON chooses the interpreter.
set -euo pipefail

if [[ $# -lt 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: bash $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
config=$1 gpus=$2
tools=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}

# What train.py prints as the command that resumes.
MMKDPRUNE_LAUNCH=""
for name in NNODES NODE_RANK MASTER_ADDR PORT PYTHON; do
    [[ -z ${!name:-} ]] || MMKDPRUNE_LAUNCH+="$name=$(printf '%q' "${!name}") "
done
MMKDPRUNE_LAUNCH+=$(printf '%q ' bash "$0" "$config" "$gpus")
export MMKDPRUNE_LAUNCH

exec "$python" "$tools/launch.py" "$gpus" "$tools/train.py" "$config" --launcher pytorch "${@:3}"
