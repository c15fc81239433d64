"""Models over a new vocabulary, of words or of items, that start from a pretrained encoder."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from idbert.errors import CheckpointError
from idbert.inputs.tokenizers import open_tokenizer
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.encoder import Encoder
from idbert.nn.frequency_start import copy_layers, take_rows, with_vocabulary
from idbert.nn.item_models import ItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.nn.word_config import WordEncoderSettings
from idbert.nn.word_heads import read_word_heads
from idbert.nn.word_models import MaskedWordModel
from idbert.rows import CLS, MASK, PAD, UNK
from nlp_tasks.cls.config import PretrainedSettings
from nlp_tasks.pretrain.start import ItemStart, WordStart, rows_by_rank, word_rows
from pipelines.nlp_corridor import open_pretrained, pretrained_folders


def start_word_model(
    start: WordStart,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    architecture: WordEncoderSettings,
    change: PretrainedSettings,
    *,
    next_sentence: bool = False,
    loss: LossSettings | None = None,
) -> MaskedWordModel:
    """Return a model over a tokenizer's tokens, which may start from a pretrained encoder.

    Args:
        start: what is taken from which; without a model, nothing is.
        texts: those that the tokens are counted in.
        tokenizer: of the new vocabulary.
        architecture: of what stands on the vectors, where no layers are taken.
        change: what is changed about the pretrained encoder, where layers are taken.
        next_sentence: whether the model has the next-sentence head.
        loss: over the vocabulary.

    Raises:
        CheckpointError: there is no such model, or its parts do not belong together.
        ConfigError: it has fewer layers, or its vectors are of another width.
        DataError: the reference cannot be read.
    """
    pad_id = int(tokenizer.pad_token_id)
    if start.model is not None and start.takes_layers:
        encoder, source = _open_source(start.model, change)
        rows_V = word_rows(start, texts, tokenizer, source)
        heads = read_word_heads(pretrained_folders(start.model)[0])
        encoder, heads = with_vocabulary(
            encoder, heads, rows_V, pad_token_id=pad_id, num_layers=start.layers
        )
        return MaskedWordModel.continue_from(encoder, heads, next_sentence=next_sentence, loss=loss)
    model = MaskedWordModel.build(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=pad_id,
        next_sentence=next_sentence,
        loss=loss,
    )
    if start.model is not None:
        encoder, source = _open_source(start.model, change)
        rows_V = word_rows(start, texts, tokenizer, source)
        take_rows(model.get_input_embeddings().weight, _vectors(encoder), rows_V)
    return model


def start_items(model: ItemModel, vocabulary: Vocabulary, start: ItemStart) -> None:
    """Give items, by popularity, the vectors of a pretrained encoder's most frequent tokens.

    Items that never occur in training have no rank, and are drawn like the others.

    Args:
        model: of the items; written to.
        vocabulary: of the items, with their counts in training.
        start: what is taken from which; without a model, nothing is.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: the encoders are of different widths, or layers are asked for and differ.
        DataError: the reference cannot be read.
    """
    if start.model is None:
        return
    encoder, source = _open_source(start.model, PretrainedSettings())
    specials = {"pad": PAD, "mask": MASK, "unk": UNK, "cls": CLS}
    rows_V = rows_by_rank(start, vocabulary.counts_V, specials, source)
    take_rows(model.get_input_embeddings().weight, _vectors(encoder), rows_V)
    if start.layers:
        copy_layers(model.backbone.encoder, encoder, start.layers)


def _open_source(model: str, change: PretrainedSettings) -> tuple[Encoder, PreTrainedTokenizerBase]:
    encoder, folder = open_pretrained(model, change)
    source = open_tokenizer(folder, vocab_size=encoder.config.vocab_size)
    if encoder.config.is_causal:
        raise CheckpointError(
            f"{model} is causal: it reads from one side. Start from a BERT or NEZHA."
        )
    return encoder, source


def _vectors(encoder: Encoder) -> Tensor:
    return encoder.get_input_embeddings().weight.detach()
