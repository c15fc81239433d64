"""Traps of BERT fine-tuning code, each of which has been met in the wild: adversarial steps.

Every check is a law that sound code obeys; beside it stands faulty code that breaks it, so that the
check itself is known to bite.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.training.adversarial import AdversarialSettings
from tests.training.small import Gradients
from tests.training.small_rows import build_rows, row_model

PLAIN = {"warmup": 0, "clip_norm": None, "log_every_steps": 1}


# 18. Adversarial steps that silently do nothing


def step(folder: Path, name: str, **settings: object) -> list[Tensor]:
    """Return the gradients of one step, with or without an attack."""
    gradients = Gradients()
    attack = AdversarialSettings(name)
    build_rows(
        folder, callbacks=[gradients], adversarial=attack, max_steps=1, **PLAIN | settings
    ).train_or_resume()
    return gradients.of_steps[0]


class SubstringFGM:
    """Moves those parameters whose name holds a text and whose gradient is there."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def attack(self, epsilon: float = 1.0, name: str = "emb.") -> None:
        for other, parameter in self.model.named_parameters():
            if parameter.requires_grad and name in other and parameter.grad is not None:
                parameter.data.add_(epsilon * parameter.grad / parameter.grad.norm())


def check_something_was_moved(attacked: list[Tensor], clean: list[Tensor]) -> None:
    assert (
        max(float((a - c).detach().abs().max()) for a, c in zip(attacked, clean, strict=True))
        > 1e-4
    )


def test_an_attack_acts_also_where_the_embeddings_are_frozen(tmp_path):
    for frozen in (None, 1):
        plain = step(tmp_path / f"plain{frozen}", "none", frozen_layers=frozen)
        for name in ("fgm", "pgd", "freelb"):
            attacked = step(tmp_path / f"{name}{frozen}", name, frozen_layers=frozen)
            # fgm and pgd teach twice: were nothing moved, twice the plain gradient would come out.
            times = 1 if name == "freelb" else 2
            check_something_was_moved(attacked, [times * gradient for gradient in plain])


def test_an_attack_on_a_name_that_nothing_bears_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no embedding of that name"):
        build_rows(tmp_path, adversarial=AdversarialSettings("fgm", parameter="emb."))
    model = row_model().eval()
    ids = torch.tensor([[4, 5, 6]])

    def loss() -> Tensor:
        return model(ids, torch.ones_like(ids), torch.tensor([1]), 1)["loss"]

    clean = loss()
    clean.backward()
    SubstringFGM(model).attack()
    with pytest.raises(AssertionError):
        check_something_was_moved([loss()], [clean])
    SubstringFGM(model).attack(name="word_embeddings")
    check_something_was_moved([loss()], [clean])


def test_an_attack_knows_of_accumulation(tmp_path):
    one = step(tmp_path / "one", "fgm", token_budget=999)
    four = step(tmp_path / "four", "fgm", accumulation=4)
    torch.testing.assert_close(four, one, rtol=1e-4, atol=1e-6)
