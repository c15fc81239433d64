"""Products of float32 matrices by another library: as exact, and only where they are asked for."""

import pytest
import torch

from idbert.nn import products
from idbert.nn.products import (
    fast_products,
    has_tiles,
    onednn_is_faster,
    padded_rows,
    plain_products,
    products_are_fast,
    products_are_rounded,
)


@pytest.fixture
def on_any_processor(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)


def test_they_are_as_exact_where_they_are_used():
    left, right = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(1))
    truth = left.double() @ right.double()
    with fast_products():
        error = (left @ right - truth).abs().max() / truth.abs().max()
    assert error < 1e-5


@pytest.mark.usefixtures("on_any_processor")
def test_they_are_used_inside_the_block_alone():
    assert not products_are_fast()
    with fast_products():
        assert products_are_fast()
        with fast_products():
            assert products_are_fast()
        assert products_are_fast()
    assert not products_are_fast()


@pytest.mark.usefixtures("on_any_processor")
def test_blocks_of_two_threads_that_overlap_leave_nothing_behind():
    first, second = fast_products(), fast_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert products_are_fast(), "the second one still computes"
    second.__exit__(None, None, None)
    assert not products_are_fast()


@pytest.mark.usefixtures("on_any_processor")
def test_an_error_ends_the_block_too():
    with pytest.raises(KeyError), fast_products():
        raise KeyError
    assert not products_are_fast()


@pytest.fixture
def on_tiles(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    monkeypatch.setattr(products, "has_tiles", lambda: True)


@pytest.mark.usefixtures("on_tiles")
def test_factors_are_rounded_only_where_they_may_be():
    with fast_products():
        assert not products_are_fast()
    with fast_products(rounded_on="cpu"):
        assert products_are_fast() and products_are_rounded()
        assert padded_rows(torch.ones(17, 3)).shape == (32, 3)
        with plain_products():
            assert not products_are_rounded()
            assert torch.backends.mkldnn.matmul.fp32_precision == "none"
        assert products_are_rounded()
    assert not products_are_fast()


@pytest.mark.usefixtures("on_tiles")
def test_threads_that_leave_the_block_at_the_same_time_come_back_into_it():
    with fast_products(rounded_on="cpu"):
        first, second = plain_products(), plain_products()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not products_are_rounded(), "the second one still computes"
        second.__exit__(None, None, None)
        assert products_are_rounded()
    assert not products_are_fast()


@pytest.mark.usefixtures("on_any_processor")
def test_where_onednn_is_exact_nothing_is_rounded_by_leave_to_do_so(monkeypatch):
    monkeypatch.setattr(products, "has_tiles", lambda: False)
    with fast_products(rounded_on="cpu"):
        assert products_are_fast() and not products_are_rounded()


def test_a_gpu_rounds_to_tf32_where_it_may():
    before = torch.backends.cuda.matmul.fp32_precision
    with fast_products(rounded_on="cpu"):
        assert torch.backends.cuda.matmul.fp32_precision == before
    with fast_products(rounded_on="cuda"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.skipif(not has_tiles(), reason="this processor has no tiles of matrices")
def test_rounded_factors_are_those_of_bfloat16_and_sums_are_not_rounded():
    left, right = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(1))
    with fast_products(rounded_on="cpu"):
        rounded = left @ right
    expected = left.bfloat16().double() @ right.bfloat16().double()
    torch.testing.assert_close(rounded.double(), expected, rtol=1e-4, atol=1e-4)
    assert (rounded.bfloat16().float() != rounded).any()


@pytest.mark.parametrize("missing", ["vendor", "width", "exactness"])
def test_a_processor_of_another_kind_is_left_alone(monkeypatch, missing):
    names = {"vendor": "GenuineIntel" if missing == "vendor" else "AuthenticAMD"}
    width = "AVX2" if missing == "width" else "AVX512"
    monkeypatch.setattr(products, "_processor", lambda: names["vendor"])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    monkeypatch.setattr(products, "_is_exact", lambda: missing != "exactness")
    assert not onednn_is_faster.__wrapped__()


@pytest.mark.usefixtures("on_any_processor")
def test_rows_are_added_up_to_a_multiple_inside_the_block():
    rows = torch.ones(17, 3)
    assert padded_rows(rows) is rows
    with fast_products():
        padded = padded_rows(rows)
        assert padded_rows(torch.ones(32, 3)).shape == (32, 3)
        assert padded_rows(torch.ones(0, 3)).shape == (0, 3)
    assert padded.shape == (32, 3)
    assert torch.equal(padded[:17], rows)
    assert padded[17:].sum() == 0


def test_numbers_of_rows_are_rounded_to_few_and_not_far():
    counts = range(1, 10_000)
    rounded = [products.round_up(count, 16, 1 / 32) for count in counts]
    extra = [after - before for before, after in zip(counts, rounded, strict=True)]
    assert min(extra) == 0
    assert all(more < max(16, count / 32) for count, more in zip(counts, extra, strict=True))
    assert len(set(rounded)) < 32 + 32 * 5  # and 625 multiples of 16
    assert products.round_up(0, 16, 1 / 32) == 0
