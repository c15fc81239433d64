"""Sentence vectors: those of SentenceTransformer.encode, in less time."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from idbert.errors import ConfigError
from idbert.inputs.text import EncodedTexts, TextSettings, encode_texts
from idbert.inputs.text_batches import text_batches
from idbert.inputs.text_checks import check_texts
from idbert.inputs.tokens import TOKENIZERS
from idbert.nn.fast_inference import fast_inference
from idbert.training.precision import resolve_precision

logger = logging.getLogger(__name__)

VectorPrecision = Literal["float32", "bfloat16", "auto"]
Task = Literal["query", "document"]

TOKENS_AT_ONCE = {"cpu": 1024}
"""Positions of a batch by type of device: on a CPU as many as its cache holds the states of."""
_TOKENS_AT_ONCE = 32_768
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
_TOKEN_FIELDS = ("input_ids", "attention_mask", "token_type_ids")
_UNLIMITED = 2**31 - 1


def encode_sentences(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    precision: VectorPrecision = "float32",
    token_budget: int | None = None,
    progress: bool = False,
    task: Task | None = None,
    prompt: str | None = None,
) -> Float32[np.ndarray, "N D"]:
    """Return one vector a text; at float32 those of `model.encode(texts)` to 1e-5.

    Texts are tokenised in one go, the longest come first, and batches hold texts of about one
    length under a budget of tokens, so that little is padded. Linear layers are computed by
    `fast_inference`. A model whose tokens cannot be made this way (of images, say) is left to its
    own `encode`.

    Args:
        model: Any; its modules are run as they are, and are left as they were.
        texts: Empty ones get the vector of the special tokens alone.
        precision: In which numbers matrices are multiplied. bfloat16 changes a component by about
            0.002 of a vector of length 1; auto takes it where the hardware has it and it pays.
            The vectors are float32 in any case.
        token_budget: Positions of a batch, padding included. Default: 1,024 on a CPU, 32,768
            elsewhere.
        progress: Show a progress bar on stderr, if that is a terminal.
        task: "query" or "document", for models that tell them apart, by two towers or by prompts.
        prompt: What stands before each text. Default: what the model has for the task.

    Raises:
        DataError: `texts` is one text, or a row is no text.
        ConfigError: the token budget is below 1, or the precision is none of these.
    """
    if token_budget is not None and token_budget < 1:
        raise ConfigError(f"token_budget is {token_budget}; it must be at least 1.")
    if precision not in ("float32", "bfloat16", "auto"):
        raise ConfigError(
            f"precision is '{precision}'; choose float32, bfloat16 or auto. Products in int8 are "
            "left out, since they lost 7 of 100 nearest neighbours and saved a tenth of bfloat16's "
            "time. Vectors are kept in int8 by an index SQ8."
        )
    texts = texts if isinstance(texts, str) else list(texts)
    check_texts(texts, allow_empty=True)
    if not texts:
        return np.zeros((0, model.get_embedding_dimension() or 0), np.float32)
    prompt = _prompt(model, task) if prompt is None else prompt
    device = model.device.type
    resolved = resolve_precision(precision, _width(model), device)
    inputs = _fast_inputs(model, texts, prompt, task)
    if inputs is None:
        return _by_the_model(model, texts, prompt, task, resolved, progress)
    encoded, tokenizer, extra = inputs
    budget = token_budget or TOKENS_AT_ONCE.get(device, _TOKENS_AT_ONCE)
    vectors_ND: np.ndarray | None = None
    hidden = None if progress else True  # None: wherever stderr is no terminal
    with (
        fast_inference(model, "bfloat16" if resolved == "bfloat16" else "float32"),
        tqdm(total=len(encoded.ids), unit="token", unit_scale=True, disable=hidden) as bar,
    ):
        for places_B, batch in text_batches(encoded, tokenizer.pad_token_id, budget):
            bar.update(int(batch["attention_mask"].sum()))
            vectors_BD = _vectors(model, dict(batch) | extra, task)
            if vectors_ND is None:
                vectors_ND = np.empty((len(texts), vectors_BD.shape[1]), np.float32)
            vectors_ND[places_B] = vectors_BD.float().cpu().numpy()
    assert vectors_ND is not None  # there is at least one text
    return vectors_ND


def _vectors(
    model: SentenceTransformer, features: dict[str, Any], task: Task | None
) -> Float32[Tensor, "B D"]:
    if "token_type_ids" in features:  # texts come alone, so there is one type
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    moved = {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in features.items()
    }
    vectors_BD: Tensor = model(moved, **_task(task))["sentence_embedding"]
    return vectors_BD[:, : model.truncate_dim]


def _fast_inputs(
    model: SentenceTransformer, texts: list[str], prompt: str | None, task: Task | None
) -> tuple[EncodedTexts, PreTrainedTokenizerBase, dict[str, Any]] | None:
    """Return the tokens of all texts, the tokenizer, and what a batch holds beside the tokens.

    None where these would not be the model's own tokens. So that nothing need be known about its
    modules, the shortest and the longest text are given to its own `preprocess` and compared.
    """
    first: Any = model[0]
    if isinstance(first, Router):
        route = task or first.default_route
        if route not in first.sub_modules:
            raise ConfigError(
                f"the model has the towers {', '.join(first.sub_modules)} and no default. Say with "
                "task which one encodes."
            )
        first = first.sub_modules[route][0]
    tokenizer = getattr(first, "tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.is_fast:
        return None
    if tokenizer.pad_token_id is None or tokenizer.padding_side != "right":
        return None
    longest = getattr(first, "max_seq_length", None) or _UNLIMITED
    encoded = encode_texts(
        [prompt + text for text in texts] if prompt else texts,
        tokenizer,
        TextSettings(max_length=longest),
        allow_empty=True,
        num_token_types=1,
    )
    probes = {int(encoded.lengths.argmin()), int(encoded.lengths.argmax()), len(texts) // 2}
    for place in probes:
        with TOKENIZERS:
            features = model.preprocess([texts[place]], prompt=prompt, **_task(task))
        ids = encoded.ids[encoded.offsets[place] : encoded.offsets[place + 1]]
        wanted = features.get("input_ids")
        is_known = all(
            name in _TOKEN_FIELDS or not isinstance(value, Tensor)
            for name, value in features.items()
        )
        if not is_known or wanted is None or wanted[0].tolist() != ids.tolist():
            logger.info("%s makes tokens in its own way, so its own encode is used", type(first))
            return None
    extra = {name: value for name, value in features.items() if name not in _TOKEN_FIELDS[:2]}
    return encoded, tokenizer, extra


def _by_the_model(
    model: SentenceTransformer,
    texts: list[str],
    prompt: str | None,
    task: Task | None,
    precision: str,
    progress: bool,
) -> Float32[np.ndarray, "N D"]:
    with fast_inference(model, "bfloat16" if precision == "bfloat16" else "float32"):
        vectors_ND: Tensor = model.encode(
            texts,
            # An empty prompt and none are the same to a model, unless it has one for all texts.
            prompt=prompt or "",
            show_progress_bar=progress,
            convert_to_tensor=True,
            **_task(task),
        )
    return vectors_ND.float().cpu().numpy()


def _prompt(model: SentenceTransformer, task: Task | None) -> str | None:
    """Return what the model puts before each text: that of the task, or that of all texts."""
    names = [name for name in _PROMPTS.get(task or "", ()) if name in model.prompts]
    name = names[0] if names else model.default_prompt_name
    return None if name is None else model.prompts.get(name)


def _task(task: Task | None) -> dict[str, str]:
    return {} if task is None else {"task": task}


def _width(model: SentenceTransformer) -> int:
    """Return the width inside the encoder, as far as it is known."""
    encoder = model.transformers_model
    config = getattr(encoder, "config", None)
    return int(getattr(config, "hidden_size", None) or model.get_embedding_dimension() or 0)
