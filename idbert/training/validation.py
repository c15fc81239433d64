"""The validation part, and how good a model is on it."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from idbert import processes
from idbert.errors import DataError
from idbert.evaluation.metrics import check_users, metrics_at
from idbert.evaluation.ranks import BYTES_PER_SCORE, Score, target_ranks, users_per_chunk
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.item_batches import history_batches
from idbert.inputs.sequences import Sequences
from idbert.nn.item_models import ItemModel

LEAST_MIB, MOST_MIB, USERS_OF_CHUNK = 64, 512, 256
"""Of the scores that are ranked at once: chunks so small that processes can share them out, and so
large that a product of matrices pays."""


@dataclass(frozen=True, eq=False)
class Validation:
    """Histories, and the item that followed each.

    Attributes:
        histories: Whole histories (max_length=None), since all seen items are filtered; the model
            reads as much of their newest part as it can hold.
        targets_Q: The vocabulary row of each history's next item.
        max_length: Most events of a sequence in training; of a history the model reads as many
            positions as of these. None: as many as it can hold.
        filter_seen: Whether items of a user's history are left out of the ranking.
        users_Q: Whose each target is, users numbered from 0; metrics are means over users of the
            means over their targets. None: each target is another user's.
        query_times_Q: When each next item came, in microseconds since 1970-01-01 UTC, for models
            that read the query's time; None where the log has no times.

    Raises:
        DataError: histories, targets and users do not fit together.
    """

    histories: Sequences
    targets_Q: Int64[np.ndarray, "Q"]
    max_length: int | None = None
    filter_seen: bool = True
    users_Q: Int64[np.ndarray, "Q"] | None = None
    query_times_Q: Int64[np.ndarray, "Q"] | None = None

    def __post_init__(self) -> None:
        if len(self.histories) != len(self.targets_Q):
            raise DataError(
                f"The validation part has {len(self.histories)} histories and "
                f"{len(self.targets_Q)} targets. Give one target for each history."
            )
        if self.users_Q is not None:
            check_users(self.users_Q, len(self.targets_Q))

    def __len__(self) -> int:
        """Return Q, the number of targets."""
        return len(self.targets_Q)

    def first_targets(self) -> Int64[np.ndarray, "U"]:
        """Return the place of each user's first target."""
        if self.users_Q is None:
            return np.arange(len(self))
        return np.asarray(np.unique(self.users_Q, return_index=True)[1])


def model_score(
    model: ItemModel, validation: Validation, batches: BatchSettings, *, together: bool = False
) -> Score:
    """Encode all histories once, and return what scores them against the whole catalogue.

    Args:
        model: Left in the mode (training or not) that it is in.
        validation: The histories.
        batches: How many positions a batch may have.
        together: Whether the processes of torchrun share out the batches; all call this then.
    """
    rank, step = processes.place() if together else (0, 1)
    users_QD = model.encode_users(
        islice(
            history_batches(
                validation.histories,
                objective=model.objective,
                max_length=model.history_limit(validation.max_length),
                token_budget=batches.token_budget,
                times=model.config.reads_times,
                query_times_U=validation.query_times_Q,
            ),
            rank,
            None,
            step,
        ),
        num_users=len(validation.histories),
    )
    if together:
        processes.summed(users_QD)  # each row is 0 in all processes but one
    items_VD = model.item_vectors()

    def score(positions_B: Int64[np.ndarray, "B"]) -> Float[Tensor, "B V"]:
        return users_QD[torch.from_numpy(positions_B)] @ items_VD.T

    return score


def validation_metrics(
    model: ItemModel, validation: Validation, batches: BatchSettings
) -> dict[str, float]:
    """Rank the whole catalogue for every target and return "ndcg@10", "recall@10" and so on.

    The processes of torchrun share the targets out by whole batches and whole chunks, so that every
    product has the shape that it has in one process, and every rank is the same.

    Args:
        model: Left in the mode (training or not) that it is in.
        validation: Histories and targets.
        batches: How many positions a batch may have.
    """
    vocab_size, num_targets = model.config.vocab_size, len(validation)
    score = model_score(model, validation, batches, together=True)
    memory_mib = chunk_memory_mib(vocab_size)
    first, last = _own_targets(num_targets, users_per_chunk(vocab_size, memory_mib))
    ranks_Q = torch.zeros(num_targets, dtype=torch.float64)
    if first < last:
        ranks_Q[first:last] = torch.from_numpy(
            target_ranks(
                lambda positions_B: score(positions_B + first),
                validation.targets_Q[first:last],
                validation.histories.items,
                validation.histories.starts[first:last],
                seen_stops=validation.histories.stops[first:last],
                vocab_size=vocab_size,
                filter_seen=validation.filter_seen,
                memory_mib=memory_mib,
            ).ranks_U
        )
    return metrics_at(processes.summed(ranks_Q).numpy(), users_Q=validation.users_Q)


def chunk_memory_mib(vocab_size: int) -> int:
    """Return the memory for a chunk of users' scores: a few hundred users, 512 MiB at most."""
    return min(MOST_MIB, max(LEAST_MIB, USERS_OF_CHUNK * vocab_size * BYTES_PER_SCORE // 2**20))


def _own_targets(num_targets: int, chunk: int) -> tuple[int, int]:
    """Return the first target of this process and the one behind its last, at ends of chunks."""
    rank, size = processes.place()
    chunks = -(-num_targets // chunk)
    first, last = (number * chunks // size * chunk for number in (rank, rank + 1))
    return min(first, num_targets), min(last, num_targets)
