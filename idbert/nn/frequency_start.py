"""Vectors for a new vocabulary, taken by frequency rank from those of a pretrained encoder.

Words that were replaced by numbers, and items of a shop, have no names to look up. What is left of
a language is how often each of them occurs: the r-th most frequent id takes the vector of the r-th
most frequent token. It is a start, not a dictionary; masked words, or masked items, do the rest.
"""

import copy
import logging
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.blocks.block import NO_BLOCK
from idbert.nn.checkpoints import TOKEN_TABLE
from idbert.nn.encoder import Encoder
from idbert.nn.word_heads import WordHeads

logger = logging.getLogger(__name__)

NO_ROW = -1
"""Stands for the row of a source where there is none."""

_MEANING = (
    "encoder_kind",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "norm",
    "layer_norm_eps",
    "max_relative_position",
    "residual_scores",
    "feed_forward",
    "layer_residual",
    "time_bias",
    "time_buckets",
    "query_time",
)
"""Fields of the config by which a layer's weights mean what they were trained to mean."""


def align_by_rank(
    counts_V: Int64[np.ndarray, "V"],
    source_counts: Int64[np.ndarray, "_"],
    special_rows: Mapping[int, int],
) -> Int64[np.ndarray, "V"]:
    """Return for each row of a table the row of a source that is as frequent, or NO_ROW.

    The r-th most frequent row takes the r-th most frequent one of the source; of equally frequent
    ones, the lower comes first. Rows that never occur, on either side, have no rank. Where more
    rows than rows of the source have one, the rarest of them get NO_ROW.

    Args:
        counts_V: How often each row of the table occurs.
        source_counts: How often each row of the source occurs in a reference text.
        special_rows: Rows that are alike whatever their counts (padding, mask, ...): the table's,
            and the source's. They have no rank.
    """
    ranked = _by_frequency(counts_V, list(special_rows))
    of_source = _by_frequency(source_counts, list(special_rows.values()))
    paired = min(len(ranked), len(of_source))
    rows_V = np.full(len(counts_V), NO_ROW, np.int64)
    rows_V[ranked[:paired]] = of_source[:paired]
    for row, source_row in special_rows.items():
        rows_V[row] = source_row
    return rows_V


@torch.no_grad()
def take_rows(
    table_VD: Float[Tensor, "V _"],
    source: Float[Tensor, "_ _"],
    source_rows_V: Int64[np.ndarray, "V"],
) -> None:
    """Write vectors of a source into a table of embeddings.

    Rows without one (NO_ROW) are drawn from torch's global generator, from a normal distribution
    with the mean and the standard deviation of the source's components, so that they are like the
    others in all but direction.

    Args:
        table_VD: Written to.
        source: The pretrained vectors, as wide.
        source_rows_V: From `align_by_rank`.

    Raises:
        ConfigError: the vectors are of another width.
    """
    if source.shape[1] != table_VD.shape[1]:
        raise ConfigError(
            f"The pretrained vectors are {source.shape[1]} wide, and these embeddings "
            f"{table_VD.shape[1]}. Build the encoder with hidden_size={source.shape[1]}."
        )
    rows_V = torch.from_numpy(source_rows_V)
    taken_V = rows_V != NO_ROW
    mean_D, deviation_D = source.mean(0), source.std(0)
    drawn_VD = mean_D + deviation_D * torch.randn(table_VD.shape, dtype=source.dtype)
    drawn_VD[taken_V] = source[rows_V[taken_V]]
    table_VD.copy_(drawn_VD)
    logger.info(
        "%d of %d rows start with a pretrained vector, %d are drawn like them",
        int(taken_V.sum()),
        len(taken_V),
        int((~taken_V).sum()),
    )


@torch.no_grad()
def with_vocabulary(
    encoder: Encoder,
    heads: WordHeads,
    source_rows_V: Int64[np.ndarray, "V"],
    *,
    pad_token_id: int,
    num_layers: int | None = None,
) -> tuple[Encoder, WordHeads]:
    """Return an encoder over another vocabulary, and its heads, to be trained further.

    All but the embeddings of the words is the pretrained one's; see `take_rows` for these. With
    fewer layers, what stood on all of them (a fusion, a block, and the head on it) is left out.

    Args:
        encoder: The pretrained one; left as it is.
        heads: Of the same checkpoint, from `read_word_heads`.
        source_rows_V: The pretrained row that each row of the new vocabulary starts from.
        pad_token_id: Of the new vocabulary.
        num_layers: How many of the lowest layers are kept. Default: all.

    Raises:
        ConfigError: the encoder has not so many layers.
    """
    config = copy.deepcopy(encoder.config)
    layers = config.num_hidden_layers if num_layers is None else num_layers
    _check_layers(layers, config.num_hidden_layers)
    is_cut = layers < config.num_hidden_layers
    config.vocab_size, config.pad_token_id = len(source_rows_V), pad_token_id
    config.num_hidden_layers = layers
    new = Encoder(config)
    own = new.state_dict()
    state = encoder.state_dict()
    new.load_state_dict({name: state[name] for name in own if name != TOKEN_TABLE}, strict=False)
    take_rows(new.get_input_embeddings().weight, state[TOKEN_TABLE], source_rows_V)
    words, structure = dict(heads.words), heads.structure
    if is_cut:
        structure = None
        if config.fusion != "last" or config.block != NO_BLOCK:
            words = {}
    if "bias" in words:
        words["bias"] = taken_biases(words["bias"], source_rows_V)
    return new, WordHeads(heads.source, words, dict(heads.next_sentence), structure)


@torch.no_grad()
def copy_layers(target: Encoder, source: Encoder, num_layers: int) -> None:
    """Copy the lowest layers of a pretrained encoder, and the LayerNorm below them.

    Embeddings stay as they are: those of words by `take_rows`, and positions and segments of one
    vocabulary say nothing about another's.

    Args:
        target: Written to; layers above stay as they are.
        source: The pretrained one.
        num_layers: How many layers.

    Raises:
        ConfigError: one of them has fewer layers, or their layers are of different kinds.
    """
    for one in (source, target):
        _check_layers(num_layers, one.config.num_hidden_layers)
    differing = [
        f"{name} {getattr(source.config, name)} there, {getattr(target.config, name)} here"
        for name in _MEANING
        if getattr(source.config, name) != getattr(target.config, name)
    ]
    if differing:
        raise ConfigError(
            f"The pretrained layers are of another kind: {'; '.join(differing)}. Build the encoder "
            "with the same settings, or take over no layers."
        )
    target.embeddings.LayerNorm.load_state_dict(source.embeddings.LayerNorm.state_dict())
    for number in range(num_layers):
        target.encoder.layer[number].load_state_dict(source.encoder.layer[number].state_dict())
    logger.info("%d layers start with pretrained weights", num_layers)


def _by_frequency(counts: Int64[np.ndarray, "_"], excluded: list[int]) -> Int64[np.ndarray, "_"]:
    """Return the rows that occur, the most frequent first."""
    counts = counts.copy()
    counts[excluded] = 0
    order = np.argsort(-counts, kind="stable")
    ranked: np.ndarray = order[counts[order] > 0]
    return ranked


def taken_biases(
    source: Float[Tensor, "_"], source_rows_V: Int64[np.ndarray, "V"]
) -> Float[Tensor, "V"]:
    """Return the biases of the rows taken; their mean for the others."""
    rows_V = torch.from_numpy(source_rows_V)
    taken_V = rows_V != NO_ROW
    biases_V = torch.full((len(rows_V),), float(source.mean()), dtype=source.dtype)
    biases_V[taken_V] = source[rows_V[taken_V]]
    return biases_V


def _check_layers(wanted: int, there: int) -> None:
    if not 1 <= wanted <= there:
        raise ConfigError(
            f"layers is {wanted}, and the encoder has {there}. Choose from 1 to {there}."
        )
