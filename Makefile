# ndbatch: `make demo` counts real nuclei, `make test` runs every check. Both set up their own .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROUNDS ?= 20
MINUTES ?= 30
NDIO := 1.1.6
# Tests that start schedulers, queues and networks: they wait more than they compute, and have a target of their own.
CLUSTERS := tests/clusters tests/executors/test_running_scheduler.py
PEER := .venv-cellfinder
CELLFINDER := 1.10.1

.PHONY: compiled demo test test-browser test-cluster lint docs accuracy crash-test soak bench peers speed clean help

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# ndio, the client of ndstore that tests drive, asks for exact versions of long ago: it comes without what it asks for,
# beside the packages that it uses, which the extra test names.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ndbatch needs Python 3.11 or newer; set PYTHON=python3.12 or the like"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing ndbatch and its packages into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps ndio==$(NDIO)
	@touch $(STAMP)

# Hundreds of tests start a Python of their own; where that keeps nothing compiled, each would compile the package anew.
compiled: $(STAMP)
	@$(BIN)/python -m compileall -q ndbatch

# configs/count-nuclei.yaml is the same without a service. The port is that of configs/serve.yaml.
demo: compiled   ## count the nuclei of a real volume, from a service to a service
	@$(BIN)/ndbatch serve configs/serve.yaml >configs/.serve.log 2>&1 & service=$$!; \
	trap 'kill -TERM $$service 2>/dev/null; wait $$service; rm -f configs/.serve.log' EXIT; \
	for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
	  grep -q writing configs/.serve.log && break; \
	  kill -0 $$service 2>/dev/null || { cat configs/.serve.log; exit 2; }; sleep 0.5; \
	done; \
	NDSTORE_TOKEN=$$(cat configs/runs/served/.ndbatch-serve/token); export NDSTORE_TOKEN; \
	$(BIN)/ndbatch run configs/count-nuclei-served.yaml && \
	echo && echo "what is in the service now:" && $(BIN)/ndbatch ls ndstore://127.0.0.1:8765/cells3d && \
	echo && echo "objects that were written back:" && \
	$(BIN)/ndbatch objects ndstore://127.0.0.1:8765/cells3d/labels --limit 5 && \
	echo && echo "to look at it: ndbatch serve configs/serve.yaml, and http://127.0.0.1:8765/ in a browser"


lint: $(STAMP)   ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-browser: $(STAMP) ## Neuroglancer in Chromium over served volumes (part of make test where Chromium is installed)
	$(BIN)/python -m pytest -q tests/server/test_neuroglancer.py

docs: $(STAMP)   ## the guide, into site/; any warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -W error -m mkdocs build --strict

# With worksteal a worker that has no test left takes half of what the other still has: none waits for the last long file.
test: compiled lint docs ## every check but those of make test-cluster
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(CLUSTERS:%=--ignore=%)

# Debian's Slurm and iproute2; without root or packages the tests that need them are skipped, with the reason.
test-cluster: compiled ## the main job on dask and in a real Slurm, workers killed and links cut
	@PATH="$$PATH:/usr/sbin" && { command -v slurmctld && command -v munged && command -v ip; } >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing Slurm, munge and iproute2 (once)" && apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2 >/dev/null; } \
	  || echo "Slurm cannot be installed here"
	NDBATCH_TEST_CLUSTER=yes $(BIN)/python -m pytest -q -rs -n 2 --dist loadfile $(CLUSTERS)

# The peer brings PyTorch, so it has an environment of its own; without it its row is left out, with the reason.
$(PEER)/.installed: Makefile
	@echo "installing cellfinder $(CELLFINDER) into $(PEER) (once; several GB, for make accuracy alone)"
	@$(PYTHON) -m venv $(PEER) && $(PEER)/bin/python -m pip install --quiet --disable-pip-version-check cellfinder==$(CELLFINDER) h5py \
	  && touch $@ || { echo "cellfinder cannot be installed here: its row will be missing"; rm -rf $(PEER); }

accuracy: $(STAMP) $(PEER)/.installed ## counts and segmentations against ground truth and a peer, a table per data set
	$(BIN)/python benchmarks/accuracy.py

crash-test: compiled ## kill -9 at random moments, run again, compare every byte
	$(BIN)/python benchmarks/crash_test.py --rounds $(ROUNDS)

soak: $(STAMP)   ## the main job for MINUTES through a bad network, with kill -9: nothing grows, nothing is left
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

peers:           ## install what benchmarks compare with, into an environment of its own
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt

speed: $(STAMP)  ## beside the fastest of the field and a bare floor (`make peers` first)
	$(BIN)/python benchmarks/speed.py

bench: $(STAMP)  ## overhead of the engine, block by block
	$(BIN)/python benchmarks/scale.py

clean:           ## remove what runs and tests left
	rm -rf site runs configs/runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
