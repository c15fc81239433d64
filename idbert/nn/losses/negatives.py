"""Which rows of a catalogue are drawn as negatives, and how many of each are to be expected."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.parts import NoOptions

Distribution = Literal["uniform", "log_uniform", "popularity", "in_batch", "mixed"]

DEFAULT_POWER = 0.75
"""Of popularity, as in word2vec."""


@dataclass(frozen=True)
class NegativeOptions(NoOptions):
    """Which rows a sampled loss compares the targets with."""

    negatives: int = 1024
    """Rows drawn with replacement: for a batch, or for each target where they are not shared."""

    distribution: Distribution = "log_uniform"
    """uniform: any row; log_uniform: by its rank, row r of R with a share of log(1 + 1 / (r + 1)) /
    log(R + 1), which fits a vocabulary in the order of popularity; popularity: by its events in
    training, to a power; in_batch: targets of the batch, so by popularity; mixed: half of them
    uniform, half in_batch."""

    power: float | int | None = None
    """Of the events of a row in its share, for distribution=popularity, 0.75 by default: 1 is the
    popularity itself, 0 uniform. A row without events counts as one with a single event."""

    shared: bool = True
    """Whether all targets of a batch share the rows; false: each has its own. Shared ones cost
    little, and should be as many as a batch has targets: of fewer, a row that is drawn takes the
    gradients of many targets at once. Their own are worth more, each: 16 may be enough."""

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise ConfigError(f"negatives is {self.negatives}; it must be at least 1.")
        if self.distribution == "mixed" and self.negatives < 2:
            raise ConfigError("distribution=mixed needs negatives of at least 2.")
        if self.power is not None:
            if self.distribution != "popularity":
                raise ConfigError(
                    f"power={self.power} cannot act on distribution={self.distribution}. Leave it "
                    "out, or set distribution to popularity."
                )
            if not 0 <= self.power < math.inf:
                raise ConfigError(f"power is {self.power}; it must be at least 0.")


class NegativeSampler:
    """Draws the negatives of a batch from torch's global generator.

    Args:
        options: How many, and from which distribution.
    """

    def __init__(self, options: NegativeOptions) -> None:
        self._options = options
        self._share_V: Tensor | None = None
        self._cumulative_V: Tensor | None = None

    def fit(self, counts_V: Int64[Tensor, "V"]) -> None:
        """Learn how often each row is a target: in proportion to its events in training."""
        events_V = counts_V.clamp(min=1).double()
        if self._options.distribution == "popularity":
            power = DEFAULT_POWER if self._options.power is None else self._options.power
            self._cumulative_V = events_V.pow(power).cumsum(0)
        else:
            self._share_V = (events_V / counts_V.sum().clamp(min=1)).float()

    def draw(
        self, targets_M: Int64[Tensor, "M"], *, num_rows: int, first_row: int = 0
    ) -> tuple[Int64[Tensor, "N"], Float[Tensor, "N"]]:
        """Draw the negatives that a batch shares.

        Args:
            targets_M: Its targets; none need no negatives.
            num_rows: V.
            first_row: The rows below it are no items, and are never drawn by place.

        Returns:
            The rows; and for each the logarithm of how many of it were to be expected.

        Raises:
            ConfigError: shares of the rows are needed, and `fit` has not been called, or for
                another number of rows.
        """
        if not len(targets_M):
            return targets_M, targets_M.float()
        return self._drawn(self._options.negatives, targets_M, num_rows, first_row)

    def draw_own(
        self, targets_M: Int64[Tensor, "M"], *, num_rows: int, first_row: int = 0
    ) -> tuple[Int64[Tensor, "M N"], Float[Tensor, "M N"]]:
        """Draw negatives of each target's own.

        Args:
            targets_M: As for `draw`, like the rest.
            num_rows: V.
            first_row: The rows below it are never drawn by place.

        Returns:
            The rows; and for each the logarithm of how many of it a target had to expect.
        """
        shape = (len(targets_M), self._options.negatives)
        if not len(targets_M):
            return targets_M.new_zeros(shape), targets_M.new_zeros(shape).float()
        of_all, log_expected = self._drawn(shape[0] * shape[1], targets_M, num_rows, first_row)
        if self._options.distribution == "mixed":  # else a target's would all be of one half
            order = torch.randperm(len(of_all), device=of_all.device)
            of_all, log_expected = of_all[order], log_expected[order]
        return of_all.view(shape), log_expected.view(shape) - math.log(len(targets_M))

    def _drawn(
        self, number: int, targets_M: Tensor, num_rows: int, first_row: int
    ) -> tuple[Int64[Tensor, "N"], Float[Tensor, "N"]]:
        name = self._options.distribution
        if name == "popularity":
            return self._by_popularity(number, num_rows, first_row, targets_M.device)
        of_batch = {"in_batch": number, "mixed": number // 2}.get(name, 0)
        by_place, size, device = number - of_batch, num_rows - first_row, targets_M.device
        if name == "log_uniform":
            places_N = _log_uniform(by_place, size, device)
        else:
            places_N = torch.randint(size, (by_place,), device=device)
        from_batch = targets_M[torch.randint(len(targets_M), (of_batch,), device=device)]
        rows_N = torch.cat([first_row + places_N, from_batch])
        if name == "log_uniform":
            share_N = torch.log1p(1 / (places_N.double() + 1)) / math.log1p(size)
        else:
            share_N = torch.full((number,), 1 / size, dtype=torch.float64, device=device)
        expected_N = by_place * share_N
        if of_batch:
            expected_N += of_batch * self._shares(rows_N)
        return rows_N, expected_N.log().float()

    def _by_popularity(
        self, number: int, num_rows: int, first_row: int, device: torch.device
    ) -> tuple[Int64[Tensor, "N"], Float[Tensor, "N"]]:
        """Draw places on the line of all cumulated shares, and search whose they are.

        That costs the logarithm of V a draw. A row's own share is a difference of two sums, which
        float64 holds for tens of millions of rows.
        """
        if self._cumulative_V is None:
            raise self._without_counts()
        if len(self._cumulative_V) != num_rows:
            raise ConfigError(
                f"the items' counts are of {len(self._cumulative_V)} rows, and there are "
                f"{num_rows}. Call the loss's fit(counts) again."
            )
        self._cumulative_V = cumulative_V = self._cumulative_V.to(device)
        none = cumulative_V.new_zeros(())
        start, end = cumulative_V[first_row - 1] if first_row else none, cumulative_V[-1]
        place_N = start + (end - start) * torch.rand(number, device=device, dtype=torch.float64)
        rows_N = torch.searchsorted(cumulative_V, place_N, right=True)
        rows_N = rows_N.clamp(min=first_row, max=num_rows - 1)
        below_N = torch.where(rows_N > 0, cumulative_V[(rows_N - 1).clamp(min=0)], none)
        share_N = (cumulative_V[rows_N] - below_N) / (end - start)
        return rows_N, (number * share_N).log().float()

    def _shares(self, rows_N: Tensor) -> Tensor:
        if self._share_V is None:
            raise self._without_counts()
        self._share_V = self._share_V.to(rows_N.device)
        return self._share_V[rows_N]

    def _without_counts(self) -> ConfigError:
        return ConfigError(
            f"distribution={self._options.distribution} needs the items' counts. Call the "
            "loss's fit(counts) before training, or choose uniform or log_uniform."
        )


def _log_uniform(number: int, size: int, device: torch.device) -> Int64[Tensor, "N"]:
    """Draw places r below `size` with P(place < r) = log(r + 1) / log(size + 1)."""
    uniform_N = torch.rand(number, device=device, dtype=torch.float64)
    return torch.expm1(uniform_N * math.log1p(size)).long().clamp(max=size - 1)
