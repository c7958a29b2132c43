#!/usr/bin/env bash
# Test with several processes: one for each GPU, or on a machine without GPU as many CPU processes as asked for.
#
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
#
# Several machines: see tools/dist_train.sh.
set -euo pipefail

if [[ $# -lt 3 || ! $3 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: bash $0 CONFIG CHECKPOINT GPUS [arguments of test.py]" >&2
    exit 2
fi
config=$1 checkpoint=$2 gpus=$3
tools=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}

exec "$python" "$tools/launch.py" "$gpus" "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
