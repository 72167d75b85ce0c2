"""Precisions and compilation: another way through the same training must lead to the same place."""

import shutil

import pytest
import torch
from toys import Colours, HeatmapL2, spatial, tiny

from srrl.api import CrossEntropyCriterion
from srrl.config import OptimSettings
from srrl.data import KeyedDataset
from srrl.distillers import build_distiller
from srrl.distillers.base import MethodSettings
from srrl.errors import UserError
from srrl.trainer import Phase, Trainer, make_accelerator


class Blobs(HeatmapL2):
    """Heatmaps that say where the picture is bright."""

    def supervised(self, output, batch):
        target = torch.nn.functional.avg_pool2d(batch["image"], 2)[:, : output.shape[1]]
        return (output.float() - target).square().mean()


def test_half_precision_without_a_gpu_is_refused():
    if torch.cuda.is_available():
        assert make_accelerator("fp16").mixed_precision == "fp16"
    else:
        with pytest.raises(UserError, match="precision=fp16 needs a GPU"):
            make_accelerator("fp16")
    assert make_accelerator("fp32").mixed_precision == "no"


@pytest.mark.parametrize("kind", ["logits", "heatmaps"])
def test_bf16_trains_close_to_fp32(kind):
    found = {}
    for precision in ("fp32", "bf16"):
        if kind == "logits":
            student, teacher, criterion = tiny(6, seed=1), tiny(8, seed=2), CrossEntropyCriterion()
        else:
            student, teacher, criterion = spatial(4, seed=1), spatial(6, seed=2), Blobs()
        torch.manual_seed(3)
        distiller = build_distiller("srrl", student, teacher, criterion, MethodSettings())
        lines = []
        phase = Phase("student", 3, 6, 0, OptimSettings(lr=0.01, warmup=0.0), workers=0)
        trainer = Trainer(
            distiller,
            KeyedDataset(Colours(24)),
            phase,
            accelerator=make_accelerator(precision),
            log=None,
            say=lines.append,
        )
        trainer.fit()
        assert all(p.dtype == torch.float32 for p in distiller.parameters())
        found[precision] = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.03)
    assert found["bf16"] != found["fp32"]  # it did compute in another precision


@pytest.mark.timeout(600)  # the compiler takes most of it
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_is_the_same_training():
    found = {}
    for compiled in (False, True):
        torch.manual_seed(3)
        distiller = build_distiller(
            "srrl", tiny(4, seed=1), tiny(5, seed=2), CrossEntropyCriterion(), MethodSettings()
        )
        optim = OptimSettings(name="sgd", lr=0.05, warmup=0.0)
        phase = Phase("student", 1, 6, 0, optim, workers=0, compile=compiled)
        whole = make_accelerator("fp32")  # whose sums the two orders differ in least
        Trainer(distiller, KeyedDataset(Colours(18)), phase, accelerator=whole, say=lambda _: None).fit()
        found[compiled] = distiller.trainable_state()
    for key, value in found[False].items():
        torch.testing.assert_close(found[True][key], value, rtol=1e-4, atol=1e-5)
