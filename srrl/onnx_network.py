"""An exported ONNX graph as a network: for srrl.load, predict and the figures of an export."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from srrl.errors import RunError, UserError

if TYPE_CHECKING:
    from srrl.config import RunSettings
    from srrl.task import Task

METADATA = "srrl."  # before the names of what the file says about itself


def check_packages() -> None:
    """UserError, with what to install, where a package is missing that writing a graph needs."""
    missing = [p for p in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(p) is None]
    if missing:
        raise UserError(f"ONNX files need {', '.join(missing)}: pip install 'srrl[export]'")


def open_session(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; ``threads`` 0 is one a core. UserError for a file that is missing or no graph."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise UserError("ONNX files need onnxruntime: pip install 'srrl[export]'") from None
    if not path.is_file():
        raise UserError(f"{path.absolute()} does not exist: expected a file that python -m srrl.export wrote")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # threads that spin between two pictures take the cores from whatever else runs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types, which differ between its versions
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is damaged or no ONNX graph ({reason}): write or copy it again") from error


class OnnxNetwork(nn.Module):
    """A graph that srrl.export wrote, called as the network it was made from: images (N, 3, S, S) in 0–1 → raw output.

    Images are rounded to the 256 levels of the pixels that the graph takes.
    """

    def __init__(self, path: Path, threads: int = 0):
        super().__init__()
        self.session = open_session(path, threads)
        found = self.session.get_modelmeta().custom_metadata_map
        self.metadata = {k.removeprefix(METADATA): v for k, v in found.items() if k.startswith(METADATA)}
        if "settings" not in self.metadata:
            raise UserError(
                f"{path} was not written by python -m srrl.export: give such a file, or a run folder"
            )
        self.output_kind = self.session.get_outputs()[0].name
        self.raw_alone = _raw_alone()
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # says on which device it takes images

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        try:
            found = self.session.run([self.output_kind], {"pixels": pixels.numpy()}, self.raw_alone)
        except Exception as error:  # onnxruntime's own types, which differ between its versions
            raise RunError(
                f"ONNX Runtime could not run the graph: {' '.join(str(error).split())[:200]}"
            ) from error
        return torch.from_numpy(found[0])


def _raw_alone() -> Any:
    """Run options that leave out what the raw output does not need: else the answers are computed, too, and thrown away."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.only_execute_path_to_fetches = True
    return options


def open_onnx(path: Path, threads: int = 0) -> tuple[Task, OnnxNetwork, RunSettings]:
    """The task, the network and the settings of its predictor. Raises UserError."""
    from srrl.config import resolve
    from srrl.task import get_task

    network = OnnxNetwork(path, threads)
    try:
        values = json.loads(network.metadata["settings"])
        task = get_task(network.metadata["task"], values)
        return task, network.eval(), resolve(task.settings, values)
    except (UserError, KeyError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} does not describe itself as this version expects ({reason}): export it again"
        ) from error
