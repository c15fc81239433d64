"""How a run of nlp_match ends: towers and classifier saved, all parts evaluated, report written."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32
from sentence_transformers import SentenceTransformer
from torch import nn

from idbert.run_dir import RunDir
from nlp_tasks.match.groups import is_positive
from nlp_tasks.match.losses import MatchLoss, find_loss
from nlp_tasks.match.matcher import (
    CLASSIFIER_FOLDER,
    MATCH_FILE,
    Matcher,
    MatchFacts,
    read_facts,
    write_facts,
)
from nlp_tasks.match.mining import MiningSettings, candidate_search, mine_hard_negatives
from nlp_tasks.match.model_card import CARD_FILE, CardFacts, model_card
from nlp_tasks.match.pair_classifier import PairClassifier
from nlp_tasks.match.pairs import PairExamples
from nlp_tasks.match.parts import MatchData, MatchParts, read_match_parts
from nlp_tasks.match.report import MatchContent, match_report_html, worst_pairs
from nlp_tasks.match.resampling import RESAMPLED, similarity_interval
from nlp_tasks.match.scoring import Answers, Question, answer, encode
from nlp_tasks.match.settings import MatchLossSettings
from nlp_tasks.match.towers import DOCUMENT, QUERY, save_towers
from nlp_tasks.match.training import MatchTrainer
from pipelines.cli import logger, stage
from pipelines.endings import check_finished, files_in, is_reported, layer_weights
from pipelines.nlp_corridor import data_settings_of

BINARY_NAMES = ("different", "same")
SHOWN_SETTINGS = ("epochs", "learning_rate", "seed")
EXAMPLE_TEXTS = 2


@dataclass(frozen=True, eq=False)
class Trained:
    """What was trained, and on what."""

    towers: SentenceTransformer
    loss: MatchLoss
    classifier: PairClassifier | None
    train: PairExamples


def questions_of(parts: MatchParts, loss: MatchLossSettings) -> dict[str, Question]:
    """Return what is asked about each part's pairs, by its name.

    Raises:
        ConfigError: nothing can be asked about one.
    """
    from nlp_tasks.match.losses import DEFAULT_LOSS, MATCH_LOSSES

    name = loss.name or DEFAULT_LOSS[parts.train.kind]
    has_classifier = name in MATCH_LOSSES and MATCH_LOSSES[name].has_classifier
    return {
        part: Question.about(
            examples, has_classifier=has_classifier, positive=loss.options.get("positive")
        )
        for part, examples in parts.evaluated.items()
    }


def check_loss(train: PairExamples, loss: MatchLossSettings, mining: MiningSettings) -> None:
    """Check, before a model is opened, that such pairs can be mined and trained on.

    Raises:
        ConfigError: they cannot, or the loss would not read what is mined.
    """
    if mining.method != "none":
        is_positive(train)
        train = replace(train, negatives=train.negatives or [[] for _ in train.firsts])
    find_loss(loss, train)


def mine(
    towers: SentenceTransformer, train: PairExamples, settings: MiningSettings, *, seed: int
) -> PairExamples:
    """Return the training pairs with the hard negatives that the settings ask for."""
    if settings.method == "none":
        return train

    def unit_vectors(texts: list[str], task: Any) -> Float32[np.ndarray, "N D"]:
        vectors_ND = encode(towers, texts, task)
        return nn.functional.normalize(vectors_ND).numpy()

    with stage("mine hard negatives"):
        search = candidate_search(
            train,
            settings,
            lambda texts: unit_vectors(texts, DOCUMENT),
            encode_queries=lambda texts: unit_vectors(texts, QUERY),
        )
        return mine_hard_negatives(train, search, settings, seed=seed)


def classifier_of(loss: MatchLoss, module: nn.Module, train: PairExamples) -> PairClassifier | None:
    """Return the classifier that a loss trains, which shares its weights; None if it has none."""
    if not loss.has_classifier:
        return None
    names = train.names if train.kind == "class" else BINARY_NAMES
    linear: Any = module.classifier
    return PairClassifier(linear, loss.options.concatenation, names)


def finish_run(run: RunDir, trained: Trained, parts: MatchParts, trainer: MatchTrainer) -> None:
    """Save what training has made, declare the run finished, and evaluate it.

    Raises:
        Unfinished: training was stopped by SIGTERM; a checkpoint is there to resume from.
    """
    check_finished(run, trainer)
    run.write_json("curve.json", trainer.curve())
    with run.writing("model") as folder:
        save_towers(trained.towers, folder)
    if trained.classifier is not None:
        with run.writing(CLASSIFIER_FOLDER) as folder:
            folder.mkdir()
            trained.classifier.save(folder)
    facts = MatchFacts(
        kind=trained.train.kind,
        loss=trained.loss.name,
        names=() if trained.classifier is None else trained.classifier.names,
        positive=getattr(trained.loss.options, "positive", None),
        max_score=trained.train.max_score,
    )
    matcher = Matcher(trained.towers, facts, trained.classifier)
    answers = {}
    validation = parts.validation
    if validation is not None:
        answers["validation"] = _answer(matcher, validation, "validation")
        scored = answers["validation"].scored
        if scored is not None and scored.kind == "binary":
            facts = MatchFacts(**vars(facts) | {"thresholds": scored.thresholds})
    write_facts(run, facts)
    folders = ["model", *([CLASSIFIER_FOLDER] if trained.classifier else [])]
    run.finish(["config.yaml", MATCH_FILE, *files_in(run, *folders)])
    report_once(run, parts, Matcher(trained.towers, facts, trained.classifier), answers)


def report_once(
    run: RunDir,
    parts: MatchParts | None = None,
    matcher: Matcher | None = None,
    answers: dict[str, Answers] | None = None,
) -> None:
    """Evaluate a trained run on its validation and test part, unless an earlier call has.

    Args:
        run: a finished run.
        parts: its data, where they are at hand; else they are read again.
        matcher: its towers, in the same way.
        answers: what is known already, by the name of the part.
    """
    if is_reported(run):
        return
    parts = parts or read_match_parts(data_settings_of(run, MatchData))
    matcher = matcher or Matcher.load(run.path)
    known = answers or {}
    answers = {
        name: known.get(name) or _answer(matcher, examples, name)
        for name, examples in parts.evaluated.items()
    }
    for name, examples in parts.evaluated.items():
        with run.writing(f"predictions-{name}.parquet") as aside:
            _prediction_table(examples, answers[name]).to_parquet(aside, index=False)
    figures = {name: _figures(answer) for name, answer in answers.items()}
    run.write_json(
        "metrics.json", {name: _as_json(answers[name], figures[name]) for name in answers}
    )
    run.write_text(f"model/{CARD_FILE}", _card(run, matcher, parts, figures))
    run.write_text("report.html", _report(run, matcher, parts, answers))
    logger.info("%s is finished: %s", run.path, run.report)


def _answer(matcher: Matcher, examples: PairExamples, name: str) -> Answers:
    question = Question.about(
        examples,
        has_classifier=matcher.classifier is not None,
        positive=matcher.facts.positive,
    )
    if name != "validation" and examples.kind == "binary" and matcher.facts.thresholds is None:
        logger.warning(
            "no pairs labelled 0 and 1 were held out, so the threshold of the %s part is the one "
            "that is best for it: accuracy and F1 are too good. Give data.dev, or a dev_share.",
            name,
        )
    with stage(f"evaluate the {name} part"):
        return answer(
            matcher.towers,
            matcher.classifier,
            examples,
            question,
            threshold=matcher.facts.thresholds,
        )


def _figures(answers: Answers) -> dict[str, float]:
    return answers.figures() | answers.retrieval


def _as_json(answers: Answers, figures: dict[str, float]) -> dict[str, Any]:
    value: dict[str, Any] = {"rows": len(answers.cosines_N), **figures}
    scored = answers.scored
    if scored is not None:
        value["intervals"] = {
            metric: list(similarity_interval(metric, scored)) for metric in RESAMPLED[scored.kind]
        }
    return value


def _prediction_table(examples: PairExamples, answers: Answers) -> pd.DataFrame:
    """Return rows, labels and scores, so that two runs can be compared pair by pair."""
    table = pd.DataFrame({"row": examples.rows, "cosine": answers.cosines_N})
    if examples.targets is not None:
        table["label"] = examples.targets
    if answers.scored is not None:
        scores = answers.scored.scores
        table["score"] = list(scores) if scores.ndim == 2 else scores
    return table


def _card(
    run: RunDir, matcher: Matcher, parts: MatchParts, figures: dict[str, dict[str, float]]
) -> str:
    config = run.read_config()
    return model_card(
        matcher.towers,
        CardFacts(
            title=run.path.resolve().name,
            base=_last(config["model"]),
            data=_last(config["data"]["train"]),
            pairs=len(parts.train),
            loss=read_facts(run).loss,
            settings={
                name.replace("_", " ").capitalize(): config["training"][name]
                for name in SHOWN_SETTINGS
            },
            figures=figures,
            examples=parts.train.firsts[:EXAMPLE_TEXTS],
        ),
    )


def _report(run: RunDir, matcher: Matcher, parts: MatchParts, answers: dict[str, Answers]) -> str:
    config = run.read_config()
    scored = {name: one.scored for name, one in answers.items() if one.scored is not None}
    first = next(iter(scored), None)
    parameters = sum(parameter.numel() for parameter in matcher.towers.parameters())
    facts = {
        "Parameters": f"{parameters:,}",
        "Vector width": f"{matcher.towers.get_embedding_dimension()}",
        "Loss": matcher.facts.loss,
        "Training pairs": f"{len(parts.train):,} ({parts.train.kind})",
    }
    facts |= {f"Pairs of {name}": f"{len(rows):,}" for name, rows in parts.evaluated.items()}
    watched = next((answer for answer in answers.values()), None)
    metric = config["training"]["metric"]
    if metric is None and watched is not None and watched.scored is None:
        metric = "mrr"
    return match_report_html(
        MatchContent(
            title=f"{run.path.resolve().name}: {_last(config['data']['train'])}",
            evaluations=scored,
            retrieval={name: one.retrieval for name, one in answers.items() if one.retrieval},
            curve=run.read_json("curve.json"),
            metric=metric,
            errors=[] if first is None else worst_pairs(scored[first], parts.evaluated[first]),
            settings=config,
            facts=facts,
            layer_weights=_layer_weights(matcher.towers),
        )
    )


def _layer_weights(towers: SentenceTransformer) -> dict[str, float]:
    from nlp_tasks.match.encoder_module import IdbertEncoder

    first = towers[0]
    is_ours = isinstance(first, IdbertEncoder)
    return layer_weights(first.model.backbone.fusion) if is_ours else {}


def _last(path: str) -> str:
    return str(path).rstrip("/").rpartition("/")[2]
