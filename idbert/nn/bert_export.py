"""Models of items and of words for programs that know only transformers: BertForMaskedLM."""

from pathlib import Path

from safetensors.torch import save_file
from transformers import BertConfig

from idbert.errors import CheckpointError, ConfigError
from idbert.files import written_aside
from idbert.nn.checkpoint_config import BERT_FIELDS
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.item_models import ItemModel
from idbert.nn.word_models import MaskedWordModel

POSITION_TABLE = "bert.embeddings.position_embeddings.weight"


def export_bert(model: ItemModel | MaskedWordModel, folder: str | Path) -> None:
    """Write a folder that transformers' BertForMaskedLM opens, with the same logits.

    BERT counts positions from the left end of the batch. A model that counts them from the newest
    item (`position_origin="newest"`) therefore gets its position table reversed, and BERT's inputs
    must be padded on the left, to `max_position_embeddings`; the attention mask hides the padding.
    The config of the folder says so: `padding_side`.

    A model of words with a next-sentence head becomes a BertForPreTraining, which the other classes
    of transformers' BERT open too.

    The folder appears whole or not at all.

    Args:
        model: A MaskedItemModel or a MaskedWordModel without what BERT does not have.
        folder: Where to write; it must not exist, or be empty.

    Raises:
        ConfigError: the model has parts that BERT cannot express; the text names them all.
        CheckpointError: the folder holds something already.
        DataError: the disk has no room.
    """
    obstacles = bert_obstacles(model.config)
    if obstacles:
        raise ConfigError(f"BERT cannot express this model: {'; '.join(obstacles)}.")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} is not empty. Export to a new folder.")
    tensors = {
        _bert_name(name): tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    if _counts_from_newest(model.config):
        tensors[POSITION_TABLE] = tensors[POSITION_TABLE].flip(0)
    with written_aside(target) as aside:
        aside.mkdir()
        save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
        _bert_config(model.config).save_pretrained(aside)


def bert_obstacles(config: EncoderConfig) -> list[str]:
    """Return what in this architecture BertForMaskedLM lacks; empty if it lacks nothing."""
    obstacles = {
        "relative positions (kind='nezha')": config.encoder_kind != "bert",
        "LayerNorm before the blocks (norm='pre')": config.norm != "post",
        "causal attention": config.is_causal,
        f"residual scores (residual_scores='{config.residual_scores}')": (
            config.residual_scores != "none"
        ),
        f"a gated feed-forward block (feed_forward='{config.feed_forward}')": (
            config.feed_forward != "plain"
        ),
        f"gates on the residual sums (layer_residual='{config.layer_residual}')": (
            config.layer_residual != "plain"
        ),
        "attributes of items": config.num_attributes > 0,
        f"times of events (time_bias '{config.time_bias}')": config.time_bias != "none",
        f"layer fusion (fusion '{config.fusion}')": config.fusion != "last",
        "a shift of popularity": config.shifts_popularity,
        f"a dense layer behind the fusion (width {config.fusion_width})": (
            config.fusion_width is not None
        ),
        f"a block behind the encoder (block '{config.block}')": config.block != "none",
        "scores without dense layer and LayerNorm (head_transform=False)": (
            not config.head_transform
        ),
        "cosines as scores (similarity='cosine')": config.similarity == "cosine",
        "scores over a temperature": config.learned_temperature or config.temperature != 1,
    }
    return [obstacle for obstacle, stands in obstacles.items() if stands]


def _counts_from_newest(config: EncoderConfig) -> bool:
    return config.position_origin == "newest"


def _bert_config(config: EncoderConfig) -> BertConfig:
    shared = {name: getattr(config, name) for name in BERT_FIELDS}
    padding_side = "left" if _counts_from_newest(config) else "right"
    has_pairs = getattr(config, "next_sentence", False)
    architecture = "BertForPreTraining" if has_pairs else "BertForMaskedLM"
    fields = {**shared, "architectures": [architecture], "padding_side": padding_side}
    return BertConfig(**fields)


def _bert_name(name: str) -> str:
    for own, berts in (
        ("backbone.encoder.", "bert."),
        ("head.", "cls.predictions."),
        ("next_sentence.", "cls.seq_relationship."),
    ):
        if name.startswith(own):
            return berts + name.removeprefix(own)
    raise ConfigError(f"BERT cannot express this model: it has a tensor '{name}'.")
