"""The arrows between the layers, read from the imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("idbert", "nlp_tasks", "pipelines")
TOP = "top"
ALLOWED = {
    "pipelines": {"pipelines", "nlp_tasks", "idbert"},
    "nlp_tasks": {"nlp_tasks", "idbert"},
    "idbert": {"idbert"},
    f"idbert.{TOP}": {TOP},
    "idbert.inputs": {TOP, "inputs"},
    "idbert.nn": {TOP, "nn"},
    "idbert.evaluation": {TOP, "evaluation"},
    "idbert.training": {TOP, "inputs", "nn", "evaluation", "training"},
    "idbert.retrieval": {TOP, "inputs", "nn", "evaluation", "retrieval"},
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(module: str) -> str:
    """Return the folder of idbert that a module belongs to, or "top" for a file beside them."""
    parts = module.split(".")
    inside = len(parts) > 1 and (ROOT / "idbert" / parts[1]).is_dir()
    return parts[1] if inside else TOP


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_points_against_the_arrows(path: Path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    ours = {name for name in imported_modules(path) if name.split(".")[0] in PACKAGES}
    assert {name.split(".")[0] for name in ours} <= ALLOWED[parts[0]]
    if parts[0] == "idbert" and parts[1:] != ("__init__",):
        allowed = ALLOWED[f"idbert.{layer('.'.join(parts))}"]
        assert {layer(name) for name in ours} <= allowed, f"{path} imports {sorted(ours)}"


def test_faiss_is_imported_in_one_file():
    importers = [
        path
        for path in FILES
        if any(name.split(".")[0] == "faiss" for name in imported_modules(path))
    ]
    assert [path.relative_to(ROOT).as_posix() for path in importers] == [
        "idbert/retrieval/index.py"
    ]


def test_a_reversed_arrow_is_found():
    assert layer("idbert.nn.encoder") == "nn" and layer("idbert.errors") == TOP
    assert "nn" not in ALLOWED["idbert.inputs"]


def imported_on_loading(path: Path) -> set[str]:
    """Return what a file imports where it is loaded, not inside its functions."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}


def test_import_idbert_brings_no_library_of_plots():
    waiting, seen = ["idbert"], {}
    while waiting:
        module = waiting.pop()
        file = ROOT.joinpath(*module.split("."))
        path = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        if module in seen or not path.exists():
            continue
        seen[module] = imported_on_loading(path)
        waiting += [name for name in seen[module] if name.split(".")[0] == "idbert"]
    assert "idbert.retrieval.index" in seen and len(seen) > 50
    for module, names in seen.items():
        assert not {name for name in names if name.split(".")[0] == "matplotlib"}, module
