import re
import signal
import zlib
from pathlib import Path

import pandas as pd
import pytest
import yaml

from idbert.errors import ConfigError
from idbert.run_dir import RunDir
from pipelines import ablation_runs
from pipelines.ablation_plan import StudySettings, merged, plan
from pipelines.ablation_report import effects, summary, winners_of
from pipelines.cli import UNFINISHED
from tests.pipelines import commands
from tests.worlds import cycle_world

ROOT = Path(__file__).parents[2]
TINY = {
    "model.hidden_size": 8,
    "batches.token_budget": 200,
    "training": {"learning_rate": 0.01, "evaluate_every": 1},
}
CHOICES = {
    "fusion": {"last": {"model.fusion.name": "last"}},
    "rate": {"low": {"training.learning_rate": 0.002}},
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the runs that are started; here in this process, which takes less time."""
    folders: list[str] = []

    def start(pipeline: str, arguments: list[str], log: Path, is_enough: object) -> int:
        folders.append(Path(arguments[-1]).name)
        finished = commands.run(pipeline, *arguments)
        log.write_text(finished.err)
        return finished.status

    monkeypatch.setattr(ablation_runs, "start", start)
    return folders


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the runs that are started; in place of a training stand made-up figures."""
    folders: list[str] = []

    def start(pipeline: str, arguments: list[str], log: Path, is_enough: object) -> int:
        config, folder = Path(arguments[1]), Path(arguments[3])
        folders.append(folder.name)
        settings = yaml.safe_load(config.read_text())
        try:
            run = RunDir.create(folder, pipeline, settings)
        except ConfigError as error:
            log.write_text(str(error))
            return 2
        training = settings["training"]
        value = 0.5 + 0.01 * training["seed"]
        value += 0.1 * ("model" in settings and "fusion" in settings["model"])
        value += 0.2 * (training["learning_rate"] == 0.002)
        value += 0.1 * (training.get("warmup") == 0 or "schedule" in training)
        points = [{"epoch": epoch, "loss": 1.0, "ndcg@10": value * epoch / 2} for epoch in (1, 2)]
        run.write_json("curve.json", points)
        run.write_text("report.html", "")
        run.finish(["config.yaml"])
        return 0

    monkeypatch.setattr(ablation_runs, "start", start)
    return folders


@pytest.fixture
def log(tmp_path: Path) -> Path:
    cycle_world(num_users=24).to_csv(tmp_path / "log.csv", index=False)
    return tmp_path / "log.csv"


def write_study(folder: Path, **changes: object) -> Path:
    study = {
        "run": str(folder / "study"),
        "pipeline": "rec_pretrain",
        "base": {**TINY, "data.source": str(folder / "log.csv")},
        "choices": CHOICES,
        "seeds": [0, 1],
        "epochs": 2,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study | changes))
    return path


def settings(**changes: object) -> StudySettings:
    return StudySettings(**{"choices": CHOICES, "base": dict(TINY), "epochs": 2} | changes)


def curves(values: dict[str, list[float]], metric: str = "ndcg@10") -> pd.DataFrame:
    """Runs with one evaluation each; the seeds are 0, 1, ..."""
    return pd.DataFrame(
        [
            {"variant": name, "seed": seed, "epoch": 2.0, "metric": metric, "value": value}
            for name, row in values.items()
            for seed, value in enumerate(row)
        ]
    )


def test_a_study_of_real_runs(tmp_path, log, started):
    path = write_study(tmp_path, choices={"fusion": CHOICES["fusion"]}, seeds=[0])
    finished = commands.succeed("ablate", path)
    assert started == ["base-seed0", "fusion=last-seed0"]
    study = tmp_path / "study"
    assert finished.out == f"{study / 'study.md'}\n"
    table = pd.read_csv(study / "table.csv").set_index("variant")
    for name in table.index:
        curve = RunDir(study / f"{name}-seed0").read_json("curve.json")
        assert table["ndcg@10"][name] == curve[-1]["ndcg@10"]
        assert table["epoch"][name] == 2
        assert table["seconds"][name] > 0
    assert pd.read_csv(study / "curves.csv")["epoch"].tolist() == [1, 2, 1, 2]


def test_a_study_grows_resumes_and_runs_its_winners_together(tmp_path, log, pretended):
    path = write_study(tmp_path)
    commands.succeed("ablate", path, "--choices={}", "--seeds=[0]")
    assert pretended == ["base-seed0"]  # a study may begin with the base alone
    commands.succeed("ablate", path)
    both = "winners-" + format(zlib.crc32(b"fusion=last,rate=low"), "08x")
    assert pretended == [
        *("base-seed0", "fusion=last-seed0", "rate=low-seed0"),
        *("base-seed1", "fusion=last-seed1", "rate=low-seed1"),
        *(f"{both}-seed0", f"{both}-seed1"),
    ]
    study = tmp_path / "study"
    table = pd.read_csv(study / "study.csv").set_index("variant")
    assert table["fusion"].tolist() == ["base", "last", "base", "last"]
    assert table["mean"].tolist() == pytest.approx([0.505, 0.605, 0.705, 0.805])
    assert table["variance"].tolist() == pytest.approx([0.01**2 / 2] * 4)
    assert table["difference"].tolist() == pytest.approx([0, 0.1, 0.2, 0.3])
    markdown = (study / "study.md").read_text()
    assert "Better than the base in the mean: fusion=last, rate=low. Together +0.3000" in markdown
    page = (study / "study.html").read_text()
    assert page.count("<svg") == 2
    assert "fusion=last" in page
    assert not re.search("(src|href)=", page.replace("xlink:href", "")), "something is loaded"

    before = list(pretended)
    commands.succeed("ablate", path)
    assert pretended == before


def test_only_runs_of_other_settings_are_made_again(tmp_path, log, pretended):
    path = write_study(tmp_path, seeds=[0])
    commands.succeed("ablate", path)
    before = len(pretended)
    other = {"rate": {"low": {"training.learning_rate": 0.002, "training.warmup": 0}}}
    changed = write_study(tmp_path, seeds=[0], choices=CHOICES | other)
    for number in (1, 2):  # the second time as the first: what is there was made with others
        finished = commands.run("ablate", changed)
        assert pretended[before:] == ["rate=low-seed0"] * number
        assert "holds a run with other settings" in finished.err


def test_winners_that_do_not_go_together_are_said_and_not_run(tmp_path, log, pretended):
    choices = {
        "schedule": {"constant": {"training.schedule": "constant_with_warmup"}},
        "rate": {"low": {"training.learning_rate": 0.002}},
        "warmup": {"none": {"training.warmup": 0}},
    }
    finished = commands.succeed("ablate", write_study(tmp_path, choices=choices, seeds=[0]))
    assert len(pretended) == 4
    assert "The winners do not go together, and are not run. winners: The schedule" in finished.err


@pytest.mark.parametrize("status", [UNFINISHED, -signal.SIGTERM])
def test_a_run_that_was_stopped_stops_the_study(tmp_path, log, monkeypatch, status):
    monkeypatch.setattr(ablation_runs, "start", lambda *_: status)
    finished = commands.run("ablate", write_study(tmp_path))
    assert finished.status == UNFINISHED
    assert "base-seed0 was stopped, or another process is at work in it" in finished.err


def test_a_run_that_fails_stops_the_study_with_the_end_of_its_log(tmp_path, log, started):
    path = write_study(tmp_path, base=dict(TINY) | {"data.source": str(tmp_path / "none.csv")})
    finished = commands.run("ablate", path)
    assert finished.status == 1
    assert "DataError: base-seed0 failed. The end of" in finished.err
    assert "none.csv" in finished.message
    assert started == ["base-seed0"]


def test_an_unknown_metric_is_named_beside_those_that_were_measured(tmp_path, log, pretended):
    finished = commands.run("ablate", write_study(tmp_path, metric="ndgc@10"))
    assert "did not measure 'ndgc@10'. Did you mean 'ndcg@10'?" in finished.message
    assert len(pretended) == 1


def test_one_choice_at_a_time_or_every_combination():
    names = [variant.name for variant in plan(settings())]
    assert names == ["base", "fusion=last", "rate=low"]
    names = [variant.name for variant in plan(settings(crossed=True))]
    assert names == ["base", "rate=low", "fusion=last", "fusion=last,rate=low"]


def test_an_alternative_without_settings_names_the_base(tmp_path):
    study = settings(choices={"fusion": {"mean": {}, "last": {"model.fusion.name": "last"}}})
    assert [variant.name for variant in plan(study)] == ["base", "fusion=last"]
    assert study.base_name("fusion") == "mean"


def test_settings_are_laid_over_each_other_with_dots_or_nested():
    base = merged({}, {"training.epochs": 3, "training": {"seed": 1}})
    assert base == {"training": {"epochs": 3, "seed": 1}}
    assert merged(base, {"training": {"epochs": 4}}) == {"training": {"epochs": 4, "seed": 1}}


def test_options_go_with_the_part_that_they_belong_to():
    base = {"fusion": {"name": "gate", "options": {"temperature": 2}, "width": 8}}
    assert merged(base, {"fusion.name": "mean"}) == {"fusion": {"name": "mean", "width": 8}}
    assert merged(base, {"fusion.name": "gate"}) == base
    other = {"fusion": {"options": {"layer": 3}, "name": "layer"}}
    assert merged(base, other)["fusion"] == {"name": "layer", "width": 8, "options": {"layer": 3}}


def test_the_recipe_stands_under_the_base(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("run: runs/elsewhere\ntraining: {learning_rate: 0.5, warmup: 7}\n")
    study = settings(recipe=str(recipe), base={"training.learning_rate": 0.25}, choices={})
    (base,) = plan(study)
    assert base.settings == {"training": {"learning_rate": 0.25, "warmup": 7, "epochs": 2}}


def test_winners_are_better_than_the_base_in_the_mean():
    variants = plan(settings())
    values = {"base": [0.5, 0.7], "fusion=last": [0.6, 0.7], "rate=low": [0.9, 0.2]}
    assert winners_of(curves(values), variants) == {"fusion": "last"}
    # Of errors the smaller is better.
    assert winners_of(curves(values, "validation_loss"), variants) == {"rate": "low"}


def test_differences_are_paired_by_seed():
    table = summary(
        curves({"base": [0.5, 0.7], "fusion=last": [0.6, 0.9], "rate=low": [0.5, 0.6]}),
        plan(settings()),
    )
    assert table["difference"].tolist() == pytest.approx([0, 0.15, -0.05])
    assert table["better"].tolist() == [0, 2, 0]
    # Student's t with one degree of freedom: 12.706 standard errors, here of 0.05.
    assert table["low"][1] == pytest.approx(0.15 - 12.706 * 0.05, abs=1e-3)
    assert summary(curves({"base": [0.5]}), plan(settings(choices={})))["low"].isna().all()


def test_crossed_choices_are_judged_in_all_company():
    values = {
        **{"base": [0.5], "rate=low": [0.6], "fusion=last": [0.4]},
        "fusion=last,rate=low": [0.9],
    }
    variants = plan(settings(crossed=True))
    table = effects(curves(values), variants).set_index("choice")
    assert table["pairs"].tolist() == [2, 2]
    assert table["difference"]["rate"] == pytest.approx((0.1 + 0.5) / 2)
    assert table["difference"]["fusion"] == pytest.approx((-0.1 + 0.3) / 2)
    assert winners_of(curves(values), variants) == {"rate": "low", "fusion": "last"}


def test_a_study_turns_off_the_patience_that_a_command_has_by_itself():
    base = {"training.epochs": 2}
    for pipeline in ("rec_finetune", "rec_pretrain"):
        variants = plan(settings(pipeline=pipeline, base=base, choices=CHOICES))
        assert all(variant.settings["training"].get("patience") is None for variant in variants)
    with pytest.raises(ConfigError, match="base sets training.patience"):
        plan(settings(pipeline="rec_finetune", base=base | {"training.patience": 5}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (1, 1)}, "give at least one, each once"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"choices": {}, "crossed": True}, "crossed=true cannot act on 0 choice"),
        ({"choices": {"a": {"b": {}}}}, "'a' has no alternative that changes anything"),
        (
            {"choices": {"a": {"b": {}, "c": {}, "d": {"x": 1}}}},
            "b and c of the choice 'a' change nothing",
        ),
        ({"choices": {"a": {"b/c": {"x": 1}}}}, "'b/c' cannot be part of a folder's name"),
        ({"choices": {"a": {"base": {"x": 1}}}}, "is called 'base' and changes the base"),
        ({"choices": {"a": {"b": {"training.seed": 1}}}}, "sets training.seed, which is the study"),
        (
            {"choices": {"a": {"b": {"x.y": 1}}, "c": {"d": {"x": 2}}}},
            "The choices 'a' and 'c' both set x",
        ),
        ({"pipeline": "rec_pretrian"}, "no pipeline 'rec_pretrian'. Did you mean 'rec_pretrain'?"),
        ({"pipeline": "rec_index"}, "rec_index trains nothing"),
        ({"recipe": "none.yaml"}, "The recipe none.yaml cannot be read"),
        ({"base": {"training.patience": 3}}, "base sets training.patience"),
        ({"base": {"split.train_until": "test"}}, "base sets split.train_until=test"),
        (
            {"choices": {"a": {"b": {"model.norm": "sideways"}}}},
            "a=b: .*sideways",
        ),
        ({"choices": {"a": {"b": {"model.fusoin": 1}}}}, "a=b: .*fusoin"),
        (
            {
                "choices": {
                    "a": {"b": {"model.fusion.name": "last"}},
                    "c": {"d": {"model.fusion.options": {"layer": 2}}},
                }
            },
            "The choices 'a' and 'c' both set model.fusion.name",
        ),
        ({"plugins": ("no_such_module",)}, "names 'no_such_module'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_before_its_first_run(changes, message):
    with pytest.raises(Exception, match=message) as refused:
        plan(settings(**changes))
    assert type(refused.value).__name__ == "ConfigError"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pipelines" / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_shipped_studies_can_be_planned(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = StudySettings(**yaml.safe_load(path.read_text(encoding="utf-8")))
    assert len(plan(study)) > 1
    assert re.match("# ", path.read_text(encoding="utf-8"))
