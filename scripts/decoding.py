"""How many pictures a second one core decodes, crops and flips for a training: ``python scripts/decoding.py [--seconds 20]``.

The picture is the example of the app at 500×375, about as large and as finely compressed as a photograph of ImageNet; what is
timed is what a data process does with one, to a crop of 224 pixels.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import torch

from srrl.task import ensure_tasks_importable

ensure_tasks_importable()
from srrl_tasks.classification.dataset import FileImages  # noqa: E402
from srrl_tasks.classification.settings import AugmentSettings  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
ROUND = 50  # pictures


def main() -> None:
    """Medians over rounds of fifty pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.jpg")
        image = cv2.resize(
            cv2.imread(str(ROOT / "app/examples/group.jpg")), (500, 375), interpolation=cv2.INTER_AREA
        )
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 96])
        data = FileImages([path] * ROUND, [0] * ROUND, 224, augment=AugmentSettings(flip=0.5))
        times, end = [], time.monotonic() + args.seconds
        while time.monotonic() < end:
            epoch, begin = len(times), time.perf_counter()
            for i in range(ROUND):
                data[epoch, i]
            times.append((time.perf_counter() - begin) / ROUND)
        size = path.stat().st_size / 1e3
    print(
        f"500 x 375 pixels, {size:.0f} kB: {1 / statistics.median(times):.0f} a second (median of {len(times)} rounds)"
    )


if __name__ == "__main__":
    main()
