"""The training loop: what a failure leaves behind, and arithmetic checked by hand."""

import argparse
import copy
import csv
import math
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toys import Colours, tiny

from srrl.api import CrossEntropyCriterion, accuracy
from srrl.checkpoint import load_state, save_state
from srrl.cli import guarded
from srrl.config import OptimSettings
from srrl.data import KeyedDataset
from srrl.distillers import build_distiller
from srrl.distillers.base import MethodSettings
from srrl.errors import RunError, UserError
from srrl.runs import MetricsLog, read_metrics
from srrl.train import COMMAND
from srrl.trainer import Phase, Trainer, make_accelerator


@pytest.mark.parametrize("method", ["none", "kd", "srrl"])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_each_method_learns_the_toy_problem(method, name):
    log, trainer = train(
        method,
        epochs=8,
        optim=OptimSettings(name=name, lr=0.02 if name == "adamw" else 0.05, warmup=0.5),
        teacher=trained_teacher(),
    )
    losses = [r["loss"] for r in log]
    assert losses[-1] < 0.6 * losses[0]
    assert accuracy(trainer.distiller.student, KeyedDataset(Colours(30, seed=9)))["top1"] > 90
    if method == "srrl":
        assert log[-1]["fm"] < 0.7 * log[0]["fm"]
        assert log[-1]["sr"] < 0.7 * log[0]["sr"]


_TEACHER: list[nn.Module] = []


def trained_teacher():
    """A teacher that knows the colours, trained once."""
    if not _TEACHER:
        _, trainer = train("none", student=tiny(8, seed=2), epochs=8)
        _TEACHER.append(trainer.distiller.student)
    return copy.deepcopy(_TEACHER[0])


def train(
    method="none",
    *,
    student=None,
    teacher=None,
    epochs=2,
    batch=6,
    data=None,
    optim=None,
    validate=None,
    watch=None,
    **phase,
):
    """A short training; returns the means of each epoch and the trainer. ``watch(trainer)`` is called after each batch."""
    student = student or tiny(6, seed=1)
    needs = teacher or (tiny(7, seed=2) if method != "none" else None)
    torch.manual_seed(3)
    distiller = build_distiller(method, student, needs, CrossEntropyCriterion(), MethodSettings())
    optim = optim or OptimSettings(lr=0.02, warmup=0.0)
    trainer = Trainer(
        distiller,
        KeyedDataset(data or Colours(30), seed=0),
        Phase("student", epochs, batch, 0, optim, **{"workers": 0} | phase),
        accelerator=make_accelerator("fp32", optim.accumulate),  # also where a processor computes in bf16
        validate=validate,
        say=lambda _: None,
    )
    log, account, finish = [], trainer.account, trainer.finish_epoch

    def accounted(result, images):
        account(result, images)
        if watch is not None:
            watch(trainer)

    def finished():
        log.append({k: v / trainer.sums["batches"] for k, v in trainer.sums.items()})
        finish()

    trainer.account, trainer.finish_epoch = accounted, finished
    trainer.outcome = trainer.fit()
    return log, trainer


def weights(trainer):
    return {k: v.detach().clone() for k, v in trainer.distiller.student.state_dict().items()}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["none", "kd"])
def test_two_accumulated_batches_are_one_of_twice_the_size(name, method):
    settings = dict(name=name, lr=0.01, warmup=0.0, schedule="constant")
    student = lambda: tiny(6, norm=False, seed=1)  # noqa: E731 - BatchNorm would see the size of a batch
    _, single = train(method, student=student(), batch=12, data=Colours(24), optim=OptimSettings(**settings))
    _, double = train(
        method, student=student(), batch=6, data=Colours(24), optim=OptimSettings(**settings, accumulate=2)
    )
    start = student().state_dict()
    for key, value in weights(single).items():
        torch.testing.assert_close(weights(double)[key], value, rtol=1e-4, atol=1e-5)
        assert (value - start[key]).abs().max() > 1e-3  # it did train


def test_a_step_happens_after_every_accumulated_batch_and_at_the_end_of_an_epoch():
    seen = []
    optim = OptimSettings(lr=0.01, warmup=0.0, accumulate=2)
    train(
        epochs=1,
        batch=6,
        data=Colours(30),
        optim=optim,
        watch=lambda t: seen.append(weights(t)["head.3.weight"]),
    )
    changed = [not torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False)]
    assert changed == [True, False, True, True]  # batches 2, 4 and the odd last one


def test_clipping_bounds_the_step():
    """Plain SGD with rate 1 moves by the gradient itself, so that the step's length is the clipped norm."""
    start = tiny(6, seed=1).state_dict()
    lengths = {}
    for clip in (0.0, 1e-3):
        optim = OptimSettings(
            name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, warmup=0.0, schedule="constant", clip=clip
        )
        _, trainer = train(epochs=1, limit=1, optim=optim)
        moved = [(p - start[k]).double() for k, p in trainer.distiller.student.named_parameters()]
        lengths[clip] = math.sqrt(sum(m.detach().square().sum().item() for m in moved))
    assert lengths[0.0] > 0.1
    assert lengths[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_the_rate_follows_the_position_in_training():
    seen = []
    optim = OptimSettings(name="sgd", lr=0.1, warmup=1.0, schedule="step", milestones=[2.0], gamma=0.1)
    train(epochs=3, optim=optim, watch=lambda t: seen.append(t.optimizer.param_groups[0]["lr"]))
    assert len(seen) == 15  # five batches an epoch
    assert seen[1:5] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert seen[0] < 0.001
    assert seen[5:10] == pytest.approx([0.1] * 5)
    assert seen[10:] == pytest.approx([0.01] * 5)


def test_every_batch_of_every_epoch_is_seen_and_the_means_are_theirs():
    losses = []
    log, trainer = train(epochs=3, watch=lambda t: losses.append(t.sums["loss"]))
    per_epoch = [losses[5 * e + 4] / 5 for e in range(3)]
    assert [r["loss"] for r in log] == pytest.approx(per_epoch)
    assert [r["images"] for r in log] == [6.0] * 3  # 30 images in 5 batches
    assert trainer.outcome["last"]["epoch"] == 3.0


def test_average_of_weights_by_its_recursion():
    """a ← a + (1 − d)(w − a) with d = min(decay, (1 + n)/(10 + n)); the first step copies."""
    seen, judged = [], []
    optim = OptimSettings(lr=0.05, warmup=0.0, ema=0.3)
    _, trainer = train(
        optim=optim,
        watch=lambda t: seen.append(weights(t)),
        validate=lambda m: judged.append({k: v.clone() for k, v in m.state_dict().items()}) or {},
    )
    for key in ("features.0.weight", "features.1.running_var", "head.3.bias"):
        average = seen[0][key].double()
        for n, current in enumerate(seen[1:], 1):
            average = average + (1 - min(0.3, (1 + n) / (10 + n))) * (current[key].double() - average)
            if n == 4:
                torch.testing.assert_close(judged[0][key].double(), average, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(judged[1][key].double(), average, rtol=1e-5, atol=1e-6)
        assert not torch.equal(judged[1][key], seen[-1][key])
    assert int(trainer.average.module.features[1].num_batches_tracked) == 10


def test_without_average_the_student_itself_is_judged():
    judged = []
    _, trainer = train(validate=lambda m: judged.append(m) or {})
    assert trainer.average is None
    assert all(m is trainer.distiller.student for m in judged)


@pytest.mark.parametrize(
    ("figures", "higher", "best"),
    [
        ([3.0, 1.0, 2.0], False, 2),
        ([3.0, 1.0, 2.0], True, 1),
        ([1.0, 2.0, 2.0], True, 2),  # of equals the first
        ([math.nan, 2.0, 3.0], False, 2),
        ([3.0, math.nan, 4.0], True, 3),
    ],
)
def test_best_weights_are_those_of_the_best_epoch_and_last_those_of_the_last(tmp_path, figures, higher, best):
    snapshots, script = [], iter(figures)

    def validate(model):
        snapshots.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"score": next(script)}

    paths = {"best_weights": tmp_path / "best.safetensors", "last_weights": tmp_path / "last.safetensors"}
    _, trainer = train(epochs=3, validate=validate, metric="score", higher=higher, **paths)
    for name, epoch in (("best_weights", best), ("last_weights", 3)):
        stored = load_file(paths[name])
        assert all(torch.equal(v, snapshots[epoch - 1][k]) for k, v in stored.items()), name
    assert trainer.outcome["best"] == {"epoch": float(best), "score": figures[best - 1]}
    assert trainer.outcome["last"]["epoch"] == 3.0


def test_a_metric_that_validation_does_not_give_is_named():
    with pytest.raises(UserError, match="validation gives epoch, top1: expected 'nme'"):
        train(validate=lambda _: {"top1": 1.0}, metric="nme")


class Poison(Colours):
    """Colours of which one picture is not a number."""

    def __init__(self, length, bad):
        super().__init__(length)
        self.images[bad] = math.nan


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint_before(tmp_path):
    """The first epoch is healthy; the poison comes with the second."""
    path, data = tmp_path / "student.pt", Colours(30)
    train(epochs=1, data=data, checkpoint=path, best_weights=tmp_path / "best.safetensors")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(
        RunError, match=r"student: the loss is not finite at epoch 2, batch \d: lower optim\.lr"
    ) as error:
        train(
            epochs=2,
            data=Poison(30, slice(None)),
            checkpoint=path,
            best_weights=tmp_path / "best.safetensors",
        )
    assert "\n" not in str(error.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert load_state(path)["epoch"] == 1


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """The very last step of an epoch spoils the weights without any loss having shown it."""

    def spoil(trainer):
        if trainer.step == 5 and trainer.epoch == 1:
            trainer.distiller.student.head[3].weight.data.fill_(math.inf)

    best = tmp_path / "best.safetensors"
    with pytest.raises(RunError, match="weights are not finite after epoch 2"):
        train(epochs=3, watch=spoil, checkpoint=tmp_path / "s.pt", best_weights=best)
    assert load_state(tmp_path / "s.pt")["epoch"] == 1
    assert all(bool(torch.isfinite(v).all()) for v in load_file(best).values())


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "s.pt"
    train(epochs=1, checkpoint=path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left on device"):
        train(epochs=2, checkpoint=path)
    assert path.read_bytes() == before


def test_a_batch_that_does_not_fit_into_memory_gives_advice(tmp_path):
    """torch itself is asked for a petabyte, after two good steps; what was saved stays."""
    path, steps = tmp_path / "s.pt", []
    train(epochs=1, checkpoint=path)
    before = path.read_bytes()

    def watch(_):
        steps.append(1)
        if len(steps) == 2:
            torch.empty(1 << 50, dtype=torch.uint8)

    with pytest.raises(RunError) as error:
        train(epochs=2, checkpoint=path, watch=watch)
    said = str(error.value)
    assert "\n" not in said
    assert "out of memory at epoch 2" in said and "batch_size=6" in said and "optim.accumulate=2" in said
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "data.workers"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out "
            "of shared memory. Please try to raise your shared memory limit.",
            "--shm-size",
        ),
    ],
)
def test_a_killed_data_process_is_taken_for_what_it_mostly_is(message, advice):
    """The messages are torch's own (torch/utils/data/_utils/signal_handling.py)."""

    def watch(_):
        raise RuntimeError(message)

    with pytest.raises(RunError, match=advice):
        train(epochs=1, watch=watch)


class Dying(Colours):
    """Colours, of which the process that reads for another one is killed in the second epoch, as by a lack of memory."""

    def __getitem__(self, index):
        if torch.utils.data.get_worker_info() is not None and self.epochs.value == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_data_process_that_is_killed(tmp_path):
    """A real one, by SIGKILL: one line, and the checkpoint of the epoch before goes on."""
    data, path = Dying(30), tmp_path / "s.pt"
    data.epochs = torch.multiprocessing.get_context("fork").Value("i", 0)

    def watch(trainer):
        data.epochs.value = trainer.epoch

    with pytest.raises(
        RunError, match=r"out of memory at epoch 2, .* a process that reads the data was killed"
    ) as error:
        train(epochs=3, data=data, checkpoint=path, workers=1, watch=watch)
    assert "\n" not in str(error.value) and load_state(path)["epoch"] == 1
    log, _ = train(epochs=3, data=Colours(30), checkpoint=path)
    assert len(log) == 2


def test_a_missing_compiler_is_named_before_anything_is_trained(monkeypatch, capsys, tmp_path):
    """torch's own compiler, which finds no other one; that it finds one where it is there, the run of a compiled training shows."""
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/no/such/g++"))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    assert guarded(lambda: command(["--task", "classification", "--quick", "compile=true", "threads=1"])) == 2
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]  # after torch's own word on the caches that it is not to use
    assert re.fullmatch(
        r"error: compile=true: torch cannot compile here \(.*C\+\+.*\): install a C\+\+ .*", last
    )
    assert "data: digits" not in said.out and not list(tmp_path.glob("runs/*/*"))  # nor is a run left behind


def command(arguments):
    """python -m srrl.train, in this process."""
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    return COMMAND.run(parser.parse_args(arguments))


def test_data_that_changed_since_the_checkpoint_are_named(tmp_path):
    path = tmp_path / "s.pt"
    train(epochs=1, checkpoint=path)
    with pytest.raises(UserError, match="30 training samples, now there are 31: restore the data"):
        train(epochs=2, checkpoint=path, data=Colours(31))


def test_the_checkpoint_of_another_phase_is_named(tmp_path):
    """A student under kd and a baseline have the same tensors: only the name that is kept tells them apart."""
    path = tmp_path / "student.pt"
    train(epochs=1, checkpoint=path)
    save_state(path, load_state(path) | {"phase": "baseline"})
    with pytest.raises(
        UserError, match=r"student\.pt is the checkpoint of baseline, not of student: restore"
    ):
        train(epochs=2, checkpoint=path)


def logged(path, epochs):
    """A student's training that writes metrics.csv; its rows afterwards."""
    log = MetricsLog(path / "metrics.csv")
    distiller = build_distiller("none", tiny(), None, CrossEntropyCriterion(), MethodSettings())
    phase = Phase("student", epochs, 6, 0, OptimSettings(), workers=0, checkpoint=path / "student.pt")
    Trainer(distiller, KeyedDataset(Colours(12)), phase, log=log, say=lambda _: None).fit()
    return [(r["phase"], r["epoch"]) for r in read_metrics(log.path)]


def test_a_log_that_was_changed_since_the_checkpoint_is_named(tmp_path):
    """A row more, which a kill before the checkpoint leaves, and a log that was removed are no damage."""
    file = tmp_path / "metrics.csv"
    MetricsLog(file).add({"phase": "teacher", "epoch": 1, "of the teacher": 1.0})
    assert logged(tmp_path, 2) == [("teacher", "1"), ("student", "1"), ("student", "2")]
    whole, checkpoint = file.read_text(), (tmp_path / "student.pt").read_bytes()
    loss = read_metrics(file)[1]["loss"]
    for changed in (loss.replace(loss[-1], str((int(loss[-1]) + 1) % 10)), loss + "0", ""):
        file.write_text(whole.replace(loss, changed))
        with pytest.raises(
            UserError, match=r"metrics\.csv was edited or damaged since the epochs of student"
        ):
            logged(tmp_path, 3)
    file.write_text(whole)
    log = MetricsLog(file)
    log.add({"phase": "student", "epoch": 3, "loss": 99.0, "another column": 1.0})  # and killed
    assert logged(tmp_path, 3)[1:] == [("student", "1"), ("student", "2"), ("student", "3")]
    assert "99" not in {r["loss"] for r in read_metrics(file)}
    (tmp_path / "student.pt").write_bytes(checkpoint)
    file.unlink()
    assert logged(tmp_path, 3) == [("student", "3")] == logged(tmp_path, 3)


def test_a_finished_phase_is_not_trained_again(tmp_path):
    path, steps = tmp_path / "s.pt", []
    _, first = train(epochs=2, checkpoint=path)
    _, again = train(epochs=2, checkpoint=path, watch=lambda _: steps.append(1))
    assert steps == []
    assert again.outcome["last"] == first.outcome["last"]
    assert all(torch.equal(v, weights(first)[k]) for k, v in weights(again).items())


@pytest.mark.parametrize(
    "other",
    [
        {"student": lambda: tiny(9)},
        {"student": lambda: tiny(6, depth=2)},
        {"method": "srrl"},
        {"optim": OptimSettings(name="sgd", lr=0.1)},
        {"optim": OptimSettings(ema=0.9)},
    ],
)
def test_the_checkpoint_of_another_training_is_one_line(tmp_path, other):
    path = tmp_path / "s.pt"
    train(epochs=1, checkpoint=path)
    before = path.read_bytes()
    options = {k: v() if callable(v) else v for k, v in other.items()}
    with pytest.raises(UserError, match="another training") as error:
        train(epochs=2, checkpoint=path, **options)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_log_rows_of_a_new_training_replace_older_ones(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv")
    log.add({"phase": "student", "epoch": 4, "loss": 1.0})
    log.add({"phase": "teacher", "epoch": 1, "loss": 1.0})
    distiller = build_distiller("none", tiny(), None, CrossEntropyCriterion(), MethodSettings())
    phase = Phase("student", 1, 6, 0, OptimSettings(), workers=0)
    Trainer(distiller, KeyedDataset(Colours(12)), phase, log=log, say=lambda _: None).fit()
    with open(log.path, newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(r["phase"], r["epoch"]) for r in rows] == [("teacher", "1"), ("student", "1")]


def test_a_teacher_is_not_moved_by_training():
    teacher = tiny(7, dropout=0.2, seed=2)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    train("srrl", teacher=teacher, optim=OptimSettings(lr=0.1, weight_decay=0.5, warmup=0.0))
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
