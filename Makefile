# make demo      train, prune and compact a network on scanned digits, and report (a few minutes)
# make chain     pretrain backbones, move them into a detector and a segmentor, and compare (ARGS="--seeds 0 1 2")
# make test      run the tests in 2 processes (WORKERS=2); ARGS="-k mixskd -x" goes to pytest
# make check     what a change must pass: formatting, lint, types, spelling, which way imports run
# make format    mend formatting and what lint can mend
# make clean     remove what builds and tools leave behind; data, work_dirs and .venv stay
#
# The first call makes .venv with the pinned reference environment; later calls find it there.
# PYTHON=/path/to/python   an interpreter with the OpenMMLab stack is used as it is; any other is the base of .venv
# VENV=/path/to/venv       another place for the environment
# STACK=onedl              the maintained forks of OpenMMLab instead of upstream, in .venv-onedl

PYTHON ?=
STACK ?=
VENV ?=
ARGS ?=
WORKERS ?= 2
export PYTHON STACK VENV

# "python ..." in this checkout, whatever its folder is called
RUN = python="$$(bash requirements/create_environment.sh)" && \
	PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" "$$python"

.PHONY: help demo chain test check format environment clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo:
	@$(RUN) tools/demo.py $(ARGS)

chain:
	@$(RUN) tools/run_chain.py $(ARGS)

test:
	@$(RUN) -m pytest -q tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check:
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy mmkdprune
	@$(RUN) -m codespell_lib
	@$(RUN) -c 'from importlinter.cli import lint_imports_command as main; main()' --no-cache --no-logo

format:
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

# Prints the interpreter.
environment:
	@bash requirements/create_environment.sh

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . \( -path './.venv*' -o -path ./data -o -path ./work_dirs -o -path ./.git \) -prune -o -name __pycache__ -exec rm -rf {} +
