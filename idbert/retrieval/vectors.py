"""Item vectors of any layer, and the form in which approximate indexes search vectors."""

import re
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import normalize

from idbert.nn.fusion import resolve_layers
from idbert.nn.item_models import ItemModel
from idbert.nn.modes import evaluation_mode
from idbert.rows import FIRST_ITEM

Layer: TypeAlias = int | Literal["fused"] | None
"""Which vectors of an item: None is its row of the embedding table, which the scores use too; 0
the embedding output, 1 the first layer, -1 the last, "fused" what the fusion makes of them."""

_ITEMS_AT_ONCE = 8192
_TOP_SHARE = 0.01
GRAPHS = re.compile(r"HNSW|NSG")
"""Found in the factory string of an index that walks through a graph."""
_COMPLETED = re.compile(r"HNSW|NSG|^IVF\d+,(Flat|SQ)")
_SCALAR = re.compile(r"(^|,)SQ|\(SQ")
_ROTATED = re.compile(r"^RR(\d+),IVF\d+,PQ")
_LANES = 16


@torch.no_grad()
def item_layer_vectors(
    model: ItemModel,
    layer: Layer = None,
    items: slice = slice(None),  # noqa: B008 (cannot change)
) -> Float32[Tensor, "N D"]:
    """Return one vector an item; row i is the item in vocabulary row `FIRST_ITEM + i`.

    Beyond the embedding table, the vector of an item is the encoder's state for a history that
    holds this item and nothing else. Dropout is off meanwhile.

    Args:
        model: of V rows; N = V - FIRST_ITEM.
        layer: see `Layer`.
        items: which of them; all by default.

    Raises:
        ConfigError: the encoder has no such layer.
    """
    if layer is None:
        return model.item_vectors()[FIRST_ITEM:, :-1][items]
    state = None if layer == "fused" else resolve_layers([layer], model.config.num_states)[0]
    rows_N = torch.arange(FIRST_ITEM, model.config.vocab_size, device=model.device)[items]
    with evaluation_mode(model):
        chunks = [_alone(model, rows, state) for rows in torch.split(rows_N, _ITEMS_AT_ONCE)]
    return torch.cat(chunks).float()


def cosine_vectors(vectors_ND: Float32[Tensor, "N D"]) -> Float32[Tensor, "N D"]:
    """Return the vectors with norm 1, so that inner products are cosines; zeros stay zeros."""
    return normalize(vectors_ND, dim=1)


def completed(vectors_ND: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N _"]:
    """Add a component that brings all but the longest 1% of the vectors to one norm, [N, D+1].

    With a 0 in that place of a query no score changes. But between vectors of one norm the inner
    product ranks as the distance does, on which the walk through a graph relies: without it,
    vectors that are not long may never be reached. The longest are left as they are, since to
    complete all others to the norm of an outlier would drown what distinguishes them.
    Source: Bachrach et al. 2014, "Speeding Up the Xbox Recommender System Using a Euclidean
    Transformation for Inner-Product Spaces", with the maximum norm replaced by a quantile.
    """
    squared_N = np.square(vectors_ND, dtype=np.float64).sum(axis=1)
    missing_N = np.quantile(squared_N, 1 - _TOP_SHARE) - squared_N
    component_N = np.sqrt(missing_N.clip(min=0)).astype(np.float32)
    return np.column_stack([vectors_ND, component_N])


def coded_cells(cells: int, dimension: int) -> str:
    """Return the factory string of cells that are read by 4-bit codes, then ranked again.

    A code of 4 bits for each component is a quarter of what SQfp16 reads, and is looked up by
    vector instructions; the best few are then ranked by 16 bits. A rotation first lets all
    components differ as much, so that they need as many bits.
    """
    width = dimension + 1  # completed
    return f"RR{width},IVF{cells},PQ{width}x4fs,Refine(SQfp16)"


def stored_width(factory: str, dimension: int) -> int:
    """Return how many components an index of `factory` keeps of vectors of `dimension`."""
    if _is_coded(factory, dimension):
        return dimension + 1
    width = dimension + bool(_COMPLETED.search(factory))
    return -(-width // _LANES) * _LANES if _SCALAR.search(factory) else width


def stored_form(vectors_ND: Float32[np.ndarray, "N D"], factory: str) -> Float32[np.ndarray, "N _"]:
    """Return the vectors as an index of `factory` searches them best; no score changes.

    Graphs and cells get `completed` vectors. At 100,000 vectors of 65 components and 64 of 1,024
    cells that raised the recall from 0.918 to 0.961. Components of 16, 8 or 4 bits are filled with
    zeros to a multiple of 16: FAISS reads other widths without the processor's vector instructions,
    7 times more slowly. Those of `coded_cells` are not: each costs a code.
    """
    width = stored_width(factory, vectors_ND.shape[1])
    if _COMPLETED.search(factory) or _is_coded(factory, vectors_ND.shape[1]):
        vectors_ND = completed(vectors_ND)
    missing = width - vectors_ND.shape[1]
    return np.ascontiguousarray(np.pad(vectors_ND, ((0, 0), (0, missing))))


def _is_coded(factory: str, dimension: int) -> bool:
    """Return whether the cells are those of `coded_cells`: rotated to one component more."""
    rotated = _ROTATED.search(factory)
    return rotated is not None and int(rotated[1]) == dimension + 1


def _alone(model: ItemModel, rows: Tensor, state: int | None) -> Tensor:
    """Encode histories of one item each, [N, D]; `state` None is the fused one."""
    inputs = {"input_ids": rows[:, None]}
    if model.config.reads_times != "none":  # one event, asked at its own time: any will do
        inputs["timestamps"] = torch.zeros_like(rows[:, None])
        if model.config.reads_times == "queries" and model.is_causal:
            inputs["query_timestamps"] = inputs["timestamps"]
    if state is None:
        fused: Tensor = model.backbone(**inputs)
        return fused[:, 0]
    return model.backbone.hidden_states(**inputs)[state][:, 0]
