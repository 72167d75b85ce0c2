"""MATLAB v5 files: what scipy reads of them comes back, and no damaged byte ends the process that asks."""

import struct

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix
from srrl_tasks.faces.readers.matfile import Damaged, read_arrays


def test_numbers_texts_and_cells_are_those_of_scipy_and_nothing_else_comes(tmp_path):
    cells = np.empty((2, 2), dtype=object)
    cells[:] = [["0/a b.jpg", "é漢.png"], [np.array([[1.0, 2.0]]), np.zeros((0, 0))]]
    others = {"sparse": csc_matrix(np.eye(3)), "struct": {"x": 1}, "complex": np.eye(2) * 1j}
    arrays = {"n": np.arange(6, dtype=np.int16).reshape(2, 3), "cells": cells, "text": "a line", **others}
    savemat(tmp_path / "a.mat", arrays)
    found, expected = read_arrays(tmp_path / "a.mat", list(arrays)), loadmat(tmp_path / "a.mat")
    assert found.keys() == arrays.keys()
    assert all(found[name] is None for name in others)
    for name in ("n", "text"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert [v.tolist() for v in found["cells"].ravel()] == [["0/a b.jpg"], ["é漢.png"], [[1.0, 2.0]], []]
    assert read_arrays(tmp_path / "a.mat", ["n", "none"]).keys() == {"n"}


def element(order, kind, content, short=False):
    if short:
        return struct.pack(order + "I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack(order + "II", kind, len(content)) + content + bytes(-len(content) % 8)


def array(order, family, name, shape, *parts):
    head = [
        element(order, 6, struct.pack(order + "II", family, 0)),
        element(order, 5, struct.pack(order + "ii", *shape)),
        element(order, 1, name, short=len(name) <= 4),
    ]
    return element(order, 14, b"".join([*head, *parts]))


def write(path, order, *arrays, version=0x0100):
    mark = {"<": b"IM", ">": b"MI"}[order]
    path.write_bytes(b"MATLAB".ljust(124) + struct.pack(order + "H", version) + mark + b"".join(arrays))
    return path


@pytest.mark.parametrize(
    "content",
    [
        # the type of an element that lies far outside of all types: scipy 1.17 ends with a signal on some
        *(array("<", 6, b"n", (2, 2), element("<", kind, bytes(32))) for kind in (158, 0x7FFF)),
        array("<", 6, b"n", (2, 3), element("<", 9, bytes(32)))[:-9],
        element("<", 15, b"text" * 5),
    ],
)
def test_what_contradicts_itself_is_damaged(tmp_path, content):
    with pytest.raises(Damaged) as error:
        read_arrays(write(tmp_path / "a.mat", "<", content), ["n"])
    assert "\n" not in str(error.value) and str(error.value)


def test_a_reader_that_dies_is_a_damaged_file(tmp_path, monkeypatch):
    monkeypatch.setattr("srrl_tasks.faces.readers.matfile._READ", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(Damaged, match="ended with signal 11"):
        read_arrays(tmp_path / "a.mat", ["n"])
