"""Config: YAML's surprises, layers and overrides, one-line answers to mistakes, and a dump that reads back the same."""

from __future__ import annotations

import pytest
import yaml
from pydantic import Field

from srrl.config import (
    OptimSettings,
    RunSettings,
    Section,
    StudentSettings,
    TeacherSettings,
    apply_overrides,
    dump,
    read_yaml,
    resolve,
)
from srrl.errors import UserError


class Deep(Section):
    size: int = 3
    label: str = "x"


class ToyTeacher(TeacherSettings):
    arch: str = "big"
    deep: Deep = Deep()


class ToyStudent(StudentSettings):
    arch: str = "small"


class Toy(RunSettings):
    task: str = "toy"
    note: str = ""
    optim: OptimSettings = OptimSettings(lr=2e-3, warmup=3.0, milestones=[1.0])
    teacher: ToyTeacher = ToyTeacher()
    student: ToyStudent = ToyStudent()
    rates: list[float] = Field([0.1, 0.2])


@pytest.fixture
def from_yaml(tmp_path):
    def resolved(text, *overrides):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return resolve(Toy, apply_overrides(read_yaml(path), list(overrides)))

    return resolved


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "'1e-3'"])
def test_floats_are_read_however_they_are_written(from_yaml, text):
    assert from_yaml(f"optim:\n  lr: {text}\n").optim.lr == 0.001
    assert from_yaml("", f"optim.lr={text}").optim.lr == 0.001


@pytest.mark.parametrize(
    "name",
    [
        "no",
        "yes",
        "on",
        "off",
        "true",
        "2024_01",
        "2024",
        "007",
        "010",
        "1_000",
        "2024-01-31",
        "1.10",
        "12:30",
        "1e3",
    ],
)
def test_text_stays_the_text_that_was_written(from_yaml, name):
    cfg = from_yaml(f"note: {name}\ndata:\n  train: {name}\nteacher:\n  deep:\n    label: {name}\n")
    assert (cfg.note, cfg.data.train, cfg.teacher.deep.label) == (name, name, name)
    cfg = from_yaml("", f"note={name}", f"data.train={name}", f"teacher.deep.label={name}")
    assert (cfg.note, cfg.data.train, cfg.teacher.deep.label) == (name, name, name)


@pytest.mark.parametrize(
    ("text", "value"), [("no", False), ("false", False), ("off", False), ("yes", True), ("true", True)]
)
def test_booleans_in_every_spelling(from_yaml, text, value):
    assert from_yaml(f"baseline: {text}\n").baseline is value
    assert from_yaml("", f"baseline={text}").baseline is value


def test_other_types_from_yaml(from_yaml):
    cfg = from_yaml(
        "seed: 12\noptim: {milestones: [30, 6.5e1], schedule: step}\ndata:\n  workers: 2\n  val: null\n"
    )
    assert (cfg.seed, cfg.optim.milestones, cfg.data.workers, cfg.data.val) == (12, [30.0, 65.0], 2, None)
    assert from_yaml("data: {workers: auto}\n").data.workers == "auto"
    assert from_yaml("data: {val: ~}\nteacher: {epochs:}\n").teacher.epochs is None
    assert from_yaml("data: {val: 'null'}\n").data.val == "null"  # quoted, so text


def test_python_values_for_text_become_text():
    assert resolve(Toy, {"note": 2024, "data": {"train": 7}}).data.train == "7"


def test_one_key_of_a_section_leaves_the_rest(from_yaml):
    cfg = from_yaml("optim:\n  clip: 2\n", "optim.ema=0.5", "teacher.deep.size=9")
    assert cfg.optim == OptimSettings(lr=2e-3, warmup=3.0, milestones=[1.0], clip=2.0, ema=0.5)
    assert cfg.teacher == ToyTeacher(deep=Deep(size=9))


def test_later_layers_win_and_inputs_are_not_changed():
    low, high = {"optim": {"lr": 1.0, "clip": 5.0}}, {"optim": {"lr": 3.0}}
    cfg = resolve(Toy, low, high)
    assert (cfg.optim.lr, cfg.optim.clip, cfg.optim.warmup) == (3.0, 5.0, 3.0)
    assert (low, high) == ({"optim": {"lr": 1.0, "clip": 5.0}}, {"optim": {"lr": 3.0}})
    given = {"data": {"train": "a"}}
    assert apply_overrides(given, ["data.train=b", "data.val=c"]) == {"data": {"train": "b", "val": "c"}}
    assert given == {"data": {"train": "a"}}


def test_a_mapping_as_override_is_laid_over_the_section(from_yaml):
    cfg = from_yaml("optim: {clip: 2}\n", "optim={ema: 0.5}")
    assert (cfg.optim.clip, cfg.optim.ema, cfg.optim.lr) == (2.0, 0.5, 2e-3)


@pytest.mark.parametrize("text", ["optim:\n", "optim:\n  # lr: 1\n", "optim: {}\n"])
def test_an_empty_section_is_its_defaults(from_yaml, text):
    assert from_yaml(text).optim == Toy().optim
    assert from_yaml(text, "optim.lr=1").optim.lr == 1.0


def test_runs_do_not_share_their_settings():
    first, second = resolve(Toy), resolve(Toy)
    first.optim.lr = 7.0
    first.optim.milestones.append(5.0)
    first.teacher.deep.size = 99
    assert second == resolve(Toy) == Toy()
    assert Toy().optim.lr == 2e-3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("epoch=3", "unknown key 'epoch': did you mean 'epochs'?"),
        ("lr=3", "unknown key 'lr': did you mean 'optim.lr' or 'teacher.lr'?"),
        ("optim.lrr=3", "unknown key 'optim.lrr': did you mean 'optim.lr'?"),
        ("teacher.deep.siez=3", "unknown key 'teacher.deep.siez': did you mean 'teacher.deep.size'?"),
        ("optm.lr=3", "unknown key 'optm': did you mean 'optim'?"),
        ("student.zzz=3", "unknown key 'student.zzz': known here: arch, pretrained, init"),
        ("epochs=many", "epochs: input should be a valid integer"),
        ("epochs=0", "epochs: input should be greater than or equal to 1 (got 0)"),
        ("epochs=2.5", "epochs: input should be a valid integer"),
        ("optim.lr=fast", "optim.lr: input should be a valid number"),
        ("optim.lr=-1", "optim.lr: input should be greater than 0 (got -1)"),
        ("baseline=perhaps", "baseline: input should be a valid boolean"),
        ("precision=fp8", "precision: input should be 'auto', 'fp32', 'bf16' or 'fp16' (got 'fp8')"),
        ("optim.lr=1e308", "optim.lr: input should be less than or equal to"),
        ("optim={lr: 1, lr: 2}", "the value is not readable as YAML: the key 'lr' stands there twice"),
        ("optim.milestones=3", "optim.milestones: input should be a valid list (got 3)"),
        ("optim.milestones=[1, x]", "optim.milestones.1: input should be a valid number"),
        (
            "optim=5",
            "optim is a section of settings, not a single value (got '5'): give optim.name=… or another of name, lr",
        ),
        ("target=x", "unknown key 'target': known here: "),
        ("data.workers=several", "data.workers: "),
        ("epochs", "'epochs' is not an override: expected key=value"),
        ("=3", "'=3' is not an override: expected key=value"),
        ("epochs.few=3", "'epochs.few=3': epochs is a single value, it has no keys below it"),
        ("note=[1", "'note=[1': the value is not readable as YAML"),
    ],
)
def test_mistakes_are_answered_in_one_line_that_names_the_key(override, said):
    with pytest.raises(UserError) as error:
        resolve(Toy, apply_overrides({"epochs": 3}, [override]))
    assert said in one_line(error)


def test_missing_file_offers_its_neighbour(tmp_path):
    (tmp_path / "faces-pts.yaml").write_text("seed: 1\n")
    with pytest.raises(
        UserError, match=r"faces-pst\.yaml does not exist: did you mean .*faces-pts\.yaml"
    ) as error:
        read_yaml(tmp_path / "faces-pst.yaml")
    one_line(error)
    with pytest.raises(UserError, match="does not exist"):
        read_yaml(tmp_path / "nowhere" / "x.yaml")
    with pytest.raises(UserError, match="does not exist"):
        read_yaml(tmp_path)  # a folder


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- a\n- b\n", "holds a list: expected 'key: value' lines"),
        (b"just text\n", "holds a str: expected"),
        (b"a: [1\nb: 2\n", "is not readable as YAML"),
        (b"\xff\xfe\x00a", "is not readable as YAML"),
        (b"epochs: 1\nseed: 2\nepochs: 3\n", "the key 'epochs' stands there twice, in line 1 and in line 3"),
        (b"optim: {lr: 1, lr: 2}\n", "the key 'lr' stands there twice"),
        (b"a: !!python/object/apply:os.system ['true']\n", "is not readable as YAML"),
        # what PyYAML answers with a ValueError, a KeyError, an AttributeError and a RecursionError
        (b"epochs: " + b"9" * 5000, "is not readable as YAML: Exceeds the limit"),
        (b"a: !!bool x", "is not readable as YAML"),
        (b"a: !!timestamp x", "is not readable as YAML"),
        (b"a: " + b"[" * 3000, "is not readable as YAML"),
        # it holds itself; nine times nine times … values
        (b"a: &a {b: *a}", "holds itself"),
        (
            b"a0: &a0 [1,1,1,1,1,1,1,1,1]\n"
            + b"".join(b"a%d: &a%d [%s]\n" % (k, k, b",".join([b"*a%d" % (k - 1)] * 9)) for k in range(1, 9)),
            "more than 100000 values",
        ),
    ],
)
def test_files_that_are_no_mapping(tmp_path, content, said):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert said in one_line(error)
    assert "bad.yaml" in str(error.value)


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_dump_reads_back_the_same(from_yaml):
    cfg = resolve(
        Toy,
        {
            "note": "no",
            "seed": 5,
            "optim": {"lr": 1e-5, "weight_decay": 0.0, "milestones": [30, 60.5]},
            "data": {"train": "2024_01", "val": "null", "test": "1e-3", "format": "12:30", "workers": 2},
            "teacher": {"checkpoint": "~", "deep": {"label": "  ü: # 'x' \\ \n", "size": -4}},
            "student": {"init": "", "pretrained": True},
            "rates": [1e-7, 3.0],
        },
    )
    text = dump(cfg)
    assert from_yaml(text) == cfg
    assert dump(from_yaml(text)) == text
    # another program's YAML reader sees the same text
    assert yaml.safe_load(text)["data"]["train"] == "2024_01"
    assert yaml.safe_load(text)["note"] == "no"
    assert from_yaml(dump(Toy())) == Toy()


def test_method_settings_are_the_losses_part_alone():
    cfg = resolve(Toy, {"alpha": 10, "beta": 5, "sr_form": "kl", "epochs": 7})
    settings = cfg.method_settings()
    assert (settings.alpha, settings.beta, settings.sr_form) == (10.0, 5.0, "kl")
    assert not hasattr(settings, "epochs")
