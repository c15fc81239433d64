"""All users of a log scored, ten best items each, seen ones dropped: how many users a second?

    python -m benchmarks.inference --data ml-1m.parquet --peers PEERS --passes 2

idbert recommends by Recommender.recommend_batches, from the table of events to the last batch of
ids. A peer (benchmarks.peers) trains for a moment, then scores the same users by its own inference
path. All have the same architecture; weights change no speed, so that ours are fresh unless --run
names a finished run. Each pass runs everything once, in turn. `foreign` is the share of the machine
that other processes used meanwhile: take a line with more than a few percent as not measured. CPU
ms are those of our process for one user, and tell on a busy machine too.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.peers import PEERS, ForeignLoad, add_architecture, run_driver
from idbert import Recommender, read_interactions
from idbert.inputs.splits import leave_last_out
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.tables import Interactions

K = 10
MODELS = {"bert4rec": MaskedItemModel, "sasrec": NextItemModel}


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    who: str
    model: str
    users_per_s: float
    cpu_ms: float | None
    foreign: float | None


def ours(
    log: Interactions, model_name: str, options: argparse.Namespace, table_precision: str
) -> Line:
    """Score all users, or those that are asked for, and say how fast."""
    if options.run:
        recommender = Recommender.load(options.run, table_precision=table_precision)
    else:
        vocabulary = Vocabulary.from_interactions(log)
        torch.manual_seed(0)
        settings = EncoderSettings(
            hidden_size=options.hidden,
            num_layers=options.layers,
            num_heads=options.heads,
            max_length=options.maxlen,
        )
        model = MODELS[model_name].build(settings, vocab_size=len(vocabulary))
        recommender = Recommender(model, vocabulary, table_precision=table_precision)
    load, cpu, started = ForeignLoad(), time.process_time(), time.perf_counter()
    batches = recommender.recommend_batches(log, K)
    found = sum(len(batch) for batch in batches)
    users = len(batches.histories)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert found <= K * users
    who = "idbert" if table_precision == "float32" else f"idbert, items in {table_precision}"
    return Line(who, model_name, users / seconds, 1000 * cpu / users, load.share())


def theirs(peer: str, model_name: str, options: argparse.Namespace) -> Line | str:
    """Run a peer's driver; return its line, or why there is none."""
    threads = ("--threads", torch.get_num_threads())
    result = run_driver(peer, model_name, options, "--seconds", options.train_seconds, *threads)
    if isinstance(result, str):
        return result
    return Line(peer, model_name, result["users_per_s"], None, result.get("eval_foreign_cpu"))


def lines(options: argparse.Namespace) -> Iterator[Line | str]:
    """Yield what there is to print, as it is measured."""
    log = read_interactions(options.data)
    # As the peers do: the last event is withheld.
    log = leave_last_out(log).test.histories
    if options.users:
        chosen = log.user_offsets()[min(options.users, len(log.user_offsets()) - 1)]
        log = log.with_table(log.table.slice(0, int(chosen)))
    for _ in range(options.passes):
        for model_name in options.models:
            yield ours(log, model_name, options, "float32")
            if options.bfloat16:
                yield ours(log, model_name, options, "bfloat16")
            for peer, models in PEERS.items():
                if options.peers is not None and model_name in models:
                    yield theirs(peer, model_name, options)


def main(arguments: list[str] | None = None) -> None:
    """Print one line a measurement, and the ratios to the fastest peer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_architecture(parser)
    parser.add_argument("--run", help="a finished run, in place of a fresh model")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--users", type=int, default=0, help="only the first so many of ours")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true", help="our items in bfloat16 too")
    parser.add_argument("--train_seconds", type=float, default=5.0, help="of a peer, before")
    parser.add_argument("--threads", type=int, help="default: as torch chooses")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{options.data.name}, {torch.get_num_threads()} threads\n")
    print("| who | model | users/s | CPU ms a user | foreign |\n|---|---|---:|---:|---:|")
    measured: list[Line] = []
    left_out: list[str] = []
    for line in lines(options):
        if isinstance(line, str):
            left_out.append(line)
            continue
        measured.append(line)
        cpu = "" if line.cpu_ms is None else f"{line.cpu_ms:.3f}"
        foreign = "" if line.foreign is None else f"{line.foreign:.0%}"
        print(f"| {line.who} | {line.model} | {line.users_per_s:,.0f} | {cpu} | {foreign} |")
    print()
    for model_name in options.models:
        speeds = {
            is_ours: max(
                (
                    line.users_per_s
                    for line in measured
                    if line.model == model_name
                    and (line.who == "idbert") is is_ours
                    and not line.who.startswith("idbert,")
                ),
                default=None,
            )
            for is_ours in (True, False)
        }
        if speeds[True] and speeds[False]:
            ratio = speeds[True] / speeds[False]
            print(f"{model_name}: idbert is {ratio:.1f} times as fast as the fastest peer")
    print("\n".join(dict.fromkeys(left_out)))


if __name__ == "__main__":
    main()
