"""What the commands share."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corridor import DataSettings, read_titles


@pytest.mark.parametrize(("id_type", "expected"), [(pa.int64(), 7), (pa.string(), "7")])
def test_titles_are_found_whatever_type_the_logs_ids_have(
    id_type: pa.DataType, expected: int | str, tmp_path: Path
) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n7,Seven\n")
    assert read_titles(DataSettings(items=str(items)), id_type) == {expected: "Seven"}
