"""Torch's fused attention where products are rounded: the same, and never rounded itself."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from idbert.nn import fused_attention as fused_attention_file
from idbert.nn import products
from idbert.nn.config import EncoderSettings
from idbert.nn.fused_attention import fused_attention
from idbert.nn.item_models import NextItemModel
from idbert.nn.products import fast_products
from tests.nn.test_cpu_attention import MASKS, fused, inputs, mask_of, shown


@pytest.fixture
def on_tiles(monkeypatch):
    """A processor that rounds products, where it may, in the place of this one."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    monkeypatch.setattr(products, "has_tiles", lambda: True)


@pytest.mark.usefixtures("on_tiles")
@pytest.mark.parametrize("mask", MASKS)
def test_where_products_are_rounded_fused_attention_is_not(mask, monkeypatch):
    visible, is_causal = mask_of(mask)
    whole, expected = inputs(), inputs()
    hidden, seen, plain = shown(visible, is_causal), [], fused_attention_file.plain_products

    @contextmanager
    def watched():
        with plain():
            yield seen.append(products.products_are_rounded())

    monkeypatch.setattr(fused_attention_file, "plain_products", watched)
    with fast_products(rounded_on="cpu"):
        attended = fused_attention(*whole, hidden, dropout=0.0, is_causal=False)
        assert products.products_are_rounded()
        loss = attended.square().sum()
        loss.backward(retain_graph=True)
        for tensor in whole:
            tensor.grad = None
        loss.backward()
    assert seen == [False] * 3, "forwards once, backwards twice"
    alone = fused_attention(*whole, None, dropout=0.0, is_causal=True)
    torch.testing.assert_close(alone, fused(*whole, None, True))
    truth = F.scaled_dot_product_attention(*expected, attn_mask=hidden)
    truth.square().sum().backward()
    torch.testing.assert_close(attended, truth)
    for ours, theirs in zip(whole, expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.usefixtures("on_tiles")
def test_a_model_trains_with_rounded_products_with_and_without_recomputed_layers():
    settings = EncoderSettings(
        hidden_size=64,
        num_layers=2,
        num_heads=2,
        max_length=32,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    torch.manual_seed(0)
    model = NextItemModel.build(settings, vocab_size=20).train()
    calls = []
    model.backbone.encoder.encoder.layer[1].intermediate.register_forward_hook(
        lambda *_: calls.append(products.products_are_rounded())
    )
    ids = torch.randint(5, 20, (8, 32))
    gradients = []
    for form in ("plain", "rounded", "recomputed"):
        if form == "recomputed":
            model.gradient_checkpointing_enable()
        model.zero_grad()
        with fast_products(rounded_on=None if form == "plain" else "cpu"):
            model(ids, labels=ids).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert calls == [False, True, True, True], "and the layer is computed again once, and rounded"
    plain, rounded, recomputed = gradients
    torch.testing.assert_close(rounded, recomputed)
    assert (rounded - plain).norm() < 0.02 * plain.norm()
