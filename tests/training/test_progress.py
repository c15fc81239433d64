"""What a training shows while it runs."""

import io
import logging
import os
import sys

from tests.training.small import BATCHES, build


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_there_are_plain_lines(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, logger="idbert")
    build(tmp_path).train_or_resume()
    lines = [record.message for record in caplog.records if record.name.endswith("progress")]
    assert len(lines) == 4
    assert lines[0].startswith(f"step {BATCHES} of {2 * BATCHES}, epoch 1: loss ")
    assert lines[1].startswith(f"step {BATCHES} of {2 * BATCHES}, epoch 1: ndcg@10 0.")
    assert all(line.endswith(" left") for line in lines)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_in_a_terminal_there_is_one_bar_with_loss_metric_and_time_left(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    build(tmp_path).train_or_resume()
    last = terminal.getvalue().rstrip("\n").split("\r")[-1]
    assert f"{2 * BATCHES}/{2 * BATCHES}" in last
    assert "loss=" in last and "ndcg@10=0." in last and "<00:00" in last


def test_a_terminal_that_does_not_know_its_size_gets_a_bar_too(tmp_path, monkeypatch):
    ours, theirs = os.openpty()  # as the terminals of `script` and of some containers
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb", 0) as screen:
        assert os.get_terminal_size(theirs) == (0, 0)
        monkeypatch.setattr(sys, "stderr", terminal)
        build(tmp_path).train_or_resume()
        monkeypatch.undo()
        shown = screen.read(1 << 16).decode()
    assert f"{2 * BATCHES}/{2 * BATCHES}" in shown
    assert "loss=" in shown and "ndcg@10=0." in shown


def test_a_resumed_bar_begins_where_the_run_stood(tmp_path, monkeypatch):
    build(tmp_path, epochs=1).train_or_resume()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    build(tmp_path, epochs=2).train_or_resume()
    assert f"{BATCHES}/{2 * BATCHES}" in terminal.getvalue().split("\r")[1]


def test_an_evaluation_before_the_first_step_is_a_line_without_time_left(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="idbert")
    build(tmp_path).evaluate()
    lines = [record.message for record in caplog.records if record.name.endswith("progress")]
    assert len(lines) == 1 and lines[0].startswith("step 0: ndcg@10 0.")
