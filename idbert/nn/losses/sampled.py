"""Softmax over a sample of the catalogue: a step costs what it draws, not what there is."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from idbert.nn.losses.catalogue import (
    LOSSES,
    CatalogueLoss,
    accumulator,
    even_size_of,
    product_dtype,
    take,
    usual_chunk,
)
from idbert.nn.losses.negatives import NegativeOptions, NegativeSampler
from idbert.nn.losses.own_scores import right_and_wrong_scores
from idbert.nn.products import padded_rows


def sampled_softmax_loss(
    hidden_MD: Float[Tensor, "M D"],
    weight_VD: Float[Tensor, "V D"],
    bias_V: Float[Tensor, "V"],
    targets_M: Int64[Tensor, "M"],
    negatives_N: Int64[Tensor, "N"],
    log_expected_N: Float[Tensor, "N"],
    weights_M: Float[Tensor, "M"] | None = None,
    *,
    chunk_size: int | None = None,
    sparse: bool = False,
    unit: bool = False,
) -> Float[Tensor, ""]:
    """Sum the cross-entropies of the targets under a softmax whose sum is estimated from a sample.

    With s the scores, t the target and E_j how many of row j were to be expected in the sample,

        Z = exp(s_t) + sum over sampled j other than t of exp(s_j - log E_j)
        loss = sum_m weights_m * (log Z_m - s_mt)

    The mean of Z over samples is the sum over the whole catalogue. The target is in Z for certain,
    so that nothing is subtracted from its score; a negative that is the target does not count.

    Args:
        hidden_MD: Vectors at the positions with a target.
        weight_VD: Vectors of the vocabulary rows; only those that are drawn are read.
        bias_V: Bias of the vocabulary rows.
        targets_M: The right row at each position.
        negatives_N: Rows drawn with replacement, shared by all targets.
        log_expected_N: log E of each of them.
        weights_M: How much each target counts; None: all 1.
        chunk_size: Most targets scored at a time; None: see `usual_chunk`.
        sparse: Whether the gradients of weight and bias are sparse tensors.
        unit: Whether the rows that are read are brought to norm 1.

    Source: Bengio and Senécal 2008, "Adaptive Importance Sampling to Accelerate Training of a
    Neural Probabilistic Language Model"; Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling
    for Large Corpus Item Recommendations"; the target left uncorrected as in Khrylchenko et al.
    2025, "Correcting the LogQ Correction".
    """
    # In order, a target is found among them by halving, and the table is read from front to back.
    negatives_N, order_N = negatives_N.sort()
    log_expected_N = log_expected_N[order_N]
    loss: Tensor = _SampledSoftmax.apply(  # type: ignore[no-untyped-call]
        hidden_MD,
        take(weight_VD, negatives_N, sparse=sparse, unit=unit),
        take(bias_V, negatives_N, sparse=sparse) - log_expected_N,
        take(weight_VD, targets_M, sparse=sparse, unit=unit),
        take(bias_V, targets_M, sparse=sparse),
        targets_M,
        negatives_N,
        weights_M,
        usual_chunk(len(negatives_N), hidden_MD.device.type) if chunk_size is None else chunk_size,
        torch.is_grad_enabled(),
    )
    return loss


class _SampledSoftmax(torch.autograd.Function):
    """See `sampled_softmax_loss`; the gradients are computed while the scores are at hand.

    negatives_N are in ascending order.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        negative_ND: Tensor,
        bias_N: Tensor,
        right_MD: Tensor,
        right_bias_M: Tensor,
        targets_M: Tensor,
        negatives_N: Tensor,
        weights_M: Tensor | None,
        chunk_size: int,
        with_gradients: bool,
    ) -> Tensor:
        device = hidden_MD.device.type
        wide, product = accumulator(hidden_MD.dtype), product_dtype(hidden_MD)
        with torch.autocast(device, enabled=False):
            narrow_ND, wide_bias_N = negative_ND.to(product), bias_N.to(wide)
            loss = hidden_MD.new_zeros((), dtype=wide)
            if with_gradients:
                hidden_grad_MD, right_grad_MD = map(torch.empty_like, (hidden_MD, right_MD))
                right_bias_grad_M = torch.empty_like(right_bias_M)
                negative_grad_ND = torch.zeros_like(negative_ND, dtype=wide)
                bias_grad_N = torch.zeros_like(bias_N, dtype=wide)
            first_M, behind_M = (
                torch.searchsorted(negatives_N, targets_M, right=right) for right in (False, True)
            )
            even_size = even_size_of(len(targets_M), chunk_size)
            for start in range(0, len(targets_M), even_size):
                chunk = slice(start, start + even_size)
                chunk_MD, right = hidden_MD[chunk], right_MD[chunk]
                count = len(chunk_MD)
                narrow_PD = padded_rows(chunk_MD, even_size).to(product)
                scores_PN = (narrow_PD @ narrow_ND.T).to(wide).add_(wide_bias_N)
                _hide_targets(scores_PN, first_M[chunk], behind_M[chunk])
                right_M1 = (chunk_MD * right).sum(1, keepdim=True).to(wide)
                right_M1 = right_M1 + right_bias_M[chunk, None].to(wide)
                # softmax in place: the scores become their exponentials, then the gradient
                largest_P1 = scores_PN.amax(1, keepdim=True)
                largest_M1 = torch.maximum(largest_P1[:count], right_M1)
                largest_P1[:count] = largest_M1
                total_M1 = scores_PN.sub_(largest_P1).exp_().sum(1, keepdim=True)[:count]
                total_M1 += (right_M1 - largest_M1).exp_()
                loss_M1 = total_M1.log() + largest_M1 - right_M1
                weight_M1 = None if weights_M is None else weights_M[chunk, None].to(wide)
                loss += (loss_M1 if weight_M1 is None else loss_M1 * weight_M1).sum()
                if with_gradients:
                    # d loss / d scores = weight * (share of Z - one at the target)
                    scale_P1 = torch.zeros_like(largest_P1)
                    torch.reciprocal(total_M1, out=scale_P1[:count])
                    grad_M1 = torch.expm1(-loss_M1)
                    if weight_M1 is not None:
                        scale_P1[:count] *= weight_M1
                        grad_M1 = grad_M1 * weight_M1
                    grad_PN = scores_PN.mul_(scale_P1)
                    bias_grad_N += grad_PN.sum(0)
                    right_bias_grad_M[chunk] = grad_M1[:, 0]
                    right_grad_MD[chunk] = grad_M1 * chunk_MD
                    narrow_PN = grad_PN.to(product)
                    of_scores_MD = (narrow_PN @ narrow_ND)[:count]
                    hidden_grad_MD[chunk] = of_scores_MD + grad_M1 * right
                    negative_grad_ND += narrow_PN.T @ narrow_PD
        if with_gradients:
            ctx.save_for_backward(
                hidden_grad_MD,
                negative_grad_ND.to(negative_ND.dtype),
                bias_grad_N.to(bias_N.dtype),
                right_grad_MD,
                right_bias_grad_M,
            )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*(saved * grad for saved in ctx.saved_tensors), None, None, None, None, None)


def _hide_targets(scores_PN: Tensor, first_M: Tensor, behind_M: Tensor) -> None:
    """Leave each target out of its own negatives, where they hold it from `first` to `behind`."""
    counts_M = behind_M - first_M
    rows_C = torch.arange(len(counts_M), device=counts_M.device).repeat_interleave(counts_M)
    within_C = torch.arange(len(rows_C), device=counts_M.device)
    within_C -= (counts_M.cumsum(0) - counts_M)[rows_C]
    scores_PN[rows_C, first_M[rows_C] + within_C] = -torch.inf


@LOSSES.register("sampled")
class SampledSoftmax(CatalogueLoss):
    """Softmax over the target and a sample; see `sampled_softmax_loss`."""

    @dataclass(frozen=True)
    class Options(NegativeOptions):
        """How many rows are drawn, and from which distribution."""

    draws_rows = True
    normalises_rows = True
    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._sampler = NegativeSampler(options)

    def fit(self, counts_V: Int64[Tensor, "V"]) -> None:
        """Take over how often each row occurs in training."""
        self._sampler.fit(counts_V)

    def forward(
        self,
        hidden_MD: Float[Tensor, "M D"],
        weight_VD: Float[Tensor, "V D"],
        bias_V: Float[Tensor, "V"],
        targets_M: Int64[Tensor, "M"],
        weights_M: Float[Tensor, "M"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses."""
        if not self.options.shared:
            return self._against_own(hidden_MD, weight_VD, bias_V, targets_M, weights_M)
        negatives_N, log_expected_N = self._sampler.draw(
            targets_M, num_rows=len(weight_VD), first_row=self.first_row
        )
        return sampled_softmax_loss(
            hidden_MD,
            weight_VD,
            bias_V,
            targets_M,
            negatives_N,
            log_expected_N,
            weights_M,
            sparse=self.sparse,
            unit=self.unit_rows,
        )

    def _against_own(
        self,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        targets_M: Tensor,
        weights_M: Tensor | None,
    ) -> Tensor:
        """Return the same loss, the sum over rows estimated from another sample at each target."""
        rows_MN, log_expected_MN = self._sampler.draw_own(
            targets_M, num_rows=len(weight_VD), first_row=self.first_row
        )
        right_M, wrong_MN = right_and_wrong_scores(
            hidden_MD,
            weight_VD,
            bias_V,
            targets_M,
            rows_MN,
            sparse=self.sparse,
            unit=self.unit_rows,
        )
        scores_MN = torch.cat([right_M[:, None], wrong_MN - log_expected_MN], dim=1)
        loss_M = scores_MN.logsumexp(1) - right_M
        return (loss_M if weights_M is None else loss_M * weights_M).sum()
