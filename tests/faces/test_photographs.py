"""The script that says what errors on photographs are made of: turn of the head, halves taken together, by known answers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from small_run import ROOT
from srrl_tasks.faces.schemes import scheme_for

sys.path.insert(0, str(ROOT / "scripts"))
import photographs  # noqa: E402

SCHEME = scheme_for(68)


def test_the_turn_of_a_head_is_found_from_its_points():
    """A shape with depth, turned and tilted by a rotation matrix and seen from far away: sin(yaw)·cos(pitch) sideways."""
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(51, 3)) * [1.0, 1.0, 0.6]
    for yaw, pitch in ((0, 0), (20, 0), (-35, 0), (50, 0), (25, 10)):
        a, b = np.radians([yaw, pitch])
        turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
        tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        seen = (shape @ (turn @ tilt).T)[:, :2] * [1, -1] * 40 + [60, 70]  # y downwards
        points = np.concatenate([np.zeros((17, 2)), seen])[None]
        expected = np.degrees(np.arcsin(np.sin(a) * np.cos(b)))
        assert photographs.turned(points, shape)[0] == pytest.approx(expected, abs=1.0)


def test_both_halves_are_taken_together_and_outwards_is_positive():
    upright = np.zeros((3, 68, 2))
    x = np.arange(68.0)
    upright[..., 0] = np.where(x < SCHEME.flip_order, -1, np.where(x > SCHEME.flip_order, 1, 0))
    upright[:, [55, 56, 65], 0], upright[:, [59, 58, 67], 0] = 1, -1  # listed from the person's left
    signed = np.zeros((3, 68, 2))
    signed[:, 0] = (-2.0, 1.0)  # outwards and down
    signed[:, 16] = (4.0, -3.0)  # outwards and up
    signed[:, 55], signed[:, 59] = (1.0, 0.0), (-1.0, 0.0)
    signed[:, 8] = (5.0, -1.0)  # the middle: what goes to one side is nothing
    found = photographs.halves(signed, upright, SCHEME)
    assert found[0] == pytest.approx((3.0, 1.0)) and found[16] == pytest.approx((3.0, 1.0))
    assert found[55] == pytest.approx((1.0, 0.0)) and found[59] == pytest.approx((1.0, 0.0))
    assert found[8, 1] == pytest.approx(1.0)


def test_heads_turned_to_the_right_are_mirrored():
    signed = np.zeros((2, 68, 2))
    signed[0, 3] = (2.0, 1.0)  # turned to the left: its near side
    signed[1, 13] = (-2.0, 1.0)  # turned to the right: the same
    found = photographs.as_turned(signed, signed, np.array([20.0, -20.0]), SCHEME, 15, 30)
    assert found[3] == pytest.approx((2.0, -1.0)) and found[13] == pytest.approx((0.0, 0.0))
