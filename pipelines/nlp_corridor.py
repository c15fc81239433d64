"""What the commands on texts share: pretrained folders, how texts are read, a run's settings."""

from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from idbert.errors import CheckpointError, ConfigError
from idbert.inputs.templates import Templates, TemplateSettings
from idbert.inputs.text import TextSettings
from idbert.inputs.tokenizers import open_tokenizer
from idbert.nn.encoder import Encoder
from idbert.run_dir import MARKER, RunDir
from nlp_tasks.cls.config import PretrainedSettings
from nlp_tasks.cls.encoders import open_text_encoder
from nlp_tasks.cls.parts import Parts
from nlp_tasks.cls.reading import TOKENIZER_FOLDER, TextReader
from pipelines.cli import naming_plugins_of, settings_from
from pipelines.corridor import STAGES

Data = TypeVar("Data")

TEXT_STAGES = ("nlp_pretrain", "nlp_cls", "nlp_match", "nlp_mrc")
"""The commands whose runs hold an encoder of texts."""


def pretrained_folders(model: str) -> tuple[str | Path, str | Path]:
    """Return where weights and tokenizer of a pretrained model lie.

    Args:
        model: a folder, a run's folder, or a name on the Hugging Face hub.

    Raises:
        CheckpointError: it is a run whose encoder knows no words, or that is not finished.
    """
    if not (Path(model) / MARKER).is_file():
        return model, model
    run = RunDir(Path(model))
    if run.stage in STAGES:
        raise CheckpointError(
            f"{model} is a run of {run.stage}: its encoder reads item ids and knows no words. Give "
            "a BERT or NEZHA that was trained on texts, or a run of nlp_pretrain."
        )
    run = RunDir.open(model, TEXT_STAGES)
    weights = run.model if run.model.is_dir() else run.path / "model-1"
    if not (weights / "config.json").is_file():
        raise CheckpointError(
            f"{model} holds two towers. Give the folder of one of them, below {weights}."
        )
    tokenizer = run.path / TOKENIZER_FOLDER
    return weights, tokenizer if tokenizer.is_dir() else weights


def open_pretrained(model: str, change: PretrainedSettings) -> tuple[Encoder, str | Path]:
    """Open a pretrained encoder, and return where its tokenizer lies.

    Args:
        model: a folder, a run's folder, or a name on the Hugging Face hub.
        change: what is changed about the encoder.

    Raises:
        CheckpointError: there is no such model, or it is one of item ids.
        ConfigError: a part of it is not registered, or a change cannot act.
    """
    weights, tokenizer = pretrained_folders(model)
    is_run = (Path(model) / MARKER).is_file()
    with naming_plugins_of(RunDir(Path(model))) if is_run else nullcontext():
        return open_text_encoder(weights, change), tokenizer


def open_reader(
    folder: str | Path,
    encoder: Encoder,
    text: TextSettings,
    templates: TemplateSettings,
    parts: Parts,
) -> TextReader:
    """Open the tokenizer of an encoder, and find the templates of the training texts.

    Raises:
        CheckpointError: there is no tokenizer, or one of another model.
        ConfigError: texts may be longer than the encoder reads.
    """
    longest = encoder.config.max_position_embeddings
    if longest is not None and text.max_length > longest:
        raise ConfigError(
            f"text.max_length is {text.max_length}, and the model reads at most {longest} tokens. "
            "Lower it; the rest of long texts can be read with text.truncation=windows."
        )
    train = parts.train
    return TextReader(
        open_tokenizer(folder, vocab_size=encoder.config.vocab_size),
        text,
        is_pair=train.pairs is not None,
        templates=Templates.find([*train.texts, *(train.pairs or ())], templates),
        num_token_types=encoder.config.type_vocab_size,
    )


def data_settings_of(run: RunDir, data_class: type[Data]) -> Data:
    """Return the settings by which a run read its texts.

    Args:
        run: of a command on texts.
        data_class: what its settings `data` are.

    Raises:
        CheckpointError: config.yaml does not hold them.
    """
    try:
        return settings_from(data_class, run.read_config()["data"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{run.config} is not the config of a run: {error}") from None
