"""How thoroughly an index is searched, and why one cannot be built, in a user's words."""

import re
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from idbert.errors import ConfigError


@dataclass(frozen=True)
class SearchSettings:
    """How thoroughly an approximate index is searched: more is slower and finds more.

    A value for a part that the index does not have is refused when searching.
    """

    ef_search: int | None = None
    """HNSW: candidates kept while walking the graph; never less than wanted. Default: what was
    chosen with the index, else 256."""

    nprobe: int | None = None
    """IVF: cells that are searched. Default: what was chosen with the index, else an eighth."""

    refine_factor: int | None = None
    """RFlat, Refine: this many times the wanted candidates are ranked again, more exactly. Default:
    what was chosen with the index, else 8."""

    def __post_init__(self) -> None:
        for name in ("ef_search", "nprobe", "refine_factor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")

    def completed_by(self, defaults: "SearchSettings") -> "SearchSettings":
        """Return these settings, those of `defaults` in the place of what is None."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(defaults, **given)


def search_parameters(
    faiss: ModuleType,
    index: Any,
    k: int,
    settings: SearchSettings,
    selector: Any,
    unused: set[str],
) -> Any:
    """Return FAISS's parameters for one search, whatever the index is composed of.

    Args:
        faiss: the module.
        index: of any type.
        k: rows wanted of each query.
        settings: how thoroughly to search.
        selector: a faiss.IDSelector of the rows that may be returned; None: all.
        unused: names of settings; those that this index has a part for are taken out.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = search_parameters(faiss, index.index, k, settings, selector, unused)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        unused.discard("refine_factor")
        factor = settings.refine_factor or 8
        base = index.base_index
        inner = search_parameters(faiss, base, k * factor, settings, selector, unused)
        return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=inner)
    if isinstance(index, faiss.IndexHNSW):
        unused.discard("ef_search")
        ef_search = max(settings.ef_search or 256, k)
        return faiss.SearchParametersHNSW(efSearch=ef_search, sel=selector)
    on_gpu = getattr(faiss, "GpuIndexIVF", None)
    if isinstance(index, faiss.IndexIVF) or (on_gpu is not None and isinstance(index, on_gpu)):
        unused.discard("nprobe")
        # Asked for more cells than there are, codes of 4 bits would find other rows.
        nprobe = min(settings.nprobe or -(-index.nlist // 8), index.nlist)
        return faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
    return None if selector is None else faiss.SearchParameters(sel=selector)


def factory_error(factory: str, shape: tuple[int, ...], message: str) -> ConfigError:
    """Return the error that says why FAISS cannot build an index.

    Args:
        factory: the factory string.
        shape: N and D of the vectors.
        message: what FAISS said.
    """
    too_few = re.search(r"training points \((\d+)\).*number of clusters \((\d+)\)", message)
    if too_few:
        return ConfigError(
            f"the index '{factory}' needs at least {too_few[2]} vectors to train on, there are "
            f"{too_few[1]}. Choose fewer cells (IVF) or bits (PQ), or Flat."
        )
    if "could not parse" in message:
        return ConfigError(
            f"'{factory}' is not a FAISS factory string. Some that are: Flat, SQfp16, HNSW32, "
            "IVF1024,Flat, IVF1024,SQ8."
        )
    reason = message.strip().splitlines()[-1].split("failed:")[-1].split(": ")[-1].strip()
    return ConfigError(
        f"the index '{factory}' cannot be built of {shape[0]} vectors of {shape[1]} components "
        f"(an item's bias is one of them): {reason}. A prefix such as 'Pad72,' fills vectors with "
        "zeros to 72 components."
    )
