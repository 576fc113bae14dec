# The hlstm book. Plain `make` prints the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help book serve pdf lighthouse test test-site test-library test-avx2 fuzz export clean-outputs lock wheel weights bench quality presets suggest defaults depth inside release-check clean check

python := .venv/bin/python
installed := .venv/.installed
built := _build/.built
sources := $(wildcard chapters/*.ipynb hlstm/*.* hlstm/*/* book/*/*.* book/site/static/* book/site/static/*/* \
	book/site/templates/* book/site/templates/*/* appendices/*) \
	_config.yml _toc.yml README.md CONTRIBUTING.md playground.md settings.ini constraints.txt

twine := twine==7.0.0

# make 3 cannot keep the words of two jobs apart.
apart := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

# The environment of the one who builds must not reach into the chapters.
unexport PYTHONPATH PYTHONHOME JUPYTER_PATH MPLBACKEND
export JUPYTER_PREFER_ENV_PATH := 1
export IPYTHONDIR := $(CURDIR)/_build/ipython
# Sphinx needs no network and gets none; nor do chapters: book/notebooks/execute.py.
nowhere := http://127.0.0.1:9
offline := http_proxy=$(nowhere) https_proxy=$(nowhere) HTTP_PROXY=$(nowhere) HTTPS_PROXY=$(nowhere) \
	ALL_PROXY=$(nowhere) no_proxy= NO_PROXY=

help: ## print these lines
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 16

book: $(built) ## execute every chapter and build the site into _build/html
	@echo "The site is at $(CURDIR)/_build/html/index.html"

serve: book ## show the site on http://localhost:8000
	@cd _build/html && ../../$(python) -m http.server --bind 127.0.0.1 8000

pdf: $(built) ## print the whole book into one PDF, with Chromium
	@$(python) -m book.tools.pdf

lighthouse: $(built) ## measure pages with Lighthouse, which comes from npm
	@$(python) -m book.tools.lighthouse

# Two jobs for two cores, each of which shows what it has to say when it is done: the chapters,
# here one after the other, with the site and its tests; and the library's tests.
test: export OMP_NUM_THREADS := 1
test: export CHAPTERS_AT_ONCE := 1
# Threads that wait let the other job work.
test: export OMP_WAIT_POLICY := PASSIVE
test: check ## check everything that can be checked
	@echo "building and testing the site, and testing the library"
	@$(MAKE) --no-print-directory --keep-going --jobs=2 $(apart) test-site test-library

# A file stays with one process: most of its tests share what took long to make.
test-site: $(built) ## test the built site, in a browser too
	@$(python) -m pytest -m site -n 2 --dist loadfile

test-library: $(installed) ## test what needs no site, and how much of the library is tested
	@$(python) -m pytest -m "not site and not alone" --cov
	@if grep -qsw avx512f /proc/cpuinfo; then $(MAKE) --no-print-directory test-avx2; fi

# What the engines compute on the processors before AVX-512, PyTorch's as well as ours.
levels := HLSTM_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
by_level := $(foreach name,engine stack_parity network layer,tests/library/test_$(name).py)
test-avx2: $(installed) ## test the engines once more, as a processor without AVX-512 runs them
	@echo "testing the engines for AVX2"
	@$(levels) $(python) -m pytest $(wildcard $(by_level))

FUZZ ?= 500000
fuzz: $(installed) ## load 500,000 damaged model files in about ten minutes; FUZZ=N takes N
	@$(python) -m book.notebooks.exports
	@FUZZ=$(FUZZ) $(python) -m pytest tests/library/test_files_fuzz.py

export: $(installed) ## write hlstm/ from the chapters
	@$(python) -m book.notebooks.exports

clean-outputs: $(installed) ## strip outputs from the chapters, format their code, write what is generated
	@$(python) -m book.notebooks.setup_cell
	@$(python) -m book.site.palette
	@.venv/bin/nbdev_clean
	@.venv/bin/ruff check --quiet --select I --fix .
	@.venv/bin/ruff format --quiet .

lock: ## resolve settings.ini afresh into constraints.txt
	@sh book/tools/environment.sh lock

wheel: $(installed) ## build the package into dist/
	@$(python) -m book.notebooks.exports
	@mkdir -p "$$IPYTHONDIR"
	@rm -rf dist
	@$(python) -m build --no-isolation --outdir dist . >_build/wheel.txt || { tail -n 20 _build/wheel.txt; exit 1; }
	@ls dist/*.whl

weights: $(installed) ## train the network that comes with the package, in ten to twenty minutes
	@$(python) -m book.notebooks.exports
	@$(python) -m benchmarks.weights

quality: $(installed) ## measure what hlstm/results/quality.json lacks, and print its tables
	@$(python) -m book.notebooks.exports
	@$(python) -m benchmarks.quality all

presets: $(installed) ## measure what the presets of hlstm train give, in some hours
	@$(python) -m book.notebooks.exports
	@$(python) -m benchmarks.presets

suggest: $(installed) ## measure the table behind hlstm.suggest, in half an hour on two free cores
	@$(python) -m book.notebooks.exports
	@$(python) -m benchmarks.suggest

defaults: $(installed) ## measure every default one switch at a time, in a quarter of an hour on two free cores
	@$(python) -m book.notebooks.exports
	@$(python) -m benchmarks.defaults

depth: $(installed) ## measure what one, two and three layers reach, in half an hour on one free core
	@$(python) -m book.notebooks.exports
	@$(python) -m benchmarks.depth

inside: $(installed) ## measure what the layers of three networks hold, in some minutes on one free core
	@$(python) -m book.notebooks.exports
	@$(python) -m benchmarks.inside

bench: $(installed) ## measure the speed of the engines, in at most ten minutes on a quiet machine
	@$(python) -m book.notebooks.exports
	@$(python) benchmarks/speed.py
	@$(python) -m benchmarks.playground

release-check: wheel ## check what a release publishes, in an environment of its own
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(python) -m venv "$$folder" && \
	"$$folder/bin/python" -m pip install --quiet --disable-pip-version-check $(twine) && \
	"$$folder/bin/twine" check --strict dist/*
	@CI=true HLSTM_DIST="$(CURDIR)/dist" $(python) -m pytest tests/book/test_wheel.py

clean: ## remove what was built; .venv stays
	@rm -rf _build build dist *.egg-info

check: $(installed)
	@$(python) -m book.notebooks.exports --check
	@.venv/bin/ruff format --quiet --check . || { echo "not formatted; run make clean-outputs"; exit 1; }
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy --no-error-summary
	@git ls-files -z | xargs -0 .venv/bin/codespell
	@$(python) -m book.tools.prose

$(installed): constraints.txt settings.ini setup.py pyproject.toml
	@sh book/tools/environment.sh install
	@touch $@

# After a failure the doctrees go: Sphinx would not repeat a page's warning. The executed
# chapters stay cached.
$(built): $(installed) $(sources)
	@$(python) -m book.notebooks.exports
	@mkdir -p "$$IPYTHONDIR"
	@$(offline) .venv/bin/jupyter-book build . -W --keep-going -q >_build/log.txt || \
		{ rm -rf _build/.doctrees; echo "the book was not built; see the lines above"; exit 1; }
	@touch $@
