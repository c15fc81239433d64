"""Attention by batched products beside torch's fused attention and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from idbert.nn import cpu_attention as subject
from idbert.nn.attention import SelfAttention, eager_attention
from idbert.nn.config import EncoderSettings
from idbert.nn.cpu_attention import cpu_attention, packed_attention
from idbert.nn.item_models import NextItemModel
from idbert.nn.products import fast_products
from idbert.nn.relative import RelativePositions
from idbert.nn.time_bias import TimeBiasSettings

MASKS = ("none", "padding", "causal", "causal and padding")


def inputs(dtype=torch.float32, shape=(3, 2, 9, 4)):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


def mask_of(name, num_sequences=3, length=9):
    """Return where may be looked, and whether later keys are hidden too."""
    real = torch.arange(length) < torch.tensor([length, 5, 1])[:num_sequences, None]
    return real[:, None, None, :] if "padding" in name else None, "causal" in name


def shown(visible, is_causal, length=9):
    """Return where may be looked, with later keys hidden too if they are to be."""
    if not is_causal:
        return visible
    not_later = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    return not_later if visible is None else visible & not_later


def fused(query, key, value, visible, is_causal):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=shown(visible, is_causal))


@pytest.fixture(params=["kept, whole", "kept, head by head", "computed again"])
def limits(request, monkeypatch):
    """Let the heads be computed at once or one by one, and the shares kept or not."""
    if request.param != "kept, whole":
        monkeypatch.setattr(subject, "NUM_AT_ONCE", 81 if "head" in request.param else 3 * 81)
    if request.param == "computed again":
        monkeypatch.setattr(subject, "NUM_KEPT", 0)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("mask", MASKS)
def test_it_is_torch_s_attention_and_so_are_its_gradients(mask):
    visible, is_causal = mask_of(mask)
    results = []
    for attention in (
        lambda *tensors: cpu_attention(*tensors, visible, is_causal=is_causal),
        lambda *tensors: fused(*tensors, visible, is_causal),
    ):
        tensors = inputs()
        attended = attention(*tensors)
        (attended * torch.arange(9.0)[:, None]).sum().backward()
        results.append([attended, *(tensor.grad for tensor in tensors)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("max_distance", [None, 2])
def test_packed_queries_keys_and_values_are_attended_to_as_apart(mask, max_distance):
    visible, is_causal = mask_of(mask)
    more = {"is_causal": is_causal, "dropout": 0.3}
    if max_distance:
        more["distances"] = RelativePositions(max_distance, 4)(9, is_causal=is_causal)
    packed = torch.cat([_beside(tensor) for tensor in inputs()], dim=2).detach().requires_grad_()
    torch.manual_seed(1)
    attended = packed_attention(packed, 2, visible, **more)
    (attended * torch.arange(9.0)[:, None]).sum().backward()
    tensors = inputs()
    torch.manual_seed(1)
    apart = cpu_attention(*tensors, visible, **more)
    (apart * torch.arange(9.0)[:, None]).sum().backward()
    assert torch.equal(attended, _beside(apart))
    assert torch.equal(packed.grad, torch.cat([_beside(tensor.grad) for tensor in tensors], dim=2))


def _beside(tensor):
    return tensor.transpose(1, 2).flatten(2)


@pytest.mark.usefixtures("limits")
def test_the_backward_pass_meets_the_dropout_of_the_forward_pass():
    visible, _ = mask_of("padding")

    def drawn(*tensors):
        torch.manual_seed(3)
        return cpu_attention(*tensors, visible, dropout=0.4)

    assert torch.autograd.gradcheck(drawn, inputs(torch.float64))


@pytest.mark.usefixtures("limits")
def test_dropout_drops_shares_and_keeps_the_mean():
    query, key, _ = inputs(shape=(3, 2, 9, 9))
    value = torch.eye(9).expand(3, 2, 9, 9)  # what is attended to are the shares themselves
    shares = cpu_attention(query, key, value)
    torch.manual_seed(0)
    draws = torch.stack([cpu_attention(query, key, value, dropout=0.3) for _ in range(2000)])
    assert abs((draws == 0).float().mean() - 0.3) < 0.003
    assert torch.allclose(draws.mean(0), shares, atol=0.06)


def test_a_query_that_may_look_nowhere_gets_the_mean_of_all_values():
    query, key, value = inputs()
    visible = torch.ones(3, 1, 1, 9, dtype=torch.bool)
    visible[1] = False
    attended = cpu_attention(query, key, value, visible)
    mean = value[1].mean(1, keepdim=True).expand(-1, 9, -1)
    assert torch.allclose(attended[1], mean, atol=1e-6)


def test_bfloat16_is_kept():
    query, key, value = inputs(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        attended = cpu_attention(query, key, value, dropout=0.1)
    attended.sum().backward()
    assert attended.dtype == query.grad.dtype == torch.bfloat16


def test_it_is_taken_where_it_is_faster_alone():
    query = torch.zeros(1, 1, 2, 2)
    assert subject.suits(query, 0.1)
    assert not subject.suits(query, 0.0)
    assert not subject.suits(query.to("meta"), 0.1)
    with fast_products():
        assert subject.suits(query, 0.0) is subject.products_are_fast()
        assert not subject.suits(query.bfloat16(), 0.0)
        assert subject.suits(query.bfloat16().requires_grad_(), 0.0)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("max_distance", [2, 20])
def test_with_distances_it_is_nezha_s_attention_and_so_are_its_gradients(mask, max_distance):
    visible, is_causal = mask_of(mask)
    distances = RelativePositions(max_distance, 4)(9, is_causal=is_causal)
    results = []
    for attention in (
        lambda *tensors: cpu_attention(*tensors, visible, is_causal=is_causal, distances=distances),
        lambda *tensors: eager_attention(*tensors, shown(visible, is_causal), distances),
    ):
        tensors = inputs()
        attended = attention(*tensors)
        (attended * torch.arange(9.0)[:, None]).sum().backward()
        results.append([attended, *(tensor.grad for tensor in tensors)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-5)


@pytest.mark.usefixtures("limits")
def test_nezha_s_gradients_meet_the_dropout_of_the_forward_pass():
    visible, _ = mask_of("padding")
    distances = RelativePositions(3, 4)(9, is_causal=False)

    def drawn(*tensors):
        torch.manual_seed(3)
        return cpu_attention(*tensors, visible, dropout=0.4, distances=distances)

    assert torch.autograd.gradcheck(drawn, inputs(torch.float64))


@pytest.mark.parametrize("is_causal", [False, True])
def test_blocks_of_distances_are_joined(is_causal):
    """70 positions are three blocks of queries."""
    distances = RelativePositions(5, 4)(70, is_causal=is_causal)
    results = []
    for attention in (
        lambda *tensors: cpu_attention(*tensors, is_causal=is_causal, distances=distances),
        lambda *tensors: eager_attention(*tensors, shown(None, is_causal, 70), distances),
    ):
        tensors = inputs(torch.float64, shape=(2, 2, 70, 4))
        attended = attention(*tensors)
        (attended * torch.arange(70.0)[:, None]).sum().backward()
        results.append([attended, *(tensor.grad for tensor in tensors)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_bfloat16_with_distances_is_that_of_float32_but_for_rounding():
    distances = RelativePositions(3, 4)(9, is_causal=False)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        tensors = [one.detach().to(dtype).requires_grad_() for one in inputs()]
        attended = cpu_attention(*tensors, distances=distances)
        attended.sum().backward()
        assert attended.dtype == dtype
        results.append([attended, *(tensor.grad for tensor in tensors)])
    for wide, narrow in zip(*results, strict=True):
        torch.testing.assert_close(narrow.float(), wide, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("time_bias", ["none", "log"])
def test_encoders_of_nezha_attend_by_it_as_by_plain_operations(monkeypatch, time_bias):
    settings = {"kind": "nezha", "max_length": None, "max_relative_position": 3}
    settings |= {"hidden_size": 16, "num_layers": 2, "num_heads": 2}
    torch.manual_seed(0)
    model = NextItemModel.build(
        EncoderSettings(**settings, time_bias=TimeBiasSettings(time_bias)), vocab_size=40
    ).eval()
    ids = torch.randint(4, 40, (3, 11), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    batch |= {"timestamps": ids * 1000} if time_bias == "log" else {}
    results, calls = [], []
    whole = subject._attend
    monkeypatch.setattr(
        subject, "_attend", lambda *given, **more: calls.append(1) or whole(*given, **more)
    )
    for is_plain in (False, True):
        if is_plain:
            monkeypatch.setattr(SelfAttention, "_suits_cpu_attention", lambda *_: False)
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        assert len(calls) == 2, "once a layer, and not by plain operations"
        results.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-4)
