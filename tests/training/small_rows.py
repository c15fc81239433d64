"""A model of whole rows, and its data: what `build_planned_trainer` is for beside items."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.planned_loader import PlannedData
from idbert.nn.config import EncoderSettings
from idbert.nn.encoder import Encoder, IdbertPreTrainedModel
from idbert.training.arguments import TrainingSettings
from idbert.training.trainer import build_planned_trainer

NUM_ROWS, NUM_TOKENS, NUM_CLASSES = 48, 20, 3


class Part(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.encoder = Encoder(config)


class RowModel(IdbertPreTrainedModel):
    """Mean of the real positions, then one layer; its names are traps for a search by substring."""

    def __init__(self, config):
        super().__init__(config)
        self.backbone = Part(config)
        self.encoder_gate = nn.Parameter(torch.ones(()))
        self.bert_cls = nn.Linear(config.hidden_size, NUM_CLASSES)
        self.post_init()

    def logits(self, input_ids, attention_mask):
        states_BLD = self.backbone.encoder(input_ids, attention_mask=attention_mask)[0]
        real_BL = attention_mask.float()
        pooled_BD = (states_BLD * real_BL[..., None]).sum(1) / real_BL.sum(1, keepdim=True)
        return self.bert_cls(pooled_BD) * self.encoder_gate

    def forward(self, input_ids, attention_mask, labels, num_items_in_batch=None):
        logits_BC = self.logits(input_ids, attention_mask)
        if not labels.is_floating_point():
            losses = functional.cross_entropy(logits_BC, labels, reduction="none")
        elif labels.ndim == 2:
            losses = functional.binary_cross_entropy_with_logits(
                logits_BC, labels, reduction="none"
            ).sum(1)
        else:
            losses = (logits_BC[:, 0] - labels) ** 2
        return {"loss": losses.sum() / num_items_in_batch}


class RowData(PlannedData):
    """Random rows of 3 to 8 tokens; the first token decides the label."""

    def __init__(self, kind):
        rng = np.random.default_rng(0)
        self.lengths = rng.integers(3, 9, NUM_ROWS)
        self.rows = rng.integers(4, NUM_TOKENS, (NUM_ROWS, 8))
        classes = self.rows[:, 0] % NUM_CLASSES
        self.labels = {
            "single": torch.tensor(classes),
            "multi": functional.one_hot(torch.tensor(classes), NUM_CLASSES).float(),
            "number": torch.tensor(classes).float(),
        }[kind]

    def __len__(self):
        return NUM_ROWS

    @property
    def input_lengths(self):
        return self.lengths.astype(np.int64)

    def __getitems__(self, planned):
        rows, lengths = self.rows[planned.sequences], self.lengths[planned.sequences]
        is_real = np.arange(lengths.max()) < lengths[:, None]
        return {
            "input_ids": torch.tensor(np.where(is_real, rows[:, : lengths.max()], 0)),
            "attention_mask": torch.tensor(is_real.astype(np.int64)),
            "labels": self.labels[planned.sequences],
        }


def row_model(model_class=RowModel, seed=0, **changes):
    torch.manual_seed(seed)
    defaults = {"hidden_size": 16, "num_layers": 3, "max_length": 8, "hidden_dropout": 0.0}
    config = EncoderSettings(**defaults | changes).to_config(
        vocab_size=NUM_TOKENS, is_causal=False, type_vocab_size=1
    )
    return model_class(config)


def build_rows(
    folder,
    kind="single",
    model=None,
    evaluate=None,
    metrics=(),
    callbacks=(),
    encoder=None,
    data=None,
    token_budget=100,
    max_padding=0.9,
    **settings,
):
    """Build a trainer of rows; `settings` are TrainingSettings."""
    return build_planned_trainer(
        model or row_model(),
        data or RowData(kind),
        BatchSettings(token_budget=token_budget, max_padding=max_padding),
        TrainingSettings(**{"epochs": 1, "learning_rate": 0.01} | settings),
        output_dir=folder,
        evaluate=evaluate,
        metrics=metrics,
        callbacks=callbacks,
        encoder=encoder,
    )
