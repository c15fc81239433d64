"""FAISS is installed once, or the error says what to install."""

import builtins
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from idbert.errors import MissingExtraError
from idbert.retrieval import extras
from idbert.retrieval.index import VectorIndex

ONE_VECTOR = (np.ones((1, 2), np.float32), pa.array(["a"]))


def test_with_both_wheels_the_error_says_which_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "version", lambda name: "1.15.1")
    with pytest.raises(
        MissingExtraError,
        match="faiss-cpu and faiss-gpu are both installed and overwrite each other's files. Remove "
        "both and install one: pip uninstall -y faiss-cpu faiss-gpu",
    ):
        VectorIndex.build(*ONE_VECTOR)


def test_without_a_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_faiss(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_faiss)
    with pytest.raises(
        MissingExtraError,
        match=r"FAISS is not installed.*pip install 'idbert\[cpu\]' \(or 'idbert\[gpu\]'",
    ):
        VectorIndex.build(*ONE_VECTOR)


def test_a_search_does_not_look_again_at_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    index = VectorIndex.build(*ONE_VECTOR)
    monkeypatch.setattr(extras, "version", lambda name: pytest.fail("read while searching"))
    assert index.search(ONE_VECTOR[0], 1)[1].tolist() == [[0]]
