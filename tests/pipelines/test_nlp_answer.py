"""nlp_answer searches a folder, reads what it finds, and tells how good its answers are."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import pipelines.nlp_output
from idbert.inputs.tokenizers import open_tokenizer
from idbert.run_dir import RunDir
from nlp_tasks.mrc.answering import Answerer
from nlp_tasks.mrc.decoding import DecodingSettings
from nlp_tasks.mrc.model import ReaderModel
from nlp_tasks.mrc.paragraphs import ParagraphSettings
from nlp_tasks.mrc.reader import DECODING_FILE, STAGE, save_decoding
from nlp_tasks.mrc.reading import READING_FILE, QuestionReader
from nlp_tasks.mrc.windows import WindowSettings
from tests.nlp_tasks.text_world import FILLERS, bert_folder
from tests.pipelines.commands import run, succeed


def documents_of(count: int = 12) -> dict[str, str]:
    """Documents of which each has a filler that no other has, before and behind "good"."""
    common = " ".join(FILLERS[12:16])
    return {f"{n:02d}.txt": f"{common} {FILLERS[n]} good {FILLERS[n]} ." for n in range(count)}


def write_questions(path: Path, documents: dict[str, str]) -> Path:
    rows = []
    for number, text in enumerate(documents.values()):
        start = text.index("good")
        answers = {"text": ["good"], "answer_start": [start]}
        qas = [{"id": f"q{number}", "question": FILLERS[number], "answers": answers}]
        rows.append({"context": text, "qas": qas})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reader_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of nlp_mrc with random weights."""
    folder = tmp_path_factory.mktemp("reader")
    bert = bert_folder(folder / "bert")
    made = RunDir.create(folder / "run", STAGE, {"model": str(bert)})
    torch.manual_seed(0)
    ReaderModel.build(bert).save_pretrained(made.model)
    settings = WindowSettings(max_length=32, stride=8, max_question_length=8)
    QuestionReader(open_tokenizer(bert), settings).save(made.path)
    save_decoding(made.path, DecodingSettings(max_answer_length=3))
    made.finish(["config.yaml", "model/model.safetensors", READING_FILE, DECODING_FILE])
    return made.path


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    for name, text in documents_of().items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "copy.txt").write_text(documents_of()["00.txt"].upper(), encoding="utf-8")
    return folder


def test_answers_figures_and_a_report_are_written(
    reader_run: Path, documents: Path, tmp_path: Path
) -> None:
    questions = write_questions(tmp_path / "questions.jsonl", documents_of())
    given = ("--documents", documents, "--questions", questions, "--reader", reader_run)
    output = tmp_path / "answers.jsonl"
    finished = succeed(
        *("nlp_answer", *given, "--output", output, "--k_paragraphs=3", "--n_best=2"),
        "--device=cpu",
    )
    assert "1 duplicates left out" in finished.err and "12 questions" in finished.err
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert {row["id"] for row in rows} == {f"q{n}" for n in range(12)}
    for row in rows:
        text = (documents / row["document"]).read_text(encoding="utf-8")
        assert text[row["start"] : row["end"]] == row["answer"]
        assert row["paragraph"].startswith(row["document"]) and row["answer_rank"] in (1, 2)
    metrics = json.loads((tmp_path / "answers.metrics.json").read_text(encoding="utf-8"))
    assert metrics["recall@1"] == metrics["mrr"] == 1.0 and metrics["questions"] == 12
    assert 0 <= metrics["exact_match"] <= metrics["f1"] <= 1
    assert metrics["questions_per_second"] > 0
    report = (tmp_path / "answers.report.html").read_text(encoding="utf-8")
    assert "What became of the questions" in report and "k_paragraphs" in report


def test_an_interrupted_command_goes_on_behind_what_it_has_read(
    reader_run: Path, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {f"{n}": documents_of()[f"{n % 12:02d}.txt"] for n in range(70)}
    rows = [
        {"id": f"q{n}", "question": FILLERS[int(n) % 12] if int(n) > 31 else "unheard"}
        for n in asked
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = ("--documents", documents, "--questions", questions, "--reader", reader_run)
    given = ("nlp_answer", *given, "--n_best=2", "--k_paragraphs=2", "--device=cpu", "--output")
    succeed(*given, tmp_path / "whole.jsonl")
    read, sizes = Answerer.read, []

    def counted(self: Answerer, texts: list[str], *found: object, **more: int) -> object:
        sizes.append(len(texts))
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return read(self, texts, *found, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Answerer, "read", counted)
    output = tmp_path / "answers.jsonl"
    assert run(*given, output).status == 130 and not output.exists()
    assert len(list((tmp_path / "answers.jsonl.parts").glob("part-*"))) == 2
    finished = succeed(*given, output)
    assert sizes == [32, 32, 6, 6] and "6 questions read" in finished.err
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "answers.jsonl.parts").exists()


def test_what_was_read_by_other_settings_or_of_other_documents_is_read_again(
    reader_run: Path, documents: Path, tmp_path: Path
) -> None:
    questions = write_questions(tmp_path / "questions.jsonl", documents_of())
    given = ("nlp_answer", "--questions", questions, "--reader", reader_run, "--device=cpu")
    output = tmp_path / "answers.jsonl"

    def interrupted(*settings: object) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipelines.nlp_output.PredictedParts, "remove", lambda parts: None)
            return succeed(*given, "--output", output, *settings).err

    interrupted("--documents", documents)
    assert "0 questions read" in interrupted("--documents", documents)
    others = Path(shutil.copytree(documents, tmp_path / "others"))
    (others / "11.txt").unlink()
    for settings in (("--documents", others), ("--documents", others, "--scores.span=2")):
        printed = interrupted(*settings)
        assert "parts of other predictions" in printed and "12 questions read" in printed


def test_answers_that_stand_nowhere_may_be_dropped(
    reader_run: Path, documents: Path, tmp_path: Path
) -> None:
    questions = write_questions(tmp_path / "questions.jsonl", documents_of())
    with questions.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"question": "a", "context": "b", "answers": ["absent"]}) + "\n")
    given = ("nlp_answer", "--documents", documents, "--questions", questions)
    given = (*given, "--reader", reader_run, "--device=cpu")
    assert "set absent to drop" in run(*given).message
    assert "12 questions read" in succeed(*given, "--answers.absent=drop").err


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_of_documents_and_a_file_of_lines_do_as_well(
    reader_run: Path, tmp_path: Path, ending: str
) -> None:
    table = pd.DataFrame({"name": list(documents_of()), "body": list(documents_of().values())})
    table.to_csv(tmp_path / "documents.csv", index=False)
    lines = tmp_path / "questions.txt"
    lines.write_text(f"{FILLERS[3]}\n\nunheard\n", encoding="utf-8")
    output = tmp_path / f"answers{ending}"
    succeed(
        *("nlp_answer", "--documents", tmp_path / "documents.csv", "--columns.id=name"),
        *("--columns.text=body", "--questions", lines, "--reader", reader_run),
        *("--output", output, "--device=cpu"),
    )
    answers = pd.read_csv(output) if ending == ".csv" else pd.read_parquet(output)
    assert answers["id"].tolist() == ["line-1", "line-3"]
    assert answers["document"].tolist()[0] == "03.txt" and pd.isna(answers["answer"][1])
    assert not (tmp_path / "answers.metrics.json").exists()


def test_one_question_is_answered_on_the_screen(reader_run: Path, documents: Path) -> None:
    given = ("--documents", documents, "--reader", reader_run, "--device=cpu")
    printed = succeed("nlp_answer", *given, "--question", FILLERS[5]).out
    assert printed.splitlines()[1] == FILLERS[5] and "05.txt#1, characters" in printed
    assert "no answer found" in succeed("nlp_answer", *given, "--question=unheard").out


def test_the_library_gives_what_the_command_gives(reader_run: Path, documents: Path) -> None:
    answerer = Answerer.load(
        reader_run, documents, paragraphs=ParagraphSettings(max_length=None), device="cpu"
    )
    found = answerer.answer([FILLERS[7]], k_paragraphs=2)[0][0]
    printed = succeed(
        *("nlp_answer", "--documents", documents, "--reader", reader_run, "--device=cpu"),
        *("--question", FILLERS[7], "--k_paragraphs=2"),
    ).out
    assert f"  {found.text}  ({found.probability:.3f}; {found.paragraph}" in printed


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "give either questions, a file, or question, a text"),
        (("--question=a", "--questions=b.txt"), 2, "give either questions"),
        (("--question= ",), 2, "question is empty"),
        (("--question=a", "--output=a.html"), 2, "must end in .jsonl, .csv or .parquet"),
        (("--question=a", "--k_paragraphs=0"), 2, "k_paragraphs is 0"),
        (("--question=a", "--recall.method=towers"), 2, "needs a sentence encoder"),
        (("--questions=absent.txt",), 1, "DataError: .*absent.txt"),
        (("--question=a", "--documents=absent"), 1, "there is no file 'absent'"),
        (("--question=a", "--reader=absent"), 1, "no run at absent"),
    ],
)
def test_bad_input_ends_in_one_line(
    reader_run: Path, documents: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    given = [f"--documents={documents}", f"--reader={reader_run}", *arguments]
    finished = run("nlp_answer", *given)
    assert finished.status == status
    assert re.search(words, finished.message), finished.err


def test_empty_documents_are_named(reader_run: Path, documents: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    given = ("--documents", tmp_path, "--reader", reader_run, "--question=a", "--device=cpu")
    finished = run("nlp_answer", *given)
    assert finished.status == 1 and "none of 1 documents" in finished.message
    (tmp_path / "full.txt").write_text(f"{FILLERS[0]} good .", encoding="utf-8")
    finished = succeed("nlp_answer", *given[:-2], f"--question={FILLERS[0]}", "--device=cpu")
    assert "1 documents are empty: empty.txt" in finished.err
