# One short spelling for each habit. `make build` once in a fresh virtual environment; the rest follows.
PYTHON ?= python
export PYO3_PYTHON := $(shell command -v $(PYTHON))

.PHONY: help build format lint test sanitize oldest guide bench instructions docs examples data ci clean

help:
	@echo "build     install the package, editable, with everything the other targets need"
	@echo "format    rewrite Rust and Python in the house format"
	@echo "lint      formats, clippy with and without the bindings, ruff, mypy, the stub against the native module"
	@echo "test      Rust tests, then the Python tests and the examples of the documentation"
	@echo "sanitize  the core's tests and random calls under the address and thread sanitizers (needs a nightly Rust)"
	@echo "oldest    the tests with the oldest torch that is supported"
	@echo "guide     docs/adding-a-measure.md step by step, in a copy of the tree: built, and its divergence tested"
	@echo "bench     criterion's kernels, the race against the peers, Gibbs' inequality, memory"
	@echo "instructions  those of representative calls, counted by valgrind, against what is on record"
	@echo "docs      the crate's documentation, and the examples of the README and docs/"
	@echo "examples  compare the example files on the command line"
	@echo "data      make the example files again"
	@echo "ci        all of it from nothing, as the continuous integration does"

build:
	$(PYTHON) -m pip install -e '.[test,dev]'

format:
	cargo fmt
	$(PYTHON) -m ruff format
	$(PYTHON) -m ruff check --fix

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --features python -- -D warnings
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy.stubtest kullback._core

test:
	cargo test --locked --release
	$(PYTHON) -m pytest

HOST = $(shell rustc -vV | sed -n 's/host: //p')

sanitize: export RUSTFLAGS = -Zsanitizer=address
# A pool of threads that a larger one replaces stays where it is, for other callers may be in it.
sanitize: export ASAN_OPTIONS = detect_leaks=0
sanitize:
	cargo +nightly test --release --lib --target $(HOST)
	cd fuzz && cargo +nightly test --release --lib --target $(HOST)
	cd fuzz && RUSTFLAGS=-Zsanitizer=thread CALLS=3000 \
		cargo +nightly test --release --lib -Zbuild-std --target $(HOST)

oldest:
	bash .ci/oldest

guide:
	$(PYTHON) .ci/guide

bench:
	cargo bench --locked
	$(PYTHON) benches/peers.py
	$(PYTHON) benches/grid.py
	$(PYTHON) benches/gibbs.py
	$(PYTHON) benches/memory.py
	$(PYTHON) benches/frames.py
	$(PYTHON) benches/losses.py

instructions:
	$(PYTHON) benches/instructions.py

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	$(PYTHON) -m pytest README.md docs python

examples:
	kullback compare examples/digits.npy examples/digits-int4.npy --labels examples/digits-labels.npy
	kullback compare examples/words.safetensors examples/words-int4.safetensors --labels examples/words-labels.npy

data:
	$(PYTHON) examples/make_data.py

ci:
	bash .ci/run

clean:
	cargo clean
	rm -f python/kullback/_core*.so
