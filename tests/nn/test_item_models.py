"""The item models: scores, losses and vectors that agree with one another."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from idbert.errors import CheckpointError, ConfigError
from idbert.inputs.batch_plan import BatchPlan, BatchSettings
from idbert.inputs.item_batches import MaskedItemData, NextItemData, history_batches
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.planned_loader import train_loader
from idbert.inputs.sequences import Sequences
from idbert.nn.blocks import BlockSettings
from idbert.nn.config import EncoderSettings
from idbert.nn.frequency_start import NO_ROW
from idbert.nn.fusion import FUSIONS, FusionSettings, LayerFusion
from idbert.nn.item_models import MaskedItemModel, NextItemModel, load_item_model
from idbert.nn.losses.catalogue import LossSettings
from tests.worlds import cycle_world

FIRST_ITEM, NUM_ITEMS = 4, 13
VOCAB_SIZE = FIRST_ITEM + NUM_ITEMS
BOTH = pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])


def small(**changes):
    return EncoderSettings(**{"hidden_size": 16, "max_length": 16, "num_layers": 1} | changes)


def build(model_class, seed=0, loss=None, num_behaviours=0, **changes):
    torch.manual_seed(seed)
    model = model_class.build(
        small(**changes), vocab_size=VOCAB_SIZE, num_behaviours=num_behaviours, loss=loss
    )
    torch.nn.init.normal_(model.head.bias)
    return model.eval()


def batch(lengths=(5, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (len(lengths), max(lengths))
    mask_BL = torch.arange(size[1]) < torch.tensor(lengths)[:, None]
    input_ids_BL = torch.randint(FIRST_ITEM, VOCAB_SIZE, size, generator=generator)
    targets_BL = torch.randint(FIRST_ITEM, VOCAB_SIZE, size, generator=generator)
    return {
        "input_ids": input_ids_BL.where(mask_BL, 0),
        "attention_mask": mask_BL.long(),
        "labels": targets_BL.where(mask_BL & (targets_BL % 3 > 0), -100),
    }


def without_labels(batch):
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def cycle_sequences(num_items):
    events = cycle_world(num_users=256, num_items=num_items)
    rows = events["item_id"].str.split().str[1].astype(int) + FIRST_ITEM
    return Sequences.from_histories([list(user) for _, user in rows.groupby(events["user_id"])])


@BOTH
@pytest.mark.parametrize("fusion", ["last", "softmax"])
def test_the_loss_is_the_mean_cross_entropy_of_the_logits_at_the_targets(model_class, fusion):
    model = build(model_class, fusion=FusionSettings(fusion))
    inputs = batch()
    logits_BLV = model(**without_labels(inputs)).logits
    assert logits_BLV.shape == (2, 5, VOCAB_SIZE)
    expected = F.cross_entropy(logits_BLV.flatten(0, 1), inputs["labels"].flatten())
    torch.testing.assert_close(model(**inputs).loss, expected)


@pytest.mark.parametrize(
    ("model_class", "max_length", "limit"),
    [
        (MaskedItemModel, 9, 9),
        (NextItemModel, 9, 8),  # the newest of 9 events was never read in training
        (NextItemModel, 17, 16),
        (NextItemModel, 99, 16),
        (MaskedItemModel, None, 16),
    ],
)
def test_a_history_is_read_as_far_as_in_training(model_class, max_length, limit):
    assert build(model_class).history_limit(max_length) == limit


@BOTH
def test_a_shift_moves_scores_and_vectors_but_not_the_loss(model_class, tmp_path):
    shift_V = np.linspace(-2, 2, VOCAB_SIZE, dtype=np.float32)
    plain, shifted = (
        model_class.build(small(), vocab_size=VOCAB_SIZE, popularity_shift=shift).eval()
        for shift in (None, shift_V)
    )
    shifted.load_state_dict(plain.state_dict() | {"head.shift_V": torch.from_numpy(shift_V)})
    inputs = batch()
    assert torch.equal(plain(**inputs).loss, shifted(**inputs).loss)
    moved = shifted(**without_labels(inputs)).logits - plain(**without_labels(inputs)).logits
    torch.testing.assert_close(moved, torch.from_numpy(shift_V).expand_as(moved))
    difference = shifted.item_vectors() - plain.item_vectors()
    torch.testing.assert_close(difference[:, -1], torch.from_numpy(shift_V))
    assert not difference[:, :-1].any()
    assert "head.shift_V" not in dict(shifted.named_parameters())
    shifted.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert torch.equal(opened.item_vectors(), shifted.item_vectors())
    opened.resize_token_embeddings(VOCAB_SIZE + 2)
    assert opened.head.shift_V[-3:].tolist() == [2.0, 0.0, 0.0]
    assert load_item_model(tmp_path).head.shift_V is not None
    plain.start_from(shifted)
    assert torch.equal(plain.head.bias, shifted.head.bias) and plain.head.shift_V is None


@BOTH
def test_only_positions_with_a_target_reach_the_head(model_class):
    model = build(model_class, head_transform=True)
    seen = []
    model.head.transform.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    inputs = batch()
    model(**inputs)
    assert seen[0].shape == (int((inputs["labels"] != -100).sum()), 16)


@BOTH
def test_the_losses_of_parts_of_a_batch_add_up_to_the_whole(model_class):
    model = build(model_class)
    inputs = batch((5, 3, 4, 5))
    count = (inputs["labels"] != -100).sum()
    parts = [
        model(**{name: tensor[part] for name, tensor in inputs.items()}, num_items_in_batch=count)
        for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(parts[0].loss + parts[1].loss, model(**inputs).loss)


@BOTH
def test_a_batch_without_any_target_costs_nothing(model_class):
    inputs = batch()
    loss = build(model_class)(**{**inputs, "labels": torch.full_like(inputs["labels"], -100)}).loss
    assert loss == 0


@BOTH
def test_weights_scale_each_targets_share_of_the_loss(model_class):
    model = build(model_class)
    inputs = batch()
    only_first = {**inputs, "labels": inputs["labels"].clone()}
    only_first["labels"][1] = -100
    count = (inputs["labels"] != -100).sum()
    weights_BL = torch.tensor([[2.0], [0.0]]).expand(2, 5)
    torch.testing.assert_close(
        model(**inputs, weights=weights_BL).loss,
        2 * model(**only_first, num_items_in_batch=count).loss,
    )


@BOTH
def test_user_and_item_vectors_give_the_logits_at_the_last_position(model_class):
    model = build(model_class)
    inputs = without_labels(batch((3, 5, 4)))
    logits_BLV = model(**inputs).logits
    positions_B = np.array([2, 0, 1])
    users_UD = model.encode_users([(positions_B, inputs)], num_users=3)
    items_VD = model.item_vectors()
    assert users_UD.shape == (3, 17) and items_VD.shape == (VOCAB_SIZE, 17)
    assert not users_UD.requires_grad and not items_VD.requires_grad
    expected_BV = logits_BLV[torch.arange(3), torch.tensor([2, 4, 3])]
    torch.testing.assert_close(
        (users_UD @ items_VD.T)[positions_B], expected_BV, rtol=1e-5, atol=1e-5
    )


def test_encoding_users_switches_dropout_off_and_then_back_on():
    model = build(MaskedItemModel, hidden_dropout=0.5).train()
    inputs = [(np.arange(2), without_labels(batch()))]
    first_UD = model.encode_users(inputs, num_users=2)
    assert model.training
    torch.testing.assert_close(first_UD, model.encode_users(inputs, 2), rtol=0, atol=0)
    model.eval()
    model.encode_users(inputs, 2)
    assert not model.training


def test_a_next_item_model_does_not_look_ahead_and_a_masked_item_model_does():
    inputs = without_labels(batch((5,)))
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, -1] = FIRST_ITEM + (inputs["input_ids"][0, -1] - 3) % NUM_ITEMS
    for model_class, looks_ahead in [(MaskedItemModel, True), (NextItemModel, False)]:
        model = build(model_class)
        first_L1V, second_L1V = model(**inputs).logits[0, :-1], model(**changed).logits[0, :-1]
        assert torch.allclose(first_L1V, second_L1V, atol=1e-6) is not looks_ahead


def test_the_head_transforms_by_default_only_where_bert_does():
    assert "head.transform.dense.weight" in build(MaskedItemModel).state_dict()
    assert "head.transform.dense.weight" not in build(NextItemModel).state_dict()


@BOTH
def test_the_item_embeddings_are_stored_once(model_class):
    state = build(model_class).state_dict()
    assert [name for name, tensor in state.items() if VOCAB_SIZE in tensor.shape] == [
        "backbone.encoder.embeddings.word_embeddings.weight",
        "head.bias",
    ]


def test_a_fusion_from_outside_is_built_by_the_settings_and_opens_again(tmp_path, monkeypatch):
    monkeypatch.setattr(FUSIONS, "_entries", dict(FUSIONS._entries))

    @FUSIONS.register("scaled sum")
    class ScaledSum(LayerFusion):
        def __init__(self, num_states, hidden_size, layers=None):
            super().__init__(num_states, hidden_size, layers)
            self.scale = torch.nn.Parameter(torch.rand(hidden_size))

        def forward(self, hidden_KBLD):
            return self.scale * sum(self._chosen(hidden_KBLD))

    model = build(MaskedItemModel, fusion=FusionSettings("scaled sum", layers=(0, -1)))
    inputs = batch()
    model(**inputs).loss.backward()
    assert model.backbone.fusion.scale.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert type(opened.backbone.fusion) is ScaledSum and opened.backbone.fusion.layers == (0, 1)
    scores = without_labels(inputs)
    torch.testing.assert_close(opened(**scores).logits, model(**scores).logits, rtol=0, atol=0)


@BOTH
def test_behaviours_change_the_scores(model_class):
    model = build(model_class, num_behaviours=3)
    inputs = without_labels(batch())
    bought = torch.full_like(inputs["input_ids"], 2)
    assert not torch.allclose(model(**inputs).logits, model(**inputs, token_type_ids=bought).logits)


@BOTH
def test_both_losses_train_alike(model_class):
    gradients = []
    for loss in (LossSettings("full"), LossSettings("chunked", {"chunk_size": 2})):
        model = build(model_class, loss=loss)
        model(**batch()).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@BOTH
def test_gradient_checkpointing_keeps_the_gradients(model_class):
    gradients = []
    for checkpointing in (False, True):
        model = build(model_class, hidden_dropout=0.0).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**batch()).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


@BOTH
@pytest.mark.parametrize("kind", ["bert", "nezha"])
def test_a_saved_model_opens_as_its_own_class_with_the_same_scores(model_class, kind, tmp_path):
    changes = {"max_length": None} if kind == "nezha" else {}
    model = build(
        model_class, kind=kind, loss=LossSettings("chunked", {"chunk_size": 3}), **changes
    )
    model.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert type(opened) is model_class and not opened.training
    assert opened.loss.chunk_size == 3
    assert opened.max_length == model.max_length == (16 if kind == "bert" else None)
    inputs = without_labels(batch())
    torch.testing.assert_close(opened(**inputs).logits, model(**inputs).logits, rtol=0, atol=0)


def test_a_grown_vocabulary_leaves_the_old_scores_as_they_were():
    model = build(MaskedItemModel)
    inputs = without_labels(batch())
    before_BLV = model(**inputs).logits
    model.resize_token_embeddings(VOCAB_SIZE + 3)
    after_BLV = model(**inputs).logits
    assert after_BLV.shape[-1] == model.config.vocab_size == VOCAB_SIZE + 3
    torch.testing.assert_close(after_BLV[..., :VOCAB_SIZE], before_BLV)


@BOTH
def test_after_a_hundred_steps_round_the_circle_the_next_item_ranks_first(model_class):
    num_items, vocab_size = 8, FIRST_ITEM + 8
    torch.manual_seed(0)
    settings = small(kind="nezha", max_length=None, hidden_size=32, hidden_dropout=0.0)
    model = model_class.build(settings, vocab_size=vocab_size)
    sequences = cycle_sequences(num_items)
    if model_class is MaskedItemModel:
        masking = MaskingSettings(last_probability=1.0)
        data = MaskedItemData(sequences, masking, vocab_size=vocab_size, seed=0)
    else:
        data = NextItemData(sequences)
    plan = BatchPlan(data.input_lengths, BatchSettings(token_budget=640), seed=0)
    loader = train_loader(data, plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(100 // len(plan)):
        loader.set_epoch(epoch)
        for inputs in loader:
            optimizer.zero_grad()
            model(**inputs).loss.backward()
            optimizer.step()
    batches = history_batches(sequences, objective=model.objective, max_length=model.max_length)
    scores_UV = model.encode_users(batches, len(sequences)) @ model.item_vectors().T
    best_U = scores_UV[:, FIRST_ITEM:].argmax(1).numpy()
    last_U = sequences.items[sequences.offsets[1:] - 1] - FIRST_ITEM
    assert (best_U == (last_U + 1) % num_items).all()


def test_a_config_of_the_other_direction_is_refused():
    config = small().to_config(vocab_size=VOCAB_SIZE, is_causal=True)
    with pytest.raises(ConfigError, match="MaskedItemModel needs is_causal=False"):
        MaskedItemModel(config)


def test_a_model_starts_from_the_backbone_of_another_objective():
    pretrained, model = build(MaskedItemModel, seed=1), build(NextItemModel, seed=2)
    model.start_from(pretrained)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, pretrained.backbone.state_dict()[name])
    assert torch.equal(model.head.bias, pretrained.head.bias)


def test_a_model_over_another_vocabulary_takes_the_rows_that_are_named():
    pretrained, model = build(MaskedItemModel, seed=1), build(NextItemModel, seed=2)
    with torch.no_grad():
        pretrained.head.bias.normal_()
    rows_V = np.arange(VOCAB_SIZE)[::-1].copy()
    rows_V[5] = NO_ROW
    model.start_from(pretrained, rows_V)
    theirs, ours = pretrained.get_input_embeddings().weight, model.get_input_embeddings().weight
    kept_V = torch.from_numpy(rows_V != NO_ROW)
    assert torch.equal(ours[kept_V], theirs[rows_V[rows_V != NO_ROW]])
    assert not (ours[5] == theirs).all(1).any()
    assert torch.equal(model.head.bias[kept_V], pretrained.head.bias[rows_V[rows_V != NO_ROW]])
    assert model.head.bias[5] == pretrained.head.bias.mean()
    for name, tensor in model.backbone.state_dict().items():
        if "word_embeddings" not in name:
            assert torch.equal(tensor, pretrained.backbone.state_dict()[name])
    with pytest.raises(ConfigError, match="tensors differ"):
        build(NextItemModel, num_layers=2).start_from(pretrained, rows_V)


@BOTH
@pytest.mark.parametrize("head_transform", [False, True])
def test_the_head_brings_the_backbones_vectors_to_the_width_of_the_items(
    model_class, head_transform
):
    mean_max = FusionSettings("mean_max")
    model = build(model_class, fusion=mean_max, head_transform=head_transform)
    assert model.backbone.width == 32
    inputs = without_labels(batch())
    vectors = model.head.transform(model.backbone(**inputs))
    assert vectors.shape == (2, 5, 16)
    scores = vectors @ model.get_input_embeddings().weight.T + model.head.bias
    torch.testing.assert_close(model(**inputs).logits, scores)
    narrow = build(model_class, head_transform=head_transform).head.transform
    assert ("dense.weight" in narrow.state_dict()) is head_transform


def test_a_start_takes_over_the_heads_dense_layer_where_both_have_one():
    fusion, block = FusionSettings("softmax"), BlockSettings("lstm", 16)
    for theirs, ours, alike in ((True, True, True), (False, False, True), (True, False, False)):
        options = {"fusion": FusionSettings("mean_max")}
        pretrained = build(MaskedItemModel, seed=1, head_transform=theirs, **options)
        model = build(NextItemModel, seed=2, head_transform=ours, **options)
        model.start_from(pretrained)
        weights = [
            next(iter(head.transform.parameters())) for head in (model.head, pretrained.head)
        ]
        assert torch.equal(*weights) is alike
    pretrained = build(MaskedItemModel, seed=1, fusion=fusion, block=block)
    model = build(NextItemModel, seed=2, fusion=fusion, block=block)
    model.start_from(pretrained)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, pretrained.backbone.state_dict()[name])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block": BlockSettings("lstm")}, "block none there, lstm here"),
        ({"hidden_size": 8}, "tensors differ, such as .*there, .*here"),
        ({"num_layers": 2}, "tensors differ, such as .*layer.1.* absent there"),
        ({"num_heads": 4}, "settings differ, such as num_attention_heads 2 there, 4 here"),
        ({"position_origin": "oldest"}, "position_origin newest there, oldest here"),
        ({"activation": "relu"}, "hidden_act gelu there, relu here"),
        ({"fusion": FusionSettings("mean")}, "fusion last there, mean here"),
    ],
)
def test_a_start_from_a_backbone_that_computes_something_else_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        build(NextItemModel, **changes).start_from(build(MaskedItemModel))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no config.json. Give the folder of a model"):
        load_item_model(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="is not the config of a model"):
        load_item_model(tmp_path)


def test_a_model_of_another_class_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(CheckpointError, match="class BertForMaskedLM, not one of MaskedItemModel"):
        load_item_model(tmp_path)


def test_weights_that_are_missing_or_cut_off_are_refused(tmp_path):
    model = build(MaskedItemModel)
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_item_model(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_item_model(tmp_path)


def test_weights_that_lack_a_tensor_are_refused(tmp_path):
    model = build(MaskedItemModel)
    state = {name: t for name, t in model.state_dict().items() if name != "head.bias"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError, match="do not fit its config.json: 1 are .*head.bias"):
        load_item_model(tmp_path)
