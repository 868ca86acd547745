# make quickstart   install, then phantoms → two training stages → reports and scores, on a CPU in minutes
# make test         the tests               make check   lint, format, types, secrets
# make soak         the reliability tests in their long forms, for an hour
# make audit        known weaknesses of the dependencies; needs the network
# make bench        the benchmarks of docs/performance.md
#
# make install-runtime   the environment alone, in .venv: what training, evaluation and serving need
# make install           the same and what the tests need          PYTHON=python3.12 chooses the Python of either
# make install-extras EXTRAS="gdcm parquet"   optional features (extras of setup.py) for a runtime environment
# make lock              renews constraints files and THIRD_PARTY.md after a change of setup.py; UPGRADE=--upgrade moves all versions

SHELL := /bin/bash
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

PHANTOM := data/phantom
OUT := output/quickstart
RESULT := $(OUT)/evaluation/test

# The constraints files hold the sha256 of every file of every package, and name no package host.
LOCK := UV_PYTHON_DOWNLOADS=never uv pip compile --quiet --no-build-isolation --universal --python-version 3.10 \
    --generate-hashes --no-annotate --custom-compile-command "make lock"

.PHONY: quickstart test soak check audit bench install install-runtime install-extras lock

quickstart: $(RESULT)/report.html
	@echo
	@echo "The scores:          $<"
	@echo "The reports:         $(RESULT)/predictions.jsonl"
	@echo "Open the page:       .venv/bin/python demo.py        (in the terminal: add --cli --image $$(ls $(PHANTOM)/openi/image/*.png | head -n 1))"

test: .venv/.installed
	OMP_NUM_THREADS=1 pytest -n 2

soak: .venv/.installed
	XRAYGPT_SOAK=1 OMP_NUM_THREADS=1 pytest -n 2 tests/reliability

check: .venv/.installed
	ruff check .
	ruff format --check .
	mypy xraygpt train.py demo.py
	git ls-files | grep -v '^constraints.*\.txt$$' | xargs detect-secrets-hook \
	    --disable-plugin KeywordDetector --disable-plugin HexHighEntropyString  # names of variables and checksums are no secrets

# Asks PyPI about the versions of the constraints files that are for this Python, so it needs the network. Without --strict, pip-audit
# ends with "No known vulnerabilities found" even where it could not ask about any package, as behind mirrors without PyPI's JSON API.
audit: .venv/.installed
	pip-audit --strict --requirement constraints.txt --requirement constraints-install.txt --require-hashes --disable-pip \
	    --progress-spinner off

# The rows of the table in docs/performance.md, in under 20 minutes on 2 cores; benchmarks/ has more, one command each.
bench: .venv/.installed
	python benchmarks/training_step.py --repeats 3
	python benchmarks/feature_cache.py --repeats 1 --images 9
	python benchmarks/feature_cache.py --repeats 1 --depth 39 --images 6
	python benchmarks/input.py
	python benchmarks/draft_decoding.py
	python benchmarks/generation.py
	python benchmarks/startup.py --repeats 1

install: .venv/.installed

install-runtime: .venv/.installed-runtime

.venv/.installed: setup.py pyproject.toml constraints.txt constraints-install.txt
	scripts/install.sh dev $(PYTHON)
	touch .venv/.installed-runtime $@

.venv/.installed-runtime: setup.py pyproject.toml constraints-runtime.txt constraints-install.txt
	scripts/install.sh runtime $(PYTHON)
	touch $@

# `make install` brings all extras. uv chooses what the named ones need; versions and hashes are those of constraints.txt.
install-extras: .venv/.installed-runtime
	@[ -n "$(EXTRAS)" ] || { echo 'error: name the extras of setup.py: make install-extras EXTRAS="gdcm parquet"' >&2; exit 1; }
	uv pip compile --quiet --no-header --no-annotate --no-build-isolation $(EXTRAS:%=--extra %) \
	    --constraint constraints.txt --output-file .venv/extras.txt setup.py >/dev/null
	uv pip install --python .venv/bin/python --require-hashes --only-binary :all: --no-binary radgraph --no-binary rouge-score \
	    --no-build-isolation --constraint constraints.txt --requirement .venv/extras.txt

# Run it in the environment of `make install`; if it moved a version, then `make install` and again `make lock`, which reads the licences.
lock:
	$(LOCK) $(UPGRADE) --all-extras --output-file constraints.txt setup.py >/dev/null
	$(LOCK) --constraint constraints.txt --output-file constraints-runtime.txt setup.py >/dev/null
	$(LOCK) --constraint constraints.txt --output-file constraints-install.txt --group pyproject.toml:install >/dev/null
	python scripts/third_party.py

# The quickstart. Each step is the command that a user would type, and is run again only when what it reads has changed.
# An interrupted training goes on where it was; a complete one whose configuration has changed starts anew.

$(PHANTOM)/openi/manifest.json: | .venv/.installed-runtime
	xraygpt phantom --out $(PHANTOM) --image-size 128

$(OUT)/llm/tokenizer.json: $(PHANTOM)/openi/manifest.json
	xraygpt tokenizer --storage $(PHANTOM)/mimic --prompts prompts/quickstart.txt --out $(OUT)/llm --overwrite

$(OUT)/stage1/summary.json: train_configs/quickstart_stage1.yaml $(OUT)/llm/tokenizer.json
	@[ ! -e $@ ] || rm -r $(@D)
	python train.py --cfg-path $<

$(OUT)/stage2/summary.json: train_configs/quickstart_stage2.yaml $(OUT)/stage1/summary.json
	@[ ! -e $@ ] || rm -r $(@D)
	python train.py --cfg-path $<

$(RESULT)/report.html: eval_configs/quickstart.yaml $(OUT)/stage2/summary.json
	xraygpt evaluate --cfg-path $<
