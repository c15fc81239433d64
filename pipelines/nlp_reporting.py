"""How a run of nlp_cls ends: weights saved, all parts evaluated, predictions and report written."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from idbert.nn.progress_bars import without_progress_bars
from idbert.run_dir import RunDir
from idbert.training.planned_trainer import PlannedTrainer
from nlp_tasks.cls.classifier import PREDICTION, PROBABILITIES, Classifier
from nlp_tasks.cls.examples import Examples
from nlp_tasks.cls.labels import LABELS_FILE
from nlp_tasks.cls.metrics import Predictions, evaluation_of
from nlp_tasks.cls.model import TextClassifier
from nlp_tasks.cls.parts import ClassificationData, Fold, Parts, read_parts
from nlp_tasks.cls.prediction import Decisions
from nlp_tasks.cls.reading import READING_FILE, TOKENIZER_FOLDER, TextReader
from nlp_tasks.cls.report import ReportContent, classification_report_html, worst_errors
from pipelines.cli import logger, stage
from pipelines.endings import check_finished, files_in, is_reported, layer_weights
from pipelines.nlp_corridor import data_settings_of


def save_fold(run: RunDir, name: str, model: TextClassifier, trainer: PlannedTrainer) -> None:
    """Save what the training of a fold has made.

    Raises:
        Unfinished: training was stopped by SIGTERM; a checkpoint is there to resume from.
    """
    check_finished(run, trainer)
    run.write_json(_curve_of(name), trainer.curve())
    with run.writing(name) as folder, without_progress_bars():
        model.save_pretrained(folder)


def finish_run(run: RunDir, reader: TextReader, parts: Parts) -> None:
    """Save what all folds share, declare the run finished, and evaluate it."""
    parts.labels.save(run.path)
    reader.save(run.path)
    names = [fold.name for fold in parts.folds]
    if len(names) > 1:
        run.write_json("curve.json", mean_curve([run.read_json(_curve_of(n)) for n in names]))
    folders = files_in(run, TOKENIZER_FOLDER, *names)
    run.finish(["config.yaml", LABELS_FILE, READING_FILE, "templates.json", *folders])
    report_once(run, parts)


def report_once(run: RunDir, parts: Parts | None = None) -> None:
    """Evaluate a trained run on its validation and test part, unless an earlier call has.

    Args:
        run: a finished run.
        parts: its data, where they are at hand; else they are read again.
    """
    if is_reported(run):
        return
    if parts is None:
        parts = read_parts(data_settings_of(run, ClassificationData))
    classifier = Classifier.load(run.path, device=run.read_config()["training"]["device"])
    evaluations = {}
    for name, examples in evaluated_parts(parts).items():
        with stage(f"evaluate the {name} part"):
            evaluations[name] = evaluate_part(classifier, parts, name)
        table = prediction_table(classifier, examples, evaluations[name])
        with run.writing(f"predictions-{name}.parquet") as aside:
            table.to_parquet(aside, index=False)
    run.write_json("metrics.json", {n: evaluation_of(p) for n, p in evaluations.items()})
    run.write_text("report.html", _report(run, classifier, parts, evaluations))
    logger.info("%s is finished: %s", run.path, run.report)


def evaluated_parts(parts: Parts) -> dict[str, Examples]:
    """Return the rows to evaluate on, by the name of their part.

    Where folds hold out the training rows and there is no dev file, these are all of them.
    """
    if len(parts.folds) > 1 and "validation" not in parts.evaluated:
        return {"validation": parts.train} | parts.evaluated
    return parts.evaluated


def evaluate_part(classifier: Classifier, parts: Parts, name: str) -> Predictions:
    """Predict the rows of a part: by all models, or each row by the one that has not seen it."""
    if name in parts.evaluated:
        examples = parts.evaluated[name]
        outcome = classifier.decide(examples.texts, examples.pairs)
    else:
        examples = parts.train
        outcome = _out_of_fold(classifier, parts.folds)
    return Predictions(parts.labels, examples.targets, *outcome)


def prediction_table(
    classifier: Classifier, examples: Examples, predictions: Predictions
) -> pd.DataFrame:
    """Return rows, labels, predictions and all probabilities, so that two runs can be compared."""
    true = classifier.as_table(_as_decisions(predictions), predictions.probabilities_NC)[PREDICTION]
    table = pd.DataFrame({"row": examples.rows_N, "label": true})
    predicted = classifier.as_table(predictions.decisions, predictions.probabilities_NC)
    table = pd.concat([table, predicted], axis=1)
    if predictions.probabilities_NC is not None:
        table[PROBABILITIES] = list(predictions.probabilities_NC)
    return table


def mean_curve(curves: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Return the mean of several training curves, as far as the shortest goes."""
    rows = []
    for points in zip(*curves, strict=False):
        shared = [name for name in points[0] if all(name in point for point in points)]
        rows.append({name: float(np.mean([point[name] for point in points])) for name in shared})
    return rows


def _out_of_fold(
    classifier: Classifier, folds: Sequence[Fold]
) -> tuple[Decisions, np.ndarray | None]:
    """Predict each training row by the model of the fold that held it out, in the rows' order."""
    rows, decisions, probabilities = [], [], []
    for model, fold in zip(classifier.models, folds, strict=True):
        alone = Classifier([model], classifier.reader, classifier.labels, device=str(model.device))
        held_out = fold.validation
        assert held_out is not None
        decided, probable_NC = alone.decide(held_out.texts, held_out.pairs)
        rows.append(held_out.rows_N)
        decisions.append(decided)
        probabilities.append(probable_NC)
    order_N = np.argsort(np.concatenate(rows))
    whole_N = np.concatenate(decisions)[order_N]
    if probabilities[0] is None:
        return whole_N, None
    return whole_N, np.concatenate(probabilities)[order_N]


def _as_decisions(predictions: Predictions) -> np.ndarray:
    targets = predictions.targets
    return targets > 0.5 if predictions.labels.kind == "multi" else targets


def _report(
    run: RunDir, classifier: Classifier, parts: Parts, evaluations: dict[str, Predictions]
) -> str:
    config = run.read_config()
    shown = evaluated_parts(parts)
    first = next(iter(evaluations), None)
    return classification_report_html(
        ReportContent(
            title=f"{run.path.name}: {config['data']['train']}",
            evaluations=evaluations,
            curve=run.read_json("curve.json"),
            metric=config["training"]["metric"],
            errors=[] if first is None else worst_errors(evaluations[first], shown[first]),
            settings=config,
            facts=_facts(classifier, parts),
            layer_weights=layer_weights(classifier.models[0].backbone.fusion),
        )
    )


def _facts(classifier: Classifier, parts: Parts) -> dict[str, str]:
    parameters = sum(model.num_parameters() for model in classifier.models)
    # With folds each row is trained on, by all models but one.
    trained = parts.train if len(parts.folds) > 1 else parts.folds[0].train
    facts = {
        "Parameters": f"{parameters:,}",
        "Models": f"{len(classifier.models)}",
        "Labels": f"{len(parts.labels.names):,} ({parts.labels.kind})"
        if parts.labels.names
        else "a number",
        "Training rows": f"{len(trained):,}",
    }
    return facts | {f"Rows of {name}": f"{len(rows):,}" for name, rows in parts.evaluated.items()}


def _curve_of(name: str) -> str:
    return name.replace("model", "curve") + ".json"
