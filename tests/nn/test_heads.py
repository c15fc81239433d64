"""Heads: laws that hold for each, and the formula of each."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from idbert.errors import ConfigError, DataError, ShapeError
from idbert.nn.heads import HEADS, Head, HeadSettings, build_head
from idbert.nn.heads.label_graph import co_occurrence, label_graph

WIDTH, C, B = 6, 4, 5
CASES = [
    ("dense_mlp", {"growth": 3, "num_layers": 3}),
    ("label_graph", {"hidden_size": 5}),
    ("label_rnn", {"hidden_size": 5}),
    ("label_rnn", {"hidden_size": 5, "order": "rare_first"}),
    ("linear", {}),
    ("mlp", {}),
    ("mlp", {"hidden_sizes": [8, 7], "activation": "relu"}),
    ("residual_mlp", {}),
    ("residual_mlp", {"num_layers": 1, "hidden_size": 3}),
]
every_head = pytest.mark.parametrize(("name", "options"), CASES)
LABELS_NC = torch.tensor(
    [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]]
    + [[0.0, 0.0, 1.0, 0.0]] * 2
)
"""Borne 1, 3, 4 and 1 times; 1 and 2 occur together, and 0 and 3."""


def build(name: str, options: dict | None = None, fitted: bool = True, **settings):
    """Build a head with the dropout before it; its parameters are drawn wide."""
    torch.manual_seed(5)
    head = build_head(HeadSettings(name, options=options or {}, **settings), WIDTH, C)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.7)
    if fitted:
        head.fit(LABELS_NC)
    return head.eval()


def pooled(batch: int = B, seed: int = 0) -> Tensor:
    return torch.randn(batch, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_every_registered_head_is_in_these_tests():
    assert {name for name, _ in CASES} == set(HEADS)


@every_head
def test_a_row_does_not_depend_on_its_neighbours(name, options):
    head = build(name, options)
    logits = head(pooled())
    assert logits.shape == (B, C)
    alone = torch.cat([head(row[None]) for row in pooled()])
    torch.testing.assert_close(logits, alone)


@every_head
def test_gradients_reach_every_parameter(name, options):
    head = build(name, options).train()
    head(pooled()).square().sum().backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, parameter_name


@every_head
def test_a_saved_head_is_the_same_when_loaded(name, options):
    first, second = build(name, options), build(name, options, fitted=False)
    for parameter in second.parameters():
        nn.init.zeros_(parameter)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(pooled()), second(pooled()))
    second.train()(pooled())  # what was fitted came along


@every_head
def test_every_head_learns_its_rows(name, options):
    torch.manual_seed(0)
    settings = HeadSettings(name, dropout=0.0, options=options)
    head = build_head(settings, WIDTH, C)
    head.fit(LABELS_NC)
    rows, labels = pooled(len(LABELS_NC)), LABELS_NC
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(120):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(head(rows), labels).backward()
        optimizer.step()
    assert ((head(rows) > 0) == labels.bool()).all()


@pytest.mark.parametrize("training", [True, False])
def test_the_linear_head_is_the_classifier_of_transformers(training):
    config = BertConfig(
        vocab_size=9,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=C,
        classifier_dropout=0.3,
    )
    theirs = BertForSequenceClassification(config).train(training)
    ours = build_head(HeadSettings("linear", dropout=0.3), WIDTH, C).train(training)
    ours.head.output.load_state_dict(theirs.classifier.state_dict())
    logits = []
    for classify in (lambda rows: theirs.classifier(theirs.dropout(rows)), ours):
        torch.manual_seed(0)
        logits.append(classify(pooled()))
    assert torch.equal(*logits)


def test_an_mlp_is_dense_layers_with_activations():
    head = build("mlp", {"hidden_sizes": [8, 7], "activation": "relu"})
    first, second = head.head.layers
    hidden = (pooled() @ first.weight.T + first.bias).relu()
    hidden = (hidden @ second.weight.T + second.bias).relu()
    torch.testing.assert_close(head(pooled()), head.head.output(hidden))
    assert build("mlp").head.layers[0].weight.shape == (WIDTH, WIDTH)


def test_a_residual_layer_adds_to_what_it_reads():
    head = build("residual_mlp", {"num_layers": 2, "hidden_size": 3})
    hidden = pooled()
    for layer in head.head.layers:
        normed = F.layer_norm(hidden, (WIDTH,), layer.norm.weight, layer.norm.bias)
        hidden = hidden + layer.outer(F.gelu(layer.inner(normed)))
    expected = head.head.output(head.head.norm(hidden))
    torch.testing.assert_close(head(pooled()), expected)
    for layer in head.head.layers:
        nn.init.zeros_(layer.outer.weight), nn.init.zeros_(layer.outer.bias)
    torch.testing.assert_close(head.head.layers(pooled()), pooled())


def test_a_densely_connected_layer_reads_all_before_it():
    head = build("dense_mlp", {"growth": 3, "num_layers": 2})
    first, second = head.head.layers
    x = pooled()
    h1 = F.gelu(first(x))
    h2 = F.gelu(second(torch.cat([x, h1], -1)))
    expected = head.head.output(torch.cat([x, h1, h2], -1))
    torch.testing.assert_close(head(pooled()), expected)


def test_a_label_rnn_judges_the_labels_in_the_order_of_their_frequency():
    for order, labels in (("frequent_first", [2, 1, 0, 3]), ("rare_first", [0, 3, 1, 2])):
        head = build("label_rnn", {"hidden_size": 5, "order": order}).head
        assert head.order_C.tolist() == labels
        cell = nn.GRUCell(5, 5)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        cell.load_state_dict({name: getattr(head.rnn, f"{name}_l0") for name in names})
        state, logits = torch.zeros(B, 5), torch.empty(B, C)
        for label in labels:
            vector = F.layer_norm(head.labels.weight[label], (5,))
            state = cell(vector + head.text(pooled()), state)
            logits[:, label] = state @ head.output.weight[label] + head.output.bias[label]
        torch.testing.assert_close(head(pooled()), logits)


def test_in_a_label_rnn_a_label_knows_those_before_it_and_none_after():
    head = build("label_rnn", {"hidden_size": 5}).head
    order = head.order_C.tolist()
    for place, label in enumerate(order):
        head.zero_grad()
        head(pooled())[:, label].sum().backward()
        reached = (head.labels.weight.grad.abs().sum(1) > 0).nonzero().flatten().tolist()
        assert sorted(reached) == sorted(order[: place + 1])


def test_co_occurrence_is_the_share_of_the_rows_of_a_label():
    given_CC = co_occurrence(LABELS_NC)
    expected = [[1, 0, 0, 1], [0, 1, 2 / 3, 0], [0, 1 / 2, 1, 0], [1, 0, 0, 1]]
    torch.testing.assert_close(given_CC, torch.tensor(expected).float())
    assert co_occurrence(torch.zeros(3, 2)).eq(0).all()


def test_the_graph_shares_the_weight_among_the_neighbours():
    given_CC = torch.tensor([[1.0, 0.5, 0.4, 0.1], [0.3, 1, 0.9, 0], [0, 0, 1, 0], [1, 0, 0, 1.0]])
    graph_CC = label_graph(given_CC, threshold=0.4, neighbour_share=0.2)
    expected = [[0.8, 0.1, 0.1, 0], [0, 0.8, 0.2, 0], [0, 0, 1, 0], [0.2, 0, 0, 0.8]]
    torch.testing.assert_close(graph_CC, torch.tensor(expected))
    alone = label_graph(torch.eye(3), threshold=0.4, neighbour_share=0.2)
    assert torch.equal(alone, torch.eye(3))


def test_a_label_graph_is_two_convolutions_over_the_graph():
    head = build("label_graph", {"hidden_size": 5}).head
    graph = label_graph(co_occurrence(LABELS_NC), 0.4, 0.2)
    vectors = F.layer_norm(head.labels.weight, (5,))
    hidden = F.leaky_relu(graph @ vectors @ head.inner.weight.T, 0.2)
    classifiers = graph @ hidden @ head.outer.weight.T
    torch.testing.assert_close(head(pooled()), pooled() @ classifiers.T + head.bias)


def test_in_a_label_graph_labels_that_occur_together_share_vectors():
    head = build("label_graph", {"hidden_size": 5}).head
    for label, neighbours in enumerate([{0, 3}, {1, 2}, {1, 2}, {0, 3}]):
        head.zero_grad()
        head(pooled())[:, label].sum().backward()
        reached = (head.labels.weight.grad.abs().sum(1) > 0).nonzero().flatten().tolist()
        assert set(reached) == neighbours


@pytest.mark.parametrize("name", ["label_rnn", "label_graph"])
def test_label_heads_need_the_training_labels(name):
    with pytest.raises(ConfigError, match="Call `fit` of the head before training"):
        build(name, fitted=False).train()(pooled())
    with pytest.raises(ShapeError, match="built for 4 labels and received 3"):
        build(name).fit(LABELS_NC[:, :3])
    with pytest.raises(DataError, match="6 rows with 5 other numbers"):
        build(name).fit(torch.where(LABELS_NC.cumsum(0) == 3, 0.5, LABELS_NC))
    with pytest.raises(DataError, match="received 0 rows"):
        build(name).fit(LABELS_NC[:0])
    with pytest.raises(ConfigError, match="needs at least 2 of them, not 1"):
        build_head(HeadSettings(name), WIDTH, 1)
    for kind in ("single", "number"):
        with pytest.raises(ConfigError, match=f"with labels of kind '{kind}' they never do"):
            build_head(HeadSettings(name), WIDTH, C, kind=kind)
    assert build_head(HeadSettings(name), WIDTH, C, kind="multi").for_several_labels


def test_other_heads_learn_nothing_from_the_labels_and_serve_every_kind():
    for name in sorted(set(HEADS) - {"label_rnn", "label_graph"}):
        before = build(name, fitted=False)
        after = build(name, fitted=True)
        assert torch.equal(before(pooled()), after(pooled()))
        for kind, num_outputs in (("single", C), ("multi", C), ("number", 1)):
            head = build_head(HeadSettings(name), WIDTH, num_outputs, kind=kind)
            assert not head.for_several_labels
            assert head(pooled()).shape == (B, num_outputs)


@every_head
def test_several_dropout_samples_are_averaged_in_training_alone(name, options):
    one = build(name, options, dropout=0.5)
    many = build(name, options, dropout=0.5, dropout_samples=3)
    assert torch.equal(one(pooled()), many(pooled()))
    torch.manual_seed(1)
    logits = many.train()(pooled())
    torch.manual_seed(1)
    dropped = F.dropout(pooled().repeat(3, 1), 0.5)
    expected = one(dropped).view(3, B, C).mean(0)
    torch.testing.assert_close(logits, expected)
    assert logits.shape == (B, C)


def test_dropout_samples_have_masks_of_their_own():
    """The spread of the averaged logits falls by sqrt(16); equal masks would leave it."""
    torch.manual_seed(0)
    spreads = []
    for samples in (1, 16):
        head = build("linear", dropout=0.5, dropout_samples=samples).train()
        spreads.append(torch.stack([head(pooled()) for _ in range(200)]).std(0).mean())
    assert 3.0 < spreads[0] / spreads[1] < 5.0


@pytest.mark.parametrize(
    ("name", "options", "other"),
    [
        ("mlp", {}, {"hidden_sizes": [3]}),
        ("mlp", {}, {"activation": "relu"}),
        ("mlp", {}, {"inner_dropout": 0.5}),
        ("residual_mlp", {}, {"num_layers": 3}),
        ("residual_mlp", {}, {"hidden_size": 3}),
        ("residual_mlp", {}, {"activation": "relu"}),
        ("residual_mlp", {}, {"inner_dropout": 0.5}),
        ("dense_mlp", {}, {"num_layers": 3}),
        ("dense_mlp", {}, {"growth": 3}),
        ("dense_mlp", {}, {"activation": "relu"}),
        ("dense_mlp", {}, {"inner_dropout": 0.5}),
        ("label_rnn", {}, {"hidden_size": 3}),
        ("label_rnn", {}, {"order": "rare_first"}),
        ("label_graph", {}, {"hidden_size": 3}),
        ("label_graph", {}, {"threshold": 0.6}),
        ("label_graph", {}, {"neighbour_share": 0.5}),
    ],
)
def test_every_option_acts(name, options, other):
    logits = []
    for given in (options, other):
        head = build(name, given, dropout=0.0).train()
        torch.manual_seed(0)
        logits.append(head(pooled()))
    assert not torch.allclose(*logits)


def test_the_settings_of_the_dropout_act():
    for settings in ({"dropout": 0.5}, {"dropout_samples": 2}):
        logits = []
        for given in ({}, settings):
            head = build("linear", **given).train()
            torch.manual_seed(0)
            logits.append(head(pooled()))
        assert not torch.allclose(*logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "linaer"}, r"no head 'linaer'. Did you mean 'linear'\?"),
        ({"name": "linear", "options": {"width": 3}}, "head 'linear' has no option 'width'"),
        ({"dropout": 1.0}, "dropout before the head is 1.0"),
        ({"dropout": -0.1}, "dropout before the head is -0.1"),
        ({"dropout_samples": 0}, "dropout_samples is 0"),
        ({"dropout": 0, "dropout_samples": 2}, "dropout_samples=2 cannot act without dropout"),
        ({"name": "mlp", "options": {"hidden_sizes": [0]}}, "hidden_sizes of the head is 0"),
        ({"name": "mlp", "options": {"hidden_sizes": []}}, "hidden_sizes .* is empty"),
        ({"name": "mlp", "options": {"activation": "geul"}}, r"Did you mean 'gelu'\?"),
        ({"name": "mlp", "options": {"inner_dropout": 1.0}}, "inner_dropout of the head is 1.0"),
        ({"name": "residual_mlp", "options": {"num_layers": 0}}, "num_layers of the head is 0"),
        ({"name": "residual_mlp", "options": {"hidden_size": 0}}, "hidden_size of the head is 0"),
        ({"name": "dense_mlp", "options": {"num_layers": 0}}, "num_layers of the head is 0"),
        ({"name": "dense_mlp", "options": {"growth": 0}}, "growth of the head is 0"),
        ({"name": "label_rnn", "options": {"hidden_size": 1}}, "must be at least 2"),
        ({"name": "label_rnn", "options": {"order": "any"}}, "head 'label_rnn'.*order"),
        ({"name": "label_graph", "options": {"hidden_size": 1}}, "must be at least 2"),
        ({"name": "label_graph", "options": {"threshold": 0.0}}, "threshold .* is 0.0"),
        ({"name": "label_graph", "options": {"neighbour_share": 1.5}}, "neighbour_share .* 1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        HeadSettings(**settings)


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="LinearHead was built for .* width 6 and .* width 5"):
        build("linear")(torch.zeros(2, 5))
    for width, num_outputs in ((0, 2), (4, 0)):
        with pytest.raises(ConfigError, match=f"not {width} and {num_outputs}"):
            build_head(HeadSettings(), width, num_outputs)


def test_a_head_from_outside_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(HEADS, "_entries", dict(HEADS._entries))

    @HEADS.register("cosine")
    class CosineHead(Head):
        def __init__(self, input_width, num_outputs, options):
            super().__init__(input_width, num_outputs, options)
            self.classes = nn.Parameter(torch.randn(num_outputs, input_width))

        def forward(self, pooled_BD):
            return F.cosine_similarity(pooled_BD[:, None], self.classes, dim=-1)

    logits = build("cosine", dropout_samples=2)(pooled())
    assert logits.shape == (B, C) and logits.abs().max() <= 1
