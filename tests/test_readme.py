"""What README.md, the Makefile and the recipes promise."""

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import get_type_hints

import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertModel

from pipelines.cli import parse_settings
from tests.pipelines.commands import succeed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "pipelines" / "recipes").glob("*.yaml"))
SAMPLES = "data/samples"
UNREPORTED = ("nlp_search", "nlp_answer", "rec_prepare")
"""Commands that train nothing."""


def fenced(language: str) -> str:
    """Return the blocks of one language, end to end."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE))


def commands(text: str) -> list[list[str]]:
    """Return the pipelines' commands in a text: the name, then the arguments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"python -m pipelines\.(\w+ ?.*)", joined)
    return [shlex.split(line, comments=True) for line in lines]


def option(arguments: list[str], name: str) -> str | None:
    """Return what follows an option, written with a space or an equals sign."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
        if argument == name:
            return arguments[place + 1]
    return None


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the repository, so that runs/ is made elsewhere."""
    for name in ("data", "pipelines"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_on_the_samples_runs(working_folder: Path) -> None:
    made: dict[str, str] = {}
    for name, *arguments in commands(fenced("bash")):
        folder = option(arguments, "--run")
        if any(SAMPLES in argument or argument in made for argument in arguments):
            finished = succeed(name, *arguments)
            prints = name == "rec_recommend" and option(arguments, "--output") is None
            assert not prints or "newest events" in finished.out
            made[str(folder)] = name
    reported = [folder for folder, name in made.items() if name not in UNREPORTED]
    assert all((working_folder / folder / "report.html").exists() for folder in reported)
    assert SAMPLES not in README or made
    run_the_library_example()


def run_the_library_example() -> None:
    """Run the block "As a library" on the runs that the commands have left."""
    folder = "path/to/bert-or-nezha"
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=50, intermediate_size=16, **sizes)).save_pretrained(folder)
    ids = torch.randint(50, (2, 5))
    frame = pd.read_csv(f"{SAMPLES}/interactions.csv")
    names = {"frame": frame, "input_ids": ids, "mask": torch.ones_like(ids)}
    (example,) = re.findall(r"^```python\n(from idbert .*?)^```", README, re.DOTALL | re.MULTILINE)
    shown = []
    for statement in ast.parse(example).body:
        code = ast.unparse(statement)
        if isinstance(statement, ast.Expr):
            shown.append(eval(code, names))
        else:
            exec(code, names)
    *tables, (last, every) = shown
    lists = ["rank", "item_id", "score"]
    per_user, per_history = ["user_id", *lists], ["history", *lists]
    expected = [
        per_user,
        per_history,
        per_user,
        ["item_id", "rank", "similar_item_id", "score"],
        ["prediction", "probability"],
    ]
    assert [list(table) for table in tables] == expected
    assert all(len(table) for table in tables)
    assert [state.shape for state in (last, *every)] == [(2, 5, 8)] * 4


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "Makefile", *RECIPES], ids=lambda path: path.name
)
def test_every_other_command_has_valid_settings(working_folder: Path, path: Path) -> None:
    found = commands(path.read_text(encoding="utf-8"))
    assert found
    for name, *arguments in found:
        main = importlib.import_module(f"pipelines.{name}").main
        parse_settings(get_type_hints(main)["config"], main, arguments)


def test_every_path_in_the_tables_exists() -> None:
    rows = [line for line in README.splitlines() if line.startswith("|")]
    named = {path for row in rows for path in re.findall(r"`([\w./-]+/[\w./-]*)`", row)}
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_import_of_the_examples_works() -> None:
    lines = re.findall(r"^(?:from|import) .*$", fenced("python"), re.MULTILINE)
    for line in lines:
        exec(line, {})
