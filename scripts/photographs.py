"""What the errors of a landmark network on labelled photographs are made of: by region, turn of the head, lightness of the skin.

``python scripts/photographs.py RUN DATA [--model student] [--json FILE] [--worst FILE.jpg]`` scores DATA (68 points, crops
around the true points) and prints, besides the figures of srrl.evaluate, the mean signed error of each point in percent of the
inter-ocular distance: how differently people and the network place it. Left and right are taken together, the right one
mirrored, so that outwards is positive. ``--json`` has them by turn of the head as well. DATA ``synthetic`` are the run's own test faces: what a network makes on those is
its own error, and no difference of definitions. ``--worst`` draws the faces with the largest errors: look at them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from srrl.errors import UserError

TURNS = ((0, 15), (15, 30), (30, 60))  # degrees
CHEEKS = ((1, 31, 48), (15, 35, 54))  # the middle of these three of the 68 points lies on a cheek
TILE, WORST = 192, 30


def head_shape() -> np.ndarray:
    """(51, 3) the 68 points less the contour on the mean head of the synthetic faces: x to the person's left, y up, z forward."""
    from srrl_tasks.faces.synthetic.assets import load
    from srrl_tasks.faces.synthetic.landmarks import Brow, Landmarks
    from srrl_tasks.faces.synthetic.settings import cache_root

    marks = Landmarks(load(cache_root()))
    return marks.positions(marks.shape, Brow(), np.zeros((50, 3)))[68][17:]


def turned(points: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """(N,) degrees by which heads are turned, of upright points (N, 68, 2), y downwards; the person's left is positive.

    The affine image of the rigid ``shape`` that fits best; turning moves what lies in front sideways.
    """
    centred = shape - shape.mean(0)
    inner = points[:, 17:] - points[:, 17:].mean(1, keepdims=True)
    affine = np.einsum("kp,npd->ndk", np.linalg.pinv(centred), inner)  # (N, 2, 3)
    size = np.linalg.norm(affine, axis=2).max(1)
    return np.degrees(np.arcsin(np.clip(affine[:, 0, 2] / size, -1.0, 1.0)))


def lightness(dataset: Any) -> np.ndarray:
    """(N,) L* (CIE Lab, 0 to 100), the median over both cheeks: skin and light together, which a photograph cannot part."""
    found = []
    for record in dataset.records:
        image = record.load()
        eye = np.linalg.norm(record.points[36] - record.points[45])
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0] * (100.0 / 255.0)
        values = []
        for places in CHEEKS:
            x, y = record.points[list(places)].mean(0)
            r = max(1, round(0.06 * eye))
            part = lab[max(0, round(y) - r) : round(y) + r + 1, max(0, round(x) - r) : round(x) + r + 1]
            values += part.ravel().tolist()
        found.append(np.median(values) if values else np.nan)
    return np.array(found)


def looked_at(run: str, data: str, model: str = "student", box: str = "landmark") -> dict[str, Any]:
    """Figures, by region, turn and lightness, and the signed errors; everything in percent."""
    from srrl_tasks.faces import metrics
    from srrl_tasks.faces.predict import predict_faces

    from srrl.api import open_run

    opened = open_run(run, model)
    if opened.cfg.task not in ("faces", "cross_domain") or opened.cfg.data.n_points != 68:
        raise UserError(f"{run}: expected a run of 68 facial landmarks")
    own = data == "synthetic"
    cfg = opened.changed(
        {"data": {"train": None, "val": None, "test": None if own else data, "format": None, "box": box}}
    )
    dataset = opened.task.prepare(cfg, lambda text: print(text, file=sys.stderr), evaluation=True).test
    found = predict_faces(opened.model(model), dataset, cfg)
    truth = np.stack([r.points for r in dataset.records])
    undetected = np.array([r.undetected for r in dataset.records])
    scheme = dataset.scheme
    norm = scheme.normaliser(truth, "inter-ocular", None)
    signed = 100.0 * metrics.signed_errors(found, truth, scheme, norm, None, undetected)
    errors = np.linalg.norm(signed, axis=2).mean(1)
    upright = metrics.upright(truth, truth, scheme, norm)
    angle = turned(upright, head_shape())
    light = lightness(dataset)
    thirds = np.nanquantile(light, [0.0, 1 / 3, 2 / 3, 1.0])
    result = metrics.evaluate(found, truth, scheme, "inter-ocular", undetected=undetected)
    keys = ("nme", "fr@0.10", "fr@0.08", "faces", "undetected", "regions", "nme_without_offsets")
    part = {k: result[k] for k in keys}
    part["turned"] = {
        f"{low}–{high}°": figures(errors[(np.abs(angle) >= low) & (np.abs(angle) < high)])
        for low, high in TURNS
    }
    names = ("darkest third of the cheeks", "middle third", "lightest third")
    part["lightness"] = {
        f"{n} (L* {a:.0f}–{b:.0f})": figures(errors[(light >= a) & (light <= b)])
        for n, a, b in zip(names, thirds[:-1], thirds[1:], strict=True)
    }
    part["offsets"] = halves(signed, upright, scheme).round(2).tolist()
    part["offsets_turned"] = {
        f"{low}–{high}°": as_turned(signed, upright, angle, scheme, low, high).round(2).tolist()
        for low, high in TURNS
    }
    part["_faces"] = (dataset, found, errors)
    return part


def figures(errors: np.ndarray) -> dict[str, float]:
    """NME and share above 10 % of some faces."""
    known = errors[np.isfinite(errors)]
    if not len(known):
        return {"faces": 0}
    return {"nme": float(known.mean()), "fr@0.10": float(100 * (known > 10).mean()), "faces": len(known)}


def halves(signed: np.ndarray, upright: np.ndarray, scheme: Any) -> np.ndarray:
    """(K, 2) mean signed error (outwards, up) of each point and its mirror together; ``upright`` (N, K, 2) says the sides."""
    order = scheme.flip_order
    mean = np.nanmean(np.concatenate([signed, signed[:, order] * [-1.0, 1.0]]), axis=0)
    x = np.nanmean(upright[..., 0], axis=0)
    return mean * np.stack([np.where(x < x[order], -1.0, 1.0), -np.ones(len(x))], axis=1)


def as_turned(
    signed: np.ndarray, upright: np.ndarray, angle: np.ndarray, scheme: Any, low: float, high: float
) -> np.ndarray:
    """(K, 2) mean signed error (to the right of the picture, up) over faces turned by ``low`` to ``high`` degrees to the person's
    left, those turned to the right mirrored: the first half of the contour is then the side that comes nearer."""
    there = (np.abs(angle) >= low) & (np.abs(angle) < high)
    mirrored = signed[:, scheme.flip_order] * [-1.0, 1.0]
    way = np.where((angle >= 0)[:, None, None], signed, mirrored)[there]
    return np.nanmean(way, axis=0) * [1.0, -1.0] if there.any() else np.full(signed.shape[1:], np.nan)


def sheet(dataset: Any, found: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The WORST faces, largest error first: green where people put the points, red the network's."""
    tiles = []
    for i in np.argsort(-np.nan_to_num(errors))[:WORST]:
        record = dataset.records[i]
        image = record.load()
        low, high = record.points.min(0), record.points.max(0)
        side = 1.4 * float((high - low).max())
        scale, start = TILE / side, (low + high) / 2 - side / 2
        tile = cv2.warpAffine(
            image, np.array([[scale, 0, -scale * start[0]], [0, scale, -scale * start[1]]]), (TILE, TILE)
        )
        for points, colour in ((record.points, (0, 220, 0)), (found[i], (255, 40, 40))):
            for x, y in (points - start) * scale:
                cv2.circle(tile, (round(16 * x), round(16 * y)), 24, colour, -1, cv2.LINE_AA, 4)
        cv2.putText(
            tile, f"{errors[i]:.1f}", (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 0), 1, cv2.LINE_AA
        )
        tiles.append(tile)
    tiles += [np.zeros((TILE, TILE, 3), np.uint8)] * (-len(tiles) % 6)
    return np.concatenate([np.concatenate(tiles[i : i + 6], 1) for i in range(0, len(tiles), 6)], 0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--model", default="student", choices=["teacher", "student", "baseline"])
    parser.add_argument("--box", default="landmark", choices=["landmark", "detector"])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--worst", metavar="FILE.jpg")
    args = parser.parse_args(argv)
    try:
        found = looked_at(args.run, args.data, args.model, args.box)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    dataset, points, errors = found.pop("_faces")
    print(
        f"NME {found['nme']:.2f} %, over 10 %: {found['fr@0.10']:.1f} %, {found['faces']} faces, undetected {found['undetected']}"
    )
    print(
        "without offsets",
        round(found["nme_without_offsets"], 2),
        {k: round(v, 2) for k, v in found["regions"].items()},
    )
    for key in ("turned", "lightness"):
        print(
            "; ".join(f"{k}: {v.get('nme', float('nan')):.2f} ({v['faces']})" for k, v in found[key].items())
        )
    offsets = np.array(found["offsets"])
    length = np.linalg.norm(offsets, axis=1)
    print(f"signed errors (outwards, up): mean length {length.mean():.2f}, largest {length.max():.2f}")
    halved = dataset.scheme.flip_order >= np.arange(len(offsets))  # each pair once
    largest = [i for i in np.argsort(-length) if halved[i]][:12]
    print("  " + "; ".join(f"{i}: {offsets[i, 0]:+.1f} {offsets[i, 1]:+.1f}" for i in largest))
    if args.json:
        from srrl.runs import write_json

        write_json(Path(args.json), found)
    if args.worst:
        cv2.imwrite(args.worst, sheet(dataset, points, errors)[..., ::-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
