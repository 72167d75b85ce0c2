"""Pure loss functions: feature matching, softmax regression, knowledge distillation, for logits and for heatmaps.

Every function takes tensors and returns a scalar; nothing here holds state or detaches its teacher argument
silently changed: callers pass teacher tensors that carry no gradient.

Heatmap comparisons share one definition, :func:`heatmap_l2`, with one foreground weight, :func:`foreground_weight`,
so that no method is favoured by how its background is counted.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def _same_shape(a: Tensor, b: Tensor, what: str) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)} differ")


def mean_over(per_sample: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of (N,) values, each under its weight (N,) where there are weights: Σ w·v / N."""
    return per_sample.mean() if weight is None else (per_sample * weight).mean()


def over_processes(amount: Tensor) -> Tensor:
    """What a loss is divided by, averaged over the processes that train together; by itself where there is one.

    The mean of the processes' losses, and with it of their gradients, is then the loss of all their samples: each
    process's own amount would weigh a sample by what the others of its process happen to be.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return amount  # alone, or measuring, which processes need not do together
    amount = amount.detach().clone()
    dist.all_reduce(amount)
    return amount / dist.get_world_size()


def feature_matching_pooled(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """L_FM for pooled features (Eq. 3): squared difference of the spatial means, averaged over batch and channels.

    Args: connected student map (N, C, H, W) and teacher map (N, C, H', W'); the two maps may differ in size.
    ``weight`` (N,) is one of each sample, or None for 1, here and in the losses below.
    """
    student, teacher = student.float().mean((2, 3)), teacher.float().mean((2, 3))
    _same_shape(student, teacher, "feature matching")
    return mean_over((student - teacher).square().mean(1), weight)


def feature_matching_map(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """L_FM for spatial heads: weighted squared difference of every pixel, averaged over batch, channels and pixels.

    A spatial mean would throw the location away, which is what a heatmap head needs.

    Args: maps (N, C, H, W); ``weight`` (N, 1, H, W), non-negative, or None for 1 everywhere. The weighted mean is
    normalised by the sum of the weights, so its scale does not depend on them.
    """
    student, teacher = student.float(), teacher.float()
    _same_shape(student, teacher, "feature matching")
    squared = (student - teacher).square().mean(1, keepdim=True)
    if weight is None:
        return squared.mean()
    return (weight * squared).sum() / over_processes(weight.sum())


def softmax_regression_l2(
    student_logits: Tensor, teacher_logits: Tensor, weight: Tensor | None = None
) -> Tensor:
    """L_SR in its L2 form (Eq. 7, the paper's choice): mean of (logit difference)² over N × classes.

    ``student_logits`` come from the teacher's frozen head on the connected student features; both (N, C).
    """
    _same_shape(student_logits, teacher_logits, "softmax regression")
    return mean_over((student_logits.float() - teacher_logits.float()).square().mean(1), weight)


def softmax_regression_ce(
    student_logits: Tensor, teacher_logits: Tensor, weight: Tensor | None = None
) -> Tensor:
    """L_SR as cross-entropy against the teacher's softmax (Eq. 4), mean over the batch; both (N, C)."""
    _same_shape(student_logits, teacher_logits, "softmax regression")
    target = teacher_logits.float().softmax(1)
    return mean_over(F.cross_entropy(student_logits.float(), target, reduction="none"), weight)


def softmax_regression_kl(
    student_logits: Tensor, teacher_logits: Tensor, weight: Tensor | None = None
) -> Tensor:
    """L_SR as KL(teacher ‖ student), mean over the batch: the CE form less the teacher's entropy; both (N, C)."""
    _same_shape(student_logits, teacher_logits, "softmax regression")
    each = F.kl_div(
        student_logits.float().log_softmax(1),
        teacher_logits.float().log_softmax(1),
        reduction="none",
        log_target=True,
    )
    return mean_over(each.sum(1), weight)


def kd_logits(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, weight: Tensor | None = None
) -> Tensor:
    """Hinton's KD (arXiv 1503.02531): T² · KL(teacher/T ‖ student/T), mean over the batch; both (N, C)."""
    kl = softmax_regression_kl(student_logits / temperature, teacher_logits / temperature, weight)
    return temperature**2 * kl


def foreground_weight(reference: Tensor, factor: float) -> Tensor:
    """Weight of each heatmap pixel: 1 + factor · clamp(reference, 0, 1).

    ``reference`` (N, K, h, w) is the ground truth for supervised losses and the teacher's heatmaps for distillation.
    Landmarks cover about 1 % of a heatmap, so that without it a plain mean is decided by the background.
    """
    return reference.clamp(0.0, 1.0).mul_(factor).add_(1.0)


class _WeightedSquares(torch.autograd.Function):
    """Σ weight · difference² / count, and its gradient 2 · weight · difference / count, in as few passes as there are.

    On a CPU these maps are read from memory at every operation: left to autograd, the loss of 68 heatmaps costs a tenth
    of a small student's training step.
    """

    @staticmethod
    def forward(ctx: Any, difference: Tensor, weight: Tensor | None, count: Tensor | float) -> Tensor:
        weighted = difference if weight is None else difference * weight
        ctx.save_for_backward(weighted)
        ctx.count = count
        flat = (0, 2, 3, 1) if difference.is_contiguous(memory_format=torch.channels_last) else (0, 1, 2, 3)
        total = torch.dot(
            weighted.permute(flat).reshape(-1), difference.permute(flat).reshape(-1)
        )  # a view of the memory as it lies
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weighted,) = ctx.saved_tensors
        return weighted * (gradient * 2.0 / ctx.count), None, None


def heatmap_l2(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Weighted squared error summed over the pixels of each heatmap, averaged over the labelled heatmaps.

    Args: prediction and target (N, K, h, w); ``weight`` of the same shape; ``mask`` (N, K) bool, False where a point
    has no label (its target must still be finite). Returns 0 where nothing is labelled. Gradients reach the prediction alone, and only once.
    """
    _same_shape(prediction, target, "heatmaps")
    difference = prediction.float() - target.detach().float()
    weight = None if weight is None else weight.float()
    count: Tensor | float = float(prediction.shape[0] * prediction.shape[1])
    if mask is not None:
        # a product, which vectorises where a fill by mask does not; hence no NaN, not even where nothing is labelled
        difference = difference * mask.to(difference.dtype)[:, :, None, None]
        count = over_processes(mask.sum().float())
        count = torch.where(count > 0, count, 1.0)
    return _WeightedSquares.apply(difference, weight, count)


def resize_weight(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Heatmap weights (N, K, h, w) → one weight a feature pixel (N, 1, H, W): the largest over points, averaged over area."""
    return F.adaptive_avg_pool2d(weight.amax(1, keepdim=True), size)


def pearson_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 − Pearson's correlation of each row of a and b (N, C), averaged over the rows (DIST, arXiv 2205.10536, Eq. 6)."""
    a, b = (m - m.mean(1, keepdim=True) for m in (a, b))
    return 1 - ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()


def softmax_regression_pearson(
    student_logits: Tensor, teacher_logits: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Relational L_SR, after DIST: 1 − correlation of the logits of each sample, plus the same of each class over the batch.

    ValueError where samples are weighted: a correlation over the batch has no weight of one sample.
    """
    if weight is not None:
        raise ValueError("the relational form takes no weights of samples")
    _same_shape(student_logits, teacher_logits, "softmax regression")
    a, b = student_logits.float(), teacher_logits.float()
    return pearson_distance(a, b) + pearson_distance(a.T, b.T)


SR_LOGITS = {
    "l2": softmax_regression_l2,
    "ce": softmax_regression_ce,
    "kl": softmax_regression_kl,
    "pearson": softmax_regression_pearson,
}


def finite(loss: Tensor) -> bool:
    """True where the scalar is neither infinite nor NaN."""
    return bool(torch.isfinite(loss).all())
