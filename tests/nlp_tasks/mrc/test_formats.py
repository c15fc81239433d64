"""Questions read from every layout; answers at their place; bad files refused in words."""

import json

import pytest

from idbert.errors import ConfigError, DataError
from nlp_tasks.mrc import AnswerSettings, read_questions
from nlp_tasks.mrc.answers import nearest_occurrence
from nlp_tasks.mrc.formats import Question, Questions, hold_out_contexts

CONTEXT = "Ada met Bo. Bo met Ada in 1843."
PARAGRAPH = {
    "context": CONTEXT,
    "qas": [
        {"id": "a", "question": "Who?", "answers": [{"text": "Bo", "answer_start": 12}]},
        {"id": "b", "question": "Why?", "answers": [], "is_impossible": True},
    ],
}


def write(tmp_path, value, name="questions.json"):
    path = tmp_path / name
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def line(**changes):
    row = {"id": "a", "question": "Who?", "context": CONTEXT}
    return row | {"answers": {"text": ["Bo"], "answer_start": [12]}} | changes


def lines(tmp_path, *rows):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


EXPECTED = [Question("a", "Who?", CONTEXT, ("Bo",), (12,)), Question("b", "Why?", CONTEXT)]


def test_squad_and_drcd_are_read(tmp_path):
    squad = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [PARAGRAPH]}]}
    assert read_questions(write(tmp_path, squad)).rows == EXPECTED


def test_a_paragraph_a_line_is_read_in_both_forms_of_answers(tmp_path):
    paragraph = json.loads(json.dumps(PARAGRAPH))
    assert read_questions(lines(tmp_path, paragraph)).rows == EXPECTED
    for entry in paragraph["qas"]:
        given = entry["answers"]
        entry["answers"] = {name: [a[name] for a in given] for name in ("text", "answer_start")}
    assert read_questions(lines(tmp_path, paragraph)).rows == EXPECTED
    one_line = write(tmp_path, paragraph, "one.json")  # JSON lines under the name of JSON
    assert read_questions(one_line).rows == EXPECTED


def test_a_question_a_line_is_read_and_unnamed_ones_are_numbered(tmp_path):
    rows = [line(id=None), {"question": "Why?", "context": CONTEXT}]
    asked = read_questions(lines(tmp_path, *rows))
    assert [question.id for question in asked] == ["question-1", "question-2"]
    assert asked[0].starts == (12,) and not asked[1].has_answer
    assert asked.num_unanswerable == 1


def test_the_layout_of_cmrc2018_has_no_offsets_and_the_first_place_is_taken(tmp_path):
    value = [
        {
            "context_id": "T",
            "context_text": "光荣和光荣社",
            "qas": [{"query_id": "T_1", "query_text": "谁？", "answers": ["光荣", "光荣社"]}],
        }
    ]
    (question,) = read_questions(write(tmp_path, value), AnswerSettings(offsets="refuse"))
    assert question == Question("T_1", "谁？", "光荣和光荣社", ("光荣", "光荣社"), (0, 3))


def test_every_sample_is_read_with_its_answers_at_their_offsets():
    for name in ("questions.jsonl", "questions-zh.json"):
        asked = read_questions(f"data/samples/{name}", AnswerSettings(offsets="refuse"))
        assert len(asked) > 20
        assert all(
            q.context.startswith(a, s)
            for q in asked
            for a, s in zip(q.answers, q.starts, strict=True)
        )


@pytest.mark.parametrize(
    ("start", "place"), [(0, 8), (9, 8), (10, 8), (11, 12), (99, 12), (-4, 8), (None, 8), (12, 12)]
)
def test_an_answer_at_a_wrong_offset_is_found_at_the_nearest_place(tmp_path, start, place):
    assert nearest_occurrence("Bo", CONTEXT, start) == place
    given = {"text": ["Bo"], "answer_start": [start]} if start is not None else {"text": ["Bo"]}
    asked = read_questions(lines(tmp_path, line(answers=given)))
    assert asked[0].starts == (place,)
    assert asked.num_repaired == (start is not None and start != place)


def test_of_two_places_that_are_equally_near_the_earlier_is_taken():
    assert nearest_occurrence("x", "x..x", None) == 0
    assert nearest_occurrence("x", "x.x", 1) == 0


def test_blanks_round_an_answer_are_dropped_where_only_so_it_is_found(tmp_path):
    given = {"text": [" 1843 "], "answer_start": [3]}
    asked = read_questions(lines(tmp_path, line(answers=given)))
    assert asked[0].answers == ("1843",) and asked[0].starts == (26,)


def test_answers_at_a_wrong_offset_are_refused_on_demand_with_what_stands_there(tmp_path):
    rows = [
        line(answers={"text": ["Bo"], "answer_start": [0]}),
        line(id="b", answers={"text": ["Ada"], "answer_start": [400]}),
        line(id="c", answers={"text": ["1843"], "answer_start": [28]}),
    ]
    with pytest.raises(DataError) as raised:
        read_questions(lines(tmp_path, *rows), AnswerSettings(offsets="refuse"))
    message = str(raised.value)
    assert "3 answers are not at their offset" in message
    assert "'Bo' at 0, where there is 'Ad' (question a)" in message
    assert "'Ada' at 400, beyond the 31 characters of the context (question b)" in message
    assert "'1843' at 28, and so ends beyond the 31 characters" in message
    assert "set offsets to repair" in message


def test_answers_that_are_nowhere_are_refused_or_dropped(tmp_path):
    both = {"text": ["Cy", "Bo"], "answer_start": [0, 8]}
    path = lines(tmp_path, line(answers={"text": ["Cy"]}), line(id="b", answers=both))
    with pytest.raises(DataError, match=r"2 answers are not in their context: 'Cy' \(question a\)"):
        read_questions(path)
    asked = read_questions(path, AnswerSettings(absent="drop"))
    assert [q.id for q in asked] == ["b"] and asked[0].answers == ("Bo",)
    assert asked.num_dropped == 1
    with pytest.raises(DataError, match="no question is left"):
        read_questions(
            lines(tmp_path, line(answers={"text": ["Cy"]})), AnswerSettings(absent="drop")
        )


def test_questions_without_a_text_are_refused_or_dropped(tmp_path):
    path = lines(tmp_path, line(), line(id="b", question=" "))
    with pytest.raises(DataError, match="1 questions have no text: b.*empty_questions to drop"):
        read_questions(path)
    assert len(read_questions(path, AnswerSettings(empty_questions="drop"))) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": "  "}, "1 questions have no context to be read, or an empty one: b"),
        ({"context": None}, "no context to be read"),
        ({"question": 7}, "1 questions have no text: b"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "an answer that is empty"),
        ({"answers": {"text": ["Bo"], "answer_start": [1.5]}}, "no whole number: b"),
        ({"answers": {"text": ["Bo"], "answer_start": [1, 2]}}, "1 answers and 2 offsets"),
        ({"answers": {"text": "Bo", "answer_start": 12}}, "Give a list of texts, and one of off"),
        ({"answers": {"text": ["Bo"], "answer_start": 12}}, "Give a list of texts, and one of off"),
        ({"answers": "Bo"}, "question b has the answers 'Bo'. Give a list"),
        ({"is_impossible": True}, "1 questions are marked is_impossible and have an answer: b"),
        ({"id": "a"}, "1 questions have the id of an earlier one: a"),
        ({"question": "\ud800?"}, "half a character, a lone surrogate"),
    ],
)
def test_rows_that_are_no_questions_are_refused(tmp_path, changes, words):
    path = lines(tmp_path, line(), line(**({"id": "b"} | changes)))
    with pytest.raises(DataError, match=words):
        read_questions(path)


def test_of_many_bad_rows_all_are_counted_and_five_named(tmp_path):
    rows = [line(id=f"r{number}", question="") for number in range(7)]
    with pytest.raises(DataError, match=r"7 questions have no text: r0; r1; r2; r3; r4; \.\.\."):
        read_questions(lines(tmp_path, *rows))


@pytest.mark.parametrize("value", [{"rows": []}, [1], {"data": "no"}, {"data": [{"qas": 1}]}])
def test_other_layouts_are_refused_with_those_that_can_be_read(tmp_path, value):
    with pytest.raises(DataError, match="SQuAD"):
        read_questions(write(tmp_path, value))


def test_files_that_are_no_questions_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read_questions(tmp_path / "none.json")
    with pytest.raises(DataError, match="holds no questions"):
        read_questions(write(tmp_path, {"data": []}))
    (tmp_path / "a.csv").write_text("question\n", encoding="utf-8")
    with pytest.raises(DataError, match="unknown ending '.csv'"):
        read_questions(tmp_path / "a.csv")


def test_contexts_may_be_missing_where_documents_will_be_searched(tmp_path):
    path = lines(tmp_path, {"question": "Who?", "answers": ["Bo"]}, line(id="b"))
    with pytest.raises(DataError, match="no context to be read"):
        read_questions(path)
    first, second = read_questions(path, with_contexts=False)
    assert first.context == "" and first.answers == ("Bo",) and first.starts == ()
    assert second.starts == (12,)


def test_no_context_is_on_both_sides_of_a_split():
    rows = [Question(f"{c}-{n}", "?", f"context {c}") for c in range(20) for n in range(c % 4 + 1)]
    asked = Questions(rows, "world")
    kept, held_out = hold_out_contexts(asked, 0.2, seed=1)
    assert not set(kept.contexts) & set(held_out.contexts)
    assert sorted([*kept.rows, *held_out.rows], key=rows.index) == rows
    assert 0 < len(held_out) <= 0.2 * len(rows)
    again, other = (hold_out_contexts(asked, 0.2, seed=seed)[1].rows for seed in (1, 2))
    assert again == held_out.rows != other
    with pytest.raises(DataError, match="questions about 1 context"):
        hold_out_contexts(Questions(rows[:1], "world"), 0.2, seed=0)


@pytest.mark.parametrize("name", ["offsets", "absent", "empty_questions"])
def test_settings_have_a_few_values(name):
    with pytest.raises(ConfigError, match=f"{name} is 'perhaps'; choose"):
        AnswerSettings(**{name: "perhaps"})
