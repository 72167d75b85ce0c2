"""Losses against plain loops in float64, values worked out by hand, and identities that must hold."""

import itertools
import math

import pytest
import torch
from toys import softmax

from srrl import losses

REL = 1e-6


def maps(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loop_pooled(student, teacher):
    """Eq. 3: squared difference of the spatial means, averaged over batch and channels."""
    total, count = 0.0, 0
    for s_image, t_image in zip(student.tolist(), teacher.tolist(), strict=True):
        for s, t in zip(s_image, t_image, strict=True):
            mean_s = math.fsum(v for row in s for v in row) / (len(s) * len(s[0]))
            mean_t = math.fsum(v for row in t for v in row) / (len(t) * len(t[0]))
            total, count = total + (mean_s - mean_t) ** 2, count + 1
    return total / count


def loop_per_pixel(student, teacher, weight=None):
    """Mean over channels at each pixel, then the weighted mean over all pixels of the batch."""
    n, c, h, w = student.shape
    s, t = student.tolist(), teacher.tolist()
    total = weights = 0.0
    for i in range(n):
        for y in range(h):
            for x in range(w):
                each = math.fsum((s[i][k][y][x] - t[i][k][y][x]) ** 2 for k in range(c)) / c
                factor = 1.0 if weight is None else float(weight[i, 0, y, x])
                total, weights = total + factor * each, weights + factor
    return total / weights


def loop_rows(student, teacher, each):
    rows = list(zip(student.tolist(), teacher.tolist(), strict=True))
    return math.fsum(each(s, t) for s, t in rows) / len(rows)


def row_ce(s, t):
    return -math.fsum(p * math.log(q) for p, q in zip(softmax(t), softmax(s), strict=True))


def row_kl(s, t):
    return math.fsum(p * math.log(p / q) for p, q in zip(softmax(t), softmax(s), strict=True))


def test_pooled_matching_equals_the_loop_for_maps_of_different_size():
    student, teacher = maps(3, 5, 2, 4), maps(3, 5, 7, 3, seed=1)
    found = losses.feature_matching_pooled(student, teacher)
    assert float(found) == pytest.approx(loop_pooled(student, teacher), rel=REL)


def test_pooled_matching_by_hand_is_a_mean_over_channels_too():
    # spatial means: student (2, 0), teacher (1, 3) -> ((2-1)² + (0-3)²) / 2 = 5, not 10 and not a mean over C·H·W first
    student = torch.tensor([[[[1.0, 3.0]], [[-4.0, 4.0]]]])
    teacher = torch.tensor([[[[1.0]], [[3.0]]]])
    assert float(losses.feature_matching_pooled(student, teacher)) == 5.0


def test_per_pixel_matching_equals_the_loop_without_and_with_weight():
    student, teacher = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1)
    weight = maps(2, 1, 4, 5, seed=2).abs()
    plain = losses.feature_matching_map(student, teacher)
    weighted = losses.feature_matching_map(student, teacher, weight)
    assert float(plain) == pytest.approx(loop_per_pixel(student, teacher), rel=REL)
    assert float(weighted) == pytest.approx(loop_per_pixel(student, teacher, weight), rel=REL)
    # the scale of the weight does not matter
    assert float(losses.feature_matching_map(student, teacher, 7 * weight)) == pytest.approx(
        float(weighted), rel=REL
    )


def test_per_pixel_matching_sees_a_shift_that_the_pooled_form_cannot():
    student, teacher = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    student[0, 0, 0, 0] = teacher[0, 0, 1, 1] = 2.0
    assert float(losses.feature_matching_pooled(student, teacher)) == 0.0
    assert float(losses.feature_matching_map(student, teacher)) == 2.0  # (4 + 4) / 4 pixels


def test_softmax_regression_forms_equal_their_loops():
    student, teacher = 3 * maps(4, 6), 3 * maps(4, 6, seed=1)
    l2 = loop_rows(
        student, teacher, lambda s, t: math.fsum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)
    )
    assert float(losses.softmax_regression_l2(student, teacher)) == pytest.approx(l2, rel=REL)
    ce, kl = loop_rows(student, teacher, row_ce), loop_rows(student, teacher, row_kl)
    assert float(losses.softmax_regression_ce(student, teacher)) == pytest.approx(ce, rel=REL)
    assert float(losses.softmax_regression_kl(student, teacher)) == pytest.approx(kl, rel=REL)


def test_l2_is_on_logits_so_that_a_constant_shift_counts():
    logits = maps(2, 5)
    assert float(losses.softmax_regression_l2(logits + 3, logits)) == pytest.approx(9.0, rel=1e-5)
    assert float(losses.softmax_regression_kl(logits + 3, logits)) == pytest.approx(0.0, abs=1e-6)


def test_ce_less_kl_is_the_teachers_entropy():
    student, teacher = maps(5, 7), 2 * maps(5, 7, seed=1)
    entropy = loop_rows(student, teacher, lambda _, t: -math.fsum(p * math.log(p) for p in softmax(t)))
    difference = losses.softmax_regression_ce(student, teacher) - losses.softmax_regression_kl(
        student, teacher
    )
    assert float(difference) == pytest.approx(entropy, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_has_its_temperature_squared(temperature):
    student, teacher = 4 * maps(4, 6), 4 * maps(4, 6, seed=1)
    expected = temperature**2 * loop_rows(
        student,
        teacher,
        lambda s, t: row_kl([v / temperature for v in s], [v / temperature for v in t]),
    )
    assert float(losses.kd_logits(student, teacher, temperature)) == pytest.approx(expected, rel=REL)


def test_foreground_weight_by_hand():
    reference = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5])
    assert losses.foreground_weight(reference, 10.0).tolist() == [1.0, 1.0, 3.5, 11.0, 11.0]


def test_heatmap_l2_by_hand_with_weight_and_mask():
    target = torch.zeros(1, 3, 1, 2)
    prediction = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]], [[9.0, 9.0]]]])
    weight = torch.tensor([[[[1.0, 2.0]], [[1.0, 1.0]], [[1.0, 1.0]]]])
    mask = torch.tensor([[True, True, False]])
    # sums over pixels: 5, 9, 162; weighted 1 + 8 = 9, 9, 162; averaged over the labelled heatmaps alone
    assert float(losses.heatmap_l2(prediction, target)) == pytest.approx((5 + 9 + 162) / 3)
    assert float(losses.heatmap_l2(prediction, target, mask=mask)) == 7.0
    assert float(losses.heatmap_l2(prediction, target, weight, mask)) == 9.0
    assert float(losses.heatmap_l2(prediction, target, mask=torch.zeros(1, 3, dtype=torch.bool))) == 0.0


def test_an_unlabelled_heatmap_gets_no_gradient():
    prediction = maps(2, 2, 3, 3).requires_grad_()
    mask = torch.tensor([[True, False], [False, True]])
    losses.heatmap_l2(prediction, torch.zeros(2, 2, 3, 3), mask=mask).backward()
    reached = prediction.grad.abs().sum((2, 3)) > 0
    assert torch.equal(reached, mask)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weighted", [False, True])
def test_heatmap_l2_value_and_gradient_against_a_float64_loop(layout, weighted):
    prediction, target, weight = (maps(3, 4, 5, 6, seed=i) for i in range(3))
    mask = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    weight = 1 + weight.abs() if weighted else None
    ours = prediction.clone().contiguous(memory_format=layout).requires_grad_()
    loss = losses.heatmap_l2(ours, target.contiguous(memory_format=layout), weight, mask)
    (3 * loss).backward()
    total, gradient = 0.0, torch.zeros(3, 4, 5, 6, dtype=torch.float64)
    for place in itertools.product(range(3), range(4), range(5), range(6)):
        if mask[place[:2]]:
            w = float(weight[place]) if weighted else 1.0
            difference = float(prediction[place]) - float(target[place])
            total += w * difference**2 / 7  # 7 heatmaps are labelled
            gradient[place] = 3 * 2 * w * difference / 7
    assert float(loss.detach()) == pytest.approx(total, rel=REL)
    assert torch.allclose(ours.grad.double(), gradient, rtol=1e-6, atol=1e-7)


def test_resized_weight_is_the_largest_over_points_and_the_mean_over_area():
    weight = torch.tensor([[[[1.0, 5.0], [1.0, 1.0]], [[3.0, 1.0], [1.0, 1.0]]]])
    # largest over the two points: 3 5 / 1 1
    assert losses.resize_weight(weight, (1, 1)).tolist() == [[[[2.5]]]]
    assert losses.resize_weight(weight, (2, 2)).tolist() == [[[[3.0, 5.0], [1.0, 1.0]]]]


LOGITS = [
    losses.softmax_regression_l2,
    losses.softmax_regression_ce,
    losses.softmax_regression_kl,
    losses.kd_logits,
]
MAPS = [losses.feature_matching_pooled, losses.feature_matching_map, losses.heatmap_l2]


@pytest.mark.parametrize(("loss", "shape"), [(f, (3, 4)) for f in LOGITS] + [(f, (3, 4, 2, 2)) for f in MAPS])
def test_inputs_are_not_written_to_and_equal_inputs_give_zero_gradient(loss, shape):
    student, teacher = maps(*shape).requires_grad_(), maps(*shape, seed=1)
    before = student.detach().clone(), teacher.clone()
    value = loss(student, teacher)
    assert value.shape == ()
    value.backward()
    assert torch.equal(student.detach(), before[0])
    assert torch.equal(teacher, before[1])
    assert student.grad.abs().sum() > 0
    student.grad = None
    loss(student, student.detach().clone()).backward()
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("loss", LOGITS + MAPS)
def test_shapes_that_would_broadcast_are_refused(loss):
    wide, narrow = ((3, 4), (3, 1)) if loss in LOGITS else ((3, 4, 2, 2), (3, 1, 2, 2))
    with pytest.raises(ValueError, match="differ"):
        loss(maps(*wide), maps(*narrow))


def test_half_precision_inputs_are_computed_in_float32():
    student, teacher = 200 * maps(2, 3), 200 * maps(2, 3, seed=1)
    half = losses.softmax_regression_l2(student.half(), teacher.half())
    assert half.dtype == torch.float32  # (400)² would overflow float16
    assert math.isfinite(float(half))


def test_finite_tells_nan_and_infinity():
    assert losses.finite(torch.tensor(1.0))
    assert not losses.finite(torch.tensor(float("nan")))
    assert not losses.finite(torch.tensor(float("inf")))
