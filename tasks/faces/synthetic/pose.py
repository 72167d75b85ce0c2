"""Draws how a head is turned and how the camera frames it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pose:
    """Head rotation in degrees (yaw > 0 turns towards the picture's right), torso yaw, camera distance (dm), framing."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    torso: float = 0.0
    distance: float = 12.0
    fill: float = 0.56
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) rotation."""
        return turn(np.radians(self.yaw), np.radians(self.pitch), np.radians(self.roll))


def turn(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) rotation from radians: pitch first, then yaw, then roll."""
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    p = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    r = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return r @ y @ p


def draw_pose(rng: np.random.Generator) -> Pose:
    """Yaw up to ±60°, mostly nearer the front; pitch and roll smaller."""
    kind = rng.random()
    yaw = (
        rng.normal(0.0, 13.0)
        if kind < 0.5
        else rng.normal(0.0, 28.0)
        if kind < 0.8
        else rng.uniform(-60.0, 60.0)
    )
    return Pose(
        yaw=float(np.clip(yaw, -60.0, 60.0)),
        pitch=float(np.clip(rng.normal(2.0, 10.0), -32.0, 32.0)),
        roll=float(np.clip(rng.normal(0.0, 7.0 if rng.random() < 0.85 else 18.0), -40.0, 40.0)),
        torso=float(np.clip(0.4 * yaw + rng.normal(0.0, 12.0), -45.0, 45.0)),
        distance=float(np.exp(rng.uniform(np.log(6.0), np.log(45.0)))),
        fill=float(rng.uniform(0.50, 0.62)),
        shift=(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.05, 0.05))),
    )
