# make quickstart   install, then phantoms → two training stages → reports and scores, on a CPU in minutes
# make test         the tests               make check   lint, format, types, secrets
# make soak         the reliability tests in their long forms, for an hour
# make audit        known weaknesses of the dependencies; needs the network
# make bench        the benchmarks of docs/performance.md          make install PYTHON=python3.12   the environment alone, in .venv

SHELL := /bin/bash
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

PHANTOM := data/phantom
OUT := output/quickstart
RESULT := $(OUT)/evaluation/test

.PHONY: quickstart test soak check audit bench install

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
	git ls-files | grep -v '^constraints.txt$$' | xargs detect-secrets-hook \
	    --disable-plugin KeywordDetector --disable-plugin HexHighEntropyString  # names of variables and checksums are no secrets

# Asks PyPI about every version of constraints.txt, so it needs the network.
audit: .venv/.installed
	pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

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

.venv/.installed: setup.py pyproject.toml constraints.txt
	scripts/install.sh $(PYTHON)
	touch $@

# The quickstart. Each step is the command that a user would type, and is run again only when what it reads has changed.
# An interrupted training goes on where it was; a complete one whose configuration has changed starts anew.

$(PHANTOM)/openi/manifest.json: | .venv/.installed
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
