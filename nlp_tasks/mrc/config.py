"""The config that is saved with a reader's weights."""

from typing import Any, no_type_check

from huggingface_hub.dataclasses import strict

from idbert.nn.encoder_config import EncoderConfig
from nlp_tasks.mrc.losses import SpanSettings


@no_type_check  # `strict` checks the fields; jaxtyping would refuse those that transformers adds
@strict
class ReaderConfig(EncoderConfig):
    """The encoder's config, and the fields of the heads that stand on it.

    Raises:
        ConfigError: the fields do not describe a reader that can be built.
    """

    model_type = "idbert_reader"

    span_loss: str = "softmax"
    span_loss_options: dict[str, Any] | None = None
    answer_share: float | int = 0.0
    head_dropout: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        SpanSettings(
            self.span_loss, self.span_loss_options or {}, self.answer_share, self.head_dropout
        )
