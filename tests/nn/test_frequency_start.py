"""Vectors taken by frequency rank."""

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.config import EncoderSettings
from idbert.nn.encoder import Encoder
from idbert.nn.frequency_start import (
    NO_ROW,
    align_by_rank,
    copy_layers,
    take_rows,
    with_vocabulary,
)
from idbert.nn.word_heads import WordHeads
from idbert.nn.word_models import MaskedWordModel


def encoder(seed: int = 0, vocab_size: int = 12, **changes) -> Encoder:
    torch.manual_seed(seed)
    settings = EncoderSettings(**{"hidden_size": 16, "num_layers": 3} | changes)
    config = settings.to_config(vocab_size=vocab_size, is_causal=False, type_vocab_size=2)
    return Encoder(config).train(False)


def test_the_rth_most_frequent_row_takes_the_rth_most_frequent_one():
    counts_V = np.array([0, 5, 9, 7, 0])
    source = np.array([0, 0, 3, 0, 8, 4, 1])
    assert align_by_rank(counts_V, source, {}).tolist() == [NO_ROW, 2, 4, 5, NO_ROW]


def test_of_equally_frequent_rows_the_lower_comes_first():
    assert align_by_rank(np.array([2, 2, 2]), np.array([1, 3, 1]), {}).tolist() == [1, 0, 2]


def test_special_rows_take_theirs_whatever_their_counts_and_have_no_rank():
    rows_V = align_by_rank(np.array([99, 5, 4]), np.array([7, 8, 99]), {0: 2})
    assert rows_V.tolist() == [2, 1, 0]


def test_of_more_rows_than_the_source_has_the_rarest_are_left():
    rows_V = align_by_rank(np.array([1, 2, 3, 4]), np.array([6, 9]), {})
    assert rows_V.tolist() == [NO_ROW, NO_ROW, 0, 1]


def test_rows_without_a_vector_are_drawn_like_the_others():
    source = 3 + 2 * torch.randn(5000, 4)
    table_VD = torch.zeros(4000, 4)
    rows_V = np.full(4000, NO_ROW)
    rows_V[:10] = np.arange(20, 30)
    torch.manual_seed(0)
    take_rows(table_VD, source, rows_V)
    assert torch.equal(table_VD[:10], source[20:30])
    torch.testing.assert_close(table_VD[10:].mean(0), source.mean(0), rtol=0, atol=0.15)
    torch.testing.assert_close(table_VD[10:].std(0), source.std(0), rtol=0, atol=0.15)
    again_VD = torch.zeros(4000, 4)
    torch.manual_seed(0)
    take_rows(again_VD, source, rows_V)
    assert torch.equal(again_VD, table_VD)


def test_an_encoder_over_renamed_rows_computes_what_it_did():
    old = encoder()
    order = np.random.default_rng(0).permutation(12)
    new, _ = with_vocabulary(old, WordHeads("old"), order, pad_token_id=0)
    ids = torch.randint(12, (3, 7))
    with torch.no_grad():
        torch.testing.assert_close(
            new.train(False)(ids).last_hidden_state,
            old(torch.from_numpy(order)[ids]).last_hidden_state,
        )


def test_an_encoder_of_the_first_layers_has_their_states():
    old = encoder()
    new, _ = with_vocabulary(old, WordHeads("old"), np.arange(12), pad_token_id=0, num_layers=2)
    ids = torch.randint(12, (3, 7))
    with torch.no_grad():
        states = old(ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(new.train(False)(ids).last_hidden_state, states[2])
    assert new.config.num_hidden_layers == 2 and old.config.num_hidden_layers == 3


def test_the_heads_of_the_checkpoint_come_along_with_their_rows():
    old = encoder()
    torch.manual_seed(1)
    trained = MaskedWordModel.continue_from(old, WordHeads("old"))
    torch.nn.init.normal_(trained.head.bias)
    heads = WordHeads("old", words=trained.head.state_dict())
    order = np.append(np.random.default_rng(0).permutation(12), NO_ROW)
    model = MaskedWordModel.continue_from(*with_vocabulary(old, heads, order, pad_token_id=0))
    ids = torch.randint(12, (2, 5))
    with torch.no_grad():
        theirs = trained.train(False)(torch.from_numpy(order)[ids]).logits
        torch.testing.assert_close(
            model.train(False)(ids).logits[..., :12], theirs[..., order[:12]]
        )
    assert model.head.bias[12].item() == pytest.approx(trained.head.bias.mean().item())


def test_a_fusion_over_all_layers_is_left_behind_with_the_layers():
    old = encoder()
    old.config.fusion = "mean"
    _, heads = with_vocabulary(
        old,
        WordHeads("old", {"bias": torch.zeros(12)}, structure={}),
        np.arange(12),
        pad_token_id=0,
        num_layers=1,
    )
    assert heads.structure is None and heads.words == {}


def test_layers_are_copied_into_an_encoder_of_the_same_kind():
    source, target = encoder(0), encoder(1, vocab_size=30, num_layers=2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    copy_layers(target, source, 1)
    theirs = source.state_dict()
    for name, tensor in target.state_dict().items():
        is_copied = name.startswith(("encoder.layer.0.", "embeddings.LayerNorm."))
        assert torch.equal(tensor, theirs[name] if is_copied else before[name]), name


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="vectors are 16 wide.*Build the encoder with hidden_siz"):
        take_rows(torch.zeros(3, 8), torch.zeros(5, 16), np.array([0, 1, 2]))
    with pytest.raises(ConfigError, match="layers is 4, and the encoder has 3. Choose from 1 to 3"):
        with_vocabulary(encoder(), WordHeads("old"), np.arange(3), pad_token_id=0, num_layers=4)
    with pytest.raises(ConfigError, match="num_attention_heads 2 there, 4 here.*take over no lay"):
        copy_layers(encoder(num_heads=4), encoder(), 1)
    with pytest.raises(ConfigError, match="layers is 3, and the encoder has 2"):
        copy_layers(encoder(num_layers=2), encoder(), 3)
