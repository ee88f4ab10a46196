# The README's commands. `make run` starts the studio, `make test` runs everything, `make check` is for every commit.
# TORCH=cpu: at the first install, PyTorch's build without NVIDIA's libraries.
PYTHON ?= python3
PORT ?= 7860
BIN = .venv/bin
# Two processes of tests, a file at a time, in the order of tests/conftest.py.
TWO = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: run test check install system advisories clean

run: install
	$(BIN)/python app.py --port $(PORT)

install: .venv/installed

test: .venv/installed-dev system
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pyright
	$(BIN)/python -m pytest $(TWO) --durations=15

check: .venv/installed-dev
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m pyright
	$(BIN)/python -m pytest $(TWO) -x -m "not slow"

.venv/installed: requirements.txt
	@echo "Installing what the studio needs into .venv. It is large, and takes from five minutes to half an hour."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
ifeq ($(TORCH),cpu)
	$(BIN)/python -m pip install --quiet --index-url https://download.pytorch.org/whl/cpu torch torchvision
endif
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

# Chromium for the tests of the page, ffmpeg to look at the films with a second reader: Debian's packages.
system:
	@command -v chromium >/dev/null && command -v ffprobe >/dev/null || \
	  { SUDO=$$(test "$$(id -u)" = 0 || echo sudo); $$SUDO apt-get update -qq && \
	    $$SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium ffmpeg >/dev/null; }

# What is known of holes in what is installed. It asks an index outside, so no test waits for it; its tool has a place
# of its own, and never comes into the studio's.
advisories: .venv/installed .venv/advisories
	.venv/advisories/bin/pip-audit --strict --path $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")

.venv/advisories:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet "pip-audit>=2.9"

clean:
	rm -rf .venv
