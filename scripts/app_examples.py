"""The faces that the app offers as examples, painted by this program: ``python scripts/app_examples.py`` writes app/examples/.

The numbers were chosen by eye from a hundred faces.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from srrl_tasks.faces.synthetic import face, sheet
from srrl_tasks.faces.synthetic.settings import cache_root

FOLDER = Path(__file__).resolve().parents[1] / "app/examples"
SEED, SIDE = 5, 448
FACES = {"face.jpg": [32], "glasses.jpg": [103], "group.jpg": [65, 31, 81]}  # the numbers, beside each other


def painted(generator: face.Generator, number: int) -> np.ndarray:
    """One clean face (SIDE, SIDE, 3) BGR that looks about at us."""
    rng = np.random.default_rng(number)
    pose = face.Pose(
        yaw=float(rng.uniform(-22, 22)), pitch=float(rng.uniform(-4, 6)), distance=14.0, fill=0.52
    )
    return generator.make((SEED, 0, number), pose=pose, sensor=sheet.clean).image[..., ::-1]


def main() -> int:
    generator = face.Generator(SIDE, cache_root())
    for name, numbers in FACES.items():
        picture = np.hstack([painted(generator, number) for number in numbers])
        cv2.imwrite(str(FOLDER / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
        print(FOLDER / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
