"""The positions at which the last layer is wanted, where no other position's vector is read."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from idbert.nn.products import round_up, rounded_rows

WORTHWHILE_SHARE = 0.7
"""Of the positions; where more are wanted, the last layer is computed at all."""


@dataclass(frozen=True)
class Asked:
    """Positions of the sequences of a batch; attention reads as many of each sequence.

    Attributes:
        positions_BQ: The positions that attend.
        rows_P: Those that are wanted, as rows of the flattened states [B * L]; None: all.
        slots_P: The same as rows of the flattened [B * Q].
        count: How many of them are wanted; the rest are there for the size of a product alone.

    Shapes:
        Without rows_P the vectors are [B, Q, D]; with it [1, P, D]: sequences have not equally many
        wanted positions, and what stands on attention is computed at no other.
    """

    positions_BQ: Int64[Tensor, "B Q"]
    rows_P: Int64[Tensor, "P"] | None = None
    slots_P: Int64[Tensor, "P"] | None = None
    count: int = 0

    def of(self, states_BLD: Float[Tensor, "_ _ D"]) -> Float[Tensor, "_ _ D"]:
        """Return the states at the wanted positions."""
        if self.rows_P is None:
            return at_positions(states_BLD, self.positions_BQ)
        return states_BLD.flatten(0, 1).index_select(0, self.rows_P)[None]

    def of_attended(self, attended_BQD: Float[Tensor, "B Q D"]) -> Float[Tensor, "_ _ D"]:
        """Return what the wanted positions have attended to."""
        if self.slots_P is None:
            return attended_BQD
        return attended_BQD.flatten(0, 1).index_select(0, self.slots_P)[None]


def asked_at(wanted_BL: Bool[Tensor, "B L"]) -> Asked | None:
    """Ask for some positions; None where they are so many that all may as well be computed.

    Few numbers of rows are met, since a product of a size that is new costs more than a few rows:
    Q is a multiple of 2, or of more where many are wanted, and P is `rounded_rows`; the rows that
    are added are the first, again.

    Args:
        wanted_BL: The positions.
    """
    places_M2 = wanted_BL.nonzero()
    if not len(places_M2) or len(places_M2) > WORTHWHILE_SHARE * wanted_BL.numel():
        return None
    batch_size, length = wanted_BL.shape
    number_BL = wanted_BL.cumsum(1)
    most = int(number_BL[:, -1].max())
    num_slots = min(length, round_up(most, 2, 1 / 3))
    row_M, position_M = places_M2.unbind(1)
    rows_M = row_M * length + position_M
    slots_M = row_M * num_slots + number_BL.flatten()[rows_M] - 1
    positions = wanted_BL.new_zeros(batch_size * num_slots, dtype=torch.long)
    positions[slots_M] = position_M
    count = len(rows_M)
    missing = rounded_rows(count) - count
    if missing:
        rows_M, slots_M = (
            torch.cat([places, places[:1].expand(missing)]) for places in (rows_M, slots_M)
        )
    return Asked(positions.view(batch_size, num_slots), rows_M, slots_M, count)


def at_positions(
    states_BLD: Float[Tensor, "B L D"], positions_BQ: Int64[Tensor, "B Q"]
) -> Float[Tensor, "B Q D"]:
    """Return the states at as many positions of each sequence."""
    batch_size, length, _ = states_BLD.shape
    starts_B1 = torch.arange(batch_size, device=states_BLD.device)[:, None] * length
    rows = (starts_B1 + positions_BQ).flatten()
    return states_BLD.flatten(0, 1).index_select(0, rows).view(*positions_BQ.shape, -1)
