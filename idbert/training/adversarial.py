"""Adversarial steps: the model is trained on inputs moved to where its loss is higher.

What is moved is the embedded sequence, not the table of embeddings: each example by its own
perturbation, of its own norm. So neither the other examples of a batch, nor padding, nor how a
large batch is divided changes what an example teaches, the weights need not be put back, and a
frozen table is attacked as any other.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from idbert.errors import ConfigError, suggestion
from idbert.training.perturbation import Perturbation, gradients_of

ATTACKS = ("none", "fgm", "pgd", "freelb")
# Published recipes give one perturbation of norm 1 to a whole batch; of 32 examples, each then has
# one of about 0.2. With 1 an example, MiniLM learned nothing of SST-2 (accuracy .48).
DEFAULT_EPSILON, DEFAULT_ALPHA, DEFAULT_STEPS = 0.2, 0.06, 3
DEFAULT_PARAMETER = "word_embeddings"

Loss = Callable[[], Tensor]
"""A forward pass on the batch."""


@dataclass(frozen=True)
class AdversarialSettings:
    """Training on perturbed inputs; each attack costs as many passes as it takes."""

    name: str = "none"
    """none; fgm: one step along the gradient (2 passes); pgd: several, then back into the ball
    (steps + 1 passes); freelb: several, each of which teaches (steps passes)."""

    epsilon: float | int | None = None
    """Largest norm of an example's perturbation. Default: 0.2."""

    alpha: float | int | None = None
    """Length of each step of pgd and freelb. Default: 0.06."""

    steps: int | None = None
    """Steps of pgd and freelb. Default: 3."""

    parameter: str | None = None
    """The embedding whose output is perturbed, by name. Default: word_embeddings, which are the
    items of a recommender."""

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            raise ConfigError(
                f"There is no attack '{self.name}'.{suggestion(self.name, ATTACKS)} "
                f"Choose from: {', '.join(ATTACKS)}."
            )
        for setting in ("epsilon", "alpha", "steps"):
            value = getattr(self, setting)
            if value is not None and not value > 0:
                raise ConfigError(f"adversarial.{setting} is {value}; it must be above 0.")
        acting = {
            "none": (),
            "fgm": ("epsilon", "parameter"),
        }.get(self.name, ("epsilon", "alpha", "steps", "parameter"))
        for setting in ("epsilon", "alpha", "steps", "parameter"):
            value = getattr(self, setting)
            if value is not None and setting not in acting:
                raise ConfigError(
                    f"adversarial.{setting}={value} cannot act with the attack '{self.name}'. "
                    "Leave it out, or choose another attack."
                )


def build_attack(settings: AdversarialSettings, model: nn.Module) -> "Attack | None":
    """Return what takes the adversarial passes of a training; None where there are none.

    Raises:
        ConfigError: no embedding, or more than one, is called as the settings say.
    """
    if settings.name == "none":
        return None
    attacks: dict[str, type[Attack]] = {"fgm": FGM, "pgd": PGD, "freelb": FreeLB}
    name = settings.parameter or DEFAULT_PARAMETER
    return attacks[settings.name](
        find_embedding(model, name),
        name,
        epsilon=settings.epsilon or DEFAULT_EPSILON,
        alpha=settings.alpha or DEFAULT_ALPHA,
        steps=settings.steps or DEFAULT_STEPS,
    )


def find_embedding(model: nn.Module, name: str) -> nn.Embedding:
    """Return the one embedding of a model whose path is `name` or ends with it, dot by dot.

    Raises:
        ConfigError: there is none, or more than one.
    """
    tables = {path: part for path, part in model.named_modules() if isinstance(part, nn.Embedding)}
    wanted = name.removesuffix(".weight")
    found = [path for path in tables if path == wanted or path.endswith(f".{wanted}")]
    if len(found) == 1:
        return tables[found[0]]
    if found:
        raise ConfigError(
            f"adversarial.parameter='{name}' is the name of {len(found)} embeddings: "
            f"{', '.join(found)}. Give more of the path."
        )
    last_parts = [path.rpartition(".")[2] for path in tables]
    raise ConfigError(
        f"adversarial.parameter='{name}': the model has no embedding of that name."
        f"{suggestion(wanted, last_parts)} Choose from: {', '.join(tables)}."
    )


class Attack:
    """Base of the attacks: takes the passes of one batch and adds up their gradients.

    Args:
        embedding: Its output is perturbed.
        name: What the settings call it, for messages.
        epsilon: Radius of the ball.
        alpha: Length of a step.
        steps: Their number.
    """

    def __init__(
        self, embedding: nn.Embedding, name: str, *, epsilon: float, alpha: float, steps: int
    ) -> None:
        self._embedding, self._name = embedding, name
        self._epsilon, self._alpha, self._steps = float(epsilon), float(alpha), steps

    def backward(
        self,
        loss: Loss,
        backward: Callable[[Tensor], None],
        without_sync: Callable[[], AbstractContextManager[Any]],
    ) -> Tensor:
        """Add this batch's gradients to the parameters', and return the loss to report.

        Args:
            loss: A forward pass; called once a pass.
            backward: Adds a loss's gradients to the parameters'.
            without_sync: A block in which gradients are not shared among processes; all passes but
                the last are taken in one.
        """
        raise NotImplementedError

    def _pass(self, perturbation: Perturbation, loss: Loss) -> Tensor:
        with perturbation.acting():
            value = loss()
        if not perturbation.deltas:
            raise ConfigError(
                f"adversarial.parameter='{self._name}': this model reads that embedding without "
                "looking ids up in it, so it cannot be perturbed. Choose word_embeddings."
            )
        return value

    def _clean_pass(
        self, perturbation: Perturbation, loss: Loss, backward: Callable[[Tensor], None]
    ) -> Tensor:
        """Take the usual pass; the gradients of the perturbation, 0 in it, come along."""
        value = self._pass(perturbation, loss)
        backward(value)
        return value.detach()


class FGM(Attack):
    """Fast gradient method: one step of norm epsilon along the gradient.

    delta = epsilon * g / ||g||; trained is loss(x) + loss(x + delta).
    Source: Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text
    Classification", equation 5.
    """

    def backward(
        self,
        loss: Loss,
        backward: Callable[[Tensor], None],
        without_sync: Callable[[], AbstractContextManager[Any]],
    ) -> Tensor:
        """Take two passes; the loss reported is that of the clean one."""
        perturbation = Perturbation(self._embedding, self._epsilon)
        with without_sync():
            clean = self._clean_pass(perturbation, loss, backward)
        perturbation.step(gradients_of(perturbation.deltas), self._epsilon)
        backward(self._pass(perturbation, loss))
        return clean


class PGD(Attack):
    """Projected gradient descent: several steps, each followed by a way back into the ball.

    delta_(t+1) = project(delta_t + alpha * g_t / ||g_t||), ||delta|| <= epsilon; trained is
    loss(x) + loss(x + delta_T).
    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
    with the L2 norm.
    """

    def backward(
        self,
        loss: Loss,
        backward: Callable[[Tensor], None],
        without_sync: Callable[[], AbstractContextManager[Any]],
    ) -> Tensor:
        """Take steps + 1 passes; the loss reported is that of the clean one."""
        perturbation = Perturbation(self._embedding, self._epsilon)
        with without_sync():
            clean = self._clean_pass(perturbation, loss, backward)
            perturbation.step(gradients_of(perturbation.deltas), self._alpha)
            for _ in range(self._steps - 1):
                # These passes only seek: the parameters have no part in their gradients.
                value = self._pass(perturbation, loss)
                perturbation.step(torch.autograd.grad(value, perturbation.deltas), self._alpha)
        backward(self._pass(perturbation, loss))
        return clean


class FreeLB(Attack):
    """Free large-batch training: every step of the attack teaches, from a random start on.

    delta_0 is uniform in [-epsilon, epsilon] / sqrt(positions * width); the steps are those of
    PGD; trained is the mean of loss(x + delta_t) over t = 0 .. T - 1. All passes of a batch drop
    the same units.
    Source: Zhu et al. 2020, "FreeLB: Enhanced Adversarial Training for Natural Language
    Understanding", algorithm 1 and section 3.3.
    """

    def backward(
        self,
        loss: Loss,
        backward: Callable[[Tensor], None],
        without_sync: Callable[[], AbstractContextManager[Any]],
    ) -> Tensor:
        """Take `steps` passes; the loss reported is their mean."""
        device = self._embedding.weight.device
        generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        perturbation = Perturbation(self._embedding, self._epsilon, generator)
        mean = torch.zeros((), device=device)

        def teach() -> None:
            value = self._pass(perturbation, loss) / self._steps
            backward(value)
            mean.add_(value.detach())

        for _ in range(self._steps - 1):
            with without_sync(), torch.random.fork_rng([device] if device.type != "cpu" else []):
                teach()
            perturbation.step(gradients_of(perturbation.deltas), self._alpha)
        teach()
        return mean
