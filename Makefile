# make            the main job: EM beside NUTS on the two coins and on Old Faithful
# make test       all tests        make lint        style and types
# make notebooks  run them anew    make clean       take away what was made here
# make bench      speed beside scikit-learn, R, and PyMC's other ways, as a table; an hour, on a quiet machine
#
# make PYTHON=/path/to/python      chooses the interpreter of the environment (3.12 or newer)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MODELS := coins gaussian_mixture
JOBS ?= 2

# Tried in this order, the newest that the pinned packages were tested with first. Each one is run, since a name on the
# path proves nothing: it may be a launcher without an interpreter behind it, or an interpreter without ensurepip.
CANDIDATES = $(PYTHON) python3.13 python3.12 python3.14 python3 python \
	$(wildcard $(addprefix $(HOME)/.pyenv/versions/,3.13*/bin/python3 3.12*/bin/python3 3.14*/bin/python3))
# Without the times at which each cell ran, which would change with every run.
EXECUTE = import sys, nbformat, nbclient; path = sys.argv[1]; notebook = nbformat.read(path, 4); \
	nbclient.NotebookClient(notebook, record_timing=False).execute(cwd="notebooks"); nbformat.write(notebook, path)
FIT = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))

.PHONY: main install test lint notebooks bench clean
.DELETE_ON_ERROR:

# Both models run and both reports are named even where a verdict fails; the status then tells that one did.
main: $(INSTALLED)
	@status=0; \
	for model in $(MODELS); do $(BIN)/emppl compare $$model || status=$$?; done; \
	printf '\nThe reports, to be opened in a browser:\n'; \
	for model in $(MODELS); do \
		report=emppl-$$model/report.html; \
		if [ -f "$$report" ]; then printf '  %s\n' "$$report"; else printf '  %s: not written, see above\n' "$$report"; fi; \
	done; \
	exit $$status

install: $(INSTALLED)

# Compiled code goes to one new folder a run, which the workers share: what passes here passes where nothing has run.
test: $(INSTALLED)
	@caches=$$(mktemp -d) && trap 'rm -rf "$$caches"' EXIT && trap 'exit 130' INT TERM && \
	PYTENSOR_FLAGS="$${PYTENSOR_FLAGS:+$$PYTENSOR_FLAGS,}base_compiledir=\"$$caches/pytensor\"" \
	NUMBA_CACHE_DIR="$$caches/numba" $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(INSTALLED)
	@for notebook in notebooks/*.ipynb; do echo $$notebook; $(BIN)/python -c '$(EXECUTE)' $$notebook || exit 1; done

bench: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(addprefix emppl-,$(MODELS)) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@if $(BIN)/python -c '$(FIT)' >/dev/null 2>&1; then exit 0; fi; \
	for candidate in $(CANDIDATES); do \
		if "$$candidate" -c '$(FIT)' >/dev/null 2>&1; then \
			echo "environment: $(VENV), made with $$candidate ($$("$$candidate" -V))"; \
			exec "$$candidate" -m venv --clear $(VENV); \
		fi; \
	done; \
	{ echo "No Python 3.12 or newer was found that can make a virtual environment; tried: $(strip $(CANDIDATES))"; \
	  echo "  - install one (where Python comes in parts, the part is called python3-venv)"; \
	  echo "  - or name one: make PYTHON=/path/to/python3.13"; } >&2; \
	exit 1
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[test]'
	@touch $@
