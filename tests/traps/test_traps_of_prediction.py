"""Traps of BERT fine-tuning code, each of which has been met in the wild: rows, and predictions.

Every check is a law that sound code obeys; beside it stands faulty code that breaks it, so that the
check itself is known to bite.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from idbert.inputs.key_sentences import split_sentences
from idbert.inputs.text import TextSettings, encode_texts
from idbert.inputs.tokenizers import open_tokenizer
from nlp_tasks.cls import Classifier
from nlp_tasks.cls.examples import Examples
from nlp_tasks.cls.labels import LabelMap
from nlp_tasks.cls.model import TextClassifier
from nlp_tasks.cls.reading import TextReader
from nlp_tasks.cls.sampling import SamplingSettings, folds, hold_out, sample_rows
from tests.inputs.tiny_tokenizers import bert as bert_tokenizer
from tests.nlp_tasks.text_world import DECIDING, bert_folder, texts

TEXTS = texts(20)["text"].tolist()


def in_order_of_classes(*counts: int) -> Examples:
    """Rows sorted by their label, as many files are."""
    targets = np.repeat(np.arange(len(counts)), counts)
    labels = LabelMap("single", tuple(f"class {number}" for number in range(len(counts))))
    given = [f"text {row}" for row in range(len(targets))]
    return Examples(given, None, targets, labels, np.arange(len(targets)))


# 16. Sampling that raises or never ends; parts by the order of a file; a sentence that passes uncut


Sample = Callable[[Examples], Sequence[int]]


def check_any_counts_can_be_sampled(sample: Sample) -> None:
    for counts in ((1, 1000), (1000, 1), (3, 0, 50), (5, 5), (1, 1)):
        examples = in_order_of_classes(*counts)
        found = np.bincount(examples.targets[sample(examples)], minlength=len(counts))
        assert len(set(found[np.array(counts) > 0].tolist())) == 1


def test_sampling_neither_raises_nor_loops_however_uneven_the_classes_are():
    for method in ("down", "over"):
        settings = SamplingSettings(method)
        check_any_counts_can_be_sampled(lambda rows, settings=settings: sample_rows(rows, settings))

    def as_many_as_of_the_first(examples: Examples) -> list[int]:
        rows = [np.flatnonzero(examples.targets == c).tolist() for c in range(2)]
        return rows[0] + random.sample(rows[1], len(rows[0]))

    with pytest.raises(ValueError, match="larger than population"):
        check_any_counts_can_be_sampled(as_many_as_of_the_first)


Split = Callable[[Examples], tuple[Sequence[int], Sequence[int]]]


def check_both_parts_hold_every_class(split: Split) -> None:
    examples = in_order_of_classes(40, 30, 20)
    for part in split(examples):
        assert set(examples.targets[part].tolist()) == {0, 1, 2}


def test_what_is_held_out_does_not_depend_on_the_order_of_the_file():
    check_both_parts_hold_every_class(lambda examples: hold_out(examples, 0.2))
    for number in range(5):
        check_both_parts_hold_every_class(lambda examples, n=number: folds(examples, 5)[n])
    with pytest.raises(AssertionError):
        check_both_parts_hold_every_class(lambda examples: np.split(np.arange(90), [72]))


Cut = Callable[[str, int], list[list[int]]]


def check_no_sequence_is_too_long(cut: Cut) -> None:
    one_sentence = "hello world, " * 40
    for text in (one_sentence, f"long text. {one_sentence}. play."):
        assert all(len(ids) <= 16 for ids in cut(text, 16))


def test_a_single_sentence_longer_than_all_room_is_cut():
    def encode(text: str, max_length: int, truncation: str) -> list[list[int]]:
        settings = TextSettings(max_length=max_length, truncation=truncation)
        encoded = encode_texts([text], bert_tokenizer(), settings)
        return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]

    for truncation in ("key_sentences", "windows", "head_tail", "head", "tail"):
        check_no_sequence_is_too_long(lambda text, most, how=truncation: encode(text, most, how))

    def by_whole_sentences(text: str, max_length: int) -> list[list[int]]:
        runs: list[list[int]] = [[]]
        for sentence in split_sentences(text):
            ids = bert_tokenizer()(sentence)["input_ids"]
            if len(runs[-1]) + len(ids) > max_length:
                runs.append([])
            runs[-1] += ids
        return runs

    with pytest.raises(AssertionError):
        check_no_sequence_is_too_long(by_whole_sentences)


# 17. Thresholds called probabilities; one output taken for another; gradients that nobody needs


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    folder: Path = bert_folder(tmp_path_factory.mktemp("bert") / "tiny")
    torch.manual_seed(0)
    model = TextClassifier.build(folder, kind="single", num_outputs=3)
    torch.nn.init.normal_(model.head.head.output.weight)  # predictions far enough apart
    reader = TextReader(open_tokenizer(folder), TextSettings(max_length=16))
    return Classifier([model], reader, LabelMap("single", DECIDING))


def plain_logits(classifier: Classifier, text: str) -> torch.Tensor:
    """Return the logits of one text alone, straight from the model."""
    ids = classifier.reader.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return classifier.models[0](ids).logits[0]


Predict = Callable[[Sequence[str]], pd.DataFrame]


def check_probabilities_are_those_of_the_prediction(
    predict: Predict, classifier: Classifier
) -> None:
    table = predict(TEXTS)
    for row, text in enumerate(TEXTS):
        probabilities = plain_logits(classifier, text).softmax(0)
        assert table["probability"][row] == pytest.approx(float(probabilities.max()), abs=1e-5)
        assert table["prediction"][row] == DECIDING[int(probabilities.argmax())]
        assert np.allclose(table["probabilities"][row], probabilities, atol=1e-5)


def test_a_probability_is_one_and_stands_beside_its_own_text(classifier):
    def predict(given: Sequence[str]) -> pd.DataFrame:
        return classifier.predict(given, probabilities=True)

    check_probabilities_are_those_of_the_prediction(predict, classifier)

    def thresholded(given: Sequence[str]) -> pd.DataFrame:
        return predict(given).assign(probability=lambda table: table["probability"].round())

    def by_length(given: Sequence[str]) -> pd.DataFrame:
        return predict(sorted(given, key=len))  # and never put back in order

    for faulty in (thresholded, by_length):
        with pytest.raises(AssertionError):
            check_probabilities_are_those_of_the_prediction(faulty, classifier)


def check_every_text_gets_a_row(predict: Predict) -> None:
    """The shortest, those that are cut, those of unknown words alone, and those that come twice."""
    given = ["w1", "good " * 50, "unheard", "w1", "b", *TEXTS]
    assert len(predict(given)) == len(given)


def test_no_text_is_dropped_for_its_length(classifier):
    check_every_text_gets_a_row(classifier.predict)
    with pytest.raises(AssertionError):
        check_every_text_gets_a_row(
            lambda given: classifier.predict([text for text in given if 1 < len(text) < 100])
        )


def check_no_graph_is_kept(predict: Predict, classifier: Classifier) -> None:
    seen = []
    handle = classifier.models[0].head.register_forward_hook(
        lambda module, inputs, output: seen.append((output.requires_grad, module.training))
    )
    try:
        predict(TEXTS)
    finally:
        handle.remove()
    assert seen and set(seen) == {(False, False)}


def test_prediction_takes_no_gradients_and_drops_no_units(classifier):
    check_no_graph_is_kept(classifier.predict, classifier)
    ids = torch.tensor([[2, 5, 3]])
    with pytest.raises(AssertionError):
        check_no_graph_is_kept(lambda given: classifier.models[0](ids), classifier)
