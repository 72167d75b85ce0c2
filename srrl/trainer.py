"""The training loop: one distiller, one data set, epochs, checkpoints that resume bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import Dataset

from srrl import processes
from srrl.checkpoint import load_state, save_state, save_weights
from srrl.config import OptimSettings
from srrl.data import on_device, train_loader
from srrl.distillers.base import Distiller
from srrl.ema import MovingAverage
from srrl.errors import RunError, UserError, out_of_memory
from srrl.interrupt import GracefulStop
from srrl.progress import EpochProgress
from srrl.schedule import build_optimizer, rate
from srrl.shared_norm import share_batchnorm

if TYPE_CHECKING:
    from accelerate import Accelerator

    from srrl.runs import MetricsLog

CHECK_EVERY = 20  # steps between looks at the loss on a GPU, where each look waits for the device
STOP_EVERY = 10  # updates between two agreements of several processes on whether a signal asked for the end
CHECKPOINT_SECONDS = 600.0  # a long epoch is also saved in its middle


@dataclass(frozen=True)
class Phase:
    """What one call of the trainer does and where it writes.

    ``metric`` names the validation figure that chooses the best epoch; ``higher`` says which way is better.
    """

    name: str
    epochs: int
    batch_size: int
    seed: int
    optim: OptimSettings
    metric: str | None = None
    higher: bool = False
    workers: int | str = "auto"
    compile: bool = False
    limit: int | None = None  # batches an epoch, for a dry run
    sync_batchnorm: bool = True  # with several processes
    checkpoint: Path | None = None
    best_weights: Path | None = None
    last_weights: Path | None = None


def make_accelerator(precision: str = "auto", accumulate: int = 1) -> Accelerator:
    """Accelerate's handle on device, precision and processes. ``auto`` is bf16 where the hardware computes in it, else fp32."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # precision may differ from an earlier run in this process
    mixed = {"auto": "bf16" if has_bf16() else "no", "fp32": "no", "bf16": "bf16", "fp16": "fp16"}[precision]
    if mixed == "fp16" and not torch.cuda.is_available():
        raise UserError("precision=fp16 needs a GPU: use bf16 or fp32 here")
    processes.state()
    return Accelerator(mixed_precision=mixed, gradient_accumulation_steps=accumulate, rng_types=[])


def has_bf16() -> bool:
    """Whether bf16 matrix products run in hardware here; emulated ones are slower than fp32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available():
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_compiler(device: torch.device) -> None:
    """Compiles two lines, as ``compile=true`` compiles a network. Raises UserError where that fails, before hours are spent."""
    try:
        torch.compile(lambda x: (x + 1).relu())(torch.ones(16, device=device))
    except Exception as error:  # of torch's compiler, of Triton or of a C++ compiler that is not there
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"compile=true: torch cannot compile here ({(lines or [type(error).__name__])[0][:160]}): install a C++ compiler (g++) "
            "and Python's headers, or leave compile out"
        ) from error


class Trainer:
    """Trains a distiller. ``validate(model)`` gives the metrics of the student (its average where ``ema`` is on).

    With several processes ``batch_size`` is that of one, the first saves and reports, and ``validate`` is called in every
    one, as each needs to know which epoch was best (:func:`srrl.processes.once` measures in the first alone). A resumed
    epoch then repeats the order of samples, not the draws of dropout.
    """

    def __init__(
        self,
        distiller: Distiller,
        dataset: Dataset,
        phase: Phase,
        *,
        accelerator: Accelerator | None = None,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        log: MetricsLog | None = None,
        stop: GracefulStop | None = None,
        say: Callable[[str], None] = print,
    ):
        self.distiller, self.dataset, self.phase = distiller, dataset, phase
        self.accelerator = accelerator or make_accelerator(accumulate=phase.optim.accumulate)
        self.accelerator.gradient_accumulation_steps = phase.optim.accumulate
        self.validate, self.log, self.stop, self.say = validate, log, stop or GracefulStop(), say
        self.epoch = self.step = 0  # finished epochs, and finished batches of the running one
        self.sums: dict[str, float] = {}
        self.best: dict[str, float] | None = None
        self.last: dict[str, float] = {}
        self.average: MovingAverage | None = None
        self.agreed: int | None = None  # the signal that every process knows of

    def fit(self) -> dict[str, Any]:
        """Runs (or goes on with) the phase. Returns ``{"best": {...}, "last": {...}, "seconds": ...}``.

        Raises Interrupted after a checkpoint where a signal asked for it, RunError on a non-finite loss.
        """
        started = time.monotonic()
        with processes.together(self.phase.name):
            model, loader = self.begin()
            try:
                with self.stop.deferred():
                    while not self.stopping() and self.epoch < self.phase.epochs:
                        self.train_epoch(model, loader)
                        if self.step >= self.batches.total:
                            self.finish_epoch()
            except Exception as error:
                if out_of_memory(error):
                    raise RunError(self.advice(error)) from error
                raise
            self.accelerator.wait_for_everyone()
        return {"best": self.best or self.last, "last": self.last, "seconds": time.monotonic() - started}

    def advice(self, error: BaseException) -> str:
        """What to do where memory ran out, in one line."""
        phase = self.phase
        begin = f"{phase.name}: out of memory at epoch {self.epoch + 1}, batch {self.step + 1}"
        if "shared memory" in str(error) or "shm" in str(error):
            return f"{begin}: /dev/shm is too small for the data's processes: docker run --shm-size 1g, or data.workers=0"
        if "DataLoader worker" in str(error):
            return f"{begin}: a process that reads the data was killed: start a new run with a lower data.workers"
        return (
            f"{begin}, with batch_size={phase.batch_size}: start a new run with a smaller one "
            f"(optim.accumulate={2 * phase.optim.accumulate} keeps what a step sees); teacher.checkpoint=RUN takes over its teacher"
        )

    def begin(self) -> tuple[nn.Module, Any]:
        """Everything before the first epoch: the distiller as it is trained, and the loader of its batches."""
        from accelerate.data_loader import prepare_data_loader

        accelerator, phase = self.accelerator, self.phase
        self.distiller.meet(self.dataset)
        self.distiller.to(accelerator.device, memory_format=self.distiller.memory_format)
        if accelerator.num_processes > 1 and phase.sync_batchnorm:
            share_batchnorm(self.distiller)
        self.optimizer = build_optimizer(phase.optim, [self.distiller])
        if phase.optim.ema:
            self.average = MovingAverage(self.distiller.student, phase.optim.ema)
        self.resume()
        loader, self.batches = train_loader(
            on_device(self.dataset, accelerator.device),
            phase.batch_size,
            phase.seed,
            phase.workers,
            phase.limit,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        model = self.distiller
        if phase.compile:
            # a GPU waits for the CPU to start the kernels of small networks: recorded as CUDA graphs they start at once
            model = torch.compile(
                model, mode="reduce-overhead" if accelerator.device.type == "cuda" else None
            )
        model, self.optimizer = accelerator.prepare(model, self.optimizer)
        # the sampler has already given this process its part of every step: accelerate only moves the batches
        return model, prepare_data_loader(
            loader, accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def train_epoch(self, model: nn.Module, loader: Any) -> None:
        """The rest of one epoch, batch by batch."""
        phase, accelerator = self.phase, self.accelerator
        self.batches.epoch, self.batches.start = self.epoch, self.step
        if self.step == 0:
            self.sums = {"batches": 0.0, "images": 0.0, "seconds": 0.0}
            # dropout and the like, the same on resume
            torch.manual_seed(phase.seed * 1_000_003 + self.epoch + 499_979 * accelerator.process_index)
        model.train()
        self.distiller.epoch.fill_(self.epoch + 1)
        saved = clock = time.monotonic()
        with EpochProgress(
            phase.name, self.epoch, phase.epochs, self.batches.total, self.step, accelerator.is_main_process
        ) as progress:
            for batch in loader:
                for group in self.optimizer.param_groups:
                    group["lr"] = rate(phase.optim, self.epoch + self.step / self.batches.total, phase.epochs)
                with accelerator.accumulate(model):
                    result = model(batch)
                    accelerator.backward(result["loss"])
                    if phase.optim.clip and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(self.distiller.parameters(), phase.optim.clip)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                if accelerator.sync_gradients:
                    self.distiller.updated()
                if self.average is not None and accelerator.sync_gradients:
                    self.average.update()
                self.step += 1
                self.account(result, len(batch["image"]))
                now = time.monotonic()
                self.sums["seconds"], clock = self.sums["seconds"] + now - clock, now
                progress.update(self.sums)
                if accelerator.sync_gradients and self.step < self.batches.total:
                    stopping = self.stopping()
                    if stopping or now - saved > CHECKPOINT_SECONDS:
                        self.save()
                        saved = now
                    if stopping:
                        accelerator.wait_for_everyone()  # a launcher ends the others as soon as one has left
                        return
        self.check_finite()

    def stopping(self) -> bool:
        """Whether a signal asked for the end: of any process, so that all of them stop after the same step."""
        updates = self.step // self.phase.optim.accumulate
        if self.accelerator.num_processes > 1 and updates % STOP_EVERY == 0:
            flag = torch.tensor([self.stop.requested or 0], device=self.accelerator.device)
            signum = int(self.accelerator.gather(flag).max())
            self.agreed = signum or None
            if signum and self.stop.requested is None:
                self.stop.requested = signum
        elif self.accelerator.num_processes == 1:
            self.agreed = self.stop.requested
        return self.agreed is not None

    def account(self, result: dict[str, Any], images: int) -> None:
        """Adds a batch to the epoch's sums, and stops on a loss that is not finite."""
        for key, value in result.items():
            if key != "output":
                self.sums[key] = self.sums.get(key, 0.0) + value.detach()
        self.sums["batches"] += 1
        self.sums["images"] += images
        if self.accelerator.device.type == "cpu" or self.step % CHECK_EVERY == 0:
            self.sums = {k: float(v) for k, v in self.sums.items()}
            self.check_finite()

    def check_finite(self) -> None:
        """RunError where the epoch's loss is NaN or infinite; called before every checkpoint."""
        self.sums = {k: float(v) for k, v in self.sums.items()}
        if not math.isfinite(self.sums["loss"]):
            raise RunError(
                f"{self.phase.name}: the loss is not finite at epoch {self.epoch + 1}, batch {self.step}: lower "
                "optim.lr, set optim.clip=1 or precision=fp32; the last checkpoint is from before"
            )

    def finish_epoch(self) -> None:
        """Validation, best weights, log line and checkpoint of the epoch that has just ended."""
        phase, batches = self.phase, self.sums["batches"]
        self.epoch, self.step = self.epoch + 1, 0
        student = self.average.module if self.average is not None else self.distiller.student
        means = {k: v / batches for k, v in self.sums.items() if k not in ("batches", "images", "seconds")}
        if self.accelerator.num_processes > 1:
            found = torch.tensor(list(means.values()), device=self.accelerator.device)
            means = dict(zip(means, self.accelerator.reduce(found, "mean").tolist(), strict=True))
        speed = self.sums["images"] * self.accelerator.num_processes / max(self.sums["seconds"], 1e-9)
        if not all(bool(torch.isfinite(v).all()) for v in student.state_dict().values()):
            raise RunError(
                f"{phase.name}: weights are not finite after epoch {self.epoch}; the last checkpoint is from before"
            )
        self.last = {"epoch": float(self.epoch)}
        if self.validate is not None:
            self.last |= self.validate(student)
        if phase.metric is not None and phase.metric not in self.last:
            raise UserError(f"validation gives {', '.join(self.last)}: expected {phase.metric!r} among them")
        better = self.best is None or phase.metric is None
        if not better:
            new, old = self.last[phase.metric], self.best[phase.metric]
            better = math.isnan(old) or (new > old if phase.higher else new < old)
        if better:
            self.best = dict(self.last)
        if self.accelerator.is_main_process:
            if better and phase.best_weights is not None:
                save_weights(phase.best_weights, student, phase=phase.name, epoch=str(self.epoch))
            if phase.last_weights is not None:
                save_weights(phase.last_weights, student, phase=phase.name, epoch=str(self.epoch))
            if self.log is not None:
                lr = rate(phase.optim, self.epoch, phase.epochs)
                validation = {f"val_{k}": v for k, v in self.last.items() if k != "epoch"}
                self.log.add(
                    {
                        "phase": phase.name,
                        "epoch": self.epoch,
                        "lr": lr,
                        **means,
                        **validation,
                        "images_per_second": speed,
                        "seconds": self.sums["seconds"],
                    }
                )
        self.save()
        self.report(means, speed, better)

    def report(self, means: dict[str, float], speed: float, better: bool) -> None:
        """One line an epoch."""
        parts = "  ".join(f"{k} {v:.4g}" for k, v in means.items())
        shown = "  ".join(f"val {k} {v:.4g}" for k, v in self.last.items() if k == self.phase.metric)
        star = " *" if better and shown else ""
        if self.accelerator.is_main_process:
            self.say(
                f"{self.phase.name:8s} epoch {self.epoch}/{self.phase.epochs}  {parts}  {shown}{star}  {speed:.0f} images/s"
            )

    def save(self) -> None:
        """The checkpoint: everything that the rest of the phase depends on, the connector included."""
        if self.phase.checkpoint is None or not self.accelerator.is_main_process:
            return
        self.check_finite()
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        scaler = self.accelerator.scaler
        save_state(
            self.phase.checkpoint,
            {
                "phase": self.phase.name,
                "world": self.accelerator.num_processes,
                "samples": len(self.dataset),
                "epoch": self.epoch,
                "step": self.step,
                "sums": self.sums,
                "metrics": self.log.checksum(self.phase.name) if self.log is not None else None,
                "best": self.best,
                "last": self.last,
                "model": self.distiller.trainable_state(),
                "optimizer": optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "average": self.average.state_dict() if self.average is not None else None,
                "scaler": scaler.state_dict() if scaler is not None else None,
            },
        )

    def resume(self) -> None:
        """Takes up the checkpoint of this phase, where there is one."""
        path = self.phase.checkpoint
        if path is None or not path.is_file():
            if self.log is not None:
                self.log.trim(self.phase.name, 0)
            return
        state = load_state(path)
        try:
            self.restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{path} was saved by another training ({reason}): go on with the same models, method and optim settings, "
                "or choose another file"
            ) from error
        if self.log is not None:
            self.log.trim(self.phase.name, self.epoch)  # rows that a kill left without their checkpoint
            found = self.log.checksum(self.phase.name)
            if None not in (found, state.get("metrics")) and found != state["metrics"]:
                raise UserError(
                    f"{self.log.path} was edited or damaged since the epochs of {self.phase.name} that stand there: restore it, "
                    "or remove it and lose the curves of the epochs before"
                )

    def restore(self, state: dict[str, Any]) -> None:
        """A checkpoint's content into models, optimiser, averages, generators and counters."""
        if state.get("phase", self.phase.name) != self.phase.name:
            raise UserError(
                f"{self.phase.checkpoint} is the checkpoint of {state['phase']}, not of {self.phase.name}: restore the file "
                "that the training saved, or remove it to begin this phase again"
            )
        if state.get("samples", len(self.dataset)) != len(self.dataset):
            raise UserError(
                f"{self.phase.checkpoint} was saved while there were {state['samples']} training samples, now there are "
                f"{len(self.dataset)}: restore the data, or start a new run"
            )
        self.epoch, self.step, self.sums = state["epoch"], state["step"], state["sums"]
        if self.step and state["world"] != self.accelerator.num_processes:
            # batches are of one process: as many samples of the epoch are taken as seen, but for less than a step
            self.step = self.step * state["world"] // self.accelerator.num_processes
            self.say(
                f"{self.phase.name}: saved by {state['world']} process{'es' * (state['world'] > 1)}, now {self.accelerator.num_processes}: "
                f"goes on at batch {self.step + 1} of epoch {self.epoch + 1}"
            )
        self.best, self.last = state["best"], state["last"]
        self.distiller.load_trainable_state(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            for device, rng in enumerate(state["cuda_rng"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(rng, device)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
