"""Checks every annotated shape while the tests run, and keeps short trainings short."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from jaxtyping import install_import_hook

install_import_hook("idbert", "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def imported_modules_are_not_searched_for_garbage():
    """Trainer collects garbage at every start, which takes longer than these trainings."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
