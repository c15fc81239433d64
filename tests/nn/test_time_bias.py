"""Time gaps in attention: buckets, biases, and what each attention makes of them."""

import pytest
import torch
import torch.nn.functional as F

from idbert.errors import ConfigError, ShapeError
from idbert.nn import cpu_attention as cpu
from idbert.nn.config import EncoderConfig, EncoderSettings
from idbert.nn.cpu_attention import cpu_attention
from idbert.nn.item_models import ItemModel, MaskedItemModel, NextItemModel, load_item_model
from idbert.nn.time_bias import TimeBias, TimeBiasSettings, check_timestamps, time_buckets
from idbert.nn.word_config import WordEncoderSettings

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 0, 0, 0]])
MASK = (IDS != 0).long()
REAL = MASK.bool()
TIMES = torch.tensor([[0, 10, 500, 500, 90_000, 4_000_000], [7, 8, 2_000_000, 0, 0, 0]])
ASKED = torch.tensor(
    [[10, 500, 500, 90_000, 4_000_000, 4_000_060], [8, 2_000_000, 3_000_000] + [0] * 3]
)
BATCH = {"input_ids": IDS, "attention_mask": MASK, "timestamps": TIMES}
WAYS = {
    "fused": {},
    "fused, with dropout": {"attention_dropout": 0.2},
    "plain": {"attention": "eager"},
    "residual scores": {"residual_scores": "gated"},
    "NEZHA": {"kind": "nezha"},
    "pre-LN": {"norm": "pre"},
}


def build(
    model_class: type[ItemModel] = MaskedItemModel, query_time=False, **settings
) -> ItemModel:
    torch.manual_seed(0)
    bias = TimeBiasSettings("log", query_time=query_time)
    settings = {"hidden_size": 8, "initializer_range": 0.5, "time_bias": bias} | settings
    return model_class.build(EncoderSettings(**settings), vocab_size=20).eval()


def logits(model: ItemModel, **changes) -> torch.Tensor:
    with torch.no_grad():
        return model(**BATCH | changes).logits


def edges(num_buckets: int) -> list[float]:
    """Where the buckets begin, by the documented rule."""
    return [0.0] + [2.0 ** (n // 2) * (1.5 if n % 2 else 1) for n in range(num_buckets - 1)]


@pytest.mark.parametrize("visible", [None, REAL[:, None, None, :]])
def test_the_keys_of_a_mask_of_biases_lie_side_by_side(visible):
    """Fused kernels of GPUs refuse others, and scores would be kept whole."""
    bias = TimeBias(9, num_heads=2)
    buckets_BQL = torch.randint(9, (2, 6, 6), dtype=torch.int32)
    mask_BHQL = bias.as_mask(buckets_BQL, visible, torch.float32)
    assert mask_BHQL.is_contiguous()
    shown = mask_BHQL > torch.finfo(torch.float32).min
    assert torch.equal(mask_BHQL[shown], bias(buckets_BQL)[shown])
    assert torch.equal(shown, REAL[:, None, None].expand_as(shown)) or visible is None


def test_buckets_begin_where_the_documentation_says():
    assert edges(9) == [0, 1, 1.5, 2, 3, 4, 6, 8, 12]
    gaps = torch.cat([torch.arange(3000), 2 ** torch.arange(12, 40), 2 ** torch.arange(12, 40) - 1])
    for num_buckets in (2, 9, 64):
        found = time_buckets(gaps[None], torch.zeros_like(gaps[None]), num_buckets)[0, 0]
        starts = torch.tensor(edges(num_buckets), dtype=torch.float64)
        expected = torch.bucketize(gaps.to(torch.float32).double(), starts, right=True) - 1
        assert found.tolist() == expected.tolist()


def test_buckets_know_no_direction_and_no_date():
    buckets = time_buckets(TIMES, None, 64)
    assert torch.equal(buckets, buckets.mT)
    assert torch.equal(buckets[0], time_buckets(TIMES + 1_700_000_000, None, 64)[0])
    assert (buckets.diagonal(dim1=1, dim2=2) == 0).all()
    asked = time_buckets(TIMES, ASKED, 64)
    assert torch.equal(asked[0, :-1], buckets[0, 1:])  # as the event asked for would look back


def test_scores_get_the_bias_of_their_bucket_and_head():
    model = build(num_layers=1, attention="eager")
    attention = model.backbone.encoder.encoder.layer[0].attention.self
    seen = {}
    attention.query.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0]))
    attention.register_forward_hook(lambda module, inputs, output: seen.update(y=output[0]))
    logits(model)
    query, key, value = (
        project(seen["x"]).view(2, 6, 2, 4).transpose(1, 2)
        for project in (attention.query, attention.key, attention.value)
    )
    scores = query @ key.mT / 2.0
    for row in range(2):
        for i in range(6):
            for j in range(6):
                gap = abs(int(TIMES[row, i] - TIMES[row, j]))
                bucket = sum(edge <= gap for edge in edges(64)) - 1
                scores[row, :, i, j] += attention.time_bias.weight[bucket]
    shares = scores.masked_fill(~REAL[:, None, None, :], -torch.inf).softmax(-1)
    expected = (shares @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen["y"][REAL], expected[REAL])


@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
@pytest.mark.parametrize("is_fast", [True, False])
def test_every_attention_computes_the_same_and_the_same_gradients(
    model_class, is_fast, monkeypatch
):
    if not is_fast:
        monkeypatch.setattr("idbert.nn.attention.suits", lambda query, dropout, has_bias: False)
    labels = IDS.where(REAL, -100)
    results = []
    for attention in ("sdpa", "eager"):
        model = build(model_class, attention=attention)
        loss = model(**BATCH, labels=labels).loss
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert sum("time_bias" in name for name in grads) == 2
        results.append((logits(model)[REAL], loss, grads))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("limits", [(2**20, 2**22), (40, 2**22), (40, 0)])
def test_the_fast_attention_adds_the_bias_and_finds_its_gradient(limits, monkeypatch):
    monkeypatch.setattr(cpu, "NUM_AT_ONCE", limits[0])
    monkeypatch.setattr(cpu, "NUM_KEPT", limits[1])
    generator = torch.Generator().manual_seed(0)
    buckets = torch.randint(0, 7, (3, 5, 6), generator=generator, dtype=torch.int32)
    visible = torch.ones(3, 1, 1, 6, dtype=torch.bool)
    visible[1, ..., 4:] = False
    shapes = [(3, 2, 5, 4), (3, 2, 6, 4), (3, 2, 6, 4), (7, 2)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    def ours(query, key, value, table):
        return cpu_attention(query, key, value, visible, bias_NH=table, buckets_BQL=buckets)

    def theirs(query, key, value, table):
        mask = F.embedding(buckets, table).permute(0, 3, 1, 2).masked_fill(~visible, -torch.inf)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    results = []
    for function in (ours, theirs):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        attended = function(*inputs)
        (attended * torch.arange(5.0)[:, None]).sum().backward()
        results.append([attended, *(tensor.grad for tensor in inputs)])
    torch.testing.assert_close(*results)


def test_the_fast_attention_meets_its_own_dropout_with_a_bias():
    generator = torch.Generator().manual_seed(0)
    buckets = torch.randint(0, 5, (2, 4, 4), generator=generator, dtype=torch.int32)
    shapes = [(2, 2, 4, 3)] * 3 + [(5, 2)]
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    def drawn(query, key, value, table):
        torch.manual_seed(3)
        return cpu_attention(query, key, value, dropout=0.4, bias_NH=table, buckets_BQL=buckets)

    assert torch.autograd.gradcheck(drawn, [tensor.requires_grad_() for tensor in inputs])


def test_bfloat16_attention_takes_the_bias_along():
    model = build().train()
    with torch.autocast("cpu", torch.bfloat16):
        model(**BATCH, labels=IDS.where(REAL, -100)).loss.backward()
    gradient = model.backbone.encoder.encoder.layer[0].attention.self.time_bias.weight.grad
    assert gradient.dtype == torch.float32 and gradient.abs().sum() > 0


@pytest.mark.parametrize("way", WAYS)
def test_padding_and_what_time_stands_there_change_nothing(way):
    model = build(**WAYS[way]).double()
    padded = TIMES.where(REAL, 123_456_789)
    torch.testing.assert_close(logits(model, timestamps=padded)[REAL], logits(model)[REAL])
    short = {name: tensor[1:, :3] for name, tensor in BATCH.items()}
    torch.testing.assert_close(logits(model, **short)[0], logits(model)[1, :3])


@pytest.mark.parametrize("way", WAYS)
def test_gaps_change_the_scores_and_dates_do_not(way):
    model = build(**WAYS[way]).double()
    before = logits(model)[REAL]
    torch.testing.assert_close(logits(model, timestamps=TIMES + 10**9)[REAL], before)
    assert not torch.allclose(logits(model, timestamps=TIMES * 1000)[REAL], before, atol=1e-3)


@pytest.mark.parametrize("query_time", [False, True])
def test_a_causal_model_sees_no_later_time(query_time):
    model = build(NextItemModel, query_time)
    asked = {"query_timestamps": ASKED} if query_time else {}
    before = logits(model, **asked)
    later = TIMES.clone()
    later[0, 4:] += 10**8
    after = logits(model, timestamps=later, **asked)
    torch.testing.assert_close(after[0, :4], before[0, :4])
    assert not torch.allclose(after[0, 4:], before[0, 4:], atol=1e-3)


def test_a_causal_query_looks_back_from_the_time_that_it_asks_for():
    model = build(NextItemModel, query_time=True)
    before = logits(model, query_timestamps=ASKED)
    other = ASKED.clone()
    other[0, 4] = 90_001  # a second behind the newest event, and no longer weeks
    after = logits(model, query_timestamps=other)
    changed = (after - before).abs().amax(-1) > 1e-4
    assert changed[0].tolist()[:5] == [False, False, False, False, True]


@pytest.mark.parametrize("query_time", [False, True])
@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
def test_a_time_bias_is_saved_and_opened(model_class, query_time, tmp_path):
    model = build(model_class, query_time)
    asked = {"query_timestamps": ASKED} if query_time and model.is_causal else {}
    model.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert opened.config.reads_times == ("queries" if query_time else "events")
    assert opened.config.time_buckets == 64
    assert torch.equal(logits(opened, **asked), logits(model, **asked))


def test_a_config_from_before_the_time_bias_has_none():
    config = EncoderConfig.from_dict({"fusion": "last"})
    assert config.reads_times == "none" and config.time_buckets is None


def test_the_number_of_buckets_is_that_of_the_table():
    model = build(time_bias=TimeBiasSettings("log", buckets=10))
    assert model.backbone.encoder.encoder.layer[1].attention.self.time_bias.weight.shape == (10, 2)
    far = logits(model, timestamps=TIMES * 1000)
    torch.testing.assert_close(far, logits(model, timestamps=TIMES * 10**6))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "none", "buckets": 8}, r"cannot act without one. Set time_bias.name to log"),
        ({"name": "none", "query_time": True}, r"cannot act without one"),
        ({"name": "log", "buckets": 1}, r"time_bias.buckets is 1; it must be at least 2"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        TimeBiasSettings(**settings)


def test_a_misspelt_bias_is_refused():
    with pytest.raises(ConfigError, match="no time bias 'lug'.* Choose from: none, log"):
        EncoderConfig(time_bias="lug")


def test_words_have_no_times():
    with pytest.raises(ConfigError, match="time_bias cannot act on words"):
        WordEncoderSettings(time_bias=TimeBiasSettings("log"))


@pytest.mark.parametrize(
    ("model", "changes", "error", "words"),
    [
        (lambda: build(), {"timestamps": None}, ShapeError, "of timestamps it got none"),
        (
            lambda: build(NextItemModel, True),
            {},
            ShapeError,
            "of query_timestamps it got none, with input_ids of shape",
        ),
        (
            lambda: build(query_time=True),
            {"query_timestamps": ASKED},
            ConfigError,
            "query_timestamps cannot act",
        ),
        (lambda: build(time_bias=TimeBiasSettings()), {}, ConfigError, "timestamps cannot act"),
    ],
)
def test_times_that_lack_or_cannot_act_are_refused(model, changes, error, words):
    with pytest.raises(error, match=words):
        logits(model(), **changes)


def test_times_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"of timestamps it got shape \[2, 3\]"):
        check_timestamps(IDS, TIMES[:, :3], None, "events", is_causal=True)
