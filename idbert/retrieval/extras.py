"""Is the optional package there, and only once?"""

from importlib.metadata import PackageNotFoundError, version

from idbert.errors import MissingExtraError

FAISS_DISTRIBUTIONS = {"faiss-cpu": "cpu", "faiss-gpu": "gpu"}
"""The distributions that install the module `faiss`, and the extra that asks for each."""


def check_faiss_distributions() -> None:
    """Check that not both FAISS distributions are installed: each overwrites the other's files.

    Raises:
        MissingExtraError: both are.
    """
    installed = [name for name in FAISS_DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        raise MissingExtraError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files. "
            f"Remove both and install one: pip uninstall -y {' '.join(installed)}, then "
            "pip install 'idbert[cpu]' (or 'idbert[gpu]' on Linux with an NVIDIA GPU)."
        )


def missing_faiss() -> MissingExtraError:
    """Return the error for a machine without FAISS."""
    return MissingExtraError(
        "FAISS is not installed, which an index needs. Run pip install 'idbert[cpu]' (or "
        "'idbert[gpu]' on Linux with an NVIDIA GPU). Recommendations work without an index too: "
        "Recommender.load(run, index=False)."
    )


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
