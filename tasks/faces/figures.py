"""The pictures of a faces report: error distribution, predictions from easy to hard, error by region and point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srrl.report import COLOURS, pyplot, save_figure
from srrl.task import Data

from . import metrics
from .dataset import FaceDataset
from .draw import REGION_COLOURS, draw_points
from .predict import predict_faces
from .settings import FacesSettings

if TYPE_CHECKING:
    from torch import nn

ORDER = ("teacher", "baseline", "student")
COLUMNS, CELL, GAP = 8, 256, 6  # faces on the contact sheet, and its measures in pixels
LABELS, CAPTION = 112, 30  # width of the row names, height of an error's line
SHEET_LIMIT = 900_000  # bytes of contact.png
PAPER, TEXT = (250, 250, 248), (40, 44, 52)


def report_figures(
    models: dict[str, nn.Module], data: Data, cfg: FacesSettings, folder: Path
) -> list[tuple[str, str]]:
    """ced.png, contact.png, regions.png and offsets.png of the test set into ``folder``; (file name, caption) of each."""
    dataset: FaceDataset = data.test
    names = [n for n in ORDER if n in models] + [n for n in models if n not in ORDER]
    found = {n: predict_faces(models[n], dataset, cfg) for n in names}
    errors = {n: face_errors(p, dataset, cfg.normaliser) for n, p in found.items()}
    unit = f"NME ({cfg.normaliser or dataset.scheme.default_normaliser})"
    leading = "student" if "student" in models else names[0]
    draw_ced(errors, folder / "ced.png", unit)
    draw_contact(found, errors, dataset, leading, folder / "contact.png")
    draw_regions(found, dataset, cfg.normaliser, folder / "regions.png", unit)
    draw_offsets(found, dataset, cfg.normaliser, folder / "offsets.png")
    return [
        (
            "ced.png",
            f"Cumulative error distribution on the test set ({len(dataset)} faces): the share of faces with at most "
            f"that {unit}. FR and AUC are those at 10 %.",
        ),
        (
            "contact.png",
            f"Test faces from easy to hard, at fixed quantiles of the {leading}'s error, NME in percent below each. "
            "White lines under a prediction are the annotation.",
        ),
        ("regions.png", f"{unit} by facial region and by point."),
        (
            "offsets.png",
            "Where the models put each point on average (lines) against the annotation (dots), faces upright and at one size: "
            "a long line is a habit that model and annotation do not share, such as another definition of the point.",
        ),
    ]


def face_errors(found: np.ndarray, dataset: FaceDataset, normaliser: str | None) -> np.ndarray:
    """(N,) NME of each face as a fraction, infinite where the detector found none; ``found`` (N, K, 2) image pixels."""
    truth, norm, undetected = _truth(dataset, normaliser)
    return metrics.nme_per_image(found, truth, norm, undetected=undetected)


def _truth(dataset: FaceDataset, normaliser: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Annotation (N, K, 2), normalisers (N,) in pixels and which faces the detector missed (N,)."""
    records = dataset.records
    truth = np.stack([r.points for r in records])
    rects = np.array([r.rect for r in records]) if all(r.rect is not None for r in records) else None
    return (
        truth,
        dataset.scheme.normaliser(truth, normaliser, rects),
        np.array([r.undetected for r in records]),
    )


def _clean(axis: Any) -> None:
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def draw_ced(errors: dict[str, np.ndarray], out: Path, unit: str) -> None:
    """Share of faces (percent) against error (percent, 0 to 10) for each model's (N,) errors, fractions."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name, values in errors.items():
        thresholds, share = metrics.ced(values, 0.10, 401)
        mean, failures, area = (
            metrics.nme(values),
            metrics.failure_rate(values, 0.10),
            metrics.auc(values, 0.10),
        )
        label = f"{name}: NME {100 * mean:.2f} %, FR {100 * failures:.1f} %, AUC {area:.3f}"
        axis.plot(100 * thresholds, 100 * share, color=COLOURS.get(name), linewidth=2, label=label)
    axis.set(xlabel=f"{unit}, %", ylabel="faces, %", xlim=(0, 10), ylim=(0, 100))
    _clean(axis)
    axis.legend(frameon=False, loc="best", fontsize=9)
    save_figure(figure, out)


def draw_regions(
    found: dict[str, np.ndarray], dataset: FaceDataset, normaliser: str | None, out: Path, unit: str
) -> None:
    """Mean error (percent) by region as grouped bars, and by point as one line a model."""
    truth, norm, undetected = _truth(dataset, normaliser)
    scheme, rects = dataset.scheme, None
    if all(r.rect is not None for r in dataset.records):
        rects = np.array([r.rect for r in dataset.records])
    plt = pyplot()
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.5, 3.8), layout="constrained", width_ratios=(1, 1.6)
    )
    regions = [r for r in scheme.regions if r != "inner"]
    width = 0.8 / max(1, len(found))
    for place, (name, points) in enumerate(found.items()):
        figures = metrics.evaluate(points, truth, scheme, normaliser, rects=rects, undetected=undetected)
        bars = [_number(figures["regions"][r]) for r in regions]
        at = np.arange(len(regions)) + (place - (len(found) - 1) / 2) * width
        left.bar(at, bars, width * 0.92, color=COLOURS.get(name), label=name)
        right.plot(
            [_number(v) for v in figures["points"]],
            color=COLOURS.get(name),
            marker=".",
            linewidth=1.2,
            markersize=5,
        )
    left.set_xticks(range(len(regions)), regions)
    left.set(ylabel=f"{unit}, %", title="by region")
    left.legend(frameon=False)
    right.set(xlabel="point", title="by point", xlim=(-1, scheme.n_points))
    _shade_regions(right, scheme.regions)
    for axis in (left, right):
        _clean(axis)
        axis.set_ylim(bottom=0)
    save_figure(figure, out)


def draw_offsets(
    found: dict[str, np.ndarray], dataset: FaceDataset, normaliser: str | None, out: Path
) -> None:
    """The mean annotated face as dots, and from each dot a line a model to the mean of what it predicted."""
    truth, norm, undetected = _truth(dataset, normaliser)
    scheme = dataset.scheme
    face = metrics.mean_offsets(metrics.upright(truth, truth, scheme, norm))
    figure, axis = pyplot().subplots(figsize=(6.4, 6.4), layout="constrained")
    for region, ids in scheme.regions.items():
        if region != "inner":
            colour = np.minimum(np.array(REGION_COLOURS[region]) / 255, 0.8)
            axis.plot(*face[list(ids)].T, ".", color=colour, markersize=7, label=region)
    for name, points in found.items():
        offsets = metrics.mean_offsets(
            metrics.signed_errors(points, truth, scheme, norm, undetected=undetected)
        )
        ends = np.stack([face, face + offsets, np.full_like(face, np.nan)], axis=1).reshape(-1, 2)
        axis.plot(*ends.T, color=COLOURS.get(name), linewidth=1.6, label=name)
    axis.set(aspect="equal", xticks=[], yticks=[], title="mean signed errors, true to scale")
    axis.invert_yaxis()
    for side in axis.spines.values():
        side.set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="lower left", ncols=2)
    save_figure(figure, out)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _shade_regions(axis: Any, regions: dict[str, tuple[int, ...]]) -> None:
    """A tint and a name for each run of points of one region."""
    owner = {i: name for name, ids in regions.items() if name != "inner" for i in ids}
    start = 0
    for i in range(1, len(owner) + 1):
        if i == len(owner) or owner[i] != owner[start]:
            tint = np.minimum(np.array(REGION_COLOURS[owner[start]]) / 255, 0.8)  # white would not show
            axis.axvspan(start - 0.5, i - 0.5, color=tint, alpha=0.15, linewidth=0)
            if i - start > 2:
                axis.text(
                    (start + i - 1) / 2,
                    0.98,
                    owner[start],
                    transform=axis.get_xaxis_transform(),
                    ha="center",
                    va="top",
                    fontsize=8,
                    color="#555555",
                )
            start = i


def chosen_faces(errors: np.ndarray, count: int = COLUMNS) -> list[int]:
    """Indices of faces at the quantiles (j + ½) / count of the finite errors, easy to hard, none twice."""
    order = [int(i) for i in np.argsort(errors, kind="stable") if np.isfinite(errors[i])]
    count = min(count, len(order))
    return [order[int((j + 0.5) * len(order) / count)] for j in range(count)]


def draw_contact(
    found: dict[str, np.ndarray], errors: dict[str, np.ndarray], dataset: FaceDataset, leading: str, out: Path
) -> None:
    """Rows: annotation, then each model; columns: faces from easy to hard for ``leading``; the error below each face."""
    from PIL import Image, ImageDraw

    faces = chosen_faces(errors[leading])
    rows: dict[str, np.ndarray | None] = {"truth": None, **found}
    step = CELL + GAP
    heights = [CELL + (GAP if points is None else CAPTION) for points in rows.values()]
    sheet = Image.new("RGB", (LABELS + len(faces) * step, GAP + sum(heights)), PAPER)
    pen, top = ImageDraw.Draw(sheet), GAP
    for (name, points), height in zip(rows.items(), heights, strict=True):
        colour = COLOURS.get(name, "#282c34")
        pen.text((LABELS - 12, top + CELL / 2), name, fill=colour, font=_font(20, bold=True), anchor="rm")
        for column, face in enumerate(faces):
            left = LABELS + column * step
            sheet.paste(Image.fromarray(_cell(dataset, face, points)), (left, top))
            if points is not None:
                pen.text(
                    (left + CELL / 2, top + CELL + CAPTION / 2),
                    f"{100 * errors[name][face]:.1f} %",
                    fill=TEXT,
                    font=_font(18),
                    anchor="mm",
                )
        top += height
    _save_small(sheet, out)


def _cell(dataset: FaceDataset, index: int, points: np.ndarray | None) -> np.ndarray:
    """One face (CELL, CELL, 3): the picture of its crop with the annotation, or with a prediction over it."""
    crop, truth = replace(dataset.crop(index), size=CELL), dataset.records[index].points
    picture = crop.warp(dataset.image(index))
    if points is None:
        return draw_points(picture, crop.apply(truth))
    picture = draw_points(picture, crop.apply(truth), colour=(255, 255, 255), weight=0.55, dots=False)
    return draw_points(picture, crop.apply(points[index]))


def _font(size: int, *, bold: bool = False) -> Any:
    """DejaVu Sans, which matplotlib brings along."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _save_small(sheet: Any, out: Path) -> None:
    """The sheet as PNG below SHEET_LIMIT: with a palette, of fewer colours and then smaller where that is not enough."""
    import io

    from PIL import Image

    from srrl.runs import atomic

    for scale, colours in ((1, 256), (1, 128), (0.75, 128), (0.5, 128)):
        size = round(sheet.width * scale), round(sheet.height * scale)
        small = sheet if scale == 1 else sheet.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.quantize(palette=_palette(small, colours), dither=Image.Dither.NONE).save(
            buffer, format="PNG", optimize=True
        )
        if buffer.tell() < SHEET_LIMIT:
            break
    with atomic(out) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _palette(sheet: Any, colours: int) -> Any:
    """A palette image: median cut, made better by eight rounds of k-means on a sample of the pixels (steps in smooth
    skin show less; until convergence, as Pillow does it, takes minutes on noisy pictures)."""
    import cv2
    from PIL import Image

    pixels = np.asarray(sheet).reshape(-1, 3)
    sample = np.random.default_rng(0).choice(pixels, 30_000)
    cut = Image.fromarray(sample.reshape(100, 300, 3)).quantize(
        colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    labels = np.unique(np.asarray(cut).ravel(), return_inverse=True)[1].astype(np.int32).reshape(-1, 1)
    rounds = (cv2.TERM_CRITERIA_MAX_ITER, 8, 0)
    centers = cv2.kmeans(
        sample.astype(np.float32), int(labels.max()) + 1, labels, rounds, 1, cv2.KMEANS_USE_INITIAL_LABELS
    )[2]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(centers).clip(0, 255).astype(np.uint8).tobytes())
    return palette
