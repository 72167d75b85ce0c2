"""Pure loss functions: feature matching, softmax regression, knowledge distillation, for logits and for heatmaps.

Every function takes tensors and returns a scalar; nothing here holds state or detaches its teacher argument
silently changed: callers pass teacher tensors that carry no gradient.

Heatmap comparisons share one definition, :func:`heatmap_l2`, with one foreground weight, :func:`foreground_weight`,
so that no method is favoured by how its background is counted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SR_FORMS = ("l2", "ce", "kl", "labels")


def _same_shape(a: Tensor, b: Tensor, what: str) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)} differ")


def feature_matching_pooled(student: Tensor, teacher: Tensor) -> Tensor:
    """L_FM for pooled features (Eq. 3): squared difference of the spatial means, averaged over batch and channels.

    Args: connected student map (N, C, H, W) and teacher map (N, C, H', W'); the two maps may differ in size.
    """
    student, teacher = student.float().mean((2, 3)), teacher.float().mean((2, 3))
    _same_shape(student, teacher, "feature matching")
    return (student - teacher).square().mean()


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
    return (weight * squared).sum() / weight.sum()


def softmax_regression_l2(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """L_SR in its L2 form (Eq. 7, the paper's choice): mean of (logit difference)² over N × classes.

    ``student_logits`` come from the teacher's frozen head on the connected student features; both (N, C).
    """
    _same_shape(student_logits, teacher_logits, "softmax regression")
    return (student_logits.float() - teacher_logits.float()).square().mean()


def softmax_regression_ce(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """L_SR as cross-entropy against the teacher's softmax (Eq. 4), mean over the batch; both (N, C)."""
    _same_shape(student_logits, teacher_logits, "softmax regression")
    return F.cross_entropy(student_logits.float(), teacher_logits.float().softmax(1))


def softmax_regression_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """L_SR as KL(teacher ‖ student), mean over the batch: the CE form less the teacher's entropy; both (N, C)."""
    _same_shape(student_logits, teacher_logits, "softmax regression")
    return F.kl_div(
        student_logits.float().log_softmax(1),
        teacher_logits.float().log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )


def kd_logits(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Hinton's KD (arXiv 1503.02531): T² · KL(teacher/T ‖ student/T), mean over the batch; both (N, C)."""
    return temperature**2 * softmax_regression_kl(student_logits / temperature, teacher_logits / temperature)


def foreground_weight(reference: Tensor, factor: float) -> Tensor:
    """Weight of each heatmap pixel: 1 + factor · clamp(reference, 0, 1).

    ``reference`` (N, K, h, w) is the ground truth for supervised losses and the teacher's heatmaps for distillation.
    Landmarks cover about 1 % of a heatmap, so that without it a plain mean is decided by the background.
    """
    return 1.0 + factor * reference.clamp(0.0, 1.0)


def heatmap_l2(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Weighted squared error summed over the pixels of each heatmap, averaged over the labelled heatmaps.

    Args: prediction and target (N, K, h, w); ``weight`` of the same shape; ``mask`` (N, K) bool, False where a point
    has no label. Returns 0 where nothing is labelled.
    """
    _same_shape(prediction, target, "heatmaps")
    squared = (prediction.float() - target.float()).square()
    if weight is not None:
        squared = squared * weight
    each = squared.sum((2, 3))
    if mask is None:
        return each.mean()
    mask = mask.to(each.dtype)
    return (each * mask).sum() / mask.sum().clamp(min=1)


def resize_weight(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Heatmap weights (N, K, h, w) → one weight a feature pixel (N, 1, H, W): the largest over points, averaged over area."""
    return F.adaptive_avg_pool2d(weight.amax(1, keepdim=True), size)


SR_LOGITS = {"l2": softmax_regression_l2, "ce": softmax_regression_ce, "kl": softmax_regression_kl}


def finite(loss: Tensor) -> bool:
    """True where the scalar is neither infinite nor NaN."""
    return bool(torch.isfinite(loss).all())
