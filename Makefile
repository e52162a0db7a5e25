# make env    the environment alone
# make demo   the environment if it is not there, then the whole demo; TORCH=cpu: without CUDA's 5 GB
# make test   the environment if it is not there, then the tests (10 minutes on two cores)
# make test-long   the tests that take longer (40 minutes)
# make test-slurm   the small demo through SLURM on this machine (Debian, root; 10 minutes)
# make systems   every system of the README's table on the demo, then TagCLIP's demo
# make bench   benchmarks/ beside the commit OLD and the slow twins, into results/bench/bench.md
# make mutants   faults put into cams, affinities, masks and score: does a test notice?
# make docs   docs/ as a site, into site/
# make lint   formatting, linting, types and what `snakemake --lint` finds
# make track  data and results under DVC, after a run

PYTHON ?= python3
VENV ?= .venv
CORES ?= all
OLD ?= 290a3ff
TORCH ?= pypi
UV_VERSION := 0.13.9

BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: env demo systems test test-long test-slurm bench mutants docs lint format lock track clean

env: $(READY)

demo: $(READY)
	snakemake --cores $(CORES)

# TagCLIP predicts the labels that the others are given: a data set of its own.
systems: $(READY)
	snakemake --cores $(CORES) --configfile config/systems.yaml
	snakemake --cores $(CORES) --configfile config/tagclip.yaml

# Two workers of one thread each; tests that share a run of the small demo stay on one of them.
test: $(READY)
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadgroup -m "not long"

test-long: $(READY)
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadgroup -m long

# SLURM's daemons on this machine, and the small demo through them. Debian; root.
test-slurm: $(READY)
	command -v slurmctld slurmd sbatch >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq slurmctld slurmd slurm-client; }
	CLIP_WSSS_SLURM=1 OMP_NUM_THREADS=1 pytest tests/workflow/test_slurm.py

# OLD: by default the last commit before methods, graph and archives were rewritten.
bench: $(READY)
	python benchmarks/run.py --old $(OLD)

mutants: $(READY)
	OMP_NUM_THREADS=1 python benchmarks/mutants.py

$(READY): requirements.lock pyproject.toml src/clip_wsss/masks/fast_crf.cpp
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or later is needed; name one with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
ifeq ($(TORCH),cpu)
	$(INSTALL) --torch-backend cpu $$(grep -oE '^(torch|torchvision)==[0-9.]+' requirements.lock) || \
	  { echo "PyTorch's own index cannot be reached: leave TORCH=cpu out" >&2; exit 1; }
	awk '/^[a-z]/ {keep = !/^(torch|torchvision|triton|nvidia-|cuda-)/} keep' requirements.lock \
	  > $(VENV)/without-torch.lock
	$(INSTALL) --no-deps --require-hashes -r $(VENV)/without-torch.lock
else
	$(INSTALL) --require-hashes -r requirements.lock
endif
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

lint: $(READY)
	ruff format --check .
	ruff check .
	mypy
	snakefmt --check Snakefile workflow
	python .ci/lint_workflow.py

format: $(READY)
	ruff format .
	ruff check --fix .
	snakefmt Snakefile workflow

# Versions and hashes only: `uv pip compile` writes no download addresses (uv.lock would).
lock: $(READY)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock

track: $(READY)
	test -f results.dvc || printf 'outs:\n- path: results/demo\n' > results.dvc
	dvc commit --force data.dvc results.dvc

clean:
	rm -rf results/demo data/demo
