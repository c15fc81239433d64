"""Trainings of two processes, for one process to be compared with; each writes what it found.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python -m tests.training.two_processes FOLDER
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

import torch

from idbert import processes
from idbert.errors import IdbertError
from idbert.nn.fusion.layer_fusion import FusionSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.training.adversarial import AdversarialSettings
from idbert.training.averaging import AveragingSettings
from idbert.training.sparse_exchange import exchange
from tests.training.small import AtStep, Killed, build, build_model, die, weights_sha256

SPARSE = LossSettings("sampled", {"negatives": 4})
SETTINGS = {
    "masked, weighted": {"model_class": MaskedItemModel, "weighted": True},
    "a sequence a batch": {"token_budget": 10, "max_steps": 5},
    "accumulated, clipped, averaged": {
        "accumulation": 4,
        "clip_norm": 0.01,
        "averaging": AveragingSettings("ema", decay=0.5),
    },
    "several targets a user": {"num_targets": 3},
    "a lower layer alone": {"fusion": FusionSettings("layer", (0,))},
    "adversarial": {"adversarial": AdversarialSettings("fgm")},
}


def train(folder: Path, loss: LossSettings | None = None, dropout: float = 0.0, **settings):
    """Train an epoch, without dropout unless it is asked for."""
    model_class = settings.get("model_class", NextItemModel)
    more = {"fusion": settings.pop("fusion")} if "fusion" in settings else {}
    model = build_model(model_class, loss=loss, hidden_dropout=dropout, **more)
    defaults = {"epochs": 1, "log_every_steps": 1, "evaluate_every": 0.5}
    trainer = build(folder, model=model, **defaults | settings)
    trainer.train_or_resume()
    return trainer


def found(trainer) -> dict:
    curve = trainer.curve()
    return {
        "losses": [row["loss"] for row in curve if "loss" in row],
        "metrics": [row["ndcg@10"] for row in curve if "ndcg@10" in row],
        "weights": weights_sha256(trainer._model),
    }


def refusal(work) -> str:
    try:
        work()
    except IdbertError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def exchanged() -> list[float]:
    """Return how far a gradient exchanged by rows is from the mean of the dense ones."""
    distances = []
    generator = torch.Generator().manual_seed(processes.process_rank())
    for shape in ((6, 3), (6,)):
        rows = torch.randint(6, (3 * processes.process_rank() + 1,), generator=generator)
        values = torch.randn(len(rows), *shape[1:], generator=generator)
        parameter = torch.nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.sparse_coo_tensor(rows[None], values, shape)
        dense = processes.summed(parameter.grad.to_dense()) / 2
        exchange([parameter])
        distances.append(float((parameter.grad.to_dense() - dense).abs().max()))
    return distances


def main(folder: Path) -> None:
    rank = processes.process_rank()
    facts = {name: found(train(folder / name, **of)) for name, of in SETTINGS.items()}
    sparse = {"loss": SPARSE, "sparse_rows": True, "clip_norm": None}
    facts["sparse"] = found(train(folder / "sparse", **sparse))
    with_dropout = {"dropout": 0.3, "checkpoint_every_steps": 1}
    facts["with dropout"] = found(train(folder / "dropout", **with_dropout))
    with suppress(Killed):
        train(folder / "killed", callbacks=[AtStep(3, die)], **with_dropout)
    facts["killed and resumed"] = found(train(folder / "killed", **with_dropout))
    with suppress(Killed):
        train(folder / "fewer", callbacks=[AtStep(3, die)], checkpoint_every_steps=1)
    facts["exchanged"] = exchanged()
    facts["other seeds"] = refusal(lambda: train(folder / "seeds", seed=rank))
    facts["other data"] = refusal(lambda: train(folder / "data", weighted=rank == 1))
    facts["frozen"] = refusal(lambda: train(folder, frozen_layers="all", unfreeze_every=0.5))
    facts["written"] = processes.by_writer(lambda: {"by": rank, "text": "ü"})
    facts["any"] = [processes.any_of(rank == 1), processes.any_of(False)]

    def refuse() -> None:
        from idbert.errors import CheckpointError

        raise CheckpointError(f"said by rank {rank}")

    facts["raised"] = refusal(lambda: processes.by_writer(refuse))
    (folder / f"rank-{rank}.json").write_text(json.dumps(facts))
    processes.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
