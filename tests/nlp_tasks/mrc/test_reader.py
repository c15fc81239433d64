"""The reader as a library: the same answers alone and together, at their place in the context."""

import numpy as np
import pytest
import torch

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.tokenizers import open_tokenizer
from nlp_tasks.mrc import Reader
from nlp_tasks.mrc.decoding import DecodingSettings
from nlp_tasks.mrc.dgcnn import DgcnnReaderModel, DgcnnSettings
from nlp_tasks.mrc.losses import SpanSettings
from nlp_tasks.mrc.metrics import best_threshold, score_answers
from nlp_tasks.mrc.model import ReaderModel
from nlp_tasks.mrc.reader import load_decoding, save_decoding
from nlp_tasks.mrc.reading import QuestionReader
from nlp_tasks.mrc.validation import METRICS, evaluate_reader, find_threshold, validation_of
from nlp_tasks.mrc.windows import WindowSettings
from nlp_tasks.mrc.word_vocabulary import WordVocabulary, character_tokenizer
from tests.nlp_tasks.mrc.reading_world import questions, reading_bert

ASKED = questions(24, unanswerable=0.3)
LONG = " ".join(ASKED.contexts)


def bert_reader(tmp_path_factory, threshold=None, **span) -> Reader:
    folder = reading_bert(tmp_path_factory.mktemp("bert") / "tiny")
    torch.manual_seed(0)
    model = ReaderModel.build(folder, span=SpanSettings(**span))
    torch.nn.init.normal_(model.heads.qa_outputs.weight)
    reading = QuestionReader(open_tokenizer(folder), WindowSettings(24, 6, 5))
    return Reader(model, reading, DecodingSettings(5, threshold), device="cpu")


def dgcnn_reader(threshold=None) -> Reader:
    texts = [*ASKED.texts, *ASKED.contexts]
    words, tokenizer = WordVocabulary.build(texts), character_tokenizer(texts)
    torch.manual_seed(0)
    model = DgcnnReaderModel.build(
        DgcnnSettings(width=16, word_width=8), vocab_size=len(tokenizer), num_words=len(words)
    )
    reading = QuestionReader(tokenizer, WindowSettings(60, 12, 20), words=words)
    return Reader(model, reading, DecodingSettings(9, threshold), device="cpu")


@pytest.fixture(scope="module", params=["bert", "sigmoid", "dgcnn"])
def reader(request, tmp_path_factory) -> Reader:
    if request.param == "dgcnn":
        return dgcnn_reader()
    settings = {"name": "sigmoid", "answer_share": 0.5} if request.param == "sigmoid" else {}
    return bert_reader(tmp_path_factory, **settings)


def test_answers_stand_where_they_say(reader):
    texts, contexts = [*ASKED.texts, "which animal ?"], [*ASKED.contexts, LONG]
    answers = reader.answer(texts, contexts, n_best=3)
    assert len(answers) == len(texts)
    for context, best in zip(contexts, answers, strict=True):
        assert 1 <= len(best) <= 3
        assert all(context[a.start : a.end] == a.text and a.text for a in best)
        assert all(one.score >= other.score for one, other in zip(best, best[1:], strict=False))
        assert all(0 <= a.probability <= 1 and 0 <= a.has_answer <= 1 for a in best)
        assert len({(a.start, a.end) for a in best}) == len(best)


def test_answers_are_the_same_alone_and_together(reader):
    together = reader.answer(ASKED.texts, ASKED.contexts)
    for place in (0, 7, 23):
        (alone,) = reader.answer([ASKED.texts[place]], [ASKED.contexts[place]])
        one, other = together[place][0], alone[0]
        assert (one.text, one.start, one.end) == (other.text, other.start, other.end)
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert one.has_answer == pytest.approx(other.has_answer, abs=1e-4)
    turned = reader.answer(ASKED.texts[::-1], ASKED.contexts[::-1])
    assert [best[0].text for best in turned[::-1]] == [best[0].text for best in together]


def test_an_answer_behind_the_first_window_is_found(reader):
    answers = reader.answer(["which animal ?"], [LONG], n_best=50)[0]
    assert max(answer.end for answer in answers) > len(LONG) / 2


def test_more_answers_begin_with_the_fewer(reader):
    one, many = (reader.answer(ASKED.texts, ASKED.contexts, n_best=n) for n in (1, 4))
    assert [best[0].text for best in one] == [best[0].text for best in many]


def test_the_threshold_decides_where_there_is_no_answer(reader):
    found = reader.find(reader.reading.windows(ASKED.texts, ASKED.contexts))
    threshold = float(np.median(found.margins_Q))
    strict = Reader(reader.model, reader.reading, DecodingSettings(9, threshold), device="cpu")
    empty = [best[0].text == "" for best in strict.answer(ASKED.texts, ASKED.contexts)]
    assert empty == (found.margins_Q <= threshold).tolist() and any(empty) and not all(empty)


def test_the_found_threshold_is_the_best_on_its_questions(reader):
    threshold = find_threshold(reader, ASKED, "english")
    tuned = Reader(reader.model, reader.reading, DecodingSettings(5, threshold), device="cpu")
    loose = Reader(reader.model, reader.reading, DecodingSettings(5), device="cpu")
    found = loose.find(loose.reading.windows(ASKED.texts, ASKED.contexts))
    answered = score_answers(found.best_texts(ASKED.contexts), ASKED.rows, "english")
    _, best = best_threshold(found.margins_Q, answered)
    scores = evaluate_reader(tuned, ASKED, "english").scores
    if reader.decoding.max_answer_length == 5:
        assert scores.f1_Q.mean() == pytest.approx(best.f1_Q.mean())
    assert scores.f1_Q.mean() >= evaluate_reader(loose, ASKED, "english").scores.f1_Q.mean()
    all_answered = questions(6)
    assert find_threshold(reader, all_answered, "english") is None


def test_validation_reports_what_it_names_and_leaves_the_mode_alone(reader):
    reader.model.train()
    evaluate = validation_of(reader.model, reader.reading, ASKED, reader.decoding, "english")
    figures = evaluate()
    assert set(METRICS) <= figures.keys() and figures == evaluate() and reader.model.training
    reader.model.eval()
    assert validation_of(reader.model, reader.reading, None, reader.decoding, "english") is None


def test_the_validation_loss_is_the_mean_over_windows(reader):
    data = reader.reading.data(ASKED)
    windows = data.windows
    losses = []
    for place in range(len(windows)):
        batch = data.__getitems__(PlannedBatch(0, np.array([place])))
        with torch.no_grad():
            losses.append(float(reader.model(**batch).loss))
    evaluate = validation_of(reader.model, reader.reading, ASKED, reader.decoding, "english")
    assert evaluate()["loss"] == pytest.approx(np.mean(losses), abs=1e-4)


def test_nothing_asked_is_nothing_answered(reader):
    assert reader.answer([], []) == []


def test_bad_input_is_refused(reader):
    with pytest.raises(DataError, match="contexts: 1 of 1 texts are empty: row 0"):
        reader.answer(["which animal ?"], [" "])
    with pytest.raises(DataError, match="1 questions have 2 contexts"):
        reader.answer(["which animal ?"], ["a", "b"])
    with pytest.raises(ConfigError, match="n_best is 0; it must be at least 1"):
        reader.answer(["which animal ?"], ["a"], n_best=0)


def test_a_device_that_is_not_there_is_refused(reader):
    with pytest.raises(ConfigError, match="device is 'cuda:99', which cannot be used here"):
        Reader(reader.model, reader.reading, device="cuda:99")


def test_the_threshold_is_kept_with_the_run(tmp_path):
    for settings in (DecodingSettings(7, -0.25), DecodingSettings()):
        save_decoding(tmp_path, settings)
        assert load_decoding(tmp_path) == settings
    (tmp_path / "decoding.json").write_text('{"longest": 3}')
    with pytest.raises(CheckpointError, match="does not say which spans can be answers"):
        load_decoding(tmp_path)


def test_a_damaged_reading_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no reading.json"):
        QuestionReader.load(tmp_path)
    (tmp_path / "reading.json").write_text("[]")
    with pytest.raises(CheckpointError, match="does not say how questions are read"):
        QuestionReader.load(tmp_path)
