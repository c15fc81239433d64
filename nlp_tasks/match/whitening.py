"""Whitening: vectors whose components are uncorrelated and of one variance, and fewer of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from torch import nn

from idbert.errors import ConfigError, DataError
from nlp_tasks.match.encoding import VectorPrecision, encode_sentences

_LEAST = 1e-9
"""Share of the largest variance below which a direction counts as none."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """x' = (x - mean) kernel, after which the fitted vectors have covariance 1 in every direction.

    kernel = U diag(1 / sqrt(variance)), of the eigenvectors U of the covariance; its first columns
    are those of the largest variances, so that fewer columns are the best fewer.
    Source: Su et al. 2021, "Whitening Sentence Representations for Better Semantics and Faster
    Retrieval", equations 6 to 9.

    Attributes:
        mean_D: of the fitted vectors.
        kernel: one column a new component, [D, width].
    """

    mean_D: Float64[np.ndarray, "D"]
    kernel: Float64[np.ndarray, "D _"]

    @classmethod
    def fit(cls, vectors_ND: Float32[np.ndarray, "N D"], width: int | None = None) -> "Whitening":
        """Fit it to vectors.

        Args:
            vectors_ND: one a row; not normalised.
            width: components that are kept; None: all.

        Raises:
            ConfigError: the width is not from 1 to that of the vectors.
            DataError: the vectors vary in fewer directions than are wanted.
        """
        num, dimension = vectors_ND.shape
        width = dimension if width is None else width
        if not 1 <= width <= dimension:
            raise ConfigError(f"width is {width}; these vectors allow 1 to {dimension}.")
        wide_ND = vectors_ND.astype(np.float64)
        mean_D = wide_ND.mean(axis=0) if num else np.zeros(dimension)
        centred_ND = wide_ND - mean_D
        covariance = centred_ND.T @ centred_ND / max(num, 1)
        variances, directions = np.linalg.eigh(covariance)
        variances, directions = variances[::-1], directions[:, ::-1]
        found = int((variances > _LEAST * max(variances[0], np.finfo(np.float64).tiny)).sum())
        if found < width:
            raise DataError(
                f"{num} vectors vary in {found} directions, and {width} are wanted. Give more "
                "texts, or a smaller width."
            )
        return cls(mean_D, directions[:, :width] / np.sqrt(variances[:width]))

    def apply(self, vectors_ND: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N _"]:
        """Return the whitened vectors."""
        whitened: np.ndarray = ((vectors_ND - self.mean_D) @ self.kernel).astype(np.float32)
        return whitened

    def dense(self) -> Dense:
        """Return it as a module of sentence-transformers: a linear layer without activation."""
        weight = torch.from_numpy(self.kernel.T.astype(np.float32)).contiguous()
        bias = torch.from_numpy((-self.mean_D @ self.kernel).astype(np.float32))
        dense: Dense = Dense(
            *self.kernel.shape,
            activation_function=nn.Identity(),
            init_weight=weight,
            init_bias=bias,
        )
        return dense


def whitened(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    width: int | None = None,
    precision: VectorPrecision = "float32",
    progress: bool = False,
    **encoding: Any,
) -> SentenceTransformer:
    """Return a model whose vectors are the given one's, whitened on texts.

    The new linear layer stands at the end, or before the module that brings vectors to length 1.
    What is saved opens as any SentenceTransformer does. The modules are shared, not copied.

    Args:
        model: With vectors of any kind.
        texts: Of the kind that will be searched; thousands.
        width: Components that are kept; None: all.
        precision: As for `encode_sentences`.
        progress: Show a progress bar on stderr.
        encoding: Other arguments of `encode_sentences`.

    Raises:
        ConfigError: the model cuts its vectors off (truncate_dim), or the width is impossible.
        DataError: the texts are too few.
    """
    if model.truncate_dim is not None:
        raise ConfigError(
            f"the model keeps {model.truncate_dim} components of a vector, which whitening would "
            "mix with the others. Open it without truncate_dim, and give whitening a width."
        )
    modules = list(model)
    behind = [modules.pop()] if isinstance(modules[-1], Normalize) else []
    names: dict[str, Any] = {
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
    }
    device = str(model.device)
    front = SentenceTransformer(modules=modules, device=device, **names)
    vectors_ND = encode_sentences(front, texts, precision=precision, progress=progress, **encoding)
    dense = Whitening.fit(vectors_ND, width).dense()
    made = SentenceTransformer(
        modules=[*modules, dense, *behind],
        device=device,
        similarity_fn_name=model.similarity_fn_name,
        **names,
    )
    return made.eval()
