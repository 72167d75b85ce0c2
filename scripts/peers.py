"""How long exported landmark networks take beside dlib's predictor of 68 points: ``python scripts/peers.py STUDENT.onnx …``.

One face, one thread, everything in turns, medians; needs ``pip install dlib-bin`` and the export extra. dlib's own weights are not
for commercial use and are not fetched: a predictor of the same make is trained on a few synthetic faces. The time does not depend on
what it has learned; its accuracy would, and is not measured. The networks' time has the decoding in it; finding the face and
making the crop are in neither.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

# dlib's defaults, but 15 levels instead of 10: the public file's 99.7 MB are 15 · 500 · 2⁴ · 136 numbers of 6.1 bytes each, which is what
# dlib writes for a float, and packed to a byte each it is said to take 18 MB
TREES, DEPTH, CASCADE, POOL = 500, 4, 15, 400


def faces(count: int) -> list:
    """Synthetic faces, made here where they are not in the cache."""
    from srrl_tasks.faces import synthetic

    return synthetic.records(synthetic.SyntheticSettings(n_test=count), "test", 68)


def predictor(records: list):
    """dlib's shape predictor, trained, and what each face's rectangle is to it."""
    import dlib

    images, objects, rects = [], [], []
    for record in records:
        low, high = record.points.min(0), record.points.max(0)
        rect = dlib.rectangle(*(int(v) for v in (*low, *high)))
        points = dlib.points([dlib.point(round(float(x)), round(float(y))) for x, y in record.points])
        images.append(np.ascontiguousarray(record.load()))
        objects.append([dlib.full_object_detection(rect, points)])
        rects.append(rect)
    options = dlib.shape_predictor_training_options()
    options.num_trees_per_cascade_level, options.tree_depth = TREES, DEPTH
    options.cascade_depth, options.feature_pool_size = CASCADE, POOL
    options.oversampling_amount, options.num_threads = 4, 1
    return dlib.train_shape_predictor(images, objects, options), images, rects


def session(path: str):
    """An ONNX graph on one thread, as a function of a crop."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    net = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    side = net.get_inputs()[0].shape[1]
    crop = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    return lambda: net.run(["points"], {"pixels": crop})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("graphs", nargs="+", metavar="STUDENT.onnx")
    parser.add_argument("--rounds", type=int, default=500)
    args = parser.parse_args(argv)
    try:
        import dlib
    except ImportError:
        print("error: pip install dlib-bin", file=sys.stderr)
        return 2
    find, images, rects = predictor(faces(32))
    with TemporaryDirectory() as folder:
        find.save(str(Path(folder) / "dlib.dat"))
        size = (Path(folder) / "dlib.dat").stat().st_size
    print(f"dlib {dlib.__version__}: {CASCADE} × {TREES} trees of depth {DEPTH}, {size / 1e6:.1f} MB")
    number = iter(range(10**9))
    parts = {"dlib": lambda: find(images[(i := next(number)) % len(images)], rects[i % len(rects)])}
    parts |= {path: session(path) for path in args.graphs}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for i in range(args.rounds + 20):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if i >= 20:
                times[name].append(1000 * (time.perf_counter() - start))
    base = np.median(times["dlib"])
    for name, values in times.items():
        low, high = np.percentile(values, [5, 95])
        print(
            f"{name}: median {np.median(values):.3f} ms (5 to 95 %: {low:.3f} to {high:.3f}), {np.median(values) / base:.2f} × dlib"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
