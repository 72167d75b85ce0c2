"""Where the 98 WFLW and 68 iBUG points lie on the head model.

Every point is a weighted sum of at most three vertices, found once on the mean adult head by looking along −z at the
frontal position annotators use, so it follows identity and expression. Brow points follow the painted brow of each
face, pupils the eyeballs, and the face contour slides to the visible silhouette when the head turns, as annotators'
points do. Frontal positions below are in dm on the left half (x > 0) and mirrored.

The 98 points are what their names say of the anatomy. The 68 points are those moved by the tables of `habits` to where people
put them on photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .assets import HeadAssets
from .habits import (
    ARC,
    BEYOND_68,
    BROW_OFF_68,
    FORWARD_SINE,
    HABITS,
    LOWER_LID_68,
    LOWER_RIM_68,
    START_68,
    TURNED_ALONG,
    TURNED_OUT,
    TURNED_POWER,
)

# Face contour from the ear at eye level to the chin, frontal silhouette of the mean head.
JAW = (
    (0.690, 7.340), (0.690, 7.20), (0.680, 7.08), (0.660, 6.97), (0.633, 6.88), (0.603, 6.78), (0.565, 6.67),
    (0.515, 6.56), (0.455, 6.465), (0.380, 6.385), (0.300, 6.33), (0.205, 6.297), (0.100, 6.284), (0.0, 6.281),
)  # fmt: skip
UPPER_LID = ((0.166, 7.317), (0.198, 7.352), (0.222, 7.366), (0.255, 7.378), (0.295, 7.384), (0.330, 7.384),
             (0.360, 7.379), (0.385, 7.371), (0.405, 7.359), (0.415, 7.345))  # fmt: skip
LOWER_LID = ((0.166, 7.317), (0.195, 7.317), (0.205, 7.313), (0.235, 7.308), (0.270, 7.305), (0.310, 7.303),
             (0.340, 7.303), (0.365, 7.307), (0.385, 7.318), (0.402, 7.331), (0.415, 7.345))  # fmt: skip
UPPER_LIP = ((0.0, 6.777), (0.023, 6.781), (0.049, 6.786), (0.078, 6.783), (0.106, 6.777), (0.137, 6.765),
             (0.164, 6.750), (0.190, 6.733), (0.210, 6.711), (0.227, 6.681))  # fmt: skip
LOWER_LIP = ((0.0, 6.566), (0.061, 6.569), (0.125, 6.583), (0.172, 6.604), (0.205, 6.632), (0.217, 6.655),
             (0.227, 6.681))  # fmt: skip
# Inner lip rims as vertex numbers of the base mesh, from the middle to the corner.
UPPER_RIM = (520, 7267, 7268, 7261, 7262, 11962, 7263, 7181, 7190, 10402)
LOWER_RIM = (523, 7264, 7236, 7230, 7198, 7203, 10402)
NOSE_MIDDLE = ((0.0, 7.335), (0.0, 7.215), (0.0, 7.110), (0.0, 7.025))
NOSE_BASE = ((0.138, 6.930), (0.070, 6.917), (0.0, 6.893))
# How far inside the silhouette (dm) each of the 17 paths starts: before the ear rather than at it, where annotators
# put the near side of a turned face, and so that the starts run smoothly in depth.
START = (*(0.032,) * 5, 0.026, 0.020, 0.016, 0.016, 0.018, 0.019, 0.022, 0.022, 0.017, 0.012, 0.012, 0.012)
MARCH = 16  # places on each contour path
BROW_EDGE = 0.86  # where the painted brow ends, in half thicknesses


@dataclass(frozen=True)
class Brow:
    """Painted brow in frontal template coordinates (dm); the same numbers drive the shading kernel."""

    inner: float = 0.150
    outer: float = 0.550
    height: float = 7.510
    arch: float = 0.042
    drop: float = 0.050
    thick: float = 0.042

    def at(self, s: float, d: float) -> tuple[float, float]:
        """Frontal (x, y) at fraction s from the inner end and d half thicknesses above the middle line."""
        rise = self.arch * (1.0 - (s - 0.62) ** 2 / 0.3844)
        fall = self.drop * max(s - 0.62, 0.0) ** 2 / 0.1444
        half = self.thick * (1.0 - 0.62 * _step(0.45, 1.05, s)) * (0.82 + 0.18 * _step(-0.1, 0.2, s))
        return self.inner + s * (self.outer - self.inner), self.height + rise - fall + d * half


def _step(low: float, high: float, x: float) -> float:
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


# (s, d) of the brow points from the outer tip: 98: upper edge to the inner end, lower edge back; 68: its upper part, as in 300W.
_E = BROW_EDGE
BROW_98 = (
    (1.0, 0.0),
    (0.77, _E),
    (0.52, _E),
    (0.27, _E),
    (0.03, _E),
    (0.03, -_E),
    (0.27, -_E),
    (0.52, -_E),
    (0.77, -_E),
)
BROW_68 = ((1.05, 2.3), (0.82, 1.7), (0.55, 1.25), (0.30, 1.25), (0.08, 1.25))


def mean_head(assets: HeadAssets) -> np.ndarray:
    """(V, 3) float64: the adult head averaged over ancestries and genders; painting coordinates refer to it."""
    shape = assets.vertices.astype(np.float64)
    index = assets.index
    for race in ("african", "asian", "caucasian"):
        for gender in ("male", "female"):
            shape = shape + assets.basis[index[f"{race}-{gender}-young"]].astype(np.float64) / 6.0
    return shape


def resample(points: np.ndarray, count: int) -> np.ndarray:
    """`count` points at equal arc length along a polyline (N, D), ends included."""
    points = np.asarray(points, np.float64)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0.0, length[-1], count)
    return np.stack([np.interp(at, length, points[:, d]) for d in range(points.shape[1])], axis=1)


class Caster:
    """Finds the foremost skin point at a frontal position: vertex numbers (3,) and weights (3,)."""

    def __init__(self, shape: np.ndarray, triangles: np.ndarray) -> None:
        corners = shape[triangles]
        area = _cross(corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2])
        facing = area > 1e-9
        self.triangles, self.corners, self.area = triangles[facing], corners[facing], area[facing]
        self.x, self.y = (np.ascontiguousarray(self.corners[..., d].T) for d in (0, 1))  # (3, T) each
        self.low, self.high = self.corners[..., :2].min(1), self.corners[..., :2].max(1)

    def within(self, x0: float, x1: float, y0: float, y1: float) -> Caster:
        """The same over the triangles that touch a frontal box (quicker)."""
        part = object.__new__(Caster)
        keep = (self.low[:, 0] < x1) & (self.high[:, 0] > x0) & (self.low[:, 1] < y1) & (self.high[:, 1] > y0)
        for name in ("triangles", "corners", "area", "low", "high"):
            setattr(part, name, getattr(self, name)[keep])
        part.x, part.y = self.x[:, keep], self.y[:, keep]
        return part

    def cast(self, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
        """Raises ValueError when nothing lies there."""
        index, weight = self.cast_all(np.array([[x, y]]))
        return index[0], weight[0]

    def cast_all(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertex numbers (N, 3) and weights (N, 3) at N frontal places; ValueError when one has no skin."""
        places = np.asarray(places, np.float64)
        x, y = (places[:, d, None, None] - of for d, of in ((0, self.x), (1, self.y)))  # (N, 3, T)
        # twice the area that each edge spans with the place, as a share of the triangle's
        weights = (x[:, [1, 2, 0]] * y[:, [2, 0, 1]] - y[:, [1, 2, 0]] * x[:, [2, 0, 1]]) / self.area
        inside = weights.min(1) > -1e-6
        if not inside.any(1).all():
            x, y = places[int(np.flatnonzero(~inside.any(1))[0])]
            raise ValueError(f"no skin at x={x:.3f} y={y:.3f} of the mean head")
        depth = np.where(inside, (weights * self.corners[:, :, 2].T).sum(1), -np.inf)
        best = depth.argmax(1)
        return self.triangles[best], weights[np.arange(len(best)), :, best]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


class Landmarks:
    """The 98 + 68 points of any face made from `assets`.

    `positions(vertices, brow, ...)` gives 3-D points; contour points come as whole paths from which the camera
    chooses. Point order follows WFLW and iBUG: person's right side first.
    """

    def __init__(self, assets: HeadAssets) -> None:
        self.shape = mean_head(assets)
        skin = assets.triangles[assets.part == 0]
        self.mirror = _mirror(assets.vertices)
        self.caster = Caster(self.shape, skin)
        self.brow_caster = self.caster.within(0.03, 0.70, 7.34, 7.78)
        number = {int(source): local for local, source in enumerate(assets.source)}
        self._fixed(number)
        self._contour()
        self.pupils = _pupils(assets, self.shape)

    def _fixed(self, number: dict[int, int]) -> None:
        """Eyes, nose and mouth of the left half: 27 98-points, then the same and the lids of the 68."""
        upper, lower = resample(UPPER_LID, 13), resample(LOWER_LID, 13)
        # 98: inner corner, upper ¼ ½ ¾, outer corner, lower ¾ ½ ¼ (from the inner corner) · 68: upper ⅓ ⅔, lower ⅔ ⅓
        eye98 = [upper[k] for k in (0, 3, 6, 9, 12)] + [lower[k] for k in (9, 6, 3)]
        eye68 = [upper[k] for k in (0, 4, 8, 12)] + [lower[k] for k in (8, 4)]
        lip = resample(np.array(UPPER_LIP[2:]), 3)[1]  # half way from the peak of the bow to the corner
        mouth = [UPPER_LIP[0], UPPER_LIP[2], tuple(lip), UPPER_LIP[-1]]
        across, down = np.array(LOWER_LIP).T
        # evenly spaced across, as annotators put them, not along the lip, whose ends rise steeply to the corners
        mouth += [(x, float(np.interp(x, across, down))) for x in across[-1] * np.array([2 / 3, 1 / 3, 0.0])]
        nose = [*NOSE_MIDDLE, *NOSE_BASE]
        rims = [_along(self.shape, [number[v] for v in UPPER_RIM], f) for f in (0.0, 0.31, 0.93)]
        rims += [_along(self.shape, [number[v] for v in LOWER_RIM], f) for f in (0.31, 0.0)]
        flat = [(self.shape[index] * weight[:, None]).sum(0)[:2] for index, weight in rims[:3]]
        own = {"eye": eye68[:4], "nose": nose, "mouth": mouth, "rim": flat}
        eye, *rest = (np.array(places) + np.array(HABITS[name])[:, :2] for name, places in own.items())
        frontal = {98: [*eye98, *nose, *mouth], 68: np.concatenate([eye, eye68[4:], *rest])}
        cast = {n: [self.caster.cast(x, y) for x, y in places] for n, places in frontal.items()}
        self.left = {98: _stacked(cast[98] + rims), 68: _stacked(cast[68] + rims[3:])}
        eye, *rest = (np.array(HABITS[name]) * [0.0, 0.0, 1.0] for name in own)
        # (24, 3) dm by which the left half's 68 points leave the skin
        self.off = np.concatenate([eye, LOWER_LID_68, *rest, LOWER_RIM_68])
        self.right = {n: (self.mirror[index], weight) for n, (index, weight) in self.left.items()}

    def _contour(self) -> None:
        """Paths of MARCH places from the frontal silhouette inwards over the cheek or chin: 33, then the 68's 17."""
        eighths = np.interp(np.arange(17) / 2, np.arange(9), ARC)
        above = np.array([[JAW[0][0], JAW[0][1] + 0.1]])  # the path goes on upwards before the ear
        line = np.concatenate([above, resample(JAW, 400)])
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        at = length[1] + eighths / 8.0 * (length[-1] - length[1])
        own = np.stack([np.interp(at, length, line[:, d]) for d in range(2)], axis=1)
        many = self._paths(resample(JAW, 17), np.array(START))
        few = self._paths(own, np.interp(np.arange(17) / 2, np.arange(9), START_68))
        self.contour_index, self.contour_weight, self.contour_out = (
            np.concatenate([m, f[::2]]) for m, f in zip(many, few, strict=True)
        )
        self.contour_beyond = np.concatenate([np.zeros(33), BEYOND_68, BEYOND_68[7::-1]])

    def _paths(self, half: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vertices and weights (33, MARCH, 15) and outward directions (33, 2) of the paths that begin at 17 frontal places."""
        along = np.gradient(half, axis=0)
        inward = np.stack([along[:, 1], -along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True)
        reach = np.interp(np.arange(17), [0, 6, 11, 16], [0.44, 0.46, 0.30, 0.20])
        steps = np.linspace(0.0, 1.0, MARCH) ** 1.5
        index, weight = np.zeros((17, MARCH, 3), np.int64), np.zeros((17, MARCH, 3))
        for i in range(17):
            places = half[i] + (start[i] + steps * reach[i])[:, None] * inward[i]
            places[:, 0] = np.maximum(places[:, 0], 0.0)
            index[i], weight[i] = self.caster.cast_all(places)
        index, weight = (
            np.concatenate([self.mirror[index], index[:16][::-1]]),
            np.concatenate([weight, weight[:16][::-1]]),
        )
        outward = -inward
        outward[16] = (0.0, -1.0)
        return *_smooth(index, weight), np.concatenate([outward * [-1.0, 1.0], outward[:16][::-1]])

    def contour_paths(self, vertices: np.ndarray) -> np.ndarray:
        """(33 + 17, MARCH, 3) places on the skin for each contour point of the 98 and of the 68."""
        return (vertices[self.contour_index] * self.contour_weight[..., None]).sum(2)

    def brow_points(self, vertices: np.ndarray, brow: Brow) -> tuple[np.ndarray, np.ndarray]:
        """3-D brow points of both sides: 98: (18, 3) in the order 33…41, 42…50; 68: (10, 3) in the order 17…26."""
        index, weight = self.brow_caster.cast_all(np.array([brow.at(s, d) for s, d in (*BROW_98, *BROW_68)]))
        weight = weight[..., None]
        left = (vertices[index] * weight).sum(1)
        right = (vertices[self.mirror[index]] * weight).sum(1)
        order = [
            4,
            3,
            2,
            1,
            0,
            8,
            7,
            6,
            5,
        ]  # 42 is the inner end of the upper edge, 46 the tip, 47 below the tip
        many = np.concatenate([right[:9], left[order]])
        few = np.concatenate([right[9:], left[9:][::-1]])
        return many, few

    def positions(
        self, vertices: np.ndarray, brow: Brow, contour: np.ndarray, axes: np.ndarray | None = None
    ) -> dict[int, np.ndarray]:
        """{98: (98, 3), 68: (68, 3)} in the axes of `vertices`.

        contour: (33 + 17, 3) chosen places; axes: (3, 3) rotation from the head's axes to those of `vertices`.
        """
        vertices = np.asarray(vertices, np.float64)
        axes = np.eye(3) if axes is None else axes
        sine = np.sqrt(max(1.0 - axes[2, 2] ** 2, 0.0))
        to_left = np.diag([1.0, 1.0, min(1.0, FORWARD_SINE / max(sine, FORWARD_SINE))]) @ axes.T
        to_right = np.diag([-1.0, 1.0, 1.0]) @ to_left
        brow98, brow68 = self.brow_points(vertices, brow)
        off = np.array(BROW_OFF_68)
        brow68 = brow68 + np.concatenate([off @ to_right, (off @ to_left)[::-1]])
        left, right = (self._placed(side[98], vertices) for side in (self.left, self.right))
        # the person's right eye is listed from its outer corner, the left eye from its inner one
        eyes = np.concatenate([right[[4, 3, 2, 1, 0, 7, 6, 5]], left[:8]])
        pupils = vertices[self.pupils].mean(1)
        many = np.concatenate([contour[:33], brow98, *_nose_and(eyes, left[8:], right[8:]), pupils])
        left = self._placed(self.left[68], vertices) + self.off @ to_left
        right = self._placed(self.right[68], vertices) + self.off @ to_right
        eyes = np.concatenate([right[[3, 2, 1, 0, 5, 4]], left[:6]])
        few = np.concatenate([contour[33:], brow68, *_nose_and(eyes, left[6:], right[6:])])
        return {98: many, 68: few}

    @staticmethod
    def _placed(sums: tuple[np.ndarray, np.ndarray], vertices: np.ndarray) -> np.ndarray:
        index, weight = sums
        return (vertices[index] * weight[..., None]).sum(1)


def _stacked(sums: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([index for index, _ in sums]), np.stack([weight for _, weight in sums])


def _nose_and(eyes: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, ...]:
    """Nose, the eyes as they are given, mouth and inner lips, from the places of either half.

    Of a half: 0–3 ridge, 4 5 6 base from the wing to the middle; 7 bow middle, 8 peak, 9 between, 10 corner, 11 12 13 lower
    lip from the corner to the middle; rims: 14 upper middle, 15 upper side, 16 corner, 17 lower side, 18 lower middle.
    """
    nose = np.concatenate([left[:4], right[4:6], left[6:7], left[5:3:-1]])
    mouth = np.concatenate([right[[10, 9, 8]], left[[7, 8, 9, 10, 11, 12, 13]], right[[12, 11]]])
    inner = np.concatenate([right[[16, 15]], left[[14, 15, 16, 17, 18]], right[[17]]])
    return nose, eyes, mouth, inner


def _smooth(index: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Binomial mean over five neighbouring paths, as wider weighted sums: rays that graze the jaw land unevenly."""
    row = np.arange(len(index))
    parts = [
        (np.clip(row + shift, 0, len(index) - 1), part) for shift, part in zip(range(-2, 3), (1, 4, 6, 4, 1))
    ]
    return (
        np.concatenate([index[rows] for rows, _ in parts], axis=2),
        np.concatenate([weight[rows] * (part / 16.0) for rows, part in parts], axis=2),
    )


def _along(shape: np.ndarray, rim: list[int], fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and weights at a fraction of the arc length of a vertex chain."""
    points = shape[rim]
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = fraction * length[-1]
    k = int(np.clip(np.searchsorted(length, at, side="right") - 1, 0, len(rim) - 2))
    t = (at - length[k]) / (length[k + 1] - length[k])
    return np.array([rim[k], rim[k + 1], rim[k]]), np.array([1.0 - t, t, 0.0])


def _mirror(vertices: np.ndarray) -> np.ndarray:
    """(V,) the vertex at the mirrored place of the (symmetric) base mesh."""
    key = {tuple(row): i for i, row in enumerate(np.round(vertices.astype(np.float64) * 1e4).astype(int))}
    found = np.full(len(vertices), -1)
    for i, (x, y, z) in enumerate(np.round(vertices.astype(np.float64) * 1e4).astype(int)):
        found[i] = key.get((-x, y, z), -1)
    missing = np.flatnonzero(found < 0)
    for i in missing:
        found[i] = int(np.abs(vertices - vertices[i] * [-1, 1, 1]).sum(1).argmin())
    return found


def _pupils(assets: HeadAssets, shape: np.ndarray) -> np.ndarray:
    """(2, 8): the eight vertices round the front pole of the right and the left eyeball."""
    eye = np.unique(assets.triangles[assets.part == 1])
    sides = [eye[shape[eye, 0] < 0], eye[shape[eye, 0] > 0]]
    return np.stack([side[np.argsort(-shape[side, 2])[:8]] for side in sides])


def choose_contour(
    paths: np.ndarray, projected: np.ndarray, outward: np.ndarray, beyond: np.ndarray
) -> np.ndarray:
    """The visible silhouette: on each path the place that projects furthest outwards, between samples by a parabola.

    paths (P, M, 3) in dm in the camera's axes, projected (P, M, 2) pixels, outward (P, 2) unit directions in the image
    (y downwards), beyond (P,) dm by which the point lies further out than what is seen. Returns (P, 3).
    """
    reach = (projected * outward[:, None]).sum(-1)
    best = reach.argmax(1)
    rows = np.arange(len(paths))
    k = np.clip(best, 1, paths.shape[1] - 2)
    low, mid, high = reach[rows, k - 1], reach[rows, k], reach[rows, k + 1]
    bend = low - 2.0 * mid + high
    shift = np.where((bend < -1e-9) & (best == k), 0.5 * (low - high) / np.where(bend == 0, 1.0, bend), 0.0)
    shift = np.where(best < k, -1.0, np.where(best > k, 1.0, np.clip(shift, -1.0, 1.0)))
    t = shift[:, None]
    before, at, after = paths[rows, k - 1], paths[rows, k], paths[rows, k + 1]
    seen = np.where(t < 0, at * (1 + t) - before * t, at * (1 - t) + after * t)
    seen[:, :2] += beyond[:, None] * outward * [1.0, -1.0]
    return seen


def turn_contour(contour: np.ndarray, yaw: float) -> np.ndarray:
    """The 68 points' contour of a head that is turned: (17, 3) dm in the camera's axes, yaw in degrees (TURNED_*)."""
    sine = np.sin(np.radians(yaw))
    share = abs(sine) ** TURNED_POWER
    order = slice(None) if sine >= 0 else slice(None, None, -1)  # the near side first
    points = contour[order]
    step = np.gradient(points, axis=0)
    flat = step[:, :2] / np.linalg.norm(step[:, :2], axis=1, keepdims=True)
    out = np.stack([flat[:, 1], -flat[:, 0], np.zeros(17)], 1) * (1.0 if sine >= 0 else -1.0)
    return (points + share * (np.array(TURNED_ALONG)[:, None] * step + np.array(TURNED_OUT)[:, None] * out))[
        order
    ]
