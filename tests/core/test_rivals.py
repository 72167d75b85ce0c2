"""The rivals as methods: where gradients go, their weights, which predictions and networks they fit."""

import pytest
import torch
from staged import Labelled, Staged, batch, make
from torch import nn
from toys import HeatmapL2, spatial

from srrl.data import KeyedDataset
from srrl.distillers import crd
from srrl.distillers.base import MethodSettings
from srrl.errors import UserError
from srrl.model import Split

RIVALS = ("fitnet", "at", "ofd", "rkd", "crd", "dkd", "dist", "reviewkd")
SPATIAL = ("fitnet", "at", "ofd", "rkd", "reviewkd")


@pytest.mark.parametrize("method", RIVALS)
def test_gradients_reach_the_student_and_nothing_of_the_teacher(method):
    distiller = make(method, dkd_warmup=0, review_warmup=0).train()
    before = {k: v.clone() for k, v in distiller.teacher.state_dict().items()}
    result = distiller(batch())
    result["loss"].backward()
    assert {k for k, v in result.items() if v.requires_grad} <= {"loss", "output"}
    assert set(result) == {"loss", "output", *distiller.parts}
    assert all(float(result[p]) > 0 for p in distiller.parts)
    assert all(p.grad is not None for n, p in distiller.student.named_parameters())
    assert all(p.grad is not None for n, p in distiller.named_parameters() if not n.startswith("teacher."))
    assert all(p.grad is None for p in distiller.teacher.parameters())
    assert all(v.equal(before[k]) for k, v in distiller.teacher.state_dict().items())


@pytest.mark.parametrize("method", ["at", "rkd", "dkd", "dist"])
def test_a_perfect_student_of_the_same_network_pays_little(method):
    """The methods that compare outputs or relations must be 0 for a copy of the teacher."""
    student, teacher = Staged((4, 5, 6), seed=1), Staged((4, 5, 6), seed=1)
    distiller = make(method, student=student, teacher=teacher, dist_temperature=0.5).eval()
    result = distiller(batch())
    assert float(result["loss"]) == pytest.approx(float(result["supervised"]), abs=1e-4)


@pytest.mark.parametrize("method", SPATIAL)
def test_heatmaps_are_served(method):
    student, teacher = (
        Staged((4, 5, 6), head="spatial", seed=1),
        Staged((6, 8, 9), head="spatial", strides=(2, 1, 1), seed=2),
    )
    result = make(method, student=student, teacher=teacher, criterion=HeatmapL2()).train()(batch())
    assert torch.isfinite(result["loss"]) and result["output"].shape == (6, 2, 4, 4)


@pytest.mark.parametrize("method", ["crd", "dkd", "dist"])
def test_methods_for_classes_say_so_when_asked_for_heatmaps(method):
    with pytest.raises(
        UserError, match=f"method {method} compares logits, this task predicts heatmaps: .*srrl"
    ):
        make(method, student=spatial(), teacher=spatial(), criterion=HeatmapL2())


@pytest.mark.parametrize(("method", "part"), [("dkd", "nckd"), ("reviewkd", "review")])
def test_weight_rises_over_the_first_epochs(method, part):
    distiller = make(method, dkd_alpha=0.0, dkd_warmup=4, review_warmup=4).eval()
    data, shares = batch(), []
    for epoch in (1, 2, 4, 9):
        distiller.epoch.fill_(epoch)
        result = distiller(data)
        weight = 8.0 if method == "dkd" else 1.0
        shares.append(float(result["loss"] - result["supervised"]) / (weight * float(result[part])))
    assert shares == pytest.approx([0.25, 0.5, 1, 1], rel=1e-3)


def test_ofd_refuses_networks_whose_stages_do_not_end_in_a_relu():
    with pytest.raises(UserError, match="needs stages that end in a ReLU, which the teacher"):
        make("ofd", teacher=Staged((6, 8, 9), act=nn.SiLU))
    with pytest.raises(UserError, match="which the student"):
        make("ofd", student=Split(nn.Conv2d(3, 3, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())))


WEIGHTS = {
    "fitnet": {"fitnet_weight": ("hint", 3.0)},
    "at": {"at_weight": ("at", 3.0)},
    "ofd": {"ofd_weight": ("ofd", 3.0)},
    "rkd": {"rkd_distance": ("distance", 3.0), "rkd_angle": ("angle", 7.0)},
    "crd": {"crd_weight": ("crd", 3.0)},
    "dkd": {"dkd_alpha": ("tckd", 3.0), "dkd_beta": ("nckd", 7.0)},
    "dist": {"dist_inter": ("inter", 3.0), "dist_intra": ("intra", 7.0)},
    "reviewkd": {"review_weight": ("review", 3.0)},
    "srrl_pooled": {"alpha": ("fm", 3.0), "beta": ("sr", 7.0)},
    "srrl_stages": {"alpha": ("fm", 3.0), "beta": ("sr", 7.0)},
    "srrl_head": {"alpha": ("fm", 3.0), "beta": ("sr", 7.0)},
}


@pytest.mark.parametrize("method", WEIGHTS)
def test_the_loss_is_the_supervised_one_and_each_part_with_its_weight(method):
    settings = {name: weight for name, (_, weight) in WEIGHTS[method].items()}
    result = make(method, **settings, dkd_warmup=0, review_warmup=0, dist_temperature=1.0).train()(batch())
    expected = float(result["supervised"])
    for part, weight in WEIGHTS[method].values():
        assert float(result[part]) > 1e-6
        expected += weight * float(result[part])
    assert float(result["loss"]) == pytest.approx(expected, rel=1e-5)


class Overwriting(Staged):
    """Its second stage begins with a ReLU in place, on what the first one gave."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stages[0] = self.stages[0][:2]
        self.stages[1] = nn.Sequential(nn.ReLU(inplace=True), *self.stages[1])


@pytest.mark.parametrize("method", ["at", "fitnet", "reviewkd", "srrl_stages"])
def test_stages_that_overwrite_each_other_are_refused(method):
    with pytest.raises(UserError, match="a stage of the teacher writes into the map of the stage before it"):
        make(method, teacher=Overwriting((6, 8, 9)))
    with pytest.raises(UserError, match="a stage of the student"):
        make(method, student=Overwriting((4, 5, 6)))


@pytest.mark.parametrize("method", ["rkd", "reviewkd", "srrl_pooled"])
def test_a_batch_of_one_is_refused_where_it_means_nothing(method):
    with pytest.raises(UserError, match=f"method {method} needs a batch_size of 2 or more"):
        make(method).train()(batch(1))


@pytest.mark.parametrize("method", ["rkd", "crd"])
def test_half_precision_does_not_reach_the_sums_of_small_differences(method):
    distiller = make(method).eval()
    data = batch()
    torch.manual_seed(0)
    plain = distiller(data)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        half = distiller(data)
    part = distiller.parts[-1]
    assert float(half[part]) == pytest.approx(float(plain[part]), rel=0.1)
    assert half[part].dtype == torch.float32


def test_crd_needs_labels_of_the_whole_set_and_more_than_one_class():
    distiller = make("crd")
    with pytest.raises(UserError, match="needs the label of every training sample"):
        distiller.meet([1, 2, 3])
    Labelled.targets = [0, 1]
    assert KeyedDataset(Labelled()).labels == Labelled.labels
    with pytest.raises(UserError, match="name only one"):
        crd.OtherClasses(torch.zeros(4, dtype=torch.long))


def test_crd_goes_on_with_what_it_remembers():
    """As a second stage does: it meets the data, takes up the first stage's state, and the trainer lets it meet them again."""
    first, second = make("crd"), make("crd")
    first.memory_student.fill_(0.25)
    second.load_trainable_state(first.trainable_state())
    second.meet(Labelled())
    assert second.memory_student.eq(0.25).all()


@pytest.mark.parametrize("method", ["simkd", "srrl_head"])
def test_a_student_within_another_network_is_told_of_updates(method):
    """A binary student clips its weights then."""

    class Counting(Staged):
        updates = 0

        def updated(self):
            Counting.updates += 1

    distiller = make(method, student=Counting((4, 5, 6), seed=1))
    distiller.updated()
    assert Counting.updates == 1


def test_weights_rise_over_a_twelfth_of_the_training_unless_told_otherwise():
    """The authors' 20 of 240 epochs; a short training must not end before its method has begun."""
    short = MethodSettings(review_warmup=7).for_epochs(30)
    assert (short.dkd_warmup, short.review_warmup) == (2, 7)
    assert MethodSettings().for_epochs(240).dkd_warmup == 20
    assert MethodSettings(dkd_warmup=0).for_epochs(4).model_dump() | {"review_warmup": None} == {
        **MethodSettings(dkd_warmup=0).model_dump()
    }
    distiller = make("dkd", dkd_warmup=4)
    shares = []
    for epoch in range(1, 7):
        distiller.epoch.fill_(epoch)
        result = distiller(batch())
        taught = float(result["loss"] - result["supervised"])
        shares.append(taught / float(result["tckd"] + 8 * result["nckd"]))
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1], rel=1e-4)


def test_dist_needs_two_samples():
    with pytest.raises(UserError, match="method dist needs a batch_size of 2 or more"):
        make("dist").train()({k: v[:1] for k, v in batch().items()})
