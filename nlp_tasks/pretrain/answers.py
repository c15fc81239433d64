"""The pretrained model answers: which label stands behind a pair of texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.special import softmax
from transformers import PreTrainedTokenizerBase

from idbert.errors import CheckpointError
from idbert.inputs.label_tokens import label_ids, with_last_token
from idbert.inputs.text import EncodedTexts, TextSettings, encode_texts
from idbert.inputs.text_batches import text_batches
from idbert.inputs.tokenizers import open_tokenizer
from idbert.nn.products import fast_products
from idbert.nn.word_models import MaskedWordModel, load_word_model
from idbert.run_dir import RunDir

TOKENIZER_FOLDER = "tokenizer"
TOKEN_BUDGET = 8192


class LabelReader:
    """Puts a mask where the label of a pair would stand, and reads which label is restored.

    Args:
        model: trained on pairs with labels.
        tokenizer: of the same run.
        max_length: positions of a sequence, special tokens and label included.

    Raises:
        CheckpointError: the tokenizer has no token of a label.
    """

    def __init__(
        self, model: MaskedWordModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int
    ) -> None:
        ids = label_ids(tokenizer)
        if not ids:
            raise CheckpointError(
                f"the tokenizer {tokenizer.name_or_path!r} has no token of a label. Give a run of "
                "nlp_pretrain that was trained with data.label_column."
            )
        self.names = tuple(ids)
        """The labels, in the order of the probabilities."""
        self.model, self.tokenizer = model.train(False), tokenizer
        self._ids_C = np.array(list(ids.values()), np.int64)
        self._settings = TextSettings(max_length - 1)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> "LabelReader":
        """Open a finished run of nlp_pretrain.

        Args:
            folder: of the run.
            device: that computes, by its name in torch.

        Raises:
            CheckpointError: there is no such run, or it was trained without labels.
        """
        run = RunDir.open(folder, ["nlp_pretrain"])
        tokenizer = open_tokenizer(run.path / TOKENIZER_FOLDER)
        max_length = run.read_config()["text"]["max_length"]
        return cls(load_word_model(run.model).to(device), tokenizer, max_length=max_length)

    def probabilities(
        self, firsts: Sequence[str], seconds: Sequence[str], *, token_budget: int = TOKEN_BUDGET
    ) -> Float32[np.ndarray, "N C"]:
        """Return the probability of each label, of each pair.

        Args:
            firsts: the first texts.
            seconds: the second ones.
            token_budget: positions of a batch, padding included.

        Raises:
            DataError: a text is empty, or there is another number of second texts.
        """
        encoded = encode_texts(
            firsts,
            self.tokenizer,
            self._settings,
            seconds,
            num_token_types=self.model.config.type_vocab_size,
        )
        masks_N = np.full(len(encoded), int(self.tokenizer.mask_token_id), np.int64)
        asked = with_last_token(encoded, masks_N)
        pad_id = int(self.tokenizer.pad_token_id)
        scores_NC = label_scores(self.model, asked, self._ids_C, pad_id, token_budget=token_budget)
        found_NC: np.ndarray = softmax(scores_NC, axis=1)
        return found_NC


@torch.no_grad()
@fast_products()
def label_scores(
    model: MaskedWordModel,
    asked: EncodedTexts,
    label_ids_C: Int64[np.ndarray, "C"],
    pad_id: int,
    *,
    token_budget: int = TOKEN_BUDGET,
) -> Float32[np.ndarray, "N C"]:
    """Return the score of each label at the last position of each sequence.

    Args:
        model: in evaluation mode.
        asked: sequences that end with a mask.
        label_ids_C: the tokens of the labels.
        pad_id: the tokenizer's.
        token_budget: positions of a batch, padding included.
    """
    ids_C = torch.from_numpy(label_ids_C).to(model.device)
    found_NC = np.empty((len(asked), len(label_ids_C)), np.float32)
    for places_B, batch in text_batches(asked, pad_id, token_budget):
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        hidden_BLX, _ = model.backbone.forward_with_last(**batch)
        last_B = batch["attention_mask"].sum(1) - 1
        at_label_BX = hidden_BLX[torch.arange(len(last_B), device=model.device), last_B]
        found_NC[places_B] = model.scores(at_label_BX)[:, ids_C].float().cpu().numpy()
    return found_NC
