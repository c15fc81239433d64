"""How a run ends: its weights saved, its figures beside the baselines, its report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from idbert import processes
from idbert.errors import CheckpointError, ConfigError
from idbert.evaluation.baselines import (
    ITEM_KNN,
    NAMES,
    POPULARITY,
    BaselineSettings,
    fit_baselines,
)
from idbert.evaluation.evaluate import Evaluation, evaluate
from idbert.evaluation.metrics import CUTOFFS
from idbert.evaluation.ranks import Score, target_ranks
from idbert.evaluation.report import ReportContent, report_html
from idbert.evaluation.user_items import HistoryScore
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.cuts import SplitSettings
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.checkpoint_config import read_config
from idbert.nn.item_models import ItemModel, load_item_model
from idbert.nn.progress_bars import without_progress_bars
from idbert.retrieval.recommender import Recommender
from idbert.run_dir import RunDir
from idbert.run_lock import hold
from idbert.training.devices import device_type
from idbert.training.item_trainer import ItemTrainer
from idbert.training.validation import Validation, model_score
from pipelines.cli import logger, naming_plugins_of, stage
from pipelines.corridor import (
    DataSettings,
    LogSettings,
    filters_seen,
    log_settings_of,
    read_titles,
)
from pipelines.data_files import files_of_log, have_changed
from pipelines.endings import check_finished, is_reported, layer_weights
from pipelines.report_examples import examples_of, first_asked, first_histories
from pipelines.split_log import read_split_log

Part = Literal["validation", "test"]


def finish_run(run: RunDir, model: ItemModel, vocabulary: Vocabulary, trainer: ItemTrainer) -> None:
    """Save what training has made, then evaluate it: see `report_once`.

    Of several processes the writer does so, and the others are done.

    Raises:
        Unfinished: training was stopped by SIGTERM; a checkpoint is there to resume from.
    """
    check_finished(run, trainer)
    processes.leave()
    if not processes.is_writer():
        return
    vocabulary.save(run.path)
    with run.writing("model") as folder, without_progress_bars():
        model.save_pretrained(folder)
    run.write_json("curve.json", trainer.curve())
    run.finish()
    report_once(run)


def is_trained(run: RunDir) -> bool:
    """Say whether an earlier call has trained this run and its files are as it left them."""
    return processes.by_writer(lambda: _is_trained(run))


def _is_trained(run: RunDir) -> bool:
    try:
        RunDir.open(run.path)
    except CheckpointError as error:
        if run.is_complete:
            hold(run.path)
            logger.warning("%s It is made again from the newest checkpoint.", error)
        return False
    return True


def report_once(run: RunDir) -> None:
    """Evaluate a trained run on the part after what it was trained on, unless that is done.

    A run that was trained on the whole log gets a report without figures.
    """
    processes.leave()  # what is left to do is the writer's
    if not processes.is_writer() or is_reported(run):
        return
    parts = log_settings_of(run).split.withheld_parts
    write_report(run, evaluate_runs([run], parts[0]) if parts else None)
    logger.info("%s is finished: %s", run.path, run.report)


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Runs and baselines, evaluated by one protocol.

    Attributes:
        part: the part of the split.
        users: its histories and targets, one of each user or more.
        evaluations: by name, the runs in the order given, then the baselines.
        untrained_targets: targets whose item never occurs in training, so that no model of ids can
            know it.
    """

    part: Part
    users: Validation
    evaluations: dict[str, Evaluation]
    untrained_targets: int


def evaluate_runs(
    runs: Sequence[RunDir],
    part: Part,
    *,
    filter_seen: bool | None = None,
    cutoffs: Sequence[int] = (),
    baselines: BaselineSettings = BaselineSettings(),  # noqa: B008 (frozen)
) -> Evaluated:
    """Evaluate finished runs and the baselines over the full catalogue.

    The baselines are fitted on all users' events before the part's targets.

    Args:
        runs: The runs.
        part: Of the split.
        filter_seen: Whether items of a history are left out of the ranking; None: as in the first
            run's training.
        cutoffs: Lengths of lists at which recall, NDCG and MRR are wanted beside the usual ones.
        baselines: How they are fitted.

    Raises:
        ConfigError: the runs are not of the same log and split, or were trained on this part.
    """
    settings = log_settings_of(runs[0])
    _check_withheld(runs[0], settings.split, part)
    for run in runs[1:]:
        theirs = log_settings_of(run)
        if _events_of(theirs) != _events_of(settings):
            raise ConfigError(
                f"{run.path} cannot be compared with {runs[0].path}: their data or split settings "
                "differ. Evaluate it on its own."
            )
    if filter_seen is None:
        filter_seen = filters_seen(runs[0])
    vocabulary = Vocabulary.load(runs[0].path)
    for run in runs[1:]:
        if Vocabulary.load(run.path).fingerprint() != vocabulary.fingerprint():
            raise ConfigError(
                f"{run.path} knows another catalogue than {runs[0].path}: the log has changed "
                "between the two trainings. Train the older one anew in another folder."
            )
    files = files_of_log(settings.data)
    for run in runs:
        if have_changed(run, files):
            logger.warning(
                "%s has changed since %s was trained on it: what is held out of it now may have "
                "been trained on then.",
                settings.data.source,
                run.path,
            )
    with stage("read and split the log"):
        log = read_split_log(settings, vocabulary)
        users, known = log.held_out(part, None), log.known(part)
    seen = users.histories.replaced(times=None, behaviours=None, weights=None).packed()
    histories = (seen.items, seen.offsets)
    scores = {name: _score(run, users) for name, run in _named(runs).items()}
    with stage("fit the baselines"):
        scores |= fit_baselines(
            known.items,
            known.offsets,
            *histories,
            len(vocabulary),
            train_times=known.times,
            settings=baselines,
        )
        popular = target_ranks(
            scores[POPULARITY],
            users.targets_Q,
            *histories,
            vocab_size=len(vocabulary),
            filter_seen=filter_seen,
        )
    neighbours = scores[ITEM_KNN]
    assert isinstance(neighbours, HistoryScore)  # whose table says which items are alike
    query_time_words = _query_time_words(runs)
    evaluations = {}
    for name, score in scores.items():
        with stage(f"evaluate {name}"):
            evaluations[name] = evaluate(
                score,
                users.targets_Q,
                histories,
                counts_V=vocabulary.counts_V,
                split=f"{settings.split.in_words()}, {part}{query_time_words}",
                users_Q=users.users_Q,
                cosines_VV=neighbours.table_VV,
                popular_ranks_Q=popular.ranks_U,
                filter_seen=filter_seen,
                ks=sorted({*CUTOFFS, *cutoffs}),
            )
    untrained = int((vocabulary.counts_V[users.targets_Q] == 0).sum())
    logger.info("%d of %d targets never occur in training", untrained, len(users))
    return Evaluated(part, users, evaluations, untrained)


def _check_withheld(run: RunDir, split: SplitSettings, part: Part) -> None:
    if part in split.withheld_parts:
        return
    if split.withheld_parts:
        raise ConfigError(
            f"{run.path} was trained on the validation part too (split.train_until=test), and can "
            "only be evaluated on the test part."
        )
    raise ConfigError(
        f"{run.path} was trained on the whole log (split.train_until=end), and can be evaluated on "
        "no part of it. Evaluate a run with the same settings and split.train_until=test."
    )


def write_report(run: RunDir, evaluated: Evaluated | None) -> None:
    """Write metrics.json and report.html of a finished run.

    Args:
        run: the first of the evaluated runs.
        evaluated: its figures; metrics.json keeps those of the other part. None: nothing was
            withheld, so that there are none.
    """
    recommender = Recommender.load(run.path, index=False)
    vocabulary, settings = recommender.vocabulary, log_settings_of(run)
    facts = {
        "Model": type(recommender.model).__name__,
        "Parameters": f"{recommender.model.num_parameters():,}",
        "Items": f"{vocabulary.num_items:,}",
        "Items never trained": f"{len(vocabulary.never_trained):,}",
    }
    if evaluated is None:
        facts["Evaluated"] = "on nothing: all of the log was trained on"
        shown = first_histories(settings, vocabulary)
    else:
        metrics = run.read_json("metrics.json") if run.metrics.exists() else {}
        metrics[evaluated.part] = {
            name: evaluation.to_json() for name, evaluation in evaluated.evaluations.items()
        }
        run.write_json("metrics.json", metrics)
        facts["Targets never trained"] = f"{evaluated.untrained_targets:,}"
        shown = first_asked(evaluated.users)
    content = ReportContent(
        title=f"{run.path.name}: {settings.data.source}",
        evaluations={} if evaluated is None else evaluated.evaluations,
        curve=run.read_json("curve.json"),
        settings=run.read_config(),
        facts=facts,
        layer_weights=layer_weights(recommender.model.backbone.fusion),
        examples=examples_of(
            recommender,
            shown,
            read_titles(settings.data, vocabulary.ids.type),
            filter_seen=filters_seen(run),
        ),
    )
    run.write_text("report.html", report_html(content))


def _events_of(settings: LogSettings) -> tuple[DataSettings, SplitSettings]:
    """Return the settings that decide which events a run was trained and tested on."""
    anywhere = DataSettings()
    same = ("items", "memory_limit", "attributes", "attribute_separator")
    data = replace(settings.data, **{name: getattr(anywhere, name) for name in same})
    return data, settings.split


def _named(runs: Sequence[RunDir]) -> dict[str, RunDir]:
    """Name runs by their folders, or by the whole paths where two folders are called alike.

    One that is called as a baseline is called a run besides.
    """
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    names = [f"{name} (run)" if name in NAMES else name for name in names]
    return dict(zip(names, runs, strict=True))


def _query_time_words(runs: Sequence[RunDir]) -> str:
    """Say of runs whose models read times which of them know when the target came."""
    reads = {}
    for name, run in _named(runs).items():
        with naming_plugins_of(run):
            reads[name] = read_config(run.model / "config.json").reads_times
    if all(times == "none" for times in reads.values()):
        return ""
    using = [name for name, times in reads.items() if times == "queries"]
    return f"; query time: {'used by ' + ', '.join(using) if using else 'not used'}"


def _score(run: RunDir, users: Validation) -> Score:
    """Return what scores the users by a run's model, on the device that it was trained on.

    It reads as much of a history as in training.
    """
    cut = replace(users, max_length=log_settings_of(run).sequences.max_length)
    with naming_plugins_of(run):
        model = load_item_model(run.model)
    device = torch.device(device_type(run.read_config()["training"]["device"]))
    model.to(device)  # type: ignore[arg-type]  # its wrapper hides the signature
    return model_score(model, cut, BatchSettings(token_budget=12800))
