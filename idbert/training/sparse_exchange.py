"""Sparse gradients in several processes: each sends the rows that it has read, and no others."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from idbert import processes


def take_from_ddp(model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """Keep parameters out of DDP's buckets, which are dense, and start them alike everywhere.

    Buffers are kept out too: they are constants, which DDP would send around in every step.

    Args:
        model: Not yet wrapped.
        parameters: Some of its own, or none.
    """
    ids = {id(parameter) for parameter in parameters}
    model._ddp_params_and_buffers_to_ignore = [  # type: ignore[assignment]
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in ids
    ] + [name for name, _ in model.named_buffers(remove_duplicate=False)]
    if processes.num_processes() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, src=0)


def exchange(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the mean of all processes' sparse gradients, as DDP does for dense ones.

    Rows travel padded to the largest number of any process, since a gather takes equal shapes.

    Args:
        parameters: Tables or vectors; each has a sparse gradient in all processes.
    """
    size = processes.num_processes()
    for parameter in parameters:
        assert parameter.grad is not None
        gradient = parameter.grad.coalesce()
        rows_N, values = gradient.indices()[0], gradient.values()
        most = torch.tensor(len(rows_N), device=rows_N.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        missing = int(most) - len(rows_N)
        # What is added is 0 in row 0, and changes no sum.
        rows_N = torch.cat([rows_N, rows_N.new_zeros(missing)])
        values = torch.cat([values, values.new_zeros(missing, *values.shape[1:])])
        parameter.grad = torch.sparse_coo_tensor(
            _gathered(rows_N, size)[None],
            _gathered(values, size) / size,
            parameter.shape,
            check_invariants=False,
        ).coalesce()


def _gathered(tensor: Tensor, size: int) -> Tensor:
    received = [torch.empty_like(tensor) for _ in range(size)]
    dist.all_gather(received, tensor.contiguous())
    return torch.cat(received)
