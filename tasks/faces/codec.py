"""Heatmaps: landmarks drawn as Gaussians and read back with sub-pixel precision, both in one object."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from srrl.errors import UserError

DECODERS = ("dark", "topk")
WINDOW = 5  # pixels per side that a parabola is fitted to


class HeatmapCodec:
    """Encodes crop coordinates as heatmaps and decodes heatmaps to crop coordinates.

    With pixel centres at integers, heatmap pixel u and crop pixel x are tied by u = (x + 1/2) h / S - 1/2.

    input_size: S, side of the crop in pixels.
    heatmap_size: h, side of the heatmap in pixels, >= 5.
    sigma: standard deviation of the Gaussian, heatmap pixels; at least 0.6 (below, neighbouring pixels see nothing of it).
    decoder: "dark" (default) or "topk".
    topk: number of pixels that "topk" looks at.

    "dark" follows Zhang et al., Distribution-Aware Coordinate Representation for Human Pose Estimation (CVPR 2020):
    the logarithm of a Gaussian is a parabola, so its derivatives at the largest pixel give the centre. The paper
    smooths the map and takes differences; here the derivatives come from a least-squares parabola over 5 x 5 pixels
    with the squared heights as weights (Guo, A Simple Algorithm for Fitting a Gaussian Function, 2011). On noisy maps
    that is as accurate as the smoothed version, and it stays exact at the border and for a wider or narrower Gaussian.

    "topk" is the mean place of the k largest pixels, weighted by height (as in Yu et al., Heatmap Regression via
    Randomized Rounding, 2021). It is drawn towards the middle of a heatmap pixel by up to 0.35 of one, and more at
    the border.
    """

    def __init__(
        self,
        input_size: int,
        heatmap_size: int,
        sigma: float = 1.5,
        decoder: str = "dark",
        *,
        topk: int = 9,
    ) -> None:
        if decoder not in DECODERS:
            raise UserError(f"decoder '{decoder}': expected one of {', '.join(DECODERS)}")
        if heatmap_size < WINDOW or input_size < 1 or not sigma >= 0.6:
            raise UserError(
                f"heatmaps of {heatmap_size} pixels, sigma {sigma}, input {input_size}: expected heatmaps of at least "
                f"{WINDOW} pixels, a sigma of at least 0.6 and an input size of at least 1"
            )
        self.input_size, self.heatmap_size = input_size, heatmap_size
        self.sigma, self.decoder = float(sigma), decoder
        self.topk = topk

    def encode(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, K, 2) crop pixels, mask (N, K) bool or None -> (N, K, h, h) in [0, 1].

        The Gaussian stands at its sub-pixel place with height 1 there. A point outside the crop leaves only the
        tail that reaches in. Unlabelled points (mask False, or not finite) give zeros.
        """
        labelled = torch.isfinite(points).all(-1)
        if mask is not None:
            labelled = labelled & mask
        u = (points + 0.5) * (self.heatmap_size / self.input_size) - 0.5
        u = torch.where(labelled[..., None], u, torch.zeros_like(u))
        grid = torch.arange(self.heatmap_size, device=u.device, dtype=u.dtype)
        # A round Gaussian is the product of one along x and one along y.
        axes = torch.exp(-((grid - u[..., None]) ** 2) / (2 * self.sigma**2))
        column = axes[..., 1, :] * labelled[..., None]
        return column[..., :, None] * axes[..., 0, None, :]

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K, h, h) -> (points (N, K, 2) in crop pixels, score (N, K)).

        score is the largest value of the map, about 0 to 1. Points lie within [-1/2, S - 1/2]: one that was outside
        the crop comes back on its edge. A map without a peak (constant) gives its first pixel's place.
        Worked out in float32 at least, whatever the precision of the maps.
        """
        n, k, height, width = heatmaps.shape
        if (height, width) != (self.heatmap_size, self.heatmap_size):
            raise ValueError(
                f"heatmaps of {height} x {width}: expected {self.heatmap_size} x {self.heatmap_size}"
            )
        maps = heatmaps.reshape(n * k, height, width)
        if maps.dtype in (torch.float16, torch.bfloat16):
            maps = maps.float()
        score, peak = maps.flatten(1).max(dim=1)
        if self.decoder == "dark":
            u = self._dark(maps, score, peak)
        else:
            u = self._topk(maps)
        points = (u + 0.5) * (self.input_size / self.heatmap_size) - 0.5
        points = points.clamp(-0.5, self.input_size - 0.5)
        return points.view(n, k, 2), score.view(n, k)

    def _dark(self, maps: Tensor, top: Tensor, peak: Tensor) -> Tensor:
        """(M, h, h) maps, (M,) maximum, (M,) its flat place -> (M, 2) heatmap pixels x, y."""
        size, radius = self.heatmap_size, WINDOW // 2
        place = torch.stack([peak % size, peak // size], dim=-1)
        # Near the border the window moves inwards; the logarithm of a Gaussian is the same parabola everywhere.
        center = place.clamp(radius, size - 1 - radius)
        shifts = torch.arange(-radius, radius + 1, device=maps.device)
        window = (center[:, 1:] + shifts)[:, :, None] * size + (center[:, :1] + shifts)[:, None, :]
        heights = maps.flatten(1).gather(1, window.flatten(1))
        heights = heights / top.clamp_min(torch.finfo(maps.dtype).tiny)[:, None]
        # Squared heights are the weights that turn errors of the logarithm back into errors of the map. What lies
        # below anything a Gaussian inside the map has next to its largest pixel, negative values included, is noise.
        floor = min(0.05, 0.9 * math.exp(-((1.5 + 1) ** 2) / self.sigma**2))
        weights = torch.where(heights > floor, heights**2, 0)
        step, is_peak = _parabola_top(heights.clamp_min(floor), weights)
        place, center = place.to(maps.dtype), center.to(maps.dtype)
        # The centre is at most half a pixel from the largest sample; twice that allows for noise.
        refined = torch.minimum(torch.maximum(center + step.to(maps.dtype), place - 1), place + 1)
        return torch.where(is_peak[:, None], refined, place)

    def _topk(self, maps: Tensor) -> Tensor:
        """(M, h, h) -> (M, 2): mean of the places of the k largest values, weighted by max(value, 0)."""
        values, places = maps.flatten(1).topk(min(self.topk, self.heatmap_size**2), dim=1)
        # The tiny term leaves a map without positive values in the middle of its k largest pixels.
        weights = values.clamp_min(0) + torch.finfo(values.dtype).tiny
        weights = weights / weights.sum(dim=1, keepdim=True)
        x = (weights * (places % self.heatmap_size)).sum(dim=1)
        y = (weights * (places // self.heatmap_size)).sum(dim=1)
        return torch.stack([x, y], dim=-1)


def _parabola_top(heights: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted least squares of c0 + c1 x + c2 y + c3 x^2 + c4 y^2 + c5 x y to log heights, and where its top is.

    heights (above 0), weights: (M, WINDOW^2), row by row. Returns (M, 2) x y from the window's middle in the precision of
    `heights` and (M,) bool: False where the parabola has no top.
    """
    # Near a corner the weights span ten orders of magnitude: in float64 where the device has it, the logarithm included,
    # whose last bit differs between libraries. That also keeps autocast and TF32 away from the products.
    precise = torch.float32 if heights.device.type == "mps" else torch.float64
    logs = heights.to(precise).log()
    shifts = torch.arange(-(WINDOW // 2), WINDOW // 2 + 1, device=logs.device, dtype=precise)
    y, x = (grid.flatten() for grid in torch.meshgrid(shifts, shifts, indexing="ij"))
    basis = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], dim=-1)  # (P, 6)
    products = (basis[:, :, None] * basis[:, None, :]).flatten(1)  # (P, 36)
    w, target = weights.to(precise), logs
    # The ridge keeps maps with too few pixels above the floor solvable; they then fail the test for a top.
    ridge = (1e-12 if precise is torch.float64 else 1e-7) * torch.eye(6, device=logs.device, dtype=precise)
    matrix, right = (w @ products).view(-1, 6, 6) + ridge, (w * target) @ basis
    # ONNX has no operator that solves
    exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    c = _solved(matrix, right) if exporting else torch.linalg.solve_ex(matrix, right).result
    dxx, dyy, dxy = 2 * c[:, 3], 2 * c[:, 4], c[:, 5]
    det = dxx * dyy - dxy * dxy
    is_peak = (det > 1e-6) & (dxx < 0)
    top = torch.stack([dxy * c[:, 2] - dyy * c[:, 1], dxy * c[:, 1] - dxx * c[:, 2]], dim=-1)
    top = top / torch.where(is_peak, det, 1)[:, None]
    return top.to(heights.dtype), is_peak


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """(M, n, n) symmetric and positive definite, (M, n) → the solutions (M, n), by elimination, which then needs no pivots."""
    n = right.shape[1]
    rows = [torch.cat([matrix[:, i], right[:, i : i + 1]], dim=1) for i in range(n)]
    for i in range(n):
        for j in range(i + 1, n):
            rows[j] = rows[j] - rows[i] * (rows[j][:, i : i + 1] / rows[i][:, i : i + 1])
    found: list[Tensor] = []  # from the last unknown to the first
    for i in reversed(range(n)):
        known = sum((rows[i][:, n - 1 - k] * x for k, x in enumerate(found)), torch.zeros_like(right[:, 0]))
        found.append((rows[i][:, n] - known) / rows[i][:, i])
    return torch.stack(found[::-1], dim=1)
