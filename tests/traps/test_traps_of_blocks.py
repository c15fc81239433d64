"""Traps of BERT fine-tuning code, each of which has been met in the wild: blocks.

Every check is a law that a sound part obeys; beside it stands a faulty part that breaks it, so that
the check itself is known to bite.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import idbert
from idbert.errors import ConfigError
from idbert.nn.backbone import Backbone
from idbert.nn.blocks import BLOCKS, BlockSettings, build_block
from idbert.nn.blocks.layers import SelfAttention
from idbert.nn.config import EncoderSettings
from idbert.nn.residual import RESIDUAL_MODES, ResidualWrapper
from tests.traps.rows import WIDTH, Part, blocks, check_padding_changes_nothing, states

# 4. A residual wrapper that cannot call what it wraps, or adds what does not fit


class SequentialWrapper(nn.Module):
    """x + f(x) with f in a Sequential, which takes no mask; or the first part of what f returns."""

    def __init__(self, *parts: nn.Module, first: bool = False) -> None:
        super().__init__()
        self.parts, self.first = nn.Sequential(*parts), first

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if not self.first:
            return hidden + self.parts(hidden, mask)
        return hidden + self.parts[0](hidden, mask)[0]


def check_adds_at_every_position(wrap: Callable[[nn.Module], nn.Module]) -> None:
    for block in blocks().values():
        hidden, mask = states(5, 3)
        torch.testing.assert_close(wrap(block)(hidden, mask), hidden + block(hidden, mask))


def test_the_residual_wrapper_calls_every_block_with_its_mask():
    check_adds_at_every_position(lambda block: ResidualWrapper(block, WIDTH))
    with pytest.raises(TypeError):
        check_adds_at_every_position(SequentialWrapper)
    with pytest.raises(AssertionError):
        check_adds_at_every_position(lambda block: SequentialWrapper(block, first=True))


def test_widths_that_cannot_be_added_are_refused_when_the_model_is_built():
    wider = build_block("textcnn", WIDTH, 12)
    for mode in RESIDUAL_MODES:
        if mode == "sum":
            with pytest.raises(ConfigError, match="equal widths"):
                ResidualWrapper(wider, WIDTH, mode)
            continue
        wrapper = ResidualWrapper(wider, WIDTH, mode)
        assert wrapper(*states(4, 2)).shape == (2, 4, wrapper.width)


# 5. A stack of convolutions whose layers overwrite one another


class OverwrittenStack(nn.Module):
    """conv, relu, norm, conv, relu, norm, as was thought; the second pair replaces the first."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.stack = nn.Sequential()
        for number in range(2):
            self.stack.add_module(f"conv{number}", nn.Conv1d(WIDTH, WIDTH, 3, padding=1))
            self.stack.add_module("relu", nn.ReLU())
            self.stack.add_module("norm", nn.LayerNorm(length))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return self.stack(hidden.transpose(1, 2)).transpose(1, 2)


def check_an_activation_stands_between_convolutions(block: nn.Module) -> None:
    """What a convolution behind another reads is never negative before it is normalised."""
    called = []
    for part in block.modules():
        if isinstance(part, nn.Conv1d | nn.LayerNorm):
            part.register_forward_hook(lambda part, inputs, _: called.append((part, inputs[0])))
    block(*states(6))
    convolutions = [place for place, (part, _) in enumerate(called) if type(part) is nn.Conv1d]
    for place in convolutions[2:]:  # the second reads the first one's plain output, as published
        part, inputs = called[place - 1]
        assert isinstance(part, nn.LayerNorm) and inputs.min() >= 0


def test_every_layer_of_a_dilated_stack_has_its_own_activation_and_norm():
    block = blocks("idcnn")["idcnn"]
    check_an_activation_stands_between_convolutions(block)
    faulty = OverwrittenStack(6)
    assert [name for name, _ in faulty.stack.named_children()] == ["conv0", "relu", "norm", "conv1"]
    faulty.stack.append(nn.Conv1d(WIDTH, WIDTH, 1))
    with pytest.raises(AssertionError):
        check_an_activation_stands_between_convolutions(faulty)


def test_convolutions_take_any_length_and_do_not_carry_padding_into_a_row():
    for block in blocks("textcnn", "idcnn", "dgcnn").values():
        check_padding_changes_nothing(block)
    with pytest.raises(RuntimeError, match="normalized_shape"):  # a norm along the sequence
        check_padding_changes_nothing(OverwrittenStack(6))
    bias_leaks = nn.Sequential(
        nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
    )

    def masked_once(hidden: Tensor, mask: Tensor) -> Tensor:
        return bias_leaks((hidden * mask[..., None]).transpose(1, 2)).transpose(1, 2)

    with pytest.raises(AssertionError):
        check_padding_changes_nothing(masked_once)


# 6. Parts that need a GPU to be built, are built though not chosen, or look ahead by mistake


def check_is_built_where_it_is_told(make: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        tensors = list(make().state_dict().values())
    assert tensors and all(tensor.is_meta for tensor in tensors)


class OnItsOwnDevice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(3000, 3000, device="cpu").tril())


def settings(block: str, **changes: object) -> EncoderSettings:
    return EncoderSettings(hidden_size=WIDTH, block=BlockSettings(block), **changes)


def test_a_model_is_built_on_any_device_and_holds_the_chosen_block_alone():
    for name in BLOCKS:
        check_is_built_where_it_is_told(lambda name=name: build_block(name, WIDTH))
        backbone = Backbone(settings(name).to_config(vocab_size=9, is_causal=False))
        chosen = [type(part) for part in backbone.modules() if type(part) in BLOCKS_BY_CLASS]
        assert chosen == [BLOCKS[name]]
        buffers = sum(buffer.numel() for buffer in backbone.block.buffers())
        assert buffers <= WIDTH * WIDTH  # no table of all pairs of positions is kept
    with pytest.raises(AssertionError):
        check_is_built_where_it_is_told(OnItsOwnDevice)


BLOCKS_BY_CLASS = {BLOCKS[name] for name in BLOCKS}


def check_the_last_position_is_seen_by_the_first(block: Part) -> None:
    hidden, mask = states(5)
    changed = hidden.clone()
    changed[:, -1] += torch.linspace(1, 3, WIDTH)
    before, after = block(hidden, mask), block(changed, mask)
    assert not torch.allclose(before[:, 0], after[:, 0], atol=1e-4)


def test_a_block_with_attention_looks_both_ways_in_a_bidirectional_model():
    for block in blocks("transformer", "rtransformer", "tener").values():
        check_the_last_position_is_seen_by_the_first(block)
    with pytest.raises(AssertionError):
        causal = build_block("rtransformer", WIDTH, is_causal=True).eval()
        check_the_last_position_is_seen_by_the_first(causal)


def test_attention_scores_are_divided_by_the_root_of_the_heads_width():
    torch.manual_seed(0)
    attention = SelfAttention(16, 1, 0.0)
    hidden = 3 * torch.randn(1, 4, 16)
    query, key, value = attention.query_key_value(hidden).chunk(3, dim=-1)
    scores = query @ key.transpose(1, 2)
    expected = attention.output((scores / 4).softmax(dim=-1) @ value)
    undivided = attention.output(scores.softmax(dim=-1) @ value)
    torch.testing.assert_close(attention(hidden, None), expected)
    assert not torch.allclose(undivided, expected, atol=1e-2)


def folders_that_are_no_packages(*names: str) -> list[str]:
    root = Path(idbert.__file__).parent.parent
    folders = {path.parent for name in names for path in (root / name).rglob("*.py")}
    return [
        folder.relative_to(root).as_posix()
        for folder in sorted(folders)
        if not (folder / "__init__.py").exists()
    ]


def test_every_folder_with_code_is_a_package():
    assert folders_that_are_no_packages("idbert", "nlp_tasks", "pipelines") == []
    assert folders_that_are_no_packages("tests/nn") == ["tests/nn"]
