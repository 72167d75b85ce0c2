"""One run from config to report: data → teacher → baseline → student → results, each phase resumable."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from srrl import runs
from srrl.checkpoint import load_weights, normalisations, normalise_as, save_weights
from srrl.config import OptimSettings, RunSettings, dump
from srrl.data import too_few_batches
from srrl.distillers import build_distiller, check_method, distiller_class
from srrl.distillers.base import Distiller
from srrl.errors import UserError
from srrl.interrupt import GracefulStop
from srrl.memory import MapMemory, prepare_folder
from srrl.processes import first_then_all, once
from srrl.runs import MetricsLog, RunFolder
from srrl.shipped import located
from srrl.task import Data, Task
from srrl.trainer import Phase, Trainer, check_compiler, make_accelerator

DRAW_EVERY = 30.0  # seconds


class Pipeline:
    """A run in its folder. Calling :meth:`run` again on the same folder goes on where it stopped.

    ``batches`` ends each epoch after so many (a dry run).
    """

    def __init__(
        self,
        task: Task,
        cfg: RunSettings,
        run: RunFolder,
        *,
        stop: GracefulStop | None = None,
        say: Callable[[str], None] = print,
        batches: int | None = None,
    ):
        check_method(cfg.method)
        if cfg.method in ("simkd", "srrl_head") and len(task.stages(cfg)) > 1:
            raise UserError(
                f"method {cfg.method} trains in one stage, this task in several: choose another method"
            )
        self.task, self.cfg, self.run_folder = task, cfg, run
        self.stop, self.say, self.batches = stop or GracefulStop(), say, batches
        self.log = MetricsLog(run.path / "metrics.csv", added=self.draw)
        self.drawn = time.monotonic()
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """Everything; returns what results.json holds (nothing in the processes beside the first)."""
        cfg, task, run = self.cfg, self.task, self.run_folder
        data = self.prepare()
        check_method_fits(task, cfg)  # what is wrong with it is said before a teacher is trained
        models: dict[str, nn.Module] = {}
        chosen: dict[str, dict[str, Any]] = {}
        if cfg.method != "none" or cfg.teacher.checkpoint:
            with self.timed("teacher"):
                models["teacher"], chosen["teacher"] = self.teacher(data)
        taught: tuple[nn.Module | None, Dataset] = None, data.train
        if "teacher" in models and cfg.method != "none":
            taught = task.teaching(models["teacher"], data, cfg, self.say)
        phases = [("student", cfg.method)]
        if cfg.baseline and cfg.method != "none":
            phases.insert(0, ("baseline", "none"))
        for phase, method in phases:
            with self.timed(phase):
                teacher, samples = (None, data.train) if method == "none" else taught
                models[phase], chosen[phase] = self.student(phase, method, data, teacher, samples)
        if not self.accelerator.is_main_process:
            return {}
        with self.timed("evaluation"):
            results = finish(task, cfg, run, data, models, chosen, self.seconds, self.say)
            if not self.batches:  # else its folder is removed again
                self.say(f"report: {run.report}")
            return results

    def teach(self, ready: Callable[[], None]) -> None:
        """The data and the teacher alone, for runs that share one; ``ready`` is called between the two."""
        data = self.prepare()
        ready()
        self.teacher(data)

    def prepare(self) -> Data:
        """The first phase: the run folder's opening files, the device and the data."""
        cfg, run = self.cfg, self.run_folder
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        self.accelerator = make_accelerator(cfg.precision, cfg.optim.accumulate)
        self.task.check(cfg)
        if cfg.compile:
            check_compiler(self.accelerator.device)
        if cfg.teacher.memory:
            prepare_folder(Path(cfg.teacher.memory))
        own = run.weights("teacher").is_file()
        for path, name in (
            (None if own else cfg.teacher.checkpoint, "teacher"),
            (cfg.student.init, "student"),
        ):
            if path:  # before anything is trained
                weights_of(path, name)
        first = self.accelerator.is_main_process
        if first:
            run.write_settings(dump(cfg))
            if not (run.path / "environment.json").is_file():
                runs.write_json(run.path / "environment.json", runs.environment())
        with self.timed("data"):
            data = first_then_all(lambda: self.task.prepare(cfg, self.say))
        if first:
            run.write_settings(dump(cfg))  # the data may have said what the config left open
            # the embedded sets are small on purpose, and a student that goes on needs less
            if cfg.data.train and not cfg.student.init and not self.batches:
                world = self.accelerator.num_processes
                if few := too_few_batches(len(data.train), cfg.batch_size, cfg.epochs, world):
                    self.say(f"data: {few}")
                    data.details.setdefault("notes", []).append(f"**{few[0].upper()}{few[1:]}.**")
        if cfg.score == "val":
            data = data.on_validation()
        return data.shortened(self.batches * cfg.batch_size) if self.batches else data

    def draw(self) -> None:
        """The curves so far, where the last ones are old enough: drawing takes as long as some small networks' epochs."""
        if time.monotonic() - self.drawn > DRAW_EVERY:
            from srrl.report import draw_curves

            self.run_folder.plots.mkdir(exist_ok=True)
            draw_curves(self.log.path, self.run_folder.plots / "curves.png", self.task)
            self.drawn = time.monotonic()

    @contextlib.contextmanager
    def timed(self, what: str):
        """Keeps how long the block took, for the report."""
        start = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - start

    def teacher(self, data: Data) -> tuple[nn.Module, dict[str, Any]]:
        """The teacher: from a checkpoint, or trained on the labels by the same loop."""
        cfg, run = self.cfg, self.run_folder
        torch.manual_seed(cfg.seed)
        model = self.task.build_teacher(cfg)
        if cfg.teacher.checkpoint:
            # a run that goes on keeps the teacher that it began with, whatever has become of the file meanwhile
            own = run.weights("teacher")
            if own.is_file():
                load_weights(model, own, "teacher", phase="teacher")
            else:
                _load_from(cfg.teacher.checkpoint, model, "teacher")
            self.say(f"teacher: weights from {cfg.teacher.checkpoint}")
            if self.accelerator.is_main_process and not own.is_file():
                save_weights(own, model, phase="teacher")
            return model, {}
        epochs = cfg.epochs if cfg.teacher.epochs is None else cfg.teacher.epochs
        if epochs == 0:
            if not cfg.teacher.pretrained:
                raise UserError("teacher.epochs=0 is for a teacher with pretrained=true or a checkpoint")
            self.say(f"teacher: {cfg.teacher.arch} as pretrained, not trained further")
            if self.accelerator.is_main_process and not run.weights("teacher").is_file():
                save_weights(run.weights("teacher"), model, phase="teacher")
            return model, {}
        optim = cfg.optim.model_copy(update={"lr": cfg.teacher.lr or cfg.optim.lr})
        distiller = self.distiller("none", model, None)
        outcome = self.fit("teacher", distiller, data, epochs, optim)
        return self.chosen("teacher", distiller), outcome

    def student(
        self, phase: str, method: str, data: Data, teacher: nn.Module | None, samples: Dataset
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The student under ``method`` on ``samples``; baseline and student start from the same weights.

        A later stage goes on from the last epoch of the one before, with what is trained beside the student (a connector)
        as well: a fresh connector would ask of the student that it learn its features anew.
        """
        cfg = self.cfg
        torch.manual_seed(cfg.seed)
        before: Distiller | None = None
        for suffix, stage in self.task.stages(cfg):
            model = self.task.build_student(stage)
            distiller = self.distiller(method, model, teacher)
            if before is not None:
                distiller.meet(samples)
                distiller.load_trainable_state(before.trainable_state())
                normalise_as(model, normalisations(before.student))
                self.task.begin_stage(model)
            elif cfg.student.init:
                _load_from(cfg.student.init, model, "student")
            outcome = self.fit(phase + suffix, distiller, data, stage.epochs, stage.optim, samples)
            before = distiller
        return self.chosen(phase, distiller), outcome

    def distiller(self, method: str, student: nn.Module, teacher: nn.Module | None) -> Distiller:
        """The method around a student, as the settings describe it."""
        cfg = self.cfg
        distiller = build_distiller(method, student, teacher, self.task.criterion(cfg), cfg.method_settings())
        if cfg.teacher.memory and distiller.teacher is not None:
            folder, gigabytes = Path(cfg.teacher.memory), cfg.teacher.memory_gb
            distiller.teacher.memory = MapMemory(
                folder, gigabytes, distiller.teacher.model, self.say, compiled=cfg.compile
            )
        return distiller

    def fit(
        self,
        phase: str,
        distiller: Distiller,
        data: Data,
        epochs: int,
        optim: OptimSettings,
        samples: Dataset | None = None,
    ) -> dict[str, Any]:
        """Trains one network to its last epoch, and gives the figures of the best and of the last.

        A teacher learns on ``data.train``, a student on ``samples``.
        """
        cfg, task, run = self.cfg, self.task, self.run_folder
        settings = Phase(
            name=phase,
            epochs=epochs,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            optim=optim,
            metric=task.metric,
            higher=task.higher,
            workers=cfg.data.workers,
            compile=cfg.compile,
            sync_batchnorm=cfg.sync_batchnorm,
            limit=self.batches,
            checkpoint=run.checkpoint(phase),
            best_weights=run.weights(phase),
            last_weights=run.weights(f"{phase}-last"),
        )

        def validate(model: nn.Module) -> dict[str, float]:
            if samples is not None:
                task.settle(model, data, cfg)
            dataset = task.validation(data, teacher=samples is None)
            if self.batches and hasattr(dataset, "head"):
                dataset = dataset.head(self.batches * cfg.batch_size)
            name = "teacher" if samples is None else "student"
            return once(lambda: task.evaluate(task.as_scored(name, model, dataset, cfg), dataset, cfg))

        trainer = Trainer(
            distiller,
            data.train if samples is None else samples,
            settings,
            accelerator=self.accelerator,
            log=self.log,
            stop=self.stop,
            say=self.say,
            validate=validate,
        )
        outcome = trainer.fit()
        self.accelerator.free_memory()
        return {"best": outcome["best"], "last": outcome["last"]}

    def chosen(self, phase: str, distiller: Distiller) -> nn.Module:
        """The network of a finished phase, with the weights that validation chose."""
        model = distiller.student
        load_weights(model, self.run_folder.weights(phase), phase, phase=phase)
        return model.to(self.accelerator.device)


def check_method_fits(task: Task, cfg: RunSettings) -> None:
    """Builds student, teacher and distiller as the settings describe them. Raises UserError where they do not fit."""
    own = cfg.model_copy(deep=True)
    own.teacher.pretrained = own.student.pretrained = False  # weights change nothing of it
    stage = task.stages(own)[0][1]
    teacher = task.build_teacher(own) if distiller_class(own.method).needs_teacher else None
    build_distiller(
        own.method, task.build_student(stage), teacher, task.criterion(own), own.method_settings()
    )


def weights_of(path: str, name: str) -> Path:
    """A weights file, or that of model ``name`` in a run folder or ``shipped:NAME``. Raises UserError."""
    p = located(path)
    if p.is_dir():
        run = RunFolder.open(p)
        if not run.weights(name).is_file():
            raise UserError(f"{path} has no {name} weights: it has {', '.join(run.models()) or 'none yet'}")
        return run.weights(name)
    if not p.is_file():
        raise UserError(
            f"{p.absolute()} does not exist: expected a .safetensors or .pt file, a run folder or shipped:NAME"
        )
    return p


def _load_from(path: str, model: nn.Module, name: str) -> None:
    """The weights at :func:`weights_of` into ``model``. A file may hold any network; a run's must be the one of that name."""
    load_weights(model, weights_of(path, name), name, phase=name if located(path).is_dir() else None)


def finish(
    task: Task,
    cfg: RunSettings,
    run: RunFolder,
    data: Data,
    models: dict[str, nn.Module],
    chosen: dict[str, Any],
    seconds: dict[str, float],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Scores the test split (validation with ``score=val``), measures speed, writes results.json, plots and report.md."""
    from srrl.evaluate import measure
    from srrl.report import write_report

    results = measure(task, cfg, run, data, models)
    shown = {name: task.as_scored(name, model, data.test, cfg) for name, model in models.items()}
    write_report(task, cfg, run, data, shown, results, chosen, seconds)
    runs.write_json(run.results, results)  # last: a run that has it is finished
    for name in models:
        m = results[name]
        say(
            f"{name:8s} {task.metric} {m[task.metric]:.3f}{task.unit}  {m['params'] / 1e6:.2f}M parameters  "
            f"{m['macs'] / 1e6:.0f}M multiply-adds  {m['latency_ms_p50']:.1f} ms (one thread)"
        )
    return results
