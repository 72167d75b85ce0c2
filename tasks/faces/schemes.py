"""The landmark schemes (19, 29, 68 and 98 points) as data: flip pairs, normalisers, facial regions, 98 -> 68.

Sources: iBUG/300-W mark-up (68), WFLW (98; Wu et al., CVPR 2018), COFW (29; Burgos-Artizzu et al., ICCV
2013), AFLW without the ears (19; Zhu et al., CVPR 2016). Indices are 0-based; "right" is the person's right,
which is the left side of the picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from srrl.errors import UserError

# Normalisers that no pair of points defines; every scheme offers them.
BOX_NORMALISERS = ("box", "landmark-box", "diagonal")


@dataclass(frozen=True, eq=False)
class Scheme:
    """A fixed set of landmarks.

    name: for people. n_points: K. flip_pairs: indices that change places in a mirrored picture.
    eye_groups: normaliser name -> two groups of indices; the normaliser is the distance between the group
    means.
    regions: name -> indices; they cover each point once, apart from "inner" (everything but the jaw line).
    """

    name: str
    n_points: int
    flip_pairs: tuple[tuple[int, int], ...]
    eye_groups: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    default_normaliser: str
    regions: dict[str, tuple[int, ...]]

    @cached_property
    def flip_order(self) -> np.ndarray:
        """(K,) int64: mirrored_points = points_with_mirrored_x[flip_order]."""
        order = np.arange(self.n_points)
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        order.setflags(write=False)
        return order

    @property
    def normalisers(self) -> dict[str, str]:
        """Name -> what it is, in words; the names that `normaliser` takes."""
        words = {
            name: f"distance between the mean of points {a} and the mean of points {b}"
            for name, (a, b) in self.eye_groups.items()
        }
        words["box"] = "square root of the area of the rectangle given by the data set"
        words["landmark-box"] = "square root of the area of the bounding box of the landmarks"
        words["diagonal"] = "diagonal of the bounding box of the landmarks"
        return words

    @property
    def own_normaliser(self) -> str:
        """The normaliser that needs the points alone: the default, or landmark-box where that needs rectangles."""
        return "landmark-box" if self.default_normaliser == "box" else self.default_normaliser

    def normaliser(
        self, points: np.ndarray, name: str | None = None, rects: np.ndarray | None = None
    ) -> np.ndarray:
        """Length in pixels by which the errors of each face are divided.

        points: (N, K, 2) true landmarks. name: one of `normalisers`, default `default_normaliser`.
        rects: (N, 4) xmin ymin xmax ymax, needed by "box" alone. Returns (N,) float64, which may hold zeros
        or NaN (unlabelled eye corners): `metrics.evaluate` refuses those. Raises UserError for an unknown
        name.
        """
        name = name or self.default_normaliser
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 3 or points.shape[1:] != (self.n_points, 2):
            raise UserError(
                f"points of shape {points.shape} do not fit the {self.name} scheme; expected (N, "
                f"{self.n_points}, 2)"
            )
        if name in self.eye_groups:
            a, b = (points[:, list(group)].mean(axis=1) for group in self.eye_groups[name])
            return np.linalg.norm(a - b, axis=1)
        if name not in BOX_NORMALISERS:
            raise UserError(
                f"unknown normaliser {name!r} for {self.name}; choose one of {', '.join(self.normalisers)}"
            )
        if name == "box":
            if rects is None:
                raise UserError(
                    "the normaliser 'box' needs the data set's rectangles; use 'landmark-box' without them"
                )
            size = _rect_sizes(rects, len(points))
        else:
            size = _point_extent(points)
        return np.hypot(size[:, 0], size[:, 1]) if name == "diagonal" else np.sqrt(size[:, 0] * size[:, 1])


def _rect_sizes(rects: np.ndarray, n: int) -> np.ndarray:
    """(N, 2) width and height of (N, 4) rectangles; UserError when they are not one a face."""
    rects = np.asarray(rects, dtype=np.float64)
    if rects.shape != (n, 4):
        raise UserError(
            f"rectangles of shape {rects.shape} for {n} faces; expected ({n}, 4): xmin ymin xmax ymax"
        )
    return rects[:, 2:] - rects[:, :2]


def _point_extent(points: np.ndarray) -> np.ndarray:
    """(N, 2) width and height of the bounding box of the labelled points; NaN where a face has none."""
    labelled = np.isfinite(points).all(axis=2, keepdims=True)
    extent = np.where(labelled, points, -np.inf).max(axis=1) - np.where(labelled, points, np.inf).min(axis=1)
    return np.where(labelled.any(axis=1), extent, np.nan)


def _mirror(total: int, indices: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Pairs (i, total - i)."""
    return tuple((i, total - i) for i in indices)


def _span(*bounds: int) -> tuple[int, ...]:
    """Indices of the inclusive ranges first..last, first..last, ..."""
    return tuple(
        i for first, last in zip(bounds[::2], bounds[1::2], strict=True) for i in range(first, last + 1)
    )


IBUG_68 = Scheme(
    name="iBUG 68",
    n_points=68,
    flip_pairs=(
        *_mirror(16, range(8)),
        *_mirror(43, range(17, 22)),
        *((31, 35), (32, 34)),
        *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
        *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58)),
        *((60, 64), (61, 63), (65, 67)),
    ),
    eye_groups={"inter-ocular": ((36,), (45,)), "inter-pupil": (_span(36, 41), _span(42, 47))},
    default_normaliser="inter-ocular",
    regions={
        "jaw": _span(0, 16),
        "brows": _span(17, 26),
        "nose": _span(27, 35),
        "eyes": _span(36, 47),
        "mouth": _span(48, 67),
        "inner": _span(17, 67),
    },
)

WFLW_98 = Scheme(
    name="WFLW 98",
    n_points=98,
    flip_pairs=(
        *_mirror(32, range(16)),
        *((33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47)),
        *((55, 59), (56, 58)),
        *((60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)),
        *((76, 82), (77, 81), (78, 80), (83, 87), (84, 86)),
        *((88, 92), (89, 91), (93, 95)),
        (96, 97),
    ),
    eye_groups={"inter-ocular": ((60,), (72,)), "inter-pupil": ((96,), (97,))},
    default_normaliser="inter-ocular",
    regions={
        "jaw": _span(0, 32),
        "brows": _span(33, 50),
        "nose": _span(51, 59),
        "eyes": _span(60, 75, 96, 97),
        "mouth": _span(76, 95),
        "inner": _span(33, 97),
    },
)

COFW_29 = Scheme(
    name="COFW 29",
    n_points=29,
    flip_pairs=(
        *((0, 1), (2, 3), (4, 6), (5, 7)),
        *((8, 9), (10, 11), (12, 14), (13, 15), (16, 17)),
        *((18, 19), (22, 23)),
    ),
    eye_groups={"inter-ocular": ((8,), (9,)), "inter-pupil": ((16,), (17,))},
    default_normaliser="inter-ocular",
    regions={
        "brows": _span(0, 7),
        "eyes": _span(8, 17),
        "nose": _span(18, 21),
        "mouth": _span(22, 27),
        "chin": (28,),
    },
)

AFLW_19 = Scheme(
    name="AFLW 19",
    n_points=19,
    flip_pairs=(*((0, 5), (1, 4), (2, 3)), *((6, 11), (7, 10), (8, 9)), (12, 14), (15, 17)),
    eye_groups={"inter-ocular": ((6,), (11,)), "inter-pupil": ((7,), (10,))},
    # Half of AFLW is seen from the side, where the distance between the eyes nearly vanishes.
    default_normaliser="box",
    regions={
        "brows": _span(0, 5),
        "eyes": _span(6, 11),
        "nose": _span(12, 14),
        "mouth": _span(15, 17),
        "chin": (18,),
    },
)

SCHEMES: dict[int, Scheme] = {s.n_points: s for s in (AFLW_19, COFW_29, IBUG_68, WFLW_98)}

# points68 = points98[WFLW_TO_IBUG]. The two mark-ups agree in meaning, not exactly in place: WFLW marks both
# edges of a brow, of which the upper one is taken, and three points a lid, of which the two outer ones are
# taken.
WFLW_TO_IBUG: tuple[int, ...] = (
    *range(0, 33, 2),
    *_span(33, 37, 42, 46),
    *_span(51, 59),
    *(60, 61, 63, 64, 65, 67),
    *(68, 69, 71, 72, 73, 75),
    *_span(76, 95),
)


def scheme_for(n_points: int) -> Scheme:
    """The scheme with `n_points` landmarks; raises UserError when there is none."""
    if n_points not in SCHEMES:
        known = ", ".join(map(str, SCHEMES))
        raise UserError(
            f"{n_points} points a face fit no known scheme; expected {known} points, check the annotation"
        )
    return SCHEMES[n_points]
