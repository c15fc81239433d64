"""Parts of a model are in modes of their own, which computing something leaves as they are."""

import pytest
import torch

from idbert.nn.fast_inference import fast_inference
from idbert.nn.modes import evaluation_mode
from idbert.retrieval.vectors import item_layer_vectors
from tests.training.small import build_model


def modes(model: torch.nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


@pytest.fixture
def frozen_below() -> torch.nn.Module:
    model = build_model(hidden_dropout=0.5).train()
    model.backbone.encoder.eval()
    return model


def test_all_parts_evaluate_inside_and_are_as_they_were_behind(frozen_below):
    before = modes(frozen_below)
    with pytest.raises(KeyError), evaluation_mode(frozen_below):
        assert not any(modes(frozen_below))
        raise KeyError
    assert modes(frozen_below) == before and len(set(before)) == 2


def test_whatever_computes_something_leaves_them(frozen_below):
    before = modes(frozen_below)
    frozen_below.encode_users([], num_users=1)
    item_layer_vectors(frozen_below, -1)
    with fast_inference(frozen_below):
        assert not frozen_below.training
    assert modes(frozen_below) == before
