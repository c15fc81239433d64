"""One library's way from a folder of parquet to data that training can begin with.

Started by `benchmarks.preparation` in a process of its own, by the Python that has the library;
hence nothing of idbert is imported but where idbert is measured. Prints a line of JSON after the
imports and after each step: seconds, CPU seconds, and the process's peak memory so far.
"""

import argparse
import contextlib
import glob
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from resident import peak_mib  # this file is run by its path

BATCH = 128


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Measure one step and print it."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(
        json.dumps(
            {
                "step": name,
                "seconds": time.perf_counter() - wall,
                "cpu_seconds": time.process_time() - cpu,
                "peak_mib": peak_mib(),
            }
        ),
        flush=True,
    )


def run_duckdb(given: argparse.Namespace) -> None:
    """Sort the table by user and time: what any preparation must do at least."""
    with step("imports"):
        import duckdb

    with step("sort"), tempfile.TemporaryDirectory(dir=given.folder) as spill:
        settings = {"memory_limit": given.memory_limit, "temp_directory": spill}
        with duckdb.connect(":memory:", config=settings) as connection:
            rows = connection.sql(
                f"SELECT user_id, item_id, timestamp FROM read_parquet('{given.log}/*.parquet') "
                "ORDER BY user_id, timestamp"
            )
            for _ in rows.to_arrow_reader(500_000):
                pass


def run_idbert(given: argparse.Namespace) -> None:
    """Run the command rec_prepare, then map what it wrote as training does."""
    with step("imports"):
        from idbert.inputs.sequences import SequenceSettings
        from pipelines.corridor import DataSettings, LogSettings
        from pipelines.rec_prepare import PreparedData, RecPrepareSettings, main
        from pipelines.split_log import read_split_log

    run = str(Path(given.folder) / "idbert")
    with step("rec_prepare"):
        data = PreparedData(source=given.log, memory_limit=given.memory_limit)
        main(RecPrepareSettings(run=run, data=data))
    with step("sequences"):
        log = read_split_log(LogSettings(data=DataSettings(source=run)))
        log.train(SequenceSettings(max_length=given.max_length))


def run_recbole(given: argparse.Namespace) -> None:
    """Write RecBole's atomic file, then make its data set and loaders, split by leave-one-out."""
    with step("imports"):
        import numpy as np
        import pandas as pd

        old = {"float_": np.float64, "complex_": np.complex128, "bool8": np.bool_}
        for name, kind in {**old, "unicode_": np.str_, "long": np.int64}.items():
            if not hasattr(np, name):  # RecBole still uses the names of numpy 1
                setattr(np, name, kind)
        sys.argv = sys.argv[:1]  # which RecBole would read
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation

    folder = Path(given.folder) / "recbole" / "log"
    folder.mkdir(parents=True)
    header = ["user_id:token", "item_id:token", "timestamp:float"]
    with step("atomic file"), (folder / "log.inter").open("w") as file:
        file.write("\t".join(header) + "\n")
        for part in sorted(glob.glob(f"{given.log}/*.parquet")):
            frame = pd.read_parquet(part, columns=["user_id", "item_id", "timestamp"])
            frame.to_csv(file, sep="\t", index=False, header=False)
    settings = {
        "data_path": str(folder.parent),
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": given.max_length,
        "train_batch_size": BATCH,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "use_gpu": False,
        "state": "ERROR",
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "mode": "full",
            "group_by": "user",
        },
    }
    with step("data set"):
        config = Config(model="BERT4Rec", dataset="log", config_dict=settings)
        dataset = create_dataset(config)
    with step("loaders"):
        data_preparation(config, dataset)


def run_rectools(given: argparse.Namespace) -> None:
    """Make RecTools' data set and training loader; nothing is held out."""
    with step("imports"):
        import pandas as pd
        from rectools.dataset import Dataset
        from rectools.models.nn.transformers.bert4rec import BERT4RecDataPreparator

    with step("data set"):
        frame = pd.read_parquet(given.log, columns=["user_id", "item_id", "timestamp"])
        frame["datetime"] = pd.to_datetime(frame.pop("timestamp"), unit="s")
        frame["weight"] = 1.0
        dataset = Dataset.construct(frame)
        del frame
    with step("loaders"):
        preparator = BERT4RecDataPreparator(
            session_max_len=given.max_length,
            n_negatives=None,
            batch_size=BATCH,
            dataloader_num_workers=0,
            train_min_user_interactions=2,
            mask_prob=0.2,
        )
        preparator.process_dataset_train(dataset)
        preparator.get_dataloader_train()


WORK = {
    "duckdb": run_duckdb,
    "idbert": run_idbert,
    "recbole": run_recbole,
    "rectools": run_rectools,
}


def main() -> None:
    """Do the work of one library."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", choices=WORK)
    parser.add_argument("--log", required=True, help="folder of parquet")
    parser.add_argument("--folder", required=True, help="to write into")
    parser.add_argument("--memory_limit", default="2GB", help="of DuckDB")
    parser.add_argument("--max_length", type=int, default=50, help="of a sequence")
    given = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    WORK[given.library](given)


if __name__ == "__main__":
    main()
