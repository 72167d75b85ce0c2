"""From a heatmap network to landmarks: on data sets (evaluation) and on pictures (srrl.load, the command line)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from srrl.data import eval_loader
from srrl.model import to_unit

from .codec import HeatmapCodec
from .dataset import FaceDataset
from .models import heatmap_size
from .settings import FacesSettings


def make_codec(cfg: FacesSettings, model: nn.Module) -> HeatmapCodec:
    """The codec that fits the model's heatmaps."""
    return HeatmapCodec(
        cfg.image_size, heatmap_size(model, cfg.image_size), sigma=cfg.sigma, decoder=cfg.decoder
    )


@torch.no_grad()
def heatmaps(model: nn.Module, image: Tensor, flip_order: np.ndarray | None = None) -> Tensor:
    """Images (N, 3, S, S) uint8 or 0–1 → heatmaps; averaged with the mirrored picture's where ``flip_order`` is given."""
    x = to_unit(image).contiguous(memory_format=torch.channels_last)
    out = model(x).float()
    if flip_order is None:
        return out
    mirrored = model(x.flip(3)).float().flip(3)[:, torch.as_tensor(flip_order.copy())]
    return (out + mirrored) / 2


class Landmarks(nn.Module):
    """Heatmaps (N, K, h, h) → what the codec reads from them, for exported graphs."""

    names = {
        "points": "(batch, points, 2): x, y in pixels of the crop, the middle of its first pixel being 0, 0",
        "scores": "(batch, points): height of each point's peak, about 0 to 1",
    }

    def __init__(self, codec: HeatmapCodec):
        super().__init__()
        self.codec = codec

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return self.codec.decode(maps)


def predict_faces(model: nn.Module, dataset: FaceDataset, cfg: FacesSettings) -> np.ndarray:
    """(N, K, 2) float64 landmarks in image pixels as the settings want them: mirrored average, passes after a detector."""
    codec = make_codec(cfg, model)
    found = predict_dataset(model, dataset, codec, flip_test=cfg.flip_test)
    if cfg.data.box == "detector":
        for _ in range(cfg.detector_passes - 1):
            found = predict_dataset(model, dataset.around(found), codec, flip_test=cfg.flip_test)
    return found


def predict_dataset(
    model: nn.Module, dataset: FaceDataset, codec: HeatmapCodec, *, flip_test: bool = False
) -> np.ndarray:
    """(N, K, 2) float64 landmarks in image pixels, in the data set's order; the model is put back in its mode."""
    device, was = next(model.parameters()).device, model.training
    model.eval()
    scheme = dataset.scheme
    found = np.empty((len(dataset), scheme.n_points, 2))
    try:
        for batch in eval_loader(dataset):
            maps = heatmaps(model, batch["image"].to(device), scheme.flip_order if flip_test else None)
            points = codec.decode(maps)[0].double().cpu().numpy()
            for index, crop_points in zip(batch["index"].tolist(), points, strict=True):
                found[index] = dataset.crop(index).invert(crop_points)
    finally:
        model.train(was)
    return found
