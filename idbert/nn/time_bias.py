"""Time gaps in attention: scores get a learned bias for how far apart two events are in time."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding

from idbert.errors import ConfigError, ShapeError, suggestion

TimeBiasName = Literal["none", "log"]

TimesRead = Literal["none", "events", "queries"]
"""Which times a model reads: none; those of the events of a history; or also the moment for which
is recommended, which in training is the time of the item to be named."""

TIME_BUCKETS = 64


@dataclass(frozen=True)
class TimeBiasSettings:
    """Whether attention knows how much time lies between two events."""

    name: TimeBiasName = "none"
    """log: attention scores get a learned bias for the time between query and key, one for each
    bucket, head and layer; needs a log with real times."""

    buckets: int | None = None
    """Buckets of gaps: 0, 1, 2, 3, 4, 6, 8, 12, 16, ... seconds, two for each doubling; what is
    longer is in the last. 64 by default, whose last begins at 68 years."""

    query_time: bool = False
    """Whether the moment for which is recommended is an input; in training it is the time of the
    item to be named. false: the newest event's time stands for it."""

    def __post_init__(self) -> None:
        check_time_bias(self.name, self.buckets, self.query_time)

    @property
    def num_buckets(self) -> int | None:
        """The number of buckets; None without a bias."""
        return None if self.name == "none" else self.buckets or TIME_BUCKETS


def check_time_bias(name: str, buckets: int | None, query_time: bool) -> None:
    """Check that the bias exists, and that what is said of it can act.

    Raises:
        ConfigError: it does not, or cannot.
    """
    choices = get_args(TimeBiasName)
    if name not in choices:
        raise ConfigError(
            f"There is no time bias '{name}'.{suggestion(name, choices)} "
            f"Choose from: {', '.join(choices)}."
        )
    if name == "none" and (buckets is not None or query_time):
        raise ConfigError(
            "The buckets and the query_time of a time bias cannot act without one. Set "
            "time_bias.name to log, or leave them out."
        )
    if buckets is not None and buckets < 2:
        raise ConfigError(f"time_bias.buckets is {buckets}; it must be at least 2.")


class TimeBias(nn.Embedding):
    """The biases of one layer: bias_hij = table[bucket(|t_i - t_j|), h], added to the scores.

    Here t_i is the time of query i, and t_j that of key j. With the query's time as input, t_i is
    the time of the item that query i is asked for.
    Sources: Zhai et al. 2024, "Actions Speak Louder than Words" (HSTU), relative attention bias of
    time, there one for all heads; Raffel et al. 2020 (T5), biases of buckets of positions.

    Args:
        num_buckets: N.
        num_heads: H.

    Shapes:
        buckets_BQL -> bias_BHQL.
    """

    def __init__(self, num_buckets: int, num_heads: int) -> None:
        super().__init__(num_buckets, num_heads)

    def forward(self, buckets_BQL: Int32[Tensor, "B Q L"]) -> Float[Tensor, "B H Q L"]:
        """Return the bias of every query, key and head."""
        bias_BHQL: Tensor = embedding(buckets_BQL, self.weight).permute(0, 3, 1, 2)
        return bias_BHQL

    def as_mask(
        self,
        buckets_BQL: Int32[Tensor, "B Q L"],
        visible: Bool[Tensor, "#B 1 #Q L"] | None,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B H Q L"]:
        """Return the bias for a fused kernel, lowest where a query may not look."""
        # GPUs' kernels read masks whose keys lie side by side
        bias_BHQL: Tensor = self(buckets_BQL).to(dtype).contiguous()
        if visible is None:
            return bias_BHQL
        return bias_BHQL.masked_fill(~visible, torch.finfo(dtype).min)


def time_buckets(
    timestamps_BL: Int64[Tensor, "B L"],
    query_timestamps_BL: Int64[Tensor, "B L"] | None,
    num_buckets: int,
) -> Int32[Tensor, "B L L"]:
    """Return the bucket of the time between each query (row) and each key (column).

    Bucket 0 holds gaps of 0 s, and bucket n > 0 those from b(n) to below b(n + 1), where
    b(2m + 1) = 2^m and b(2m + 2) = 1.5 * 2^m; the last holds all that are longer. They can be read
    off a float's bits: its exponent and the first digit behind the point.

    Args:
        timestamps_BL: Times of the keys, in seconds.
        query_timestamps_BL: Of the queries; None: the same.
        num_buckets: N.
    """
    queries_BL = timestamps_BL if query_timestamps_BL is None else query_timestamps_BL
    gaps_BLL = (queries_BL[:, :, None] - timestamps_BL[:, None, :]).to(torch.float32).abs_()
    halves_BLL = gaps_BLL.view(torch.int32) >> 22
    return halves_BLL.sub_(2 * 127 - 1).clamp_(0, num_buckets - 1)


def check_timestamps(
    input_ids: Int[Tensor, "..."],
    timestamps: Int[Tensor, "..."] | None,
    query_timestamps: Int[Tensor, "..."] | None,
    reads: TimesRead,
    *,
    is_causal: bool,
) -> None:
    """Check that a batch holds the times that a model reads, and no others.

    A mask stands in its own place and has a time of its own. A causal query stands in the place of
    another event, and needs the time of the item to come beside that event's.

    Raises:
        ShapeError: they are missing, or of another shape than input_ids.
        ConfigError: times are given that cannot act.
    """
    wanted = {
        "timestamps": (timestamps, reads != "none"),
        "query_timestamps": (query_timestamps, reads == "queries" and is_causal),
    }
    for name, (times, is_wanted) in wanted.items():
        if is_wanted and (times is None or times.shape != input_ids.shape):
            found = "none" if times is None else f"shape {list(times.shape)}"
            raise ShapeError(
                f"The model reads the times of events (time_bias), and of {name} it got {found}, "
                f"with input_ids of shape {list(input_ids.shape)}. Give each position its time in "
                "seconds."
            )
        if times is not None and not is_wanted:
            raise ConfigError(
                f"{name} cannot act: this model does not read them. Leave them out, or build it "
                "with such a time_bias."
            )
