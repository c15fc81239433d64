import itertools

import networkx
import numpy as np
import pytest

from idbert.inputs.key_sentences import key_sentences, rank_sentences, split_sentences

REVIEW = (
    "这家酒店的房间很干净。昨天下雨了。酒店的服务员态度很好，房间也大！"
    "我们坐火车去的。房间干净，服务员的态度好，这家酒店值得住。晚饭吃了面条。"
)


def characters(sentences: list[str]) -> list[int]:
    return [len(sentence) for sentence in sentences]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("他说：“好！”然后走了。", ["他说：“好！”", "然后走了。"]),
        ("Pi is 3.14. Yes... no?", ["Pi is 3.14. ", "Yes... ", "no?"]),
        ("one\n\ntwo", ["one\n\n", "two"]),
        ("真的吗？！是。", ["真的吗？！", "是。"]),
        ("no end", ["no end"]),
        ("  two. words", ["  two. ", "words"]),
        ("", []),
        ("。。。", ["。。。"]),
    ],
)
def test_sentences_end_at_their_marks(text, sentences):
    assert split_sentences(text) == sentences


def test_no_character_is_lost_between_sentences():
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(rng.choice(list("ab中 。.！？!?\n；…”\"' 1"), rng.integers(0, 40)))
        assert "".join(split_sentences(text)) == text


def test_what_the_text_is_about_is_kept_in_order():
    (short,) = key_sentences([REVIEW], [50], characters)
    assert short == "".join(
        [
            "这家酒店的房间很干净。",
            "酒店的服务员态度很好，房间也大！",
            "房间干净，服务员的态度好，这家酒店值得住。",
        ]
    )


def test_the_order_of_the_text_is_restored():
    sentences = split_sentences(REVIEW)
    for budget in range(5, len(REVIEW) + 5):
        (short,) = key_sentences([REVIEW], [budget], characters)
        places = [sentences.index(sentence) for sentence in split_sentences(short)]
        assert places == sorted(places)


def test_sentences_are_kept_whole_and_within_the_budget():
    """Not a character is cut off a sentence that fits."""
    sentences = split_sentences(REVIEW)
    for budget in range(max(map(len, sentences)), len(REVIEW)):
        (short,) = key_sentences([REVIEW], [budget], characters)
        assert set(split_sentences(short)) <= set(sentences)
        assert 0 < len(short) <= budget


@pytest.mark.parametrize("text", ["a b c.", "a b c. d e f.", "好。", "!", "a", "a b. a b."])
def test_few_sentences_are_enough(text):
    assert key_sentences([text], [100], characters) == [text]
    (short,) = key_sentences([text], [1], characters)
    assert short in split_sentences(text)


def test_a_text_of_punctuation_or_equal_words_is_ranked():
    for text in ("!?! ... 。。", "a. a. a. a.", "one. two. three."):
        ranks = rank_sentences(split_sentences(text))
        assert np.isfinite(ranks).all() and ranks.sum() == pytest.approx(1)


def test_budgets_belong_to_their_texts():
    texts = ["a b c d. a b c e. x.", "p q r s. p q r t. y."]
    one, two = key_sentences(texts, [100, 9], characters)
    assert one == texts[0] and two == "p q r s. "


def test_ranks_are_the_eigenvector_of_textrank():
    """Solved directly: r = (1 - d) / n + d * P' r, with P the similarities divided by row sums."""
    sentences = ["a b c", "b c d e", "c e f", "a f", "b d f g"]
    words = [set(sentence.split()) for sentence in sentences]
    similarity = np.array(
        [
            [
                0 if i == j else len(u & v) / (np.log1p(len(u)) + np.log1p(len(v)))
                for j, v in enumerate(words)
            ]
            for i, u in enumerate(words)
        ]
    )
    chance = similarity / similarity.sum(axis=1, keepdims=True)
    expected = np.linalg.solve(np.eye(5) - 0.85 * chance.T, np.full(5, 0.15 / 5))
    assert rank_sentences(sentences) == pytest.approx(expected, abs=1e-5)


def test_ranks_are_those_of_networkx():
    rng = np.random.default_rng(0)
    sentences = [" ".join(f"w{n}" for n in rng.integers(60, size=rng.integers(1, 9)))
                 for _ in range(80)] + ["alone", "by itself"]  # fmt: skip
    words = [set(sentence.split()) for sentence in sentences]
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(words)))
    for i, j in itertools.combinations(range(len(words)), 2):
        if words[i] & words[j]:
            sizes = np.log1p(len(words[i])) + np.log1p(len(words[j]))
            graph.add_edge(i, j, weight=len(words[i] & words[j]) / sizes)
    expected = networkx.pagerank(graph)
    assert rank_sentences(sentences) == pytest.approx([expected[n] for n in graph], abs=1e-6)


def test_many_sentences_that_share_words_are_ranked_in_short_time():
    text = "".join(f"the x{k % 5} and y{k}. " for k in range(1500))
    (short,) = key_sentences([text], [100], characters)
    assert 0 < len(short) <= 100


def test_many_sentences_are_ranked_in_short_time():
    text = "".join(f"w{k % 17} x{k % 5} y{k}. " for k in range(400))
    (short,) = key_sentences([text], [100], characters)
    assert 0 < len(short) <= 100
