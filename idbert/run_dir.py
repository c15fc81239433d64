"""One folder a run: config, vocabulary, weights, metrics, index, report; written atomically.

The run folder of a recommender holds

```text
run.json             what this folder is, and once training is done the digests of the files below
config.yaml          every setting, resolved
data_files.json      sizes and digests of the files that were trained on
vocabulary.parquet   item ids and their counts
model/               config.json, model.safetensors
checkpoints/         training states to resume from
curve.json           loss and metrics by epoch
metrics.json         the evaluation
index/               the item vectors' FAISS index
report.html          all of it to look at
```

A run on texts holds labels.json and tokenizer/ instead of the vocabulary and the index.

A reader sees a file either whole or not at all: each is written aside, synced and renamed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from idbert import processes
from idbert.errors import CheckpointError, ConfigError, suggestion
from idbert.files import digest_of, verify, written_aside
from idbert.run_lock import hold

FORMAT = 1
MARKER = "run.json"
ESSENTIAL = (  # of a recommender
    "config.yaml",
    "vocabulary.parquet",
    "model/config.json",
    "model/model.safetensors",
)


@dataclass(frozen=True)
class RunDir:
    """A run folder that exists; made by `create` or `open`.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def create(
        cls, path: str | Path, stage: str, config: Mapping[str, Any], *, named_by: str = "--run"
    ) -> "RunDir":
        """Make the folder of a new run, or return to the run that the same command began.

        Of several processes the writer does so; the others wait for it, and fail where it fails.

        Args:
            path: the folder; new, empty, of an earlier run with the same settings, or of one that
                failed before its training began, whose settings are then replaced.
            stage: what the run does, such as "pretrain" or "finetune".
            config: every setting, resolved; plain values that YAML can hold.
            named_by: the option that names the folder, for messages.

        Returns:
            The run. `is_complete` says whether an earlier call has already finished it.

        Raises:
            ConfigError: the folder holds a run of another stage or with other settings, or files
                that are no run.
            BusyError: another process is at work in the folder.
            CheckpointError: the folder's marker or config cannot be read.
            DataError: the disk has no room.
        """
        run = cls(Path(path))
        processes.by_writer(lambda: run._create(stage, config, named_by))
        return run

    def _create(self, stage: str, config: Mapping[str, Any], named_by: str) -> None:
        is_run = (self.path / MARKER).exists()
        if not is_run and self.path.exists() and not _is_free(self.path):
            raise ConfigError(
                f"{self.path} exists and is not a run folder. Name another one with {named_by}."
            )
        is_complete = is_run and self.is_complete
        is_kept = is_complete or (is_run and self.checkpoints.exists())
        if is_kept:
            self._check_same(stage, yaml.safe_load(_yaml(config)), named_by)
        if not is_complete:  # else nothing is left to write
            hold(self.path)
        if not is_kept:  # new, or given up before its training began: over a misspelt column, say
            self._write_marker(stage, complete=False, files={})
            self.write_yaml("config.yaml", config)

    @classmethod
    def open(cls, path: str | Path, stages: Iterable[str] = ()) -> "RunDir":
        """Open a finished run; the digest of every essential file is checked first.

        Args:
            path: the folder.
            stages: the stages that the caller can use; none given: any.

        Raises:
            CheckpointError: there is no such folder, it is no run folder, its training has not
                finished, it is of another stage, or a file is missing or differs from the one
                that training wrote.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise CheckpointError(f"no run at {run.path}.{_nearest_runs(run.path)}")
        if not (run.path / MARKER).is_file():
            raise CheckpointError(
                f"{run.path} is not a run folder: it holds no {MARKER}. Give the folder that a "
                f"training command wrote.{_nearest_runs(run.path)}"
            )
        accepted = tuple(stages)
        if accepted and run.stage not in accepted:
            raise CheckpointError(
                f"{run.path} is a run of stage '{run.stage}'; needed: {' or '.join(accepted)}."
            )
        marker = run._marker()
        if not marker["complete"]:
            raise CheckpointError(
                f"{run.path}: training has not finished. Run the same training command again; it "
                "goes on from the newest checkpoint, or begins where there is none."
            )
        for name, digest in marker["files"].items():
            verify(run.path / name, digest)
        return run

    def finish(self, essential: Iterable[str] = ESSENTIAL) -> None:
        """Declare the training done: digests of the essential files, then the marker, last.

        Args:
            essential: the files, relative to the folder, without which the run is of no use; `open`
                checks each.

        Raises:
            CheckpointError: an essential file is missing.
        """
        essential = tuple(essential)
        missing = [name for name in essential if not (self.path / name).is_file()]
        if missing:
            raise CheckpointError(f"{self.path} cannot be finished without {', '.join(missing)}.")
        files = {name: digest_of(self.path / name) for name in essential}
        self._write_marker(self.stage, complete=True, files=files)

    @property
    def stage(self) -> str:
        """What the run does, as given to `create`."""
        return str(self._marker()["stage"])

    @property
    def is_complete(self) -> bool:
        """Whether `finish` has been called."""
        return bool(self._marker()["complete"])

    @property
    def model_sha256(self) -> str:
        """Digest of the weights of a finished run; an index names the model it was made from."""
        files = self._marker()["files"]
        if not files:
            raise CheckpointError(f"{self.path}: training has not finished, there are no weights.")
        return str(files["model/model.safetensors"]["sha256"])

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def vocabulary(self) -> Path:
        """The item ids and their counts."""
        return self.path / "vocabulary.parquet"

    @property
    def model(self) -> Path:
        """The folder of the weights, in transformers' layout."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """The folder of the training states to resume from."""
        return self.path / "checkpoints"

    @property
    def curve(self) -> Path:
        """Loss and metrics by epoch."""
        return self.path / "curve.json"

    @property
    def metrics(self) -> Path:
        """The evaluation."""
        return self.path / "metrics.json"

    @property
    def index(self) -> Path:
        """The folder of the item vectors' index."""
        return self.path / "index"

    @property
    def report(self) -> Path:
        """The report to look at."""
        return self.path / "report.html"

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Write one file or folder of the run atomically; see `written_aside`."""
        with written_aside(self.path / name) as aside:
            yield aside

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, UTF-8."""
        with self.writing(name) as aside:
            aside.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        """Write plain values as JSON. NaN is refused, since no other reader of JSON knows it."""
        self.write_text(name, _json(value))

    def write_yaml(self, name: str, value: Mapping[str, Any]) -> None:
        """Write plain values as YAML, in the order given."""
        self.write_text(name, _yaml(value))

    def read_json(self, name: str) -> Any:
        """Read what `write_json` wrote.

        Raises:
            CheckpointError: the file is missing or is not JSON.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path} holds no {name}.") from error
        except ValueError as error:
            raise CheckpointError(f"{self.path / name} is not JSON: {error}.") from error

    def read_config(self) -> dict[str, Any]:
        """Read the resolved settings.

        Raises:
            CheckpointError: config.yaml is missing or is not a YAML mapping.
        """
        try:
            config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path} holds no config.yaml.") from error
        except (yaml.YAMLError, ValueError) as error:
            raise CheckpointError(f"{self.config} is not YAML: {error}") from error
        if not isinstance(config, dict):
            raise CheckpointError(f"{self.config} does not hold settings.")
        return config

    def _write_marker(self, stage: str, *, complete: bool, files: dict[str, Any]) -> None:
        marker = {"format": FORMAT, "stage": stage, "idbert": version("idbert")}
        self.write_json(MARKER, {**marker, "complete": complete, "files": files})

    def _marker(self) -> dict[str, Any]:
        marker = self.read_json(MARKER)
        known = {"format", "stage", "idbert", "complete", "files"}
        if not isinstance(marker, dict) or not known <= marker.keys():
            raise CheckpointError(f"{self.path / MARKER} is not the marker of a run.")
        if marker["format"] != FORMAT:
            raise CheckpointError(
                f"{self.path} is written in format {marker['format']} by idbert "
                f"{marker['idbert']}; this idbert reads format {FORMAT}. Install that version, or "
                "train anew."
            )
        return marker

    def _check_same(self, stage: str, config: dict[str, Any], named_by: str) -> None:
        if self.stage != stage:
            raise ConfigError(
                f"{self.path} holds a run of stage '{self.stage}', not '{stage}'. Name another "
                f"folder with {named_by}."
            )
        there, here = _flat(self.read_config()), _flat(config)
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        if names:
            shown = "; ".join(
                f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
                for name in names[:5]
            )
            raise ConfigError(
                f"{self.path} holds a run with other settings ({len(names)} differ): {shown}. "
                f"Name another folder with {named_by}, or delete this one."
            )


def _is_free(path: Path) -> bool:
    """Say whether a folder holds nothing but what a killed creation may have left."""
    return path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir())


def _nearest_runs(path: Path) -> str:
    """Name the run folders beside or inside `path`, the most similar one first."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f" The folder {folder} does not exist either."
    runs = sorted(marker.parent.name for marker in folder.glob(f"*/{MARKER}"))
    if not runs:
        return ""
    more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
    return f"{suggestion(path.name, runs)} Runs in {folder}: {', '.join(runs[:5])}{more}."


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one mapping with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
