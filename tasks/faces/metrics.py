"""Landmark metrics as pure numpy functions: NME, failure rate, AUC, CED, per point, region and subset.

Definitions (Sagonas et al., IMAVIS 2016; Wu et al., CVPR 2018). For a face with labelled points i = 1..n,
error e_i = ||prediction_i - truth_i|| in pixels and normaliser d in pixels: NME = mean_i(e_i) / d. Over
faces: FR@t = mean(NME > t), AUC@t = mean(max(0, 1 - NME / t)), both exact, without bins. Functions return
fractions; `evaluate` alone turns NME and FR into percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from srrl.errors import UserError

from .schemes import Scheme

THRESHOLDS = (0.08, 0.10)


def point_errors(pred: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """Euclidean distances in pixels, (N, K) float64, of pred and gt (N, K, 2); NaN where either is NaN."""
    pred, gt = np.asarray(pred, dtype=np.float64), np.asarray(gt, dtype=np.float64)
    if pred.shape != gt.shape or gt.ndim != 3 or gt.shape[2] != 2:
        raise UserError(
            f"predictions {pred.shape} and truth {gt.shape} do not match; expected both (faces, points, 2)"
        )
    return np.linalg.norm(pred - gt, axis=2)


def nme_per_image(
    pred: np.ndarray,
    gt: np.ndarray,
    norm: np.ndarray,
    mask: np.ndarray | None = None,
    undetected: np.ndarray | None = None,
) -> np.ndarray:
    """NME of each face as a fraction, (N,) float64; infinite where no face was detected.

    pred, gt: (N, K, 2) pixels of the source image. norm: (N,) pixels. mask: (N, K) bool, points to count;
    default: those with finite truth. undetected: (N,) bool, faces without a prediction.
    Raises UserError for a normaliser that is not positive and finite, a face without a counted point, or a
    prediction that is not finite: nothing is dropped silently.
    """
    errors = _normalised(pred, gt, norm, mask, undetected)
    result = np.full(len(errors), np.inf)
    found = np.ones(len(errors), bool) if undetected is None else ~np.asarray(undetected, dtype=bool)
    result[found] = np.nanmean(errors[found], axis=1)
    return result


def _normalised(pred, gt, norm, mask=None, undetected=None) -> np.ndarray:
    """(N, K) errors over the normaliser, NaN where not counted or not detected; raises as `nme_per_image`."""
    errors, norm = point_errors(pred, gt), np.asarray(norm, dtype=np.float64)
    n, k = errors.shape
    if norm.shape != (n,):
        raise UserError(f"normalisers of shape {norm.shape} for {n} faces; expected ({n},)")
    usable = np.isfinite(norm) & (norm > 0)
    if not usable.all():
        index = int(np.flatnonzero(~usable)[0])
        raise UserError(
            f"the normaliser of face {index} is {norm[index]:g} ({int((~usable).sum())} such faces); "
            "expected a positive length: correct the annotation or choose another normaliser"
        )
    labelled = np.isfinite(np.asarray(gt, dtype=np.float64)).all(axis=2)
    counted = labelled if mask is None else np.asarray(mask, dtype=bool)
    if counted.shape != (n, k):
        raise UserError(f"mask of shape {counted.shape} for {n} faces of {k} points; expected ({n}, {k})")
    if (counted & ~labelled).any() or not counted.any(axis=1).all():
        bad = (counted & ~labelled).any(axis=1) | ~counted.any(axis=1)
        raise UserError(
            f"face {int(bad.argmax())} has an unlabelled point in its mask, or no point to count; correct "
            "the mask"
        )
    if undetected is not None:
        undetected = np.asarray(undetected, dtype=bool)
        if undetected.shape != (n,):
            raise UserError(f"undetected has shape {undetected.shape} for {n} faces; expected ({n},)")
        counted = counted & ~undetected[:, None]
    wrong = counted & ~np.isfinite(errors)
    if wrong.any():
        index = int(wrong.any(axis=1).argmax())
        raise UserError(
            f"the prediction for face {index} is not finite; mark the face as undetected or check the model"
        )
    return np.where(counted, errors / norm[:, None], np.nan)


def nme(errors: np.ndarray) -> float:
    """Mean of the finite errors (N,), a fraction; undetected faces (infinite) are left out. NaN for none."""
    errors = np.asarray(errors, dtype=np.float64)
    errors = errors[~np.isposinf(errors)]
    return float(errors.mean()) if len(errors) else float("nan")


def failure_rate(errors: np.ndarray, tau: float) -> float:
    """mean(error > tau), 0 to 1; infinite errors (undetected faces) are failures. NaN without a face."""
    errors = np.asarray(errors, dtype=np.float64)
    return float((errors > tau).mean()) if len(errors) else float("nan")


def auc(errors: np.ndarray, tau: float) -> float:
    """mean(max(0, 1 - error / tau)), 0 to 1: the exact area under the CED up to tau. NaN without face."""
    if not tau > 0:
        raise UserError(f"AUC needs a threshold above 0, got {tau}; for example 0.10")
    errors = np.asarray(errors, dtype=np.float64)
    return float(np.maximum(0.0, 1.0 - errors / tau).mean()) if len(errors) else float("nan")


def ced(errors: np.ndarray, maximum: float = 0.10, n: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative error distribution: n thresholds from 0 to maximum, the share of faces at or below each."""
    errors = np.sort(np.asarray(errors, dtype=np.float64))
    thresholds = np.linspace(0.0, maximum, n)
    return thresholds, np.searchsorted(errors, thresholds, side="right") / max(len(errors), 1)


def subset_masks(subsets: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """The subset names of each face (FaceRecord.subsets) as name -> (N,) bool, in order of appearance."""
    names = dict.fromkeys(name for face in subsets for name in face)
    return {name: np.array([name in face for face in subsets]) for name in names}


def signed_errors(
    pred: np.ndarray,
    gt: np.ndarray,
    scheme: Scheme,
    norm: np.ndarray,
    mask: np.ndarray | None = None,
    undetected: np.ndarray | None = None,
) -> np.ndarray:
    """(N, K, 2) prediction less truth over the normaliser, in upright faces; NaN where a point does not count.

    x runs along the line from the person's right eye to the left one, y at a right angle to it, downwards in an upright
    picture, so that turned heads in the picture's plane add up. NaN for faces whose eye corners are not labelled.
    """
    counted = ~np.isnan(_normalised(pred, gt, norm, mask, undetected))
    shift = upright(pred, gt, scheme, norm) - upright(gt, gt, scheme, norm)
    return np.where(counted[:, :, None], shift, np.nan)


def upright(points: np.ndarray, gt: np.ndarray, scheme: Scheme, norm: np.ndarray) -> np.ndarray:
    """(N, K, 2) pixels → lengths of the normaliser from the middle between the true eyes, along their line and across it."""
    points, gt = np.asarray(points, dtype=np.float64), np.asarray(gt, dtype=np.float64)
    right, left = (gt[:, list(group)].mean(axis=1) for group in scheme.eye_groups["inter-ocular"])
    with np.errstate(invalid="ignore"):
        across = (left - right) / np.linalg.norm(left - right, axis=1, keepdims=True)
    down = np.stack([-across[:, 1], across[:, 0]], axis=1)
    away = (points - ((right + left) / 2)[:, None]) / np.asarray(norm, dtype=np.float64)[:, None, None]
    return np.stack([(away * axis[:, None]).sum(axis=2) for axis in (across, down)], axis=2)


def mean_offsets(signed: np.ndarray) -> np.ndarray:
    """(K, 2) mean of signed errors (N, K, 2) over the faces in which a point counts; NaN for a point that never does."""
    counted = np.isfinite(signed).all(axis=2, keepdims=True)
    count = counted.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(counted, signed, 0.0).sum(axis=0) / np.where(count, count, np.nan)


def evaluate(
    pred: np.ndarray,
    gt: np.ndarray,
    scheme: Scheme,
    normaliser: str | None = None,
    *,
    mask: np.ndarray | None = None,
    rects: np.ndarray | None = None,
    subsets: Mapping[str, np.ndarray] | Sequence[Sequence[str]] | None = None,
    undetected: np.ndarray | None = None,
) -> dict:
    """All figures of one model on one set, with the keys of results.json.

    pred, gt: (N, K, 2) pixels of the source image. normaliser: a name of `scheme.normalisers` (default: the
    scheme's).
    mask: (N, K) bool, default the labelled points. rects: (N, 4), for the normaliser "box". subsets: name ->
    (N,) bool, or the names of each face. undetected: (N,) bool; such faces count as failures (error infinite
    in FR and AUC), are not in any NME, which cannot be known for them, and are counted in `undetected`.

    Returns nme (percent), fr@0.08, fr@0.10 (percent), auc@0.08, auc@0.10 (0 to 1), faces, undetected,
    normaliser, subsets {name: the same figures}, regions {name: NME percent}, points [NME percent a point],
    offsets [mean signed error (x, y) percent a point, as in `signed_errors`: how differently the two place it], and
    nme_without_offsets (percent), what would be left were those constants taken off. A figure without any face is None. Raises UserError as `nme_per_image` does, naming the face by its number.
    """
    gt = np.asarray(gt, dtype=np.float64)
    if not len(gt):
        raise UserError("there is no face to evaluate; check the data path and split")
    name = normaliser or scheme.default_normaliser
    norm = scheme.normaliser(gt, name, rects)
    errors = nme_per_image(pred, gt, norm, mask, undetected)
    by_point = _normalised(pred, gt, norm, mask, undetected)
    signed = signed_errors(pred, gt, scheme, norm, mask, undetected)
    offsets = mean_offsets(signed)
    if subsets is not None and not isinstance(subsets, Mapping):
        subsets = subset_masks(subsets)
    return {
        **_figures(errors),
        "normaliser": name,
        "subsets": {
            key: _figures(errors[_chosen(key, chosen, len(gt))]) for key, chosen in (subsets or {}).items()
        },
        "regions": {
            key: _percent(_mean_of_rows(by_point[:, list(ids)])) for key, ids in scheme.regions.items()
        },
        "points": [_percent(_mean_of_rows(by_point[:, i : i + 1])) for i in range(by_point.shape[1])],
        "offsets": [[_percent(float(v)) for v in row] for row in offsets],
        "nme_without_offsets": _percent(_mean_of_rows(np.linalg.norm(signed - offsets, axis=2))),
    }


def _figures(errors: np.ndarray) -> dict:
    """The figures of one set of faces, from their errors (N,)."""
    figures = {"nme": _percent(nme(errors))}
    for tau in THRESHOLDS:
        figures[f"fr@{tau:.2f}"] = _percent(failure_rate(errors, tau))
        area = auc(errors, tau)
        figures[f"auc@{tau:.2f}"] = None if np.isnan(area) else area
    return {**figures, "faces": len(errors), "undetected": int(np.isposinf(errors).sum())}


def _chosen(name: str, chosen: np.ndarray, n: int) -> np.ndarray:
    chosen = np.asarray(chosen)
    if chosen.shape != (n,) or chosen.dtype != bool:
        raise UserError(f"subset {name!r} is {chosen.dtype} of shape {chosen.shape}; expected ({n},) bool")
    return chosen


def _mean_of_rows(errors: np.ndarray) -> float:
    """Mean over faces of the mean over their counted points; faces without any are left out."""
    counted = ~np.isnan(errors)
    rows = counted.any(axis=1)
    if not rows.any():
        return float("nan")
    return float((np.where(counted, errors, 0.0).sum(axis=1)[rows] / counted.sum(axis=1)[rows]).mean())


def _percent(fraction: float) -> float | None:
    """100 x fraction; None for NaN, which JSON cannot hold."""
    return None if np.isnan(fraction) else 100.0 * fraction
