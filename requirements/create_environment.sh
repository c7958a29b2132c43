#!/usr/bin/env bash
# Prints the Python interpreter for the Makefile to use, after making or completing its virtual environment.
#
#   STACK        openmmlab (upstream, the default) or onedl (the maintained forks, with onedl-mmcv without compiled
#                operators: no compiler is needed)
#   VENV         the virtual environment (default: .venv, with STACK=onedl .venv-onedl)
#   PYTHON       an interpreter. One that has the stack (without STACK: either) is used as it is, and nothing is
#                installed into it; any other is the base that VENV is made from. Default: python3, else python3.11,
#                3.12 or 3.13.
#   MIN_FREE_GB  free disk space asked for before the download (default: 9)
#
# Only the interpreter goes to stdout. Each failure is one line on stderr and a non-zero exit status.
set -euo pipefail
cd "$(dirname "$0")/.."

stack=${STACK:-openmmlab}
case $stack in
  openmmlab) venv=${VENV:-.venv} constraints=requirements/constraints.txt
    packages=(-r requirements/openmmlab.txt -r requirements/dev.txt) ;;
  onedl) venv=${VENV:-.venv-onedl} constraints=requirements/constraints-onedl.txt
    packages=(-r requirements/onedl.txt -r requirements/tools.txt) ;;
  *) echo "mmkdprune: STACK=$stack: there are openmmlab and onedl" >&2; exit 1 ;;
esac
python=${PYTHON:-}
log=$venv/install.log
stamp=$venv/.complete          # holds what was installed; written last
unfinished=$venv/.unfinished   # there while an install runs: after an interruption, packages may be half there
inputs=(requirements/*.txt setup.py mmkdprune/version.py)

say() { echo "mmkdprune: $*" >&2; }
fail() { say "$*"; exit 1; }

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
version_of() {
  local version
  version=$("$1" -c 'import platform; print(platform.python_version())' 2>/dev/null) || true
  echo "${version:-no working Python}"
}
minor_version() { version_of "$1" | cut -d. -f1,2; }
has_stack() {
  "$1" -c 'import sys; from importlib.metadata import distributions; from importlib.util import find_spec
complete = all(map(find_spec, ("torch", "mmengine", "mmcv", "mmpretrain", "sklearn")))
forked = any((found.name or "").lower().replace("_", "-") == "onedl-mmengine" for found in distributions())
sys.exit(not complete or sys.argv[1] == ("openmmlab" if forked else "onedl"))' "${STACK:-any}" 2>/dev/null
}

find_python() {
  local needed="Python 3.11, 3.12 or 3.13 is needed" candidate
  if [ -n "$python" ]; then
    command -v "$python" >/dev/null || fail "PYTHON=$python: there is no such program"
    is_supported "$python" || fail "$needed, but PYTHON=$python is $(version_of "$python")"
    return
  fi
  for candidate in python3 python3.11 python3.12 python3.13; do
    if is_supported "$candidate"; then python=$candidate; return; fi
  done
  fail "$needed, but python3 is $(version_of python3); install one of them, then: make PYTHON=/path/to/python ..."
}

# The links that a wheel has as files: `_base_ = ['mmkdprune::...']` works in the checkout as well.
link_mim() {
  local entry
  mkdir -p mmkdprune/.mim
  for entry in configs tools model-index.yml; do ln -sfn "../../$entry" "mmkdprune/.mim/$entry"; done
}

pip_install() {
  # Temporary files go beside the environment: the wheels of torch do not fit into a /tmp kept in memory.
  mkdir -p "$venv/tmp"
  if TMPDIR=$(cd "$venv/tmp" && pwd) PIP_USER=0 "$venv/bin/python" -m pip install --no-input --retries 2 \
    --progress-bar off --disable-pip-version-check -c "$constraints" "$@" >>"$log" 2>&1; then
    rm -rf "$venv/tmp"
    return
  fi
  rm -rf "$venv/tmp"
  if grep -qE 'No space left on device|Disk quota exceeded' "$log"; then
    fail "the disk is full; free some space and run make again (log: $log)"
  elif grep -qE '[Cc]onnection|NameResolution|[Tt]imeout|Proxy|from versions: none|ResolutionImpossible' "$log"; then
    rm -f "$unfinished"  # pip downloads everything before it installs anything: the environment is as it was
    fail "pip cannot get the pinned packages: no network, or a proxy or package index it cannot use (log: $log)"
  fi
  fail "pip failed: $(grep -m1 '^ERROR' "$log" || tail -n 1 "$log") (log: $log)"
}

make_or_update() {
  [ -x "$venv/bin/python" ] || find_python
  if ! compgen -G "$venv/lib/python3*/site-packages/torch" >/dev/null; then
    local free_gb=$(($(df -Pk "$venv" | awk 'NR == 2 {print $4}') / 1048576))
    [ "$free_gb" -ge "${MIN_FREE_GB:-9}" ] ||
      fail "$venv needs ${MIN_FREE_GB:-9} GB of free disk space and there are $free_gb; VENV=/other/disk/venv puts it elsewhere"
    [ "$free_gb" -ge 12 ] || export PIP_NO_CACHE_DIR=1  # the download, kept for a next time, needs 3 GB more
  fi
  touch "$unfinished"
  rm -f "$stamp"
  : >"$log"
  if [ -x "$venv/bin/python" ]; then
    say "updating $venv (log: $log)"
  else
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "$python has no venv module; Debian and Ubuntu: apt install python3-venv"
    say "making $venv with Python $(version_of "$python"): some minutes, about 3 GB to download (log: $log)"
    "$python" -m venv "$venv" >>"$log" 2>&1 || fail "python -m venv failed: $(tail -n 1 "$log") (log: $log)"
  fi
  pip_install "${packages[@]}"
  if ! "$venv/bin/python" -c 'import cv2' >>"$log" 2>&1; then
    # No libGL on a machine without a display: the headless build of the same version does without.
    "$venv/bin/python" -m pip uninstall -y opencv-python opencv-python-headless >>"$log" 2>&1 || true
    pip_install --no-deps opencv-python-headless
    "$venv/bin/python" -c 'import cv2' >>"$log" 2>&1 || fail "OpenCV does not load: $(tail -n 1 "$log") (log: $log)"
  fi
  pip_install --no-build-isolation -e .
  echo "$wanted" >"$stamp"
  rm -f "$unfinished"
}

is_complete() {
  [ ! -e "$unfinished" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && is_supported "$venv/bin/python"
}

if [ -n "$python" ]; then
  find_python
  if has_stack "$python"; then
    link_mim
    echo "$python"
    exit
  fi
fi

wanted="$(pwd -P) $stack $(cat "${inputs[@]}" | cksum)"
if ! is_complete; then
  mkdir -p "$venv" 2>/dev/null || fail "cannot create the folder $venv"
  if command -v flock >/dev/null; then
    exec 9<"$venv"  # one install at a time, also under `make -j`
    flock 9
  fi
fi
if ! is_complete; then
  if [ -e "$unfinished" ] || { [ -e "$stamp" ] && ! is_supported "$venv/bin/python"; }; then
    touch "$unfinished"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name "${unfinished##*/}" -exec rm -rf {} +
  elif [ -n "$(ls -A "$venv")" ] && ! is_supported "$venv/bin/python"; then
    fail "$venv is no virtual environment of Python 3.11 to 3.13; move it away or choose another place with VENV=..."
  fi
  make_or_update
fi
if [ -n "$python" ] && [ "$(minor_version "$python")" != "$(minor_version "$venv/bin/python")" ]; then
  fail "$venv is of Python $(minor_version "$venv/bin/python"), PYTHON of $(minor_version "$python"); choose another place with VENV=..."
fi
link_mim
echo "$(cd "$venv" && pwd)/bin/python"
