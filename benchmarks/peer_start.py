"""Starts a peer's driver in the peer's own Python, and adds what the driver does not tell.

    PYTHON peer_start.py '{"device": "cpu", "attention_dropout": true, "length": 200}' \
        drive_NAME.py --data ...

Run in the folder of the drivers; nothing of idbert is there. Prints lines of MEMORY and a JSON
object: the peaks of the process after its imports, of training and of scoring, in MiB. Without
attention dropout the shares of attention are kept whole, by torch's functions, which all peers
call; on cuda the driver's words for the processor are read as those for the GPU. With "questions",
a folder, what is trained on and asked for is what lies there: see `peer_questions`. With "moments",
seconds of training, and "told", a folder, it ranks at these too: see `peer_moments`.
"""

import json
import sys
from pathlib import Path

ON_CUDA = {
    'accelerator="cpu"': 'accelerator="gpu"',
    "use_cpu=True": "use_cpu=False",
    "use_gpu=False": "use_gpu=True",
}


def tell(**numbers: float) -> None:
    """Print a line of MEMORY."""
    print("MEMORY " + json.dumps(numbers), flush=True)


def keep_attention_whole(length: int) -> list[int]:
    """Drop no shares of attention any more; return a list that grows by one each time.

    Args:
        length: of the sequences: shares are what has it in both of the last dimensions.
    """
    import torch.nn.functional as F

    kept: list[int] = []
    attend, drop = F.scaled_dot_product_attention, F.dropout

    def attend_whole(query, key, value, attn_mask=None, dropout_p=0.0, *more, **named):
        kept.append(1)
        return attend(query, key, value, attn_mask, 0.0, *more, **named)

    def drop_others(input, p=0.5, training=True, inplace=False):
        if tuple(input.shape[-2:]) == (length, length):
            kept.append(1)
            return input
        return drop(input, p, training, inplace)

    F.scaled_dot_product_attention, F.dropout = attend_whole, drop_others
    return kept


def main() -> None:
    """Run the driver."""
    settings, driver = json.loads(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    from resident import forget_peak, peak_mib  # this file is run by its path

    here, sys.path[0] = sys.path[0], "."  # in place of this file's folder
    import common

    kept: list[int] = [1]
    read, begin_scoring, emit, mark = common.Data.__init__, common.tic, common.emit, None

    def read_after_imports(self, path):
        nonlocal kept
        tell(imports_mib=peak_mib())
        if not settings["attention_dropout"]:
            kept = keep_attention_whole(settings["length"])
        if "questions" not in settings:
            read(self, path)
            return
        sys.path.append(here)
        from peer_questions import read_questions

        read_questions(self, Path(settings["questions"]), settings["model"])

    def begin_scoring_anew():
        tell(training_mib=peak_mib())
        forget_peak()
        return begin_scoring()

    def emit_memory(args, *more, **named):
        if not kept:
            sys.exit("no attention dropout was found that could be left out")
        tell(**{"training_mib" if args.no_eval else "scoring_mib": peak_mib()})
        if settings["device"] == "cuda":
            import torch

            tell(device_mib=torch.cuda.max_memory_allocated() / 2**20)
        return emit(args, *more, **named)

    def mark_finished(self):
        import torch

        torch.cuda.synchronize()
        return mark(self)

    common.Data.__init__, common.tic, common.emit = (
        read_after_imports,
        begin_scoring_anew,
        emit_memory,
    )
    if settings.get("moments"):
        sys.path.append(here)
        from peer_moments import rank_at

        rank_at(settings["moments"], Path(settings["told"]), common)
    source = Path(driver).read_text()
    if settings["device"] == "cuda":
        mark, common.Meter._mark = common.Meter._mark, mark_finished
        plain = source
        for old, new in ON_CUDA.items():
            source = source.replace(old, new)
        if source == plain:
            sys.exit(f"{driver} has no word that puts it on a GPU")
    exec(compile(source, driver, "exec"), {"__name__": "__main__", "__file__": driver})


if __name__ == "__main__":
    main()
