"""Item vectors of any layer, and the completion to one norm."""

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.config import EncoderSettings
from idbert.nn.fusion import FusionSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.retrieval import vectors
from idbert.retrieval.vectors import completed, cosine_vectors, item_layer_vectors
from idbert.rows import FIRST_ITEM


def untrained(model_class: type = MaskedItemModel, kind: str = "bert") -> MaskedItemModel:
    torch.manual_seed(0)
    settings = EncoderSettings(
        kind=kind, hidden_size=8, num_heads=2, fusion=FusionSettings("mean", layers=(1, 2))
    )
    return model_class.build(settings, vocab_size=FIRST_ITEM + 11)


def test_without_a_layer_the_vectors_are_the_embedding_table() -> None:
    model = untrained()
    table = model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(item_layer_vectors(model), table[FIRST_ITEM:])


@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
@pytest.mark.parametrize("kind", ["bert", "nezha"])
def test_a_layers_vector_is_the_state_of_a_history_of_that_item(
    model_class: type, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_ITEMS_AT_ONCE", 4)
    model = untrained(model_class, kind)  # in training mode: dropout must not act
    states = [item_layer_vectors(model, layer) for layer in (0, 1, 2)]
    assert model.training
    model.eval()
    alone = model.backbone.hidden_states(torch.tensor([[FIRST_ITEM + 6]]))
    for state, right in zip(states, alone, strict=True):
        torch.testing.assert_close(state[6], right[0, 0])
    torch.testing.assert_close(item_layer_vectors(model, -1), states[2])
    fused = item_layer_vectors(model, "fused")
    torch.testing.assert_close(fused, (states[1] + states[2]) / 2)


def test_a_layer_that_the_encoder_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[3\] do not exist: the encoder has 3 states"):
        item_layer_vectors(untrained(), 3)


def test_inner_products_of_cosine_vectors_are_cosines() -> None:
    drawn = torch.randn(5, 3)
    right = torch.nn.functional.cosine_similarity(drawn[:, None], drawn[None], dim=-1)
    unit = cosine_vectors(drawn)
    torch.testing.assert_close(unit @ unit.T, right)
    assert cosine_vectors(torch.zeros(1, 3)).tolist() == [[0, 0, 0]]


def test_completed_vectors_have_one_norm_but_for_the_longest() -> None:
    drawn = np.random.default_rng(0).standard_normal((1000, 5)).astype(np.float32)
    norms = np.linalg.norm(completed(drawn), axis=1)
    np.testing.assert_array_equal(completed(drawn)[:, :-1], drawn)
    assert np.isclose(norms, norms.min()).sum() == 990
