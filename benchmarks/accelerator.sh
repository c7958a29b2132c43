#!/usr/bin/env bash
# Everything that needs an accelerator, in one command that ends in time: the tests of the GPU, the first loss of fast
# forms against float32, ratios of step time and latency, then training rows of the groups B in the time that is left.
#
#   bash benchmarks/accelerator.sh [OUT]    results as JSON and logs (default: work_dirs/accelerator)
#
# Repeat it with the same OUT to go on: what is finished is not repeated, and rows go on from their last checkpoints. A
# step that fails or takes too long leaves its log, the next ones are tried all the same, and the exit status is 1.
#
#   TIME_LIMIT   seconds for everything (540)
#   PYTHON       interpreter (python)
#   DEVICE       cuda; cpu, with the settings below, to try the script out
#   TESTS        what pytest -m gpu looks through (tests)
#   CASES        of benchmarks/step_time.py (digits cifar100 cifar100-hsakd cifar100-mcl)
#   FORMS        of benchmarks/first_loss.py (bfloat16 channels_last compile)
#   ROUNDS       of both ratios (20)
#   NETWORKS     of benchmarks/compact_latency.py (resnet18 resnet50)
#   BATCH_SIZES  of the same (1 32 256)
#   SIZE         of its images (224)
#   ROW_GROUPS   of benchmarks/rows.yml (B2 B3 B4 B5 B6), JOBS at once (6), of the queue QUEUE
#   NICE         priority of the rows, 0 to 19 (19, the lowest)
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:-work_dirs/accelerator}
python=${PYTHON:-python}
device=${DEVICE:-cuda}
limit=${TIME_LIMIT:-540}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"
status=0

left() { echo $((limit - SECONDS)); }

# step NAME MOST_SECONDS COMMAND ...: unless OUT/NAME.json is there already; the seconds are those of the usual limit
step() {
  local name=$1 most=$(($2 * limit / 540)) seconds code=0
  shift 2
  [ -e "$out/$name.json" ] && { echo "$name: done already"; return; }
  seconds=$(left)
  [ "$seconds" -gt "$most" ] && seconds=$most
  [ "$seconds" -lt 5 ] && { echo "$name: no time is left"; status=1; return; }
  echo "$name: at most $seconds s"
  timeout --kill-after=10 "$seconds" "$@" >"$out/$name.log" 2>&1 || code=$?
  if [ ! -e "$out/$name.json" ] || [ "$code" -ne 0 ]; then
    echo "$name: failed with exit code $code (124: out of time), see $out/$name.log"
    tail -n 5 "$out/$name.log"
    status=1
  fi
}

if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "error: PyTorch sees no CUDA GPU; DEVICE=cpu tries the script out" >&2
  exit 1
fi

read -ra tests <<<"${TESTS:-tests}"
read -ra cases <<<"${CASES:-digits cifar100 cifar100-hsakd cifar100-mcl}"
read -ra forms <<<"${FORMS:-bfloat16 channels_last compile}"
read -ra networks <<<"${NETWORKS:-resnet18 resnet50}"
read -ra batch_sizes <<<"${BATCH_SIZES:-1 32 256}"
read -ra groups <<<"${ROW_GROUPS:-B2 B3 B4 B5 B6}"
rounds=${ROUNDS:-20}
amp=()
[ "$device" = cuda ] && amp=(--amp)

step gpu_tests 150 "$python" benchmarks/gpu_tests.py "${tests[@]}" --out "$out/gpu_tests.json"
step first_loss 60 "$python" benchmarks/first_loss.py --case "${cases[@]}" --forms "${forms[@]}" --device "$device" \
  --out "$out/first_loss.json"
step step_time 90 "$python" benchmarks/step_time.py --case "${cases[@]}" --rounds "$rounds" --device "$device" \
  "${amp[@]}" --out "$out/step_time.json"
step compact_latency 60 "$python" benchmarks/compact_latency.py --networks "${networks[@]}" --rates 0.4 --size \
  "${SIZE:-224}" --batch-sizes "${batch_sizes[@]}" --rounds "$rounds" --device "$device" --out "$out/compact_latency.json"

seconds=$(($(left) - 20)) # for the runs to save their last epoch
if [ "$seconds" -lt 10 ]; then
  echo "rows: no time is left"
  status=1
else
  echo "rows: $seconds s"
  queue=()
  [ -n "${QUEUE:-}" ] && queue=(--queue "$QUEUE")
  "$python" benchmarks/reproduce.py "${groups[@]}" "${queue[@]}" --jobs "${JOBS:-6}" --nice "${NICE:-19}" \
    --budget "${seconds}s" --results "$out" --work-dirs "$out/rows" 2>&1 | tee -a "$out/rows.log"
  [ "${PIPESTATUS[0]}" -eq 0 ] || status=1
fi
exit "$status"
