"""AdamW whose steps cost what they touch: of a large table, only the rows that were read move."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.tied_scores import TiedScoresModel
from idbert.training.arguments import TrainingSettings

LARGE_TABLE = 200_000
"""Rows above which touching only those that were read is faster than a dense, fused step."""


class RowAdamW(torch.optim.AdamW):
    """AdamW; a parameter whose gradient is sparse, as that of an embedding, moves row by row.

    Of a row with gradient g, touched for the n-th time,

        m = b1 m + (1 - b1) g            v = b2 v + (1 - b2) mean(g^2)
        w = w - lr decay w - lr m / (1 - b1^n) / (sqrt(v / (1 - b2^n)) + eps)

    with one v a row, so that a table of N rows needs N more numbers, not N x D. All other rows stay
    as they are, and their moments too. Dense gradients take AdamW's own fused step.

    Args:
        groups: Parameters, or groups of them, as AdamW takes them.
        lr: The rate of groups that have none.

    Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"; one second moment
    a row as in Gupta et al. 2014, "Training Highly Multiclass Classifiers"; n counted row by row,
    since the bias of a moment depends on its own updates.
    """

    def __init__(self, groups: Iterable[Any], lr: float) -> None:
        super().__init__(groups, lr=lr, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Raises:
            ValueError: there is a closure.
        """
        if closure is not None:
            raise ValueError("RowAdamW takes no closure: compute the gradients before the step.")
        sparse = [
            (group, parameter, parameter.grad.coalesce())
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        for _, parameter, _ in sparse:
            parameter.grad = None  # AdamW passes over it
        super().step()
        for group, parameter, gradient in sparse:
            self._step_rows(group, parameter, gradient)
            parameter.grad = gradient

    def _step_rows(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        table_ND = parameter.view(len(parameter), -1)  # a vector is a table one wide
        rows_N, grad_ND = gradient.indices()[0], gradient.values().view(-1, table_ND.shape[1])
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)  # AdamW looks for it when it loads a state
            state["exp_avg"] = torch.zeros_like(table_ND)
            state["row_exp_avg_sq"] = parameter.new_zeros(len(parameter))
            state["row_steps"] = parameter.new_zeros(len(parameter))  # exact up to 2^24
        rate, (beta1, beta2) = group["lr"], group["betas"]
        # Selecting and copying take half the time of indexing.
        steps_N = state["row_steps"].index_select(0, rows_N).add_(1)
        first_ND = state["exp_avg"].index_select(0, rows_N).lerp_(grad_ND, 1 - beta1)
        mean_square_N = grad_ND.square().mean(1)
        second_N = state["row_exp_avg_sq"].index_select(0, rows_N).lerp_(mean_square_N, 1 - beta2)
        state["row_steps"].index_copy_(0, rows_N, steps_N)
        state["exp_avg"].index_copy_(0, rows_N, first_ND)
        state["row_exp_avg_sq"].index_copy_(0, rows_N, second_N)
        scale_N = (second_N / (1 - beta2**steps_N)).sqrt_().add_(group["eps"])
        scale_N.mul_(1 - beta1**steps_N)
        change_ND = first_ND.div_(scale_N[:, None])
        if group["weight_decay"]:
            change_ND.add_(table_ND.index_select(0, rows_N), alpha=group["weight_decay"])
        table_ND.index_add_(0, rows_N, change_ND, alpha=-rate)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | int) -> Tensor:
    """Scale gradients, sparse ones among them, down to a norm; return what it was.

    Torch's own function takes dense gradients only.

    Args:
        parameters: Those without a gradient are passed over.
        max_norm: Largest norm of all gradients together.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norm: Tensor = torch.nn.utils.get_total_norm(values)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    # On a GPU asking would wait for it, for more time than multiplying by 1 takes.
    if norm.device.type != "cpu" or factor != 1:
        torch._foreach_mul_(values, factor)
    return norm


def with_sparse_rows(model: nn.Module, settings: TrainingSettings) -> bool:
    """Have the item table's gradient hold only the rows that are read, where that is wanted.

    Arguments and errors as for `wants_sparse_rows`.

    Returns:
        Whether it is so now.
    """
    wanted = wants_sparse_rows(model, settings)
    if wanted:
        assert isinstance(model, TiedScoresModel)
        model.read_sparsely()
    elif isinstance(model, TiedScoresModel):
        model.read_densely()  # an earlier training may have had it otherwise
    return wanted


def wants_sparse_rows(model: nn.Module, settings: TrainingSettings) -> bool:
    """Say whether the item table's gradient is to hold only the rows that are read.

    Args:
        model: To be trained.
        settings: `sparse_rows` true, false, or null for where it pays.

    Raises:
        ConfigError: it is wanted, and cannot be.
    """
    obstacle = _obstacle(model, settings)
    if settings.sparse_rows and obstacle is not None:
        raise ConfigError(f"sparse_rows=true cannot act: {obstacle}. Leave it out.")
    if settings.sparse_rows is False or obstacle is not None:
        return False
    assert isinstance(model, TiedScoresModel)
    return bool(settings.sparse_rows or model.config.vocab_size > LARGE_TABLE)


def sparse_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return what `with_sparse_rows` has made sparse: the embeddings and the biases of the rows."""
    assert isinstance(model, TiedScoresModel)
    of_rows: list[Any] = [model.get_input_embeddings().weight, model.head.bias]
    return [parameter for parameter in of_rows if parameter.requires_grad]


def _obstacle(model: nn.Module, settings: TrainingSettings) -> str | None:
    if not isinstance(model, TiedScoresModel):
        return "this model has no loss over a catalogue"
    if model.reads_all_rows:
        return f"the loss '{model.config.loss}' reads all rows; sampled, gbce and bce do not"
    if settings.averaging.name != "none":
        return f"averaging.name={settings.averaging.name} touches all rows at every step"
    if not model.get_input_embeddings().weight.requires_grad or settings.frozen_layers is not None:
        return "the embeddings are frozen"
    if model.config.num_attributes:
        return "the items' attributes make their gradient dense"
    return None
