"""The script that scores by ancestry and age: means, intervals and spreads by hand, and a real network on a few faces."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from small_run import ROOT

from srrl.errors import UserError

sys.path.insert(0, str(ROOT / "scripts"))
import fairness  # noqa: E402


def test_groups_by_hand():
    people = [("african", "child"), ("asian", "adult"), ("caucasian", "old")]
    groups = [("blur", *who) for who in people for _ in range(4)]
    values = np.array([1.0, 2.0, 3.0, 4.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0])
    found = fairness.by_group(values, groups)
    african = found["ancestry"]["groups"]["african"]
    # variance (2.25 + 0.25 + 0.25 + 2.25) / 3, of the mean a fourth of that
    assert african == {"mean": 2.5, "half": pytest.approx(1.96 * (5 / 3 / 4) ** 0.5), "faces": 4}
    assert found["ancestry"]["groups"]["asian"]["half"] == 0.0
    assert found["age"]["spread"] == found["ancestry"]["spread"] == pytest.approx(50.0)


def test_a_group_of_one_face_is_no_measurement():
    groups = [("african", "child"), ("asian", "adult"), ("caucasian", "old")] * 2
    with pytest.raises(UserError, match="1 faces of the group caucasian: ask for more"):
        fairness.by_group(np.arange(5.0), groups[:5])


def test_what_is_no_network_for_faces_is_refused(capsys):
    assert fairness.main(["/nowhere"]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_shipped_network_is_scored_and_the_table_says_so():
    """Both normalisers see the same faces: their ratio is that of the eyes to the face, here up to how errors go with it."""
    found = fairness.scored("shipped:faces68-small", 256)
    assert found["faces"] == 256 and list(found["networks"]) == ["student"]
    student = found["networks"]["student"]
    for family in fairness.FAMILIES:
        sizes = [g["faces"] for g in found["eyes"][family]["groups"].values()]
        assert sum(sizes) == 256
        for member, of_eyes in student["inter-ocular"][family]["groups"].items():
            of_face = student["face"][family]["groups"][member]["mean"]
            eyes = found["eyes"][family]["groups"][member]["mean"]
            assert 3 < of_eyes["mean"] < 12
            assert of_face == pytest.approx(of_eyes["mean"] * eyes, rel=0.1)
    text = fairness.table(found)
    assert "| spread by age |" in text and text.count("\n") == 9
