import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from idbert.nn.relative import RelativePositions, relative_scores, relative_values

WIDTH = 6


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    ]


def relative_tensor(distances, dtype=torch.float64):
    """The [L, L, W] tensor that is never built."""
    return distances.table_PW[distances.bucket_LL].to(dtype)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("max_distance", [1, 3, 40, 900])
@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 97, 600])  # blocks: 32 queries, or 38
def test_blocks_of_any_size_equal_the_definition(length, max_distance, is_causal):
    distances = RelativePositions(max_distance, WIDTH)(length, is_causal=is_causal)
    relative_LLW = relative_tensor(distances)
    query, shares = tensors((1, 2, length, WIDTH), (1, 2, length, length))
    scores = relative_scores(query, distances)
    expected = torch.einsum("bhiw,ijw->bhij", query, relative_LLW)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(
        relative_values(shares, distances), torch.einsum("bhij,ijw->bhiw", shares, relative_LLW)
    )
    # The gradient of each is the other.
    (gradient,) = torch.autograd.grad(scores, query, shares)
    torch.testing.assert_close(gradient, relative_values(shares, distances))
    (gradient,) = torch.autograd.grad(relative_values(shares, distances), shares, query)
    torch.testing.assert_close(gradient, expected)


def test_scores_may_be_added_in_place_to_others():
    distances = RelativePositions(4, WIDTH)(40, is_causal=False)
    query, key = tensors((2, 3, 40, WIDTH), (2, 3, 40, WIDTH))
    products = query @ key.mT
    expected = products + relative_scores(query, distances)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (query, key), upstream)

    products = query @ key.mT
    added = relative_scores(query, distances, onto=products)
    assert added.data_ptr() == products.data_ptr()
    torch.testing.assert_close(added, expected)
    torch.testing.assert_close(torch.autograd.grad(added, (query, key), upstream), gradients)


def test_strides_of_the_inputs_do_not_matter():
    distances = RelativePositions(4, WIDTH)(40, is_causal=False)
    query, shares = tensors((2, 40, 3, WIDTH), (2, 40, 40, 3))
    query, shares = query.transpose(1, 2), shares.permute(0, 3, 2, 1)
    torch.testing.assert_close(
        relative_scores(query, distances), relative_scores(query.contiguous(), distances)
    )
    torch.testing.assert_close(
        relative_values(shares, distances), relative_values(shares.contiguous(), distances)
    )


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor held."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        made = [one.numel() for one in tree_leaves(results) if isinstance(one, torch.Tensor)]
        self.numel = max(self.numel, *made, 0)
        return results


def test_nothing_larger_than_the_scores_is_built_and_nothing_is_kept():
    length = 300
    query, shares = tensors((1, 1, length, WIDTH), (1, 1, length, length))
    kept = []
    with LargestTensor() as largest, saved_tensors_hooks(kept.append, lambda packed: packed):
        distances = RelativePositions(8, WIDTH)(length, is_causal=False)
        scores = relative_scores(query, distances)
        values = relative_values(shares, distances)
        torch.autograd.grad([scores, values], [query, shares], [scores.detach(), values.detach()])
    assert largest.numel == length * length
    assert kept == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_result_is_that_of_float32_but_for_rounding(dtype):
    distances = RelativePositions(4, WIDTH)(40, is_causal=False)
    query, shares = tensors((1, 2, 40, WIDTH), (1, 2, 40, 40), dtype=torch.float32)
    scores, values = relative_scores(query, distances), relative_values(shares, distances)
    with torch.autocast("cpu", torch.bfloat16):
        low_scores = relative_scores(query.to(dtype), distances)
        low_values = relative_values(shares.to(dtype), distances)
    torch.testing.assert_close(low_scores.float(), scores, atol=0.1, rtol=0.05)
    torch.testing.assert_close(low_values.float(), values, atol=0.2, rtol=0.05)
    torch.autograd.grad([low_scores.sum(), low_values.sum()], [query, shares])


def test_distances_beyond_the_farthest_share_a_bucket():
    both_ways = RelativePositions(2, WIDTH)(4, is_causal=False)
    assert both_ways.bucket_LL.tolist() == [[2, 3, 4, 4], [1, 2, 3, 4], [0, 1, 2, 3], [0, 0, 1, 2]]
    causal = RelativePositions(2, WIDTH)(4, is_causal=True)
    assert causal.bucket_LL.tolist() == [[2, 2, 2, 2], [1, 2, 2, 2], [0, 1, 2, 2], [0, 0, 1, 2]]
