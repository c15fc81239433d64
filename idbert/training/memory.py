"""Whether a training of an item model fits into memory, told before its first step.

The estimate counts what grows: the table of the items with its gradients and moments, what the loss
holds, the activations of the largest batch, an evaluation. Each is a product of sizes that are
written down beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import ceil

import torch

from idbert import processes
from idbert.errors import ConfigError
from idbert.evaluation.ranks import BYTES_PER_SCORE, users_per_chunk
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.sequences import Sequences
from idbert.nn.cpu_attention import NUM_AT_ONCE, NUM_KEPT
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.item_models import ItemModel
from idbert.nn.losses.binary import BinaryLoss
from idbert.nn.losses.catalogue import ChunkedSoftmax, usual_chunk
from idbert.nn.losses.sampled import SampledSoftmax
from idbert.nn.products import has_tiles
from idbert.training.arguments import TrainingSettings
from idbert.training.devices import device_type
from idbert.training.machine_memory import free_bytes
from idbert.training.precision import resolve_precision
from idbert.training.row_adamw import wants_sparse_rows
from idbert.training.validation import Validation, chunk_memory_mib

FLOAT = 4
"""Bytes of a number; weights, gradients and moments are float32 in every precision."""

_WIDTHS, _INNER_WIDTHS = 10, 4
"""Numbers that a layer keeps for the backward pass: so many times its width a position (input,
queries, keys, values, what was attended to, sums and norms), and so many times its inner width,
gradients of these meanwhile with them."""

_GATE_WIDTHS = 6
"""The same of the gates on the two residual sums of a layer: what is let through, and how far."""

_SCORES = 3
"""Copies of an attention matrix: scores, shares, shares after dropout."""

_OWN_COPIES = 11
"""Numbers in memory at once of each negative of a target's own: which row, its place among those
that are read, scores and their gradients (measured)."""

_UNIT_COPIES = 3
"""Copies of a table that is brought to norm 1: itself, and two in its backward pass."""

SAMPLED_NEGATIVES = 1024
"""What `--loss.name sampled` draws where nothing else is said."""


@dataclass(frozen=True)
class Workload:
    """The sizes that a training's memory follows from.

    Attributes:
        rows: Of the table of the items, V.
        width: D.
        other_parameters: Numbers of all weights but the table and its biases.
        layers: Of the encoder.
        inner_width: Of its feed-forward blocks; twice that where they are gated.
        gate_width: Numbers of a position that gates on the residual sums of a layer keep.
        positions: Of the largest batch of this process.
        matrix_columns: Numbers of a position in the attention matrices of a layer; 0 where a fused
            kernel keeps none.
        targets: Of that batch.
        scored_targets: Whose scores are in memory at once.
        scores_of_target: Rows that a target is compared with.
        score_copies: Tensors of that size at once.
        drawn_rows: That a step reads from the table beside targets and inputs, at most.
        unit_rows: Rows of the table that a step brings to norm 1, for a cosine; those that a loss
            draws are among its scores.
        sparse_rows: Whether only the rows that are read get gradients.
        sum_tables: Tables as large as that of the items that hold sums with attributes.
        averages: Copies of the weights that are averages.
        several_processes: Whether gradients lie in the buckets of DDP too.
        users: Of the validation part; 0 without one.
    """

    rows: int
    width: int
    other_parameters: int
    layers: int
    inner_width: int
    gate_width: int
    positions: int
    matrix_columns: int
    targets: int
    scored_targets: int
    scores_of_target: int
    score_copies: int
    drawn_rows: int
    unit_rows: int
    sparse_rows: bool
    sum_tables: int
    averages: int
    several_processes: bool
    users: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what takes them."""

    weights: int
    moments: int
    averages: int
    gradients: int
    loss: int
    activations: int
    evaluation: int

    @property
    def total(self) -> int:
        """Bytes at the worst moment: a step, or an evaluation between two."""
        step = self.gradients + self.loss + self.activations
        return self.weights + self.moments + self.averages + max(step, self.evaluation)

    def in_words(self) -> str:
        """Return the largest parts, the largest first."""
        parts = sorted(((getattr(self, f.name), f.name) for f in fields(self)), reverse=True)
        return ", ".join(f"{name} {in_gib(size)}" for size, name in parts[:4] if size)


def estimate_memory(of: Workload) -> MemoryEstimate:
    """Return what a training takes, to the accuracy that telling whether it fits needs."""
    table = of.rows * (of.width + 1)
    weights = table + of.other_parameters
    if of.sparse_rows:
        touched = min(of.rows, of.positions + of.targets + of.drawn_rows) * of.width
        # First moments as wide as the table, and two numbers a row; gradients of what was read.
        moments = table + 2 * of.rows + 2 * of.other_parameters
        gradients = of.other_parameters + 3 * touched
    else:
        # From below and from above the table gets a gradient each, which are then added.
        moments = 2 * weights
        gradients = of.other_parameters + 3 * table
    gradients += of.sum_tables * of.rows * of.width
    if of.several_processes:
        gradients += of.other_parameters + (0 if of.sparse_rows else table)
    loss = of.scored_targets * of.scores_of_target * of.score_copies + 4 * of.targets * of.width
    loss += _UNIT_COPIES * of.unit_rows * of.width
    layer = _WIDTHS * of.width + _INNER_WIDTHS * of.inner_width + of.gate_width
    layer += _SCORES * of.matrix_columns
    activations = of.positions * (of.layers * layer + 4 * of.width)
    evaluation = 0
    if of.users:
        chunk = min(of.users, users_per_chunk(of.rows, chunk_memory_mib(of.rows)))
        scores = chunk * of.rows * BYTES_PER_SCORE // FLOAT
        evaluation = (of.rows + of.users) * (of.width + 1) + of.unit_rows * of.width + scores
    numbers = (weights, moments, of.averages * weights, gradients, loss, activations, evaluation)
    return MemoryEstimate(*(FLOAT * number for number in numbers))


def workload_of(
    model: ItemModel,
    sequences: Sequences,
    masking: MaskingSettings | None,
    batches: BatchSettings,
    settings: TrainingSettings,
    users: int,
) -> Workload:
    """Return the sizes of a training; arguments as for `check_memory`, and the number of users."""
    config, loss = model.config, model.loss
    table = model.get_input_embeddings().weight
    numbers = sum(parameter.numel() for parameter in model.parameters())
    longest = int(sequences.lengths.max(initial=1))
    longest = min(longest, model.max_length or longest)
    size = processes.num_processes()
    positions = -(-min(batches.token_budget, longest * max(1, len(sequences))) // size)
    share = 1.0
    if masking is not None and model.trained_for == "masked":
        share = masking.probability + masking.last_probability
    targets = max(1, ceil(positions * min(1.0, share)))
    per_target, copies = config.vocab_size, 4
    scored = targets
    # Negatives of each target's own, not shared by a batch.
    has_own = isinstance(loss, SampledSoftmax) and not loss.options.shared
    has_own |= isinstance(loss, BinaryLoss)
    if loss.draws_rows:
        per_target = int(getattr(loss.options, "negatives", SAMPLED_NEGATIVES))
        copies = _OWN_COPIES if has_own else 4
        if isinstance(loss, SampledSoftmax) and not has_own:
            scored = min(targets, usual_chunk(per_target, device_type(settings.device)))
    elif isinstance(loss, ChunkedSoftmax):
        device = device_type(settings.device)
        precision = resolve_precision(settings.precision, config.hidden_size, device)
        is_rounded = precision == "medium" and has_tiles()
        usual = usual_chunk(config.vocab_size, device, is_rounded=is_rounded)
        scored, copies = min(targets, loss.chunk_size or usual), 2
    return Workload(
        rows=config.vocab_size,
        width=config.hidden_size,
        other_parameters=numbers - table.numel() - config.vocab_size,
        layers=config.num_hidden_layers,
        inner_width=config.intermediate_size * (1 if config.feed_forward == "plain" else 2),
        gate_width=0 if config.layer_residual == "plain" else _GATE_WIDTHS * config.hidden_size,
        positions=positions,
        matrix_columns=_matrix_columns(config, positions, longest, device_type(settings.device)),
        targets=targets,
        scored_targets=scored,
        scores_of_target=per_target,
        score_copies=copies,
        drawn_rows=per_target * (targets if has_own else 1),
        unit_rows=config.vocab_size if model.head.is_cosine and not loss.unit_rows else 0,
        sparse_rows=wants_sparse_rows(model, settings),
        sum_tables=2 if config.num_attributes else 0,  # the sums, and their gradient
        averages=int(settings.averaging.name != "none"),
        several_processes=size > 1,
        users=users,
    )


def _matrix_columns(config: EncoderConfig, positions: int, longest: int, device: str) -> int:
    """Return how many numbers of a position are in the attention matrices of a layer."""
    is_plain = config._attn_implementation == "eager"
    has_bias = config.time_bias != "none"
    if not (is_plain or has_bias or config.attention_probs_dropout_prob):
        return 0
    columns = config.num_attention_heads * longest
    is_nezha = config.max_relative_position is not None
    has_residual_scores = config.residual_scores != "none"
    if device == "cpu" and (not is_plain or (is_nezha and not has_residual_scores)):
        # Some heads at a time; what is large is computed once more for the gradients.
        is_kept = columns * positions <= NUM_KEPT
        columns = columns if is_kept else min(columns, ceil(NUM_AT_ONCE / positions))
    # Of the time bias every layer reads one matrix of buckets, and adds one of biases a head.
    return columns + longest * has_bias


def check_memory(
    model: ItemModel,
    sequences: Sequences,
    masking: MaskingSettings | None,
    batches: BatchSettings,
    settings: TrainingSettings,
    validation: Validation | None = None,
    *,
    free: int | None = None,
) -> None:
    """Check that a training fits into memory, where `settings.check_memory` asks for it.

    Args:
        model: To be trained; one on the device "meta", which has no weights yet, is counted whole.
        sequences: Of the training part.
        masking: How items are hidden; None for a next-item model.
        batches: How large a batch may be.
        settings: Of the training.
        validation: What it is evaluated on.
        free: Bytes that may still be allocated; None: as many as the machine says.

    Raises:
        ConfigError: it does not fit; the message names the setting with which it would.
    """
    if not settings.check_memory:
        return
    device = device_type(settings.device)
    with_gpu = device == "cuda"
    if free is None:
        # The processes of this machine share its memory, and each GPU is one process's own.
        free = free_bytes(torch.device("cuda" if with_gpu else "cpu"))
        free //= 1 if with_gpu else processes.num_processes_here()
    users = 0 if validation is None else len(validation)
    workload = workload_of(model, sequences, masking, batches, settings, users)
    estimate = estimate_memory(workload)
    has_weights = not with_gpu and model.device.type != "meta"

    longest = min(int(sequences.lengths.max(initial=1)), model.max_length or batches.token_budget)

    def needed(of: MemoryEstimate) -> int:
        return of.total - (of.weights if has_weights else 0)

    if needed(estimate) <= free:
        return
    raise ConfigError(
        f"This training needs about {in_gib(needed(estimate))} more memory, and "
        f"{in_gib(free)} are free: {estimate.in_words()}. "
        f"{_advice(workload, batches.token_budget, longest, needed, free, device)} "
        "--training.check_memory false trains nevertheless."
    )


def check_memory_first(
    build: Callable[[], ItemModel],
    sequences: Sequences,
    masking: MaskingSettings | None,
    batches: BatchSettings,
    settings: TrainingSettings,
    validation: Validation | None = None,
) -> None:
    """Check as `check_memory` does, before memory is taken for the weights.

    Args:
        build: Makes the model; it is called on the device "meta", where tensors have only shapes.
            A model with a part that cannot be made there is checked by `build_trainer`.
        sequences: This and the rest as for `check_memory`.
        masking: How items are hidden.
        batches: How large a batch may be.
        settings: Of the training.
        validation: What it is evaluated on.

    Raises:
        ConfigError: it does not fit.
    """
    try:
        with torch.device("meta"):
            shape = build()
    except (NotImplementedError, RuntimeError):
        return
    check_memory(shape, sequences, masking, batches, settings, validation)


def in_gib(size: int) -> str:
    """Return bytes in words."""
    gib = size / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{size / 2**20:.1f} MiB"


def _advice(
    workload: Workload,
    token_budget: int,
    longest: int,
    needed: Callable[[MemoryEstimate], int],
    free: int,
    device_type: str,
) -> str:
    """Name the least change of settings with which the training would fit."""
    negatives = min(workload.scores_of_target, SAMPLED_NEGATIVES)
    sampled = replace(
        workload,
        scored_targets=min(workload.targets, usual_chunk(negatives, device_type)),
        scores_of_target=negatives,
        score_copies=4,
        drawn_rows=negatives,
        unit_rows=0,
        sparse_rows=True,
        averages=0,
    )
    by_loss = "--loss.name sampled --training.sparse_rows true"
    if workload.averages:
        by_loss += " --training.averaging.name none"
    for setting, changed in (("", workload), (by_loss, sampled)):
        budget = token_budget
        while budget >= longest:
            part = budget / token_budget
            targets = ceil(changed.targets * part)
            smaller = replace(
                changed,
                positions=ceil(changed.positions * part),
                targets=targets,
                scored_targets=min(changed.scored_targets, targets),
                # Fewer targets draw fewer, where each has its own.
                drawn_rows=min(changed.drawn_rows, targets * changed.scores_of_target),
            )
            size = needed(estimate_memory(smaller))
            by_budget = "" if budget == token_budget else f"--batches.token_budget {budget}"
            named = " ".join(words for words in (setting, by_budget) if words)
            if size <= free and named:
                return f"It would fit, with about {in_gib(size)}, by {named}."
            budget //= 2
    return "No loss and no batch makes it fit: give a smaller --model.hidden_size, or more memory."
