"""What the heads over several labels share."""

import torch
from jaxtyping import Float
from torch import Tensor

from idbert.errors import ConfigError, DataError, ShapeError
from idbert.nn.heads.head import Head
from idbert.nn.parts import NoOptions


class LabelHead(Head):
    """Base of the heads that learn from the training labels how labels occur together.

    Args:
        input_width: D, the width of the pooled vectors.
        num_outputs: C, the number of labels.
        options: An instance of the class's `Options`.

    Raises:
        ConfigError: it is trained before `fit`.
        ShapeError: the labels to fit are not C a row.
        DataError: there are no rows to fit, or a label is not 0 or 1.
    """

    for_several_labels = True

    is_fitted: Tensor

    def __init__(self, input_width: int, num_outputs: int, options: NoOptions) -> None:
        super().__init__(input_width, num_outputs, options)
        self.register_buffer("is_fitted", torch.tensor(False))

    def fit(self, labels_NC: Float[Tensor, "N C"]) -> None:
        """Learn from the training labels; see `Head.fit`."""
        if labels_NC.shape[1] != self.num_outputs:
            raise ShapeError(
                f"{type(self).__name__} was built for {self.num_outputs} labels and received "
                f"{labels_NC.shape[1]}."
            )
        is_flag_NC = (labels_NC == 0.0) | (labels_NC == 1.0)
        if len(labels_NC) == 0 or not is_flag_NC.all():
            raise DataError(
                f"{type(self).__name__} learns from rows of 0 and 1, and received "
                f"{len(labels_NC)} rows with {int((~is_flag_NC).sum())} other numbers."
            )
        self.fit_labels(labels_NC)
        self.is_fitted.fill_(True)

    def fit_labels(self, labels_NC: Float[Tensor, "N C"]) -> None:
        """Write what the labels tell into buffers."""
        raise NotImplementedError

    def check_fitted(self) -> None:
        """Check that the labels were seen before training.

        Raises:
            ConfigError: they were not.
        """
        if self.training and not self.is_fitted:
            raise ConfigError(
                f"{type(self).__name__} learns from the training labels how labels occur "
                "together. Call `fit` of the head before training."
            )
