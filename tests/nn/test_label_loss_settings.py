"""How losses over labels are chosen by name, what is refused, and a loss from outside."""

from itertools import product

import pytest
import torch

from idbert.errors import ConfigError, DataError, ShapeError
from idbert.nn.losses.labels import (
    DEFAULT_LOSSES,
    LABEL_LOSSES,
    LabelLossSettings,
    SingleLabelLoss,
    build_label_loss,
)
from tests.nn.label_world import C, build, world


def test_each_kind_has_its_default():
    for kind, name in DEFAULT_LOSSES.items():
        loss = build_label_loss(LabelLossSettings(), kind, 1 if kind == "number" else C)
        assert type(loss) is LABEL_LOSSES[name] and loss.kind == kind
    smoothed = LabelLossSettings(options={"label_smoothing": 0.1})
    assert build_label_loss(smoothed, "single", C).label_smoothing == 0.1
    with pytest.raises(ConfigError, match="'zlpr' has no option 'label_smoothing'"):
        build_label_loss(smoothed, "multi", C)


@pytest.mark.parametrize(("name", "kind"), product(LABEL_LOSSES, DEFAULT_LOSSES))
def test_a_loss_of_another_kind_is_refused(name, kind):
    own = LABEL_LOSSES[name].kind
    if own == kind:
        return
    with pytest.raises(ConfigError, match=f"'{name}' is for labels of kind '{own}'.*'{kind}'"):
        build_label_loss(LabelLossSettings(name), kind, C)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crossentropy", {}, r"no label loss 'crossentropy'. Did you mean 'cross_entropy'\?"),
        ("cross_entropy", {"smoothing": 0.1}, "has no option 'smoothing'"),
        ("cross_entropy", {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ("cross_entropy", {"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ("cross_entropy", {"class_weights": "even"}, "label loss 'cross_entropy'.*class_weights"),
        ("focal", {"gamma": 0}, "gamma of the focal loss is 0.0; it must be above 0"),
        ("focal_bce", {"gamma": -1}, "gamma of the focal loss is -1.0"),
        ("focal_bce", {"alpha": 1}, "alpha of the focal loss is 1"),
        ("sampled_softmax", {"num_negatives": 0}, "num_negatives is 0"),
        ("sampled_softmax", {"power": 2}, "power of the drawn labels is 2.0"),
        ("huber", {"delta": 0}, "delta of the Huber loss is 0.0"),
        ("mse", {"delta": 1}, "'mse' has no option 'delta'. It has none"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        LabelLossSettings(name, options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cross_entropy", {"class_weights": [1, 2]}, "class_weights holds 2 numbers.* 5 labels"),
        ("cross_entropy", {"class_weights": [0] * 5}, "that are not all 0"),
        ("focal", {"alpha": [1, 1, 1, 1, -1]}, "alpha is .*give numbers of at least 0"),
        ("bce", {"pos_weight": -3}, "pos_weight is .*give numbers of at least 0"),
        ("bce", {"pos_weight": [1]}, "pos_weight holds 1 numbers"),
        ("sampled_softmax", {}, "num_negatives=100 saves nothing with 5 labels"),
    ],
)
def test_options_that_do_not_fit_the_labels_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, options)


def test_a_number_of_outputs_that_does_not_fit_the_kind_is_refused():
    for kind, num_outputs, needs in [
        ("single", 1, "2 labels or more, not 1"),
        ("multi", 0, "1 label or more, not 0"),
        ("number", 3, "1 output, not 3"),
    ]:
        with pytest.raises(ConfigError, match=needs):
            build_label_loss(LabelLossSettings(), kind, num_outputs)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", {"class_weights": "balanced"}),
        ("focal", {"alpha": "balanced"}),
        ("bce", {"pos_weight": "balanced"}),
        ("sampled_softmax", {"num_negatives": 3}),
        ("concurrent_softmax", {}),
    ],
)
def test_a_loss_that_learns_from_the_rows_is_refused_before_it_has(name, options):
    loss = build(name, options)
    with pytest.raises(ConfigError, match="Call `fit"):
        loss(*world(loss))
    loss.fit_targets(world(loss)[1])
    assert loss(*world(loss)).isfinite().all()


def test_rates_need_the_counts_of_pairs():
    with pytest.raises(ConfigError, match="how often two labels occur together"):
        build("concurrent_softmax").fit(torch.ones(C), 10)
    build("concurrent_softmax", {"use_rates": False}).fit(torch.ones(C), 10)


def test_shapes_that_do_not_fit_are_refused():
    logits = torch.zeros(3, C)
    with pytest.raises(ShapeError, match="CrossEntropy was built for 5 outputs and received 4"):
        build("cross_entropy")(logits[:, :4], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"kind 'single' .* \[3\], not \[3, 5\]"):
        build("cross_entropy")(logits, logits)
    with pytest.raises(ShapeError, match=r"kind 'multi' .* \[3, 5\], not \[3\]"):
        build("zlpr")(logits, torch.zeros(3))
    with pytest.raises(ShapeError, match=r"kind 'number' .* \[3\], not \[3, 1\]"):
        build("mse")(logits[:, :1], torch.zeros(3, 1))


def test_targets_that_are_no_label_are_refused():
    with pytest.raises(DataError, match=r"2 targets are no label: \[5, -1\]. Labels are 0 to 4"):
        build("cross_entropy").fit_targets(torch.tensor([0, 5, -1, -100]))


def test_a_loss_from_outside_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(LABEL_LOSSES, "_entries", dict(LABEL_LOSSES._entries))

    @LABEL_LOSSES.register("zero_one")
    class ZeroOne(SingleLabelLoss):
        def row_losses(self, logits_BC, targets):
            return (self.decide(logits_BC) != targets).float()

    loss = build("zero_one")
    assert loss(torch.eye(C), torch.tensor([0, 1, 2, 3, 3])).tolist() == [0, 0, 0, 0, 1]
