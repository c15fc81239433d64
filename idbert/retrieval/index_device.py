"""An index on a GPU: the same vectors and answers, computed there."""

from types import ModuleType
from typing import Any, Literal, TypeAlias

from idbert.errors import ConfigError, MissingExtraError

IndexDevice: TypeAlias = Literal["cpu", "cuda"]
"""Where an index is searched."""

MOST_ON_GPU = 2048
"""Rows that FAISS finds for a query on a GPU, at most."""


def on_device(faiss: ModuleType, index: Any, device: IndexDevice, factory: str) -> Any:
    """Return the index on a device; on "cpu" the index itself.

    On "cuda" it is copied to the first GPU, which needs room for it. Graphs and 4-bit codes have
    no form there.

    Args:
        faiss: the module.
        index: on the CPU, of any type.
        device: "cpu" or "cuda".
        factory: the string that the index was built by, for messages.

    Raises:
        MissingExtraError: this FAISS was built without GPU.
        ConfigError: there is no such device, this machine has no GPU, or the index cannot be
            searched on one.
    """
    if device == "cpu":
        return index
    if device != "cuda":
        raise ConfigError(f"index_device is '{device}'; it must be cpu or cuda.")
    if not hasattr(faiss, "StandardGpuResources"):
        raise MissingExtraError(
            "the installed FAISS has no GPU part, which index_device=cuda needs. Run pip uninstall "
            "-y faiss-cpu, then pip install 'idbert[gpu]' (Linux with an NVIDIA GPU); or leave "
            "index_device out."
        )
    if faiss.get_num_gpus() == 0:
        raise ConfigError("index_device=cuda needs a GPU, and FAISS finds none. Leave it out.")
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split(": ")[-1]
        raise ConfigError(
            f"an index '{factory}' cannot be searched on a GPU: {reason}. Build a Flat, "
            "IVF1024,Flat or IVF1024,SQfp16 index, or leave index_device out."
        ) from error
