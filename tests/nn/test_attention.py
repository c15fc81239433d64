import pytest
import torch
import torch.nn.functional as F

from idbert.nn.attention import (
    AttentionContext,
    SelfAttention,
    eager_attention,
    is_right_padded,
    visible_positions,
)
from idbert.nn.config import EncoderSettings
from idbert.nn.relative import RelativePositions, relative_table

CPU = torch.device("cpu")


def projections(length: int, width: int = 8, seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys and values of 2 sequences and 3 heads."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 3, length, width, generator=generator).requires_grad_() for _ in range(3)
    ]


def nezha_by_definition(query, key, value, max_distance, visible=None):
    """NEZHA's attention with the [L, L, W] tensor that ours does without."""
    length, width = query.shape[-2:]
    position = torch.arange(length)
    distance = (position[None, :] - position[:, None]).clamp(-max_distance, max_distance)
    relative_LLW = relative_table(max_distance, width)[distance + max_distance]
    scores = query @ key.mT + torch.einsum("bhiw,ijw->bhij", query, relative_LLW)
    scores = scores / width**0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    shares = scores.softmax(-1)
    return shares @ value + torch.einsum("bhij,ijw->bhiw", shares, relative_LLW)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    ("length", "max_distance"), [(1, 4), (4, 4), (5, 4), (6, 4), (23, 4), (9, 64)]
)
def test_nezha_in_buckets_equals_its_definition_in_values_and_gradients(
    length, max_distance, is_causal
):
    inputs = projections(length)
    visible = visible_positions(None, length, is_causal=is_causal, device=CPU)
    distances = RelativePositions(max_distance, width=8)(length, is_causal=is_causal)
    ours = eager_attention(*inputs, visible, distances)
    theirs = nezha_by_definition(*inputs, max_distance, visible)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)

    upstream = torch.randn_like(ours)
    for our_grad, their_grad in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(theirs, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(our_grad, their_grad, atol=1e-5, rtol=1e-4)


def test_only_buckets_that_can_occur_are_handled():
    positions = RelativePositions(max_distance=64, width=8)
    assert positions(10, is_causal=False).table_PW.shape == (19, 8)
    assert positions(10, is_causal=True).table_PW.shape == (10, 8)
    assert positions(500, is_causal=False).table_PW.shape == (129, 8)


def test_the_relative_table_has_sines_in_even_and_cosines_in_odd_columns():
    table = relative_table(max_distance=3, width=4)
    row = torch.arange(7, dtype=torch.float32)
    expected = torch.stack([row.sin(), row.cos(), (row / 100).sin(), (row / 100).cos()], dim=1)
    torch.testing.assert_close(table, expected)


def test_nezhas_value_term_uses_the_probabilities_that_dropout_has_left():
    query, key, value = projections(5)
    distances = RelativePositions(4, width=8)(5, is_causal=False)
    relative_LLW = distances.table_PW[distances.bucket_LL]

    def attend(values):
        torch.manual_seed(0)  # the same probabilities are dropped each time
        return eager_attention(query, key, values, None, distances, dropout=0.5)

    # With no values only the relative term is left; with one-hot ones the probabilities show.
    relative_term = attend(torch.zeros_like(value))
    one_hot = torch.eye(5, 8).expand(2, 3, 5, 8)
    shares = (attend(one_hot) - relative_term)[..., :5]
    assert (shares.abs() < 1e-6).any()
    expected = torch.einsum("bhij,ijw->bhiw", shares, relative_LLW)
    torch.testing.assert_close(relative_term, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("is_causal", [False, True])
def test_plain_products_equal_the_fused_kernel(is_causal):
    inputs = projections(7)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 0]])
    visible = visible_positions(mask, 7, is_causal=is_causal, device=CPU)
    ours = eager_attention(*inputs, visible)
    fused = F.scaled_dot_product_attention(*inputs, attn_mask=visible)
    torch.testing.assert_close(ours, fused, atol=1e-6, rtol=1e-5)


def test_a_query_that_may_look_nowhere_gets_the_mean_of_the_values():
    query, key, value = projections(3)
    nothing = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    result = eager_attention(query, key, value, nothing)
    torch.testing.assert_close(result, value.mean(2, keepdim=True).expand_as(result))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 1, 1], [1, 0, 0], [0, 0, 0]], True),
        ([[1, 1, 1], [0, 1, 1]], False),
        ([[1, 0, 1]], False),
        ([[1]], True),
    ],
)
def test_right_padding_is_told_from_any_other(mask, expected):
    for dtype in (torch.long, torch.bool, torch.float32):
        assert is_right_padded(torch.tensor(mask, dtype=dtype)) is expected


def test_visible_positions_are_real_and_causally_not_ahead():
    mask = torch.tensor([[1, 1, 0]])
    assert visible_positions(None, 3, is_causal=False, device=CPU) is None
    both_sides = visible_positions(mask, 3, is_causal=False, device=CPU)
    assert both_sides.long().tolist() == [[[[1, 1, 0]]]]
    causal = visible_positions(mask, 3, is_causal=True, device=CPU)
    assert causal.long().tolist() == [[[[1, 0, 0], [1, 1, 0], [1, 1, 0]]]]


def test_one_product_gives_queries_keys_and_values_where_nothing_stands_in_for_a_layer(monkeypatch):
    settings = EncoderSettings(hidden_size=8, num_layers=1, num_heads=2)
    config = settings.to_config(vocab_size=9, is_causal=False)
    layer = SelfAttention(config).train()
    layer.is_fused, layer.dropout = True, 0.5
    context = AttentionContext(None, kernel_is_causal=False, distances=None)
    packed = []
    monkeypatch.setattr(layer, "_packed", lambda hidden: packed.append(1) or hidden.repeat(1, 1, 3))
    hidden = torch.randn(4, 12, 8)
    layer(hidden, context)
    assert len(packed) == 1
    layer(hidden[:1], context)  # too few positions to bring weights together for
    for register in ("forward_hook", "forward_pre_hook", "full_backward_hook"):
        listener = getattr(layer.key, f"register_{register}")(lambda *_: None)
        layer(hidden, context)
        listener.remove()
    layer.query = type("Adapter", (torch.nn.Linear,), {})(8, 8)
    layer(hidden, context)
    assert len(packed) == 1
