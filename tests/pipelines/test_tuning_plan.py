"""The ranges of a search: whole numbers, the base's own values, and what is refused."""

import re
from pathlib import Path

import pytest

from idbert.errors import ConfigError
from pipelines import tune
from pipelines.cli import parse_settings
from pipelines.tuning_plan import SearchSettings, plan_search
from tests.pipelines.test_tune import BASE, LAYERS, RANGES, RATE

ROOT = Path(__file__).parents[2]
SEARCHES = sorted((ROOT / "pipelines" / "searches").glob("*.yaml"))


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_the_searches_that_come_along_are_right(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = parse_settings(SearchSettings, tune.main, ["--config", str(path)])
    search = plan_search(given)
    assert search.first is not None
    assert f"pipelines.tune {path.relative_to(ROOT)}" in path.read_text()


def test_whole_numbers_where_the_setting_is_one():
    ranges = {
        "training.weight_decay": {"low": 0, "high": 1},
        LAYERS: {"low": 1, "high": 4},
        "loss.options.negatives": {"low": 10, "high": 20, "step": 5},
    }
    base = {"loss": {"name": "sampled"}}
    search = plan_search(SearchSettings(ranges=ranges, base=base, try_base=False))
    kinds = {name: type(space).__name__ for name, space in search.spaces.items()}
    assert kinds == {
        "training.weight_decay": "FloatDistribution",
        LAYERS: "IntDistribution",
        "loss.options.negatives": "IntDistribution",
    }


def test_steps_are_written_as_people_write_them():
    dropout = "model.hidden_dropout"
    ranges = {dropout: {"low": 0.1, "high": 0.5, "step": 0.1}, RATE: RANGES[RATE]}
    search = plan_search(SearchSettings(ranges=ranges, base=BASE))
    drawn = {dropout: 0.30000000000000004, RATE: 0.0012345678901234567}
    settings = search.settings(drawn)
    assert settings["model"]["hidden_dropout"] == 0.3
    assert settings["training"]["learning_rate"] == drawn[RATE], "no step, nothing to round"


@pytest.mark.parametrize(
    ("range_of_layers", "is_within"),
    [
        ({"low": 1, "high": 4}, True),
        ({"low": 3, "high": 4}, False),
        ({"low": 1, "high": 5, "step": 2}, False),
        ({"choices": [2, 3]}, True),
        ({"choices": [1, 3]}, False),
    ],
)
def test_the_base_is_tried_first_where_it_lies_within(range_of_layers, is_within):
    search = plan_search(SearchSettings(ranges={LAYERS: range_of_layers}, base=BASE))
    assert search.first == ({LAYERS: 2} if is_within else None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranges": {}}, "nothing to search"),
        ({"trials": 0}, "trials is 0; it must be at least 1"),
        ({"startup": 0}, "startup is 0; it must be at least 1"),
        ({"ranges": {RATE: {"low": 1}}}, "A range has low and high"),
        ({"ranges": {RATE: {"low": 1, "high": 2, "choices": [1]}}}, "A range has low and high"),
        ({"ranges": {RATE: {"low": 2, "high": 1}}}, "the smaller one as low"),
        ({"ranges": {RATE: {"low": "1e-4", "high": 1}}}, "write 1.0e-4"),
        ({"ranges": {RATE: {"low": 0, "high": 1, "log": True}}}, "log=true needs low above 0"),
        ({"ranges": {LAYERS: {"low": 1, "high": 2, "step": 5}}}, "step is 5; it must be above 0"),
        ({"ranges": {LAYERS: {"choices": [1]}}}, "give at least two choices"),
        ({"ranges": {"a": {"alternatives": {"b": {}}}}}, "give at least two alternatives"),
        ({"ranges": {"training.seed": {"low": 0, "high": 9}}}, "must be the same in all trials"),
        (
            {"ranges": {LAYERS: RANGES[LAYERS], "a": {"alternatives": {"b": {}, "c": BASE}}}},
            "ranges sets model.num_layers twice",
        ),
        ({"ranges": {"model.num_layer": RANGES[LAYERS]}}, "Did you mean 'num_layers'?"),
        ({"ranges": {"modle.num_layers": RANGES[LAYERS]}}, "Did you mean 'model'?"),
        ({"ranges": {LAYERS: {"low": 0, "high": 4}}}, "model.num_layers=0: "),
        ({"ranges": {"training.schedule": {"choices": ["linear", "sideways"]}}}, "=sideways: "),
        ({"pipeline": "rec_index"}, "rec_index trains nothing"),
        ({"base": {"model.norm": "sideways"}}, "the base: "),
        (
            {"pipeline": "nlp_cls", "base": {"data.folds": 3, "model": "x"}},
            "Give pruning=none, or search",
        ),
        ({"base": {"split.train_until": "test"}}, "the base sets split.train_until=test"),
        (
            {"ranges": {"split.train_until": {"choices": ["validation", "test"]}}},
            "the range of split.train_until sets split.train_until=test",
        ),
    ],
)
def test_a_wrong_search_is_refused_before_any_trial(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan_search(SearchSettings(**{"ranges": RANGES, "base": BASE} | changes))
