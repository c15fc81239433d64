"""Laws that every fusion, residual, block and pooling obeys, on words and on item ids.

The cases come from the registries: a part that is registered is tested.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.backbone import Backbone
from idbert.nn.blocks import BLOCKS, BlockSettings, build_block
from idbert.nn.config import EncoderConfig, EncoderSettings
from idbert.nn.encoder import IdbertPreTrainedModel
from idbert.nn.item_models import ItemModel, MaskedItemModel, NextItemModel, load_item_model
from idbert.nn.pooling import build_pooling
from idbert.nn.residual import ResidualWrapper
from idbert.nn.structure import StructureSettings
from tests.nn.cases import CAUSAL, POOLING_NAMES, RESIDUALS, STRUCTURES

CLS, FIRST_ID, VOCAB_SIZE = 2, 4, 24
LENGTHS = (6, 1, 3)
Batch = dict[str, Tensor]


class WordModel(IdbertPreTrainedModel):
    """A backbone over words and, where the config names one, a pooling."""

    base_model_prefix = "backbone"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(config)
        name = getattr(config, "pooling", None)
        self.pooling = None if name is None else build_pooling(name, self.backbone.width)
        self.post_init()

    def forward(self, input_ids: Tensor, **inputs: Tensor) -> Tensor:
        hidden = self.backbone(input_ids, **inputs)
        if self.pooling is None:
            return hidden
        return self.pooling(hidden, inputs.get("attention_mask"))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backbone.encoder.get_input_embeddings()


def settings(structure: StructureSettings) -> EncoderSettings:
    return EncoderSettings(
        fusion=structure.fusion,
        block=structure.block,
        residual=structure.residual,
        hidden_size=8,
        num_layers=1,
        max_length=16,
        hidden_dropout=0.0,
        initializer_range=0.3,  # large, so that what leaks shows
    )


def words(structure: StructureSettings, pooling: str | None = None) -> WordModel:
    torch.manual_seed(0)
    config = settings(structure).to_config(
        vocab_size=VOCAB_SIZE, is_causal=False, type_vocab_size=2
    )
    config.position_origin = "oldest"
    if pooling is not None:
        config.pooling = pooling
    return WordModel(config).eval().double()  # in which what leaks and what rounds are told apart


def items(model_class: type[ItemModel]) -> Callable[[StructureSettings], ItemModel]:
    def build(structure: StructureSettings) -> ItemModel:
        torch.manual_seed(0)
        return model_class.build(settings(structure), vocab_size=VOCAB_SIZE).eval().double()

    return build


def batch(kind: str, lengths: tuple[int, ...] = LENGTHS, padding: int = 0, seed: int = 0) -> Batch:
    """Rows of these lengths; each depends on its own length and the seed alone."""
    width = max(lengths) + padding
    inputs = {
        "input_ids": torch.zeros(len(lengths), width, dtype=torch.long),
        "attention_mask": torch.zeros(len(lengths), width, dtype=torch.long),
    }
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(100 * length + seed)
        ids = torch.randint(FIRST_ID, VOCAB_SIZE, (length,), generator=generator)
        inputs["input_ids"][row, :length] = ids
        inputs["attention_mask"][row, :length] = 1
    if kind == "words":
        inputs["input_ids"][:, 0] = CLS
        types = (torch.arange(width) > 2).long().expand(len(lengths), -1)
        inputs["token_type_ids"] = types * inputs["attention_mask"]
    return inputs


def outputs(model: Any, inputs: Batch) -> Tensor:
    with torch.no_grad():
        result = model(**inputs)
    return result if isinstance(result, Tensor) else result.logits


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


WORLDS: dict[str, Callable[[StructureSettings], Any]] = {
    "words": words,
    "masked items": items(MaskedItemModel),
    "next items": items(NextItemModel),
}
CASES = [
    pytest.param(world, name, id=f"{world}-{name}")
    for world in WORLDS
    for name in (CAUSAL if world == "next items" else STRUCTURES)
]
every_structure = pytest.mark.parametrize(("world", "name"), CASES)
every_pooling = pytest.mark.parametrize("pooling", POOLING_NAMES)


@functools.cache
def model_and_outputs(world: str, name: str) -> tuple[Any, Tensor]:
    """A model that no test changes, and what it makes of `batch(world)`."""
    model = WORLDS[world](STRUCTURES[name])
    return model, outputs(model, batch(world))


# Fusions, residuals and blocks


@every_structure
def test_padding_changes_nothing(world, name):
    model, expected = model_and_outputs(world, name)
    real = batch(world)["attention_mask"].bool()
    padded = batch(world, padding=4)
    still_real = padded["attention_mask"].bool()
    # Nor does what stands there: other ids, and so the vectors that the encoder makes of them.
    padded["input_ids"] = padded["input_ids"].where(still_real, FIRST_ID + 3)
    assert_same(outputs(model, padded)[still_real], expected[real])


@every_structure
def test_a_neighbour_in_the_batch_changes_nothing(world, name):
    model, before = model_and_outputs(world, name)
    inputs, others = batch(world), batch(world, seed=1)
    mixed = {key: torch.cat([tensor[:2], others[key][2:]]) for key, tensor in inputs.items()}
    after = outputs(model, mixed)
    real = inputs["attention_mask"].bool()
    assert_same(after[:2][real[:2]], before[:2][real[:2]])
    assert not torch.allclose(after[2, :3], before[2, :3], atol=1e-4)


@every_structure
def test_a_batch_of_one_of_any_length_works(world, name):
    model, together = model_and_outputs(world, name)
    for row, length in enumerate(LENGTHS):
        alone = batch(world, (length,))
        del alone["attention_mask"]
        assert_same(outputs(model, alone)[0], together[row, :length])


@every_structure
def test_a_row_of_padding_alone_is_finite_and_costs_its_neighbours_nothing(world, name):
    model, expected = model_and_outputs(world, name)
    inputs = batch(world)
    inputs["attention_mask"][:2] = 0
    result = outputs(model, inputs)
    assert result.isfinite().all()
    real = inputs["attention_mask"][2:].bool()
    assert_same(result[2:][real], expected[2:][real])


@every_structure
def test_shapes_are_those_that_the_backbone_names(world, name):
    model, expected = model_and_outputs(world, name)
    with torch.no_grad():
        vectors, last = model.backbone.forward_with_last(**batch(world))
    assert vectors.shape == (3, 6, model.backbone.width)
    assert last.shape == (3, 6, 8)
    if world == "words":
        assert_same(vectors, expected)
    else:
        assert expected.shape == (3, 6, VOCAB_SIZE)


@every_structure
def test_gradients_reach_every_parameter(world, name):
    model, inputs = WORLDS[world](STRUCTURES[name]).train(), batch(world)
    if world == "words":
        vectors = model(**inputs)
        loss = (vectors * torch.randn(vectors.shape)).sum()
    else:
        labels = inputs["input_ids"].where(inputs["attention_mask"].bool(), -100)
        loss = model(**inputs, labels=labels).loss
    loss.backward()
    assert_all_trained(model)


def assert_all_trained(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("key.bias"):  # which the softmax over keys takes out
            assert parameter.grad.abs().sum() > 0, name


@every_structure
def test_saving_and_loading_is_exact(world, name, tmp_path):
    assert_saved_exactly(WORLDS[world](STRUCTURES[name]), batch(world), tmp_path)


def assert_saved_exactly(model: Any, inputs: Batch, folder: Path) -> None:
    model.float().save_pretrained(folder)
    opened = (
        WordModel.from_pretrained(folder)
        if isinstance(model, WordModel)
        else load_item_model(folder)
    )
    assert torch.equal(outputs(opened.eval(), inputs), outputs(model, inputs))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_never_sees_a_later_item(name):
    model, before = model_and_outputs("next items", name)
    changed = batch("next items")
    changed["input_ids"][0, 4:] = FIRST_ID + (changed["input_ids"][0, 4:] - 3) % 20
    after = outputs(model, changed)
    assert_same(before[0, :4], after[0, :4])
    assert not torch.allclose(before[0, 4:], after[0, 4:], atol=1e-4)


@pytest.mark.parametrize(("world", "name"), [case for case in CASES if case.values[0] != "words"])
def test_a_users_vector_scores_as_the_last_position_does(world, name):
    model, expected = model_and_outputs(world, name)
    users = model.encode_users([(np.arange(3), batch(world))], num_users=3)
    scores = users @ model.item_vectors().T  # in float32, as an index holds them
    last = expected[torch.arange(3), torch.tensor(LENGTHS) - 1]
    torch.testing.assert_close(scores, last.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in BLOCKS if not BLOCKS[name].supports_causal])
def test_a_block_that_looks_ahead_is_refused_by_a_causal_model(name):
    structure = StructureSettings(block=BlockSettings(name))
    WORLDS["masked items"](structure)
    with pytest.raises(ConfigError, match=f"The block '{name}' reads later positions"):
        WORLDS["next items"](structure)


@pytest.mark.parametrize("residual", RESIDUALS, ids=lambda r: f"{r.name}{'-gate' * r.gate}")
@pytest.mark.parametrize("name", list(BLOCKS))
def test_every_block_stands_in_every_residual_wrapper(name, residual):
    torch.manual_seed(0)
    width = 8 if residual.name == "sum" else 16
    wrapper = ResidualWrapper(build_block(name, 8, width), 8, residual.name, residual.gate)
    hidden = torch.randn(3, 5, 8, requires_grad=True)
    mask = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
    result = wrapper(hidden, mask)
    assert result.shape == (3, 5, wrapper.width)
    (result[mask] * torch.randn(int(mask.sum()), wrapper.width)).sum().backward()
    assert_all_trained(wrapper)
    assert hidden.grad.isfinite().all()


# Poolings


@every_pooling
def test_neither_padding_nor_a_neighbour_changes_a_pooled_vector(pooling):
    model = words(STRUCTURES["fusion-last"], pooling)
    together = outputs(model, batch("words"))
    assert together.shape == (3, model.pooling.width)
    assert_same(outputs(model, batch("words", padding=4)), together)
    for row, length in enumerate(LENGTHS):
        alone = batch("words", (length,))
        del alone["attention_mask"]
        assert_same(outputs(model, alone), together[row : row + 1])


@every_pooling
def test_gradients_reach_every_parameter_under_a_pooling(pooling):
    model = words(STRUCTURES["fusion-last"], pooling).train()
    pooled = model(**batch("words"))
    (pooled * torch.randn(pooled.shape)).sum().backward()
    assert_all_trained(model)


@every_pooling
def test_a_model_with_a_pooling_is_saved_and_loaded_exactly(pooling, tmp_path):
    assert_saved_exactly(words(STRUCTURES["all"], pooling), batch("words"), tmp_path)


@every_pooling
def test_a_pooling_reads_items_as_it_reads_words(pooling):
    model = WORLDS["masked items"](STRUCTURES["all"])
    torch.manual_seed(0)
    pool = build_pooling(pooling, model.backbone.width).double()
    inputs, padded = batch("items"), batch("items", padding=3)
    pooled = [
        pool(model.backbone(**rows), rows["attention_mask"]).detach() for rows in (inputs, padded)
    ]
    assert pooled[0].shape == (3, pool.width)
    assert_same(pooled[1], pooled[0])
