"""Traps of BERT fine-tuning code, each of which has been met in the wild: global configuration.

Every check is a law that sound code obeys; beside it stands faulty code that breaks it, so that the
check itself is known to bite.
"""

import ast
import dataclasses
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig

import idbert
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MaskedItemModel
from idbert.training.arguments import TrainingSettings

ROOT = Path(idbert.__file__).parent.parent
PACKAGES = ("idbert", "nlp_tasks", "pipelines")
FILES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]


# 19. Settings made at import, paths and devices of one machine


MACHINE_PATH = re.compile(r"^(?:[A-Za-z]:[/\\]|/(?:home|root|data|mnt|Users|tmp)/)")


def of_one_machine(source: str) -> list[str]:
    """Return the absolute paths in a source, and the devices that it asks for by name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.value] if MACHINE_PATH.match(node.value) else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found += [ast.unparse(node)] if node.func.attr == "cuda" else []
    return found


def test_no_file_names_a_path_or_a_device_of_one_machine():
    assert len(FILES) > 50
    for path in FILES:
        assert of_one_machine(path.read_text(encoding="utf-8")) == [], path
    faulty = "root = 'E:/data/train.csv'\ndef load(x): return x.cuda()"
    assert sorted(of_one_machine(faulty)) == ["E:/data/train.csv", "x.cuda()"]


def changeable(module: ModuleType) -> list[str]:
    """Return the names of a module's settings and devices that any other module could change."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, torch.device | PreTrainedConfig)
        or (
            dataclasses.is_dataclass(value)
            and not isinstance(value, type)
            and not value.__dataclass_params__.frozen
        )
    ]


@dataclasses.dataclass
class Config:
    learning_rate: float = 5e-5


def test_no_module_makes_settings_when_it_is_imported():
    for path in FILES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        assert changeable(importlib.import_module(name)) == [], name
    assert torch.backends.cudnn.enabled
    faulty = ModuleType("faulty")
    faulty.config, faulty.device = Config(), torch.device("cpu")
    assert changeable(faulty) == ["config", "device"]


class OfGlobalSettings(nn.Module):
    settings = EncoderSettings(hidden_size=8)

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        OfGlobalSettings.settings = settings

    def forward(self) -> int:
        return self.settings.hidden_size


def check_two_stand_side_by_side(narrow: int, wide: int) -> None:
    assert (narrow, wide) == (8, 16)


def test_two_models_of_other_settings_live_in_one_process():
    settings = [EncoderSettings(hidden_size=width, num_layers=1) for width in (8, 16)]
    models = [MaskedItemModel.build(each, vocab_size=9).eval() for each in settings]
    ids = torch.tensor([[5, 6]])
    widths = [model.backbone(ids).shape[-1] for model in models]
    check_two_stand_side_by_side(*widths)
    faulty = [OfGlobalSettings(each) for each in settings]
    with pytest.raises(AssertionError):
        check_two_stand_side_by_side(*[model() for model in faulty])


def test_settings_cannot_be_changed_behind_a_runs_back():
    with pytest.raises(AttributeError):
        TrainingSettings().epochs = 3
