"""How the run of every training command ends: finished or stopped, its files, its report."""

from idbert.nn.fusion.layer_fusion import LayerFusion
from idbert.run_dir import RunDir
from idbert.training.resumable_trainer import ResumableTrainer
from pipelines.cli import Unfinished, logger


def check_finished(run: RunDir, trainer: ResumableTrainer) -> None:
    """Check that a training has come to its end.

    Raises:
        Unfinished: it was stopped by SIGTERM; a checkpoint is there to resume from.
    """
    if not trainer.finished:
        raise Unfinished(
            f"Stopped by SIGTERM after step {trainer.state.global_step}; a checkpoint is in "
            f"{run.checkpoints}. The same command resumes there."
        )


def files_in(run: RunDir, *folders: str) -> list[str]:
    """Return all files of some folders of a run, as `RunDir.finish` takes them."""
    found = [file for folder in folders for file in sorted((run.path / folder).rglob("*"))]
    return [str(file.relative_to(run.path)) for file in found if file.is_file()]


def is_reported(run: RunDir) -> bool:
    """Say whether an earlier call has written the report of a run, so that nothing is left."""
    if run.report.exists():
        logger.info("%s is finished already; nothing is left to do", run.path)
        return True
    return False


def layer_weights(fusion: LayerFusion) -> dict[str, float]:
    """Return what a learned fusion multiplies each layer by, as reports show it; else nothing."""
    weights_K = fusion.weights()
    if weights_K is None:
        return {}
    return {f"layer {k}": float(w) for k, w in zip(fusion.layers, weights_K, strict=True)}
