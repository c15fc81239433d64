"""The texts of a training batch in groups of like length, and by a faster encoder.

sentence-transformers pads every column of a batch to its longest text: of short sentences two
thirds of the positions then carry nothing. Here the texts of a column are encoded in a few groups,
each padded to its own longest, and put back into their order before the loss sees them. A BERT of
transformers is computed by idbert's encoder on the same weights meanwhile, whose dropout and
attention are cheaper on a CPU. Where there is no dropout both are the same mathematics.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import BertModel

from idbert.nn.attention import is_right_padded
from idbert.nn.checkpoint_config import BERT_FIELDS
from idbert.nn.encoder import Encoder
from idbert.nn.encoder_config import EncoderConfig
from nlp_tasks.match.encoder_module import TEXT_FIELDS

POSITIONS_OF_A_GROUP = 112
"""What a group costs beside its positions: to add up the weights' gradients once more takes as long
as so many, measured on a CPU with all-MiniLM-L6-v2 (45 ms against 0.4 ms a position)."""


class GroupedEncoding:
    """Has towers encode a batch in groups of like length, where `active` is entered.

    Args:
        towers: Whose modules, behind the encoder, read each text for itself.
    """

    def __init__(self, towers: SentenceTransformer) -> None:
        self._towers = towers
        models = [m.model for m in towers.modules() if isinstance(m, Transformer)]
        self._twins = [(model, twin) for model in models if (twin := twin_of(model)) is not None]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the towers' forward pass group its texts inside the block."""
        with ExitStack() as block:
            block.enter_context(_replaced(self._towers, _grouped(self._towers.forward)))
            for model, twin in self._twins:
                words = twin.embeddings.word_embeddings
                block.enter_context(_replaced(words, _added_in_place(words)))
                block.enter_context(_replaced(model, _by_twin(model, twin)))
            yield


def twin_of(model: nn.Module) -> Encoder | None:
    """Return idbert's encoder on the very weights of a BERT, or None where it is another model.

    Args:
        model: Of transformers. A pooler of its own is left out: towers read tokens' vectors.
    """
    if type(model) is not BertModel or model.config.is_decoder:
        return None
    weights = {name: w for name, w in model.named_parameters() if not name.startswith("pooler.")}
    with torch.device("meta"):
        twin = Encoder(EncoderConfig(**{name: getattr(model.config, name) for name in BERT_FIELDS}))
    if twin.state_dict().keys() != weights.keys():  # an adapter, positions of another kind
        return None
    trained = {name: weight.requires_grad for name, weight in weights.items()}
    twin.load_state_dict(weights, assign=True)
    for name, weight in weights.items():  # torch lets the twin's own say whether they are trained
        weight.requires_grad_(trained[name])
    return twin


def groups_of(lengths_B: Int64[np.ndarray, "B"]) -> list[Int64[np.ndarray, "_"]]:
    """Part texts into groups of like length, at the least cost.

    A group costs its texts times the longest of them, and `POSITIONS_OF_A_GROUP`. Of sorted texts
    the cheapest first i are the cheapest first j < i and one group more, which all j are tried for.

    Args:
        lengths_B: Tokens of each text.

    Returns:
        The places of the texts of each group.
    """
    order = np.argsort(lengths_B, kind="stable")
    cost = np.zeros(len(order) + 1, np.int64)
    begin = np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):
        sizes = end - np.arange(end)
        costs = cost[:end] + sizes * lengths_B[order[end - 1]] + POSITIONS_OF_A_GROUP
        begin[end] = costs.argmin()
        cost[end] = costs[begin[end]]
    groups, end = [], len(order)
    while end:
        groups.append(order[begin[end] : end])
        end = begin[end]
    return groups[::-1]


def _grouped(forward: Any) -> Any:
    """Return the towers' forward pass, by groups."""

    def by_groups(features: dict[str, Any], **options: Any) -> dict[str, Any]:
        mask_BL = features.get("attention_mask")
        if mask_BL is None or mask_BL.ndim != 2 or not is_right_padded(mask_BL):
            return forward(features, **options)
        lengths_B = mask_BL.sum(1).cpu().numpy().astype(np.int64)
        groups = groups_of(lengths_B)
        if len(groups) == 1:
            return forward(features, **options)
        parts = [
            forward(_rows(features, places, int(lengths_B[places[-1]])), **options)
            for places in groups
        ]
        back = torch.from_numpy(np.argsort(np.concatenate(groups))).to(mask_BL.device)
        vectors_BD = torch.cat([part["sentence_embedding"] for part in parts])[back]
        return features | {"sentence_embedding": vectors_BD}

    return by_groups


def _rows(features: dict[str, Any], places: np.ndarray, length: int) -> dict[str, Any]:
    """Return the features of some texts, as long as the longest of them."""
    shape = features["attention_mask"].shape
    rows = torch.from_numpy(places).to(features["attention_mask"].device)
    return {
        name: value[rows, :length]
        if isinstance(value, Tensor) and value.shape[:2] == shape
        else value
        for name, value in features.items()
    }


def _by_twin(model: BertModel, twin: Encoder) -> Any:
    """Return a BERT's forward pass, computed by its twin where that can do all that is asked."""
    plain = model.forward

    def by_twin(**inputs: Any) -> Any:
        given = {name for name, value in inputs.items() if value is not None and value is not False}
        checkpoints = model.training and model.is_activation_checkpointing
        if not given <= {*TEXT_FIELDS, "return_dict"} or "input_ids" not in given or checkpoints:
            return plain(**inputs)
        twin.train(model.training)
        return twin(**{name: inputs[name] for name in TEXT_FIELDS if name in inputs})

    return by_twin


class _Lookup(torch.autograd.Function):
    """Rows of a table, whose gradients are added to the table's own at once.

    Else every group would make a gradient as large as the table, and add it to that of the others.
    """

    @staticmethod
    def forward(ctx: Any, table_VD: Tensor, ids_BL: Tensor, padding: int | None) -> Tensor:
        ctx.table, ctx.padding = table_VD, padding
        ctx.save_for_backward(ids_BL)
        return functional.embedding(ids_BL, table_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BLD: Tensor) -> tuple[None, None, None]:
        (ids_BL,) = ctx.saved_tensors
        table_VD = ctx.table
        if table_VD.grad is None:
            table_VD.grad = torch.zeros_like(table_VD)
        if ctx.padding is not None:
            gradient_BLD = gradient_BLD.masked_fill((ids_BL == ctx.padding)[..., None], 0)
        rows_MD = gradient_BLD.flatten(0, 1).to(table_VD.dtype)
        table_VD.grad.index_add_(0, ids_BL.flatten(), rows_MD)
        return None, None, None


def _added_in_place(words: nn.Embedding) -> Any:
    """Return the forward pass of a table of words that gathers its gradients in place."""
    return lambda ids_BL: _Lookup.apply(words.weight, ids_BL, words.padding_idx)


@contextmanager
def _replaced(module: nn.Module, forward: Any) -> Iterator[None]:
    """Give one module another forward pass inside the block."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
