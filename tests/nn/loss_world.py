"""Random problems for the losses over a catalogue."""

import torch


def problem(num_targets=50, num_rows=31, width=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    targets_M = torch.randint(0, num_rows, (num_targets,), generator=generator)
    weights_M = torch.rand(num_targets, generator=generator)
    return (
        random(num_targets, width),
        random(num_rows, width),
        random(num_rows),
        targets_M,
        weights_M,
    )


def loss_and_gradients(loss, hidden_MD, weight_VD, bias_V, targets_M, weights_M):
    value = loss(hidden_MD, weight_VD, bias_V, targets_M, weights_M)
    return value, *torch.autograd.grad(value / 7, (hidden_MD, weight_VD, bias_V))
