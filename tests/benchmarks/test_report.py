"""Tables stand between markers, with spread, machine and the command that made them."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import Report, replaced, shown, spread


def test_a_repeated_command_replaces_its_own_section_alone():
    page = replaced("# Results\n\nwords\n", "one", "first")
    page = replaced(page, "two", "second")
    again = replaced(page, "one", "anew")
    assert "first" not in again and "anew" in again
    assert "words" in again and "second" in again
    assert again.index("anew") < again.index("second")
    assert replaced(again, "one", "first") == page


def test_a_section_whose_end_was_deleted_is_refused():
    page = replaced("", "one", "first").replace("<!-- end of one -->", "")
    with pytest.raises(SystemExit, match="without '<!-- end of one -->'"):
        replaced(page, "one", "anew")


def test_the_command_that_is_shown_names_no_folder_of_a_machine():
    given = ["--data", "/a/b/ml-1m.parquet", "--peers=/c/peers", "--write", "/d/page.md"]
    assert shown([*given, "--hidden", "64"]) == "--data ml-1m.parquet --peers=peers --hidden 64"
    assert shown(["--write", "--small"]) == "--small"
    inside = ["runs/studies/parts", "--recipe=pipelines/recipes/a.yaml", "../peers"]
    assert shown(inside) == "runs/studies/parts --recipe=pipelines/recipes/a.yaml peers"


def test_the_spread_has_the_median_and_the_ends_of_the_passes():
    assert spread([3000.0, 1000.0, 2000.0]) == "2,000 [1,000, 3,000]"
    assert spread([5.0, 5.0]) == "5" and spread([None]) == ""


def test_each_form_of_ours_is_compared_with_each_of_the_others():
    rates = {"idbert": [80.0, 100.0], "slow": [10.0], "fast": [45.0], "idbert, sampled": [900.0]}
    assert report.ratios(rates) == [
        "idbert: 2.0 times fast, 9.0 times slow",
        "idbert, sampled: 20.0 times fast, 90.0 times slow",
    ]
    assert report.ratios({"idbert": [1.0]}) == []


def test_table_plot_machine_and_command_are_written(tmp_path: Path, capsys):
    page = tmp_path / "results.md"
    bars = report.bars("speed", {"idbert": [2.0, 3.0], "other": [1.0]}, "a second")
    table = report.markdown(["", "speed"], [["idbert", "2"], report.failed_row("b", "no | b", 2)])
    section = Report(report.section_name("speed", "ML 1m"), "Speed", table, ["a note"], bars)
    options = Namespace(given=["--write", str(page)], write=page)
    report.publish(section, "training", options)
    text = page.read_text()
    assert "| idbert | 2 |\n| b: no / b |  |" in text and "- a note" in text
    assert "python -m benchmarks.training\n" in text
    assert "Machine: " in text and "torch 2." in text and "commit" in text
    assert "![Speed](plots/speed-ml-1m.svg)" in text
    assert (tmp_path / "plots/speed-ml-1m.svg").read_text().startswith("<svg")
    assert table in capsys.readouterr().out


def test_our_own_failure_is_an_error_and_a_peers_is_not():
    report.check_own({"RecTools": "failed: x"})
    with pytest.raises(SystemExit, match="idbert, sampled failed: x"):
        report.check_own({"idbert, sampled": "failed: x"})


def test_a_gpu_that_is_not_there_is_refused(capsys):
    if report.torch.cuda.is_available():
        pytest.skip("there is a GPU")
    parser = report.new_parser("x")
    parser.add_argument("--device", default="cpu")
    with pytest.raises(SystemExit):
        report.parse(parser, ["--device", "cuda"])
    assert "torch finds no GPU" in capsys.readouterr().err
