"""Both sides of the benchmark of towers train on the pairs that they are given."""

import json

import pytest

from benchmarks.tower_training import FORMS, measure
from nlp_tasks.match.settings import TowerSettings
from nlp_tasks.match.towers import build_towers, save_towers
from tests.nlp_tasks.match.match_world import pairs
from tests.nlp_tasks.text_world import bert_folder


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_measured(tmp_path, form):
    save_towers(build_towers(bert_folder(tmp_path / "bert"), TowerSettings()), tmp_path / "towers")
    examples = pairs(24, "score")
    rows = zip(examples.firsts, examples.seconds, examples.targets.tolist(), strict=True)
    lines = [json.dumps({"text_a": a, "text_b": b, "label": score}) for a, b, score in rows]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    work = {"data": str(tmp_path / "pairs.jsonl"), "model": str(tmp_path / "towers"), "batch": 8}
    work |= {"max_length": 16, "steps": 3, "warmup": 1, "threads": 1}
    figures = measure(work | FORMS[form])
    assert figures.keys() == {"seconds", "cpu_seconds", "peak_mib"}
    assert min(figures.values()) > 0
