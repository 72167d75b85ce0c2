"""The student as an ONNX graph: pixels in, predictions out, checked against torch; and its int8 form."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from srrl.data import eval_loader
from srrl.errors import RunError
from srrl.onnx_network import METADATA, open_session

if TYPE_CHECKING:
    from srrl.config import RunSettings
    from srrl.task import Task

OPSET = 20
TOLERANCE = 1e-3  # what a graph may differ from torch by: see check_onnx
CHECKED = 64  # pictures that are compared
CALIBRATED = 256  # pictures that the ranges of int8 activations are taken from
# what is computed on int8: layers with weights, and what lies between them
# (a ReLU belongs to the layer before it; ONNX Runtime has no ConvTranspose on int8)
QUANTIZED = ["Conv", "Gemm", "MatMul", "Relu", "Clip", "Add", "MaxPool", "GlobalAveragePool", "AveragePool"]


class PixelGraph(nn.Module):
    """Pixels (N, S, S, 3) uint8 RGB → the network's raw output, and the task's answers to it."""

    def __init__(self, task: Task, model: nn.Module, cfg: RunSettings):
        super().__init__()
        self.model = model
        self.answers = task.answers(model, cfg)
        self.names = (model.output_kind, *self.answers.names)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        raw = self.model(pixels.permute(0, 3, 1, 2).float().div(255.0)).float()
        return (raw, *self.answers(raw))


def write_onnx(task: Task, model: nn.Module, cfg: RunSettings, path: Path) -> PixelGraph:
    """The student in eval mode and what its predictions need, into ``path``, for any batch size; what torch computes comes back.

    Raises RunError for a network that cannot be traced.
    """
    import onnx

    size = task.image_size(cfg)
    graph = PixelGraph(task, model.cpu(), cfg).eval()
    # two: a batch of one would be taken for a constant
    example = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=list(graph.names),
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            )
        except torch.onnx.OnnxExporterError as error:
            reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "")
            raise RunError(
                f"not written: torch cannot express this network as an ONNX graph ({reason[:160]})"
            ) from error
    proto = program.model_proto
    _forget_sources(proto)
    described = {
        "task": task.name,
        "input": "pixels (batch, side, side, 3) uint8, RGB: normalised inside the graph",
        "outputs": json.dumps({model.output_kind: "the network's own output", **graph.answers.names}),
        "image_size": str(size),
        "settings": json.dumps(portable(cfg)),
        **task.picture_notes(cfg),
    }
    onnx.helper.set_model_props(proto, {METADATA + k: v for k, v in described.items()})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return graph


def write_int8(source: Path, samples: Dataset, path: Path) -> None:
    """The float graph in ``source`` with weights and activations in int8 between the pixels and the raw output.

    Static: the ranges of activations are those of at most ``CALIBRATED`` of ``samples``, evenly spread. What turns the raw
    output into answers stays in float. Weights have 7 bits, because 8 overflow on processors without VNNI.
    """
    from tempfile import TemporaryDirectory

    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    props = {p.key: p.value for p in onnx.load(source).metadata_props}
    with TemporaryDirectory(prefix="srrl-") as folder, _quiet("root"):
        ready = Path(folder) / "ready.onnx"  # its BatchNorms are folded into the convolutions
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            path,
            _Calibration(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=_behind(onnx.load(ready).graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, props)
    path.write_bytes(proto.SerializeToString())


def check_onnx(graph: PixelGraph, path: Path, dataset: Dataset) -> tuple[int, dict[str, float]]:
    """Pictures compared, and the largest |difference| from torch of each output. RunError where the file answers otherwise.

    Allowed is ``TOLERANCE`` in parts of the largest value, at least of 1: of the raw output from the student's own, and of
    each answer from what torch makes of the same raw output. (Where a map has two peaks, its last bit decides between them.)
    """
    session, names = open_session(path), list(graph.names)
    count, largest, worst = 0, dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for pixels in _pixels(dataset, CHECKED):
        found = [torch.from_numpy(v) for v in session.run(names, {"pixels": pixels})]
        with torch.no_grad():
            expected = graph(torch.from_numpy(pixels))
            same = (expected[0], *graph.answers(found[0]))
        for name, ours, theirs, counterpart in zip(names, expected, found, same, strict=True):
            largest[name] = _larger(largest[name], ours - theirs)
            scale = max(1.0, float(counterpart.abs().max()))
            worst[name] = _larger(worst[name], (counterpart - theirs) / scale)
        count += len(pixels)
    bad = next((n for n, d in worst.items() if not d <= TOLERANCE), None)
    if bad:
        raise RunError(
            f"not written: the graph's {bad} differ from the run's student by {worst[bad]:g} of the largest on test "
            f"pictures, where at most {TOLERANCE:g} is allowed; please report it"
        )
    return count, largest


def _larger(before: float, difference: Tensor) -> float:
    """The larger of the two; not a number where either is."""
    new = float(difference.abs().max())
    return new if new != new else max(before, new) if before == before else before


def portable(cfg: RunSettings) -> dict[str, Any]:
    """The settings that predictions need, as plain values: without what belongs to the machine or to the teacher."""
    values = cfg.model_dump(mode="json")
    for section, keys in (
        ("data", ("train", "val", "test", "format", "workers", "cache_dir")),
        ("student", ("init",)),
        ("cross_domain", ("train", "val", "test", "format")),
    ):
        for key in keys:
            values.get(section, {}).pop(key, None)
    values.pop("teacher", None)
    return values


class _Calibration:
    """Pictures one by one, as the quantizer asks for them: at most ``CALIBRATED``, evenly spread."""

    def __init__(self, samples: Dataset):
        count = min(CALIBRATED, len(samples))
        chosen = np.linspace(0, len(samples) - 1, count).round().astype(int).tolist()
        self.pixels = (_as_pixels(samples[i]["image"][None]) for i in chosen)

    def get_next(self) -> dict[str, np.ndarray] | None:
        pixels = next(self.pixels, None)
        return None if pixels is None else {"pixels": pixels}


def _pixels(dataset: Dataset, count: int) -> Iterable[np.ndarray]:
    """The first ``count`` pictures in batches (N, S, S, 3) uint8."""
    for batch in eval_loader(dataset, 16):
        yield _as_pixels(batch["image"][:count])
        count -= len(batch["image"])
        if count <= 0:
            return


def _as_pixels(image: Tensor) -> np.ndarray:
    """Images (N, 3, S, S), uint8 or 0–1 → (N, S, S, 3) uint8."""
    if image.dtype != torch.uint8:
        image = image.mul(255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(image.permute(0, 2, 3, 1).cpu().numpy())


def _behind(graph: Any) -> list[str]:
    """Names of the nodes that the raw output, the graph's first, does not depend on: what makes answers of it."""
    made = {name: node for node in graph.node for name in node.output}
    wanted, seen = [graph.output[0].name], set()
    while wanted:
        node = made.get(wanted.pop())
        if node is not None and node.name not in seen:
            seen.add(node.name)
            wanted += list(node.input)
    return [node.name for node in graph.node if node.name not in seen]


def _forget_sources(proto: Any) -> None:
    """Takes out where in the source code each node came from, paths of this machine included."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        del value.metadata_props[:]
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    del proto.graph.metadata_props[:]


class _quiet:
    """Loggers that say nothing below an error within the block."""

    def __init__(self, *names: str):
        self.loggers = [logging.getLogger(None if n == "root" else n) for n in names]

    def __enter__(self) -> None:
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
