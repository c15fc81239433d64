"""Every letter of every shape annotation is in the dimension key."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import idbert
from idbert.shapes import LETTERS

PACKAGE = Path(idbert.__file__).parent
DTYPES = re.compile(r"(Bool|Shaped|Integer|U?Int\d*|Float\d*)$")
DIMENSION = re.compile(r"#?([A-Z])(\+\d+)?|\d+|_|\.\.\.")


def annotated_shapes(source: str) -> Iterator[str]:
    """Yield the shape of each jaxtyping annotation: `Float[Tensor, "B L"]` is "B L"."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and DTYPES.match(node.value.id)
            and isinstance(node.slice, ast.Tuple)
        ):
            yield ast.literal_eval(node.slice.elts[1])


def unknown_dimensions(shape: str) -> list[str]:
    matches = [(name, DIMENSION.fullmatch(name)) for name in shape.split()]
    return [name for name, match in matches if not match or (match[1] and match[1] not in LETTERS)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_every_dimension_is_in_the_key(path: Path) -> None:
    for shape in annotated_shapes(path.read_text(encoding="utf-8")):
        assert not unknown_dimensions(shape), f"{shape} in {path}"


def test_letters_outside_the_key_are_found() -> None:
    source = "def f(x: Float[Tensor, '#B L+1 ... 2 _'], y: Int64[np.ndarray, 'X B-1 *N u']): ..."
    good, bad = annotated_shapes(source)
    assert unknown_dimensions(good) == []
    assert unknown_dimensions(bad) == ["X", "B-1", "*N", "u"]


def test_the_annotations_are_found_at_all() -> None:
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    assert sum(len(list(annotated_shapes(source))) for source in sources) > 200
