"""bfloat16: where it is used, and that evaluations are not in it."""

import pytest
import torch

from idbert.nn import products
from idbert.training import precision
from idbert.training.adversarial import AdversarialSettings
from idbert.training.precision import computes_bfloat16, resolve_precision
from tests.training.small_rows import build_rows, row_model


@pytest.mark.parametrize(
    ("asked", "width", "has_hardware", "expected"),
    [
        ("auto", 256, True, "bfloat16"),
        ("auto", 255, True, "float32"),
        ("auto", 768, False, "float32"),
        ("float32", 768, True, "float32"),
        ("medium", 768, True, "medium"),
        ("bfloat16", 16, False, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_hardware_computes_it_and_the_model_is_wide(
    asked, width, has_hardware, expected, monkeypatch
):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: has_hardware)
    assert resolve_precision(asked, width, "cpu") == expected


def test_only_known_hardware_computes_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert computes_bfloat16("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not computes_bfloat16("cpu")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not computes_bfloat16("cpu")
    assert not computes_bfloat16("mps")


@pytest.mark.parametrize("attack", ["none", "fgm"])
def test_passes_of_training_are_in_bfloat16_and_evaluations_in_float32(attack, tmp_path):
    model = row_model()
    types = {True: set(), False: set()}
    model.bert_cls.register_forward_hook(
        lambda module, _, output: types[module.training].add(output.dtype)
    )

    def evaluate():
        ids = torch.ones(2, 3, dtype=torch.int64)
        model.logits(ids, torch.ones_like(ids))
        model(ids, torch.ones_like(ids), torch.tensor([0, 1]), 2)
        return {"accuracy": 0.5}

    build_rows(
        tmp_path,
        model=model,
        evaluate=evaluate,
        metric="accuracy",
        precision="bfloat16",
        adversarial=AdversarialSettings(attack),
    ).train_or_resume()
    assert types == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("chosen", ["float32", "medium"])
def test_products_are_rounded_in_steps_of_medium_training_alone(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    monkeypatch.setattr(products, "has_tiles", lambda: True)
    model, seen = row_model(), []
    model.bert_cls.register_forward_hook(
        lambda module, *_: seen.append((module.training, products.products_are_rounded()))
    )

    def evaluate():
        ids = torch.ones(2, 3, dtype=torch.int64)
        model.logits(ids, torch.ones_like(ids))
        return {"accuracy": 0.5}

    build_rows(
        tmp_path, model=model, evaluate=evaluate, metric="accuracy", precision=chosen
    ).train_or_resume()
    assert set(seen) == {(True, chosen == "medium"), (False, False)}


def test_the_trainer_tells_which_precision_was_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: True)
    assert build_rows(tmp_path, precision="auto").precision == "float32"
    wide = row_model(hidden_size=256, num_layers=1)
    assert build_rows(tmp_path, model=wide, precision="auto").precision == "bfloat16"
