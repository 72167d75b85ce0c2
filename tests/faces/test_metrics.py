"""Landmark metrics against a plain double loop, values worked out by hand, and bounds that always hold."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from srrl_tasks.faces import metrics
from srrl_tasks.faces.schemes import SCHEMES

from srrl.errors import UserError


def loop_nme(pred, gt, norm, mask):
    """The definition, one point at a time."""
    result = []
    for i in range(len(gt)):
        total, n = 0.0, 0
        for k in range(len(gt[i])):
            if mask[i][k]:
                dx, dy = float(pred[i][k][0]) - float(gt[i][k][0]), float(pred[i][k][1]) - float(gt[i][k][1])
                total, n = total + math.sqrt(dx * dx + dy * dy), n + 1
        result.append(total / n / norm[i])
    return result


@pytest.fixture
def faces():
    """40 faces of 68 points with noise of about 5 % of the distance between the eyes."""
    rng = np.random.default_rng(3)
    gt = rng.uniform(0, 100, (40, 68, 2))
    gt[:, 36], gt[:, 45] = (20, 30), (60, 60)  # 50 apart
    return gt, gt + rng.normal(0, 2, gt.shape)


def test_nme_equals_the_double_loop(faces):
    gt, pred = faces
    mask = np.random.default_rng(0).random((40, 68)) > 0.3
    norm = np.linspace(20, 80, 40)
    found = metrics.nme_per_image(pred, gt, norm, mask)
    np.testing.assert_allclose(found, loop_nme(pred, gt, norm, mask), rtol=1e-12)
    assert metrics.nme(found) == pytest.approx(sum(loop_nme(pred, gt, norm, mask)) / 40, rel=1e-12)


def test_points_without_truth_do_not_count(faces):
    gt, pred = faces
    holes = gt.copy()
    holes[:, ::3] = np.nan
    mask = np.isfinite(holes[:, :, 0])
    np.testing.assert_allclose(
        metrics.nme_per_image(pred, holes, np.full(40, 50.0)),
        loop_nme(pred, gt, [50.0] * 40, mask),
        rtol=1e-12,
    )


def test_float32_input_is_computed_in_float64():
    gt = np.full((1, 2, 2), 4000.25, np.float32)
    pred = gt + np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    assert metrics.point_errors(pred, gt).dtype == np.float64
    np.testing.assert_array_equal(metrics.point_errors(pred, gt), [[5, 0]])


def test_failure_rate_and_auc_by_hand():
    errors = np.array([0.0, 0.05, 0.10, 0.20, np.inf])
    assert metrics.failure_rate(errors, 0.10) == 2 / 5  # exactly tau is no failure
    assert metrics.auc(errors, 0.10) == pytest.approx((1 + 0.5 + 0 + 0 + 0) / 5, abs=1e-15)
    assert metrics.nme(errors) == pytest.approx(0.35 / 4)
    assert metrics.auc(np.full(7, 0.04), 0.08) == pytest.approx(0.5, abs=1e-15)


def test_ced_by_hand_and_its_area_is_the_auc():
    thresholds, shares = metrics.ced(np.array([0.05, 0.0, 0.5, 0.02, np.inf]), maximum=0.1, n=3)
    np.testing.assert_allclose(thresholds, [0, 0.05, 0.1])
    np.testing.assert_allclose(shares, [1 / 5, 3 / 5, 3 / 5])
    errors = np.random.default_rng(1).gamma(2, 0.03, 300)
    thresholds, shares = metrics.ced(errors, 0.08, n=20001)
    area = ((shares[1:] + shares[:-1]) / 2 * np.diff(thresholds)).sum() / 0.08
    assert area == pytest.approx(metrics.auc(errors, 0.08), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 10) | st.just(math.inf), min_size=1, max_size=30), st.floats(0.01, 1))
def test_auc_and_failure_rate_bounds(errors, tau):
    area, failed = metrics.auc(np.array(errors), tau), metrics.failure_rate(np.array(errors), tau)
    assert 0 <= area <= 1 and 0 <= failed <= 1
    assert area <= 1 - failed + 1e-12  # a failure adds nothing to the area
    assert area <= metrics.auc(np.array(errors), 2 * tau) + 1e-12
    assert metrics.failure_rate(np.array(errors), 2 * tau) <= failed


def test_evaluate_by_hand():
    """Two faces, eyes 10 apart; face 0 off by 0.5 px everywhere, face 1 by 2 px on its mouth (20 points)."""
    gt = np.random.default_rng(2).uniform(0, 90, (2, 68, 2))
    gt[:, 36], gt[:, 45] = (40, 40), (46, 48)
    pred = gt.copy()
    pred[0, :, 0] += 0.5
    pred[1, 48:, 1] -= 2
    result = metrics.evaluate(pred, gt, SCHEMES[68], subsets=[("common",), ("challenging", "glasses")])
    second = 2 * 20 / 68 / 10
    assert result["nme"] == pytest.approx(100 * (0.05 + second) / 2)
    assert result["fr@0.10"] == 0 and result["fr@0.08"] == 0
    assert result["auc@0.10"] == pytest.approx((0.5 + 1 - second / 0.1) / 2)
    assert result["auc@0.08"] == pytest.approx((1 - 0.05 / 0.08 + 1 - second / 0.08) / 2)
    assert result["normaliser"] == "inter-ocular" and result["undetected"] == 0
    assert list(result["subsets"]) == ["common", "challenging", "glasses"]
    assert result["subsets"]["common"]["nme"] == pytest.approx(5)
    assert result["subsets"]["glasses"]["nme"] == pytest.approx(100 * second)
    assert result["regions"]["jaw"] == pytest.approx(2.5)
    assert result["regions"]["mouth"] == pytest.approx((5 + 20) / 2)
    assert result["regions"]["inner"] == pytest.approx((5 + 100 * 2 * 20 / 51 / 10) / 2)
    assert result["points"][0] == pytest.approx(2.5) and result["points"][67] == pytest.approx(12.5)
    # the line of the eyes is (3, 4)/5: of 0.5 px to the right 0.3 lie along it and −0.4 at a right angle to it
    assert result["offsets"][0] == pytest.approx([1.5, -2])
    # of 2 px upwards −1.6 lie along it and −1.2 at a right angle to it; the mean of both faces
    assert result["offsets"][67] == pytest.approx([(3 - 16) / 2, (-4 - 12) / 2])
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_offsets_are_of_upright_faces_and_what_is_left_is_the_rest():
    """The same drawing at several places, sizes and turns, predicted with one constant error a point and alternating ones."""
    rng = np.random.default_rng(5)
    drawing, constant = rng.uniform(-1, 1, (68, 2)), rng.uniform(-0.1, 0.1, (68, 2))
    drawing[36], drawing[45] = (-0.5, 0.0), (0.5, 0.0)
    faces, found = [], []
    for k in range(6):
        angle, size, place = rng.uniform(-3, 3), rng.uniform(20, 80), rng.uniform(0, 300, 2)
        turn = size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        faces.append(drawing @ turn + place)
        found.append((drawing + constant + (-1) ** k * np.array([0.03, 0.04])) @ turn + place)
    result = metrics.evaluate(np.array(found), np.array(faces), SCHEMES[68])
    assert np.array(result["offsets"]) == pytest.approx(100 * constant)
    assert result["nme_without_offsets"] == pytest.approx(5)
    assert result["nme"] != pytest.approx(5, abs=0.5)


def test_offsets_leave_out_what_is_not_labelled():
    gt = np.random.default_rng(2).uniform(0, 90, (3, 68, 2))
    gt[:, 36], gt[:, 45] = (40, 40), (50, 40)
    pred = gt + np.array([[[1.0, 0.0]], [[2.0, 0.0]], [[3.0, 0.0]]])
    gt[0, 3], gt[:, 5], gt[2, 36] = np.nan, np.nan, np.nan  # the last face has no eye line
    result = metrics.evaluate(pred, gt, SCHEMES[68], "landmark-box")
    norm = SCHEMES[68].normaliser(gt, "landmark-box")
    assert result["offsets"][3] == pytest.approx([100 * 2 / norm[1], 0])
    assert result["offsets"][4] == pytest.approx([100 * (1 / norm[0] + 2 / norm[1]) / 2, 0])
    assert result["offsets"][5] == [None, None]
    nothing = metrics.evaluate(pred[2:], gt[2:], SCHEMES[68], "landmark-box")
    assert nothing["nme_without_offsets"] is None and nothing["offsets"][0] == [None, None]
    json.dumps(nothing, allow_nan=False)


def test_undetected_faces_are_failures_without_an_nme():
    gt = np.random.default_rng(2).uniform(0, 90, (4, 68, 2))
    gt[:, 36], gt[:, 45] = (40, 40), (46, 48)
    pred = gt + np.array([0.3, 0.4])  # 0.5 px, 5 %
    pred[3] = np.nan
    undetected = np.array([False, False, False, True])
    result = metrics.evaluate(
        pred, gt, SCHEMES[68], undetected=undetected, subsets={"lost": undetected, "none": np.zeros(4, bool)}
    )
    assert result["nme"] == pytest.approx(5) and result["undetected"] == 1 and result["faces"] == 4
    assert result["fr@0.10"] == 25 and result["auc@0.10"] == pytest.approx(3 * 0.5 / 4)
    assert result["points"][5] == pytest.approx(5)
    assert result["subsets"]["lost"]["nme"] is None and result["subsets"]["lost"]["fr@0.10"] == 100
    assert result["subsets"]["none"]["nme"] is None and result["subsets"]["none"]["fr@0.10"] is None
    json.dumps(result, allow_nan=False)


def test_the_box_normaliser_uses_the_rectangles():
    gt = np.random.default_rng(2).uniform(0, 90, (1, 19, 2))
    result = metrics.evaluate(gt + np.array([3, 4]), gt, SCHEMES[19], rects=np.array([[0, 0, 50, 200]]))
    assert result["normaliser"] == "box" and result["nme"] == pytest.approx(5)


def _evaluate(pred_change=None, gt_change=None, **options):
    gt = np.random.default_rng(2).uniform(0, 90, (3, 68, 2))
    pred = gt.copy()
    if pred_change:
        pred_change(pred)
    if gt_change:
        gt_change(gt)
    return metrics.evaluate(pred, gt, SCHEMES[68], **options)


def _same_eye(gt):
    gt[1, 45] = gt[1, 36]


def _no_eye(gt):
    gt[1, 45] = np.nan


def _lost(pred):
    pred[2, 5] = np.nan


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: _evaluate(gt_change=_same_eye), "normaliser of face 1 is 0"),
        (lambda: _evaluate(gt_change=_no_eye), "normaliser of face 1 is nan"),
        (lambda: _evaluate(pred_change=_lost), "face 2 is not finite"),
        (lambda: _evaluate(mask=np.ones((3, 67), bool)), "expected (3, 68)"),
        (lambda: _evaluate(mask=np.zeros((3, 68), bool)), "no point to count"),
        (lambda: _evaluate(undetected=np.zeros(2, bool)), "undetected has shape (2,)"),
        (lambda: _evaluate(subsets={"pose": np.array([0, 1, 1])}), "'pose'"),
        (lambda: metrics.evaluate(np.zeros((0, 68, 2)), np.zeros((0, 68, 2)), SCHEMES[68]), "no face"),
        (lambda: metrics.point_errors(np.zeros((1, 68, 2)), np.zeros((1, 19, 2))), "do not match"),
        (lambda: metrics.auc(np.zeros(3), 0), "above 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)
