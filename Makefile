# make demo   install, pretrain, fine-tune, index, evaluate and recommend on MovieLens-100K
# make test   install, run the tests
# make check  install, lint, check types and layers
PYTHON ?= python3.11
# An extra package index, for a machine that wants PyTorch's CPU or CUDA build: make test TORCH_INDEX=URL
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[cpu,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python -m pipelines.rec_pretrain --run runs/demo/pretrained
	$(BIN)/python -m pipelines.rec_finetune --run runs/demo/finetuned --pretrained runs/demo/pretrained
	$(BIN)/python -m pipelines.rec_index --run runs/demo/finetuned
	$(BIN)/python -m pipelines.rec_evaluate --run runs/demo/finetuned --compare '[runs/demo/pretrained]'
	$(BIN)/python -m pipelines.rec_recommend --run runs/demo/finetuned --users 1,2,3 --k 5

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_layers.py

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache
