"""Landmarks in any picture: find the faces, crop, run the network, go back to the picture's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from srrl.errors import UserError
from srrl.media import to_rgb

from .crop import Crop
from .detect import FaceDetector, Rect
from .draw import draw_moves, draw_number, draw_points, draw_rect
from .predict import heatmaps, make_codec
from .schemes import scheme_for
from .settings import FacesSettings

if TYPE_CHECKING:
    from .follow import Follower

BATCH = 32  # faces that go through the network at a time


@dataclass(frozen=True, eq=False)
class Face:
    """One face that was found.

    points: (K, 2) float64 x y in pixels of the picture as displayed, centres at integers.
    rect: (xmin, ymin, xmax, ymax), the detector's or the given box.
    score: mean of ``scores``. scores: (K,) float64, the height of each point's heatmap peak, about 0 to 1.
    """

    points: np.ndarray
    rect: Rect
    score: float
    scores: np.ndarray


@dataclass(frozen=True)
class Look:
    """Where to look for landmarks: a box for each face, how much larger its crop is, and how often a face is cropped."""

    rects: list[Rect]
    scale: float
    passes: int


class Landmarker:
    """A trained network and its settings as a function of pictures; ``srrl.load(RUN)`` gives one.

    faces = landmarker("group.jpg")
    picture = landmarker.draw("group.jpg", faces)
    """

    def __init__(self, model: nn.Module, cfg: FacesSettings):
        self.model, self.cfg = model.eval(), cfg
        self.scheme = scheme_for(cfg.data.n_points)
        self.codec = make_codec(cfg, self.model)

    @cached_property
    def detector(self) -> FaceDetector:
        """The face detector, made when it is first needed."""
        return FaceDetector()

    def __call__(self, image: Any, box: str | Rect | None = None) -> list[Face]:
        """The faces in a picture: a path, a PIL image or an RGB array (H, W, 3) uint8; see :func:`srrl.media.to_rgb`.

        box: ``"detector"`` (also None): every face that the detector finds, largest first, and an empty list where it
        finds none. ``"whole"``: one face, the picture itself is the crop (a square one around its middle). Or the
        bounding box of one face, brows to chin, as (xmin, ymin, xmax, ymax) pixels; the crop is ``data.scale`` as large.
        Raises UserError for a picture that does not decode or a box that has no area or lies outside of the picture.
        """
        pixels = to_rgb(image)
        return self.predict(pixels, self.look(pixels, box))

    def look(self, pixels: np.ndarray, box: str | Rect | None = None) -> Look:
        """Where the faces of an RGB array are, for any network with the same crops: see :meth:`__call__`."""
        height, width = pixels.shape[:2]
        if box is None or (isinstance(box, str) and box == "detector"):
            return self.around(self.detector.detect(pixels))
        if isinstance(box, str) and box == "whole":
            return Look([_whole(width, height)], 1.0, 1)
        return Look([_checked(box, width, height)], self.cfg.data.scale, 1)

    def around(self, rects: list[Rect]) -> Look:
        """The look at what a detector found."""
        return Look(rects, self.cfg.data.scale, self.cfg.detector_passes)

    def predict(self, pixels: np.ndarray, look: Look) -> list[Face]:
        """The face at each rectangle, in their order."""
        crops = [Crop.around_rect(rect, self.cfg.image_size, look.scale) for rect in look.rects]
        faces = self.predict_crops(pixels, look.rects, crops)
        for _ in range(
            look.passes - 1
        ):  # a detector's box is off by a tenth of a face, the points around it by less
            crops = [self._around(face, crop) for face, crop in zip(faces, crops, strict=True)]
            faces = self.predict_crops(pixels, look.rects, crops)
        return faces

    def _around(self, face: Face, crop: Crop) -> Crop:
        """The crop around predicted points, or the one they came from where they all coincide."""
        if not (np.ptp(face.points, axis=0) > 0).any():
            return crop
        return Crop.around_points(face.points, self.cfg.image_size, self.cfg.data.scale)

    @torch.no_grad()
    def predict_crops(self, pixels: np.ndarray, rects: list[Rect], crops: list[Crop]) -> list[Face]:
        """The face in each crop, in their order; ``rects`` are the boxes that they are shown with."""
        device = next(self.model.parameters()).device
        flip_order = self.scheme.flip_order if self.cfg.flip_test else None
        faces = []
        for start in range(0, len(crops), BATCH):
            part = crops[start : start + BATCH]
            batch = torch.from_numpy(np.stack([c.warp(pixels) for c in part])).permute(0, 3, 1, 2)
            points, scores = self.codec.decode(heatmaps(self.model, batch.to(device), flip_order))
            for crop, rect, p, s in zip(
                part,
                rects[start:],
                points.double().cpu().numpy(),
                scores.double().cpu().numpy(),
                strict=False,
            ):
                faces.append(Face(crop.invert(p), rect, float(s.mean()), s))
        return faces

    def size(self, face: Face) -> float:
        """The length in pixels that distances within a face are given in: between its eyes, where the points have two."""
        return float(self.scheme.normaliser(face.points[None], self.scheme.own_normaliser)[0])

    @property
    def size_name(self) -> str:
        """What :meth:`size` is, for people."""
        eyes = self.scheme.own_normaliser in self.scheme.eye_groups
        return "the distance between the eyes" if eyes else "the size of the face"

    def follow(
        self, *, smooth: bool = False, box: str | None = None, beside: Follower | None = None
    ) -> Follower:
        """For frames that follow each other, in which faces are found once and followed; see :class:`Follower`."""
        from .follow import Follower

        return Follower(self, smooth=smooth, box=box, beside=beside)

    def draw(self, image: Any, faces: list[Face]) -> np.ndarray:
        """The picture as an RGB array with contours and points coloured by facial region, and the corners of each box.

        Where there are several faces each bears its number, from 1 on.
        """
        out = to_rgb(image).copy()
        for number, face in enumerate(faces, 1):
            if face.rect != _whole(*out.shape[1::-1]):
                draw_rect(out, face.rect)
            out = draw_points(out, face.points)
            if len(faces) > 1:
                draw_number(out, number, face.rect)
        return out

    def difference(
        self, image: Any, faces: list[Face], others: list[Face]
    ) -> tuple[np.ndarray, list[dict[str, float]]]:
        """How far the points of ``faces`` are from those of ``others``, the same faces by another network.

        The picture, darkened, with the moves from ``others`` to ``faces`` (:func:`draw_moves`); and a row a face: mean and
        largest distance in percent of the :meth:`size` of ``others``, and the point that is it.
        """
        out = np.round(np.arange(256) * 0.45).astype(np.uint8)[to_rgb(image)]
        rows = []
        for number, (face, other) in enumerate(zip(faces, others, strict=True)):
            moved = np.linalg.norm(face.points - other.points, axis=1)
            size = self.size(other)
            percent = 100 * moved / size if size > 0 else np.full_like(moved, np.nan)
            out = draw_moves(out, other.points, face.points)
            if len(faces) > 1:
                draw_number(out, number + 1, other.rect)
            rows.append(
                {
                    "face": number,
                    "mean_percent": float(percent.mean()),
                    "largest_percent": float(percent.max()),
                    "point": int(moved.argmax()),
                }
            )
        return out, rows

    def rows(self, faces: list[Face]) -> list[dict[str, float]]:
        """A flat row a face, for tables: face (0-based), score, xmin … ymax, x0, y0, x1, y1, …; pixels to 3 decimals."""
        rows = []
        for number, face in enumerate(faces):
            row: dict[str, float] = {"face": number, "score": round(face.score, 4)}
            row |= {k: round(v, 3) for k, v in zip(("xmin", "ymin", "xmax", "ymax"), face.rect, strict=True)}
            for i, (x, y) in enumerate(face.points.tolist()):
                row |= {f"x{i}": round(x, 3), f"y{i}": round(y, 3)}
            rows.append(row)
        return rows


def _whole(width: int, height: int) -> Rect:
    """The picture's own rectangle, from the outer edges of its outer pixels."""
    return -0.5, -0.5, width - 0.5, height - 0.5


def _checked(box: Any, width: int, height: int) -> Rect:
    """Four numbers that have an area in common with the picture. Raises UserError."""
    expected = "expected detector, whole or xmin,ymin,xmax,ymax in pixels"
    try:
        rect = None if isinstance(box, str) else np.asarray(box, dtype=np.float64)
    except (TypeError, ValueError):
        rect = None
    if rect is None or rect.shape != (4,) or not np.isfinite(rect).all():
        raise UserError(f"box {box!r}: {expected}")
    xmin, ymin, xmax, ymax = map(float, rect)
    if xmax <= xmin or ymax <= ymin:
        raise UserError(f"box {box!r} has no area: {expected}, xmax above xmin and ymax above ymin")
    if xmax < 0 or ymax < 0 or xmin > width - 1 or ymin > height - 1:
        raise UserError(f"box {box!r} lies outside of the {width}x{height} picture: {expected}")
    return xmin, ymin, xmax, ymax
