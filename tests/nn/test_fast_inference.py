"""Packed products are those of linear layers, and the model is the same behind the block."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from idbert.nn.config import EncoderSettings
from idbert.nn.encoder import Encoder
from idbert.nn.fast_inference import PackedProduct, fast_inference

needs_packing = pytest.mark.skipif(
    not PackedProduct.is_available(), reason="this torch has no packed products"
)
needs_bfloat16 = pytest.mark.skipif(
    not PackedProduct.is_available(torch.bfloat16), reason="this processor has no bfloat16"
)


def tiny_bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            initializer_range=0.3,
        )
    )


@needs_packing
@pytest.mark.parametrize("shape", [(7, 16), (3, 5, 16), (1, 16), (2, 1, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_product_is_that_of_the_linear_layer(shape: tuple[int, ...], bias: bool):
    torch.manual_seed(1)
    layer, x = nn.Linear(16, 9, bias=bias), torch.randn(shape)
    packed = PackedProduct(layer.weight, layer.bias)
    torch.testing.assert_close(packed(x), layer(x).detach(), rtol=1e-5, atol=1e-6)


@needs_packing
def test_inputs_may_lie_in_memory_in_any_order():
    torch.manual_seed(1)
    layer, x = nn.Linear(16, 9), torch.randn(16, 6).T
    packed = PackedProduct(layer.weight, layer.bias)
    torch.testing.assert_close(packed(x), layer(x).detach(), rtol=1e-5, atol=1e-6)
    states = torch.randn(4, 5, 16)[:, 0]
    torch.testing.assert_close(packed(states), layer(states).detach(), rtol=1e-5, atol=1e-6)


@needs_bfloat16
def test_bfloat16_products_keep_the_type_of_their_inputs():
    torch.manual_seed(1)
    layer, x = nn.Linear(16, 9), torch.randn(7, 16)
    found = PackedProduct(layer.weight, layer.bias, torch.bfloat16)(x)
    assert found.dtype == torch.float32
    assert not torch.equal(found, layer(x))
    torch.testing.assert_close(found, layer(x).detach(), rtol=0.02, atol=0.02)


def test_a_model_computes_the_same_inside_the_block():
    model = tiny_bert()
    ids = torch.randint(0, 30, (4, 6))
    mask = torch.ones(4, 6, dtype=torch.int64)
    mask[1, 3:] = 0
    right = model.eval()(ids, attention_mask=mask).last_hidden_state.detach()
    with fast_inference(model):
        found = model(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    with fast_inference(model, "bfloat16"):
        rounded = model(ids, attention_mask=mask).last_hidden_state
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, right)
    torch.testing.assert_close(rounded, right, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("kind", "attention"), [("bert", "sdpa"), ("nezha", "eager")])
def test_our_own_encoders_compute_the_same_inside_the_block(kind: str, attention: str):
    torch.manual_seed(0)
    settings = EncoderSettings(
        kind=kind, attention=attention, hidden_size=16, num_layers=2, initializer_range=0.3
    )
    model = Encoder(settings.to_config(vocab_size=30, is_causal=False)).eval()
    ids = torch.randint(0, 30, (4, 6))
    right = model(ids).last_hidden_state.detach()
    with fast_inference(model):
        found = model(ids).last_hidden_state
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_behind_the_block_the_model_is_as_it_was_even_after_an_error(precision: str):
    model = tiny_bert().train()
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    names = list(model.state_dict())
    with pytest.raises(RuntimeError, match="stopped"), fast_inference(model, precision):
        assert not model.training
        raise RuntimeError("stopped")
    assert model.training and torch.is_grad_enabled()
    assert [module for module in model.modules() if type(module) is nn.Linear] == layers
    assert list(model.state_dict()) == names
    loss = model(torch.tensor([[1, 2, 3]])).last_hidden_state.sum()
    loss.backward()
    assert layers[0].weight.grad is not None


def test_layers_that_do_more_than_multiply_are_left_alone():
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    seen = []
    model = nn.Sequential(Doubled(4, 4), nn.Linear(4, 4), nn.Linear(4, 4).double())
    model[1].register_forward_hook(lambda *_: seen.append(1))
    with fast_inference(model):
        assert [type(module) for module in model] == [Doubled, nn.Linear, nn.Linear]
        model[:2](torch.randn(2, 4))
    assert seen == [1]


@needs_packing
def test_a_layer_in_two_places_is_packed_once():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, layer)
    with fast_inference(model):
        assert model[0] is model[1] and isinstance(model[0], PackedProduct)
    assert model[0] is layer and model[1] is layer
