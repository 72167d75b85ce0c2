"""The landmark schemes against shapes drawn from each mark-up's definition, left and right apart."""

import numpy as np
import pytest
from srrl_tasks.faces.schemes import SCHEMES, WFLW_TO_IBUG, scheme_for

from srrl.errors import UserError


def _arc(n, first, last, radius_x, radius_y, center=(0.0, 0.0)):
    """n points on an ellipse from angle `first` to `last` in degrees; 0 is +x, 90 is down (image axes)."""
    angles = np.radians(np.linspace(first, last, n))
    return [(center[0] + radius_x * np.cos(a), center[1] + radius_y * np.sin(a)) for a in angles]


def _line(start, end, n):
    return [tuple(p) for p in np.linspace(start, end, n)]


def _mouth():
    """20 points, outer lip then inner lip, each clockwise from the corner on the left of the picture."""
    outer = _arc(7, 180, 360, 3.0, 1.5, (0, 6)) + _arc(7, 0, 180, 3.0, 1.7, (0, 6))[1:-1]
    inner = _arc(5, 180, 360, 2.0, 0.5, (0, 6)) + _arc(5, 0, 180, 2.0, 0.6, (0, 6))[1:-1]
    return outer + inner


def shape_68():
    """Each part is walked in the order of the mark-up (left to right in the picture, lids clockwise)."""
    jaw = _arc(17, 180, 0, 8, 9, (0, 0))
    brows = [(-6, -3), (-5, -4), (-4, -4.5), (-3, -4.2), (-2, -4)] + [
        (2, -4),
        (3, -4.2),
        (4, -4.5),
        (5, -4),
        (6, -3),
    ]
    nose = _line((0, -2), (0, 2), 4) + [(-1.5, 3), (-0.7, 3.2), (0, 3.4), (0.7, 3.2), (1.5, 3)]
    right_eye = [(-5, -2), (-4.3, -2.5), (-3.6, -2.5), (-3, -1.9), (-3.6, -1.6), (-4.3, -1.6)]
    left_eye = [(3, -1.9), (3.6, -2.5), (4.3, -2.5), (5, -2), (4.3, -1.6), (3.6, -1.6)]
    return np.array(jaw + brows + nose + right_eye + left_eye + _mouth())


def shape_98():
    """As 68, with 33 jaw points, brows with a lower edge walked back, 8-point eyes and the pupils last."""
    jaw = _arc(33, 180, 0, 8, 9, (0, 0))
    right_brow = [
        (-6, -3),
        (-5, -4),
        (-4, -4.5),
        (-3, -4.2),
        (-2, -4),
        (-2, -3.6),
        (-3, -3.8),
        (-4, -4.1),
        (-5, -3.6),
    ]
    left_brow = [(2, -4), (3, -4.2), (4, -4.5), (5, -4), (6, -3), (5, -3.6), (4, -4.1), (3, -3.8), (2, -3.6)]
    nose = _line((0, -2), (0, 2), 4) + [(-1.5, 3), (-0.7, 3.2), (0, 3.4), (0.7, 3.2), (1.5, 3)]
    right_eye = _arc(8, 180, 180 + 315, 1, 0.5, (-4, -2))
    left_eye = _arc(8, 180, 180 + 315, 1, 0.5, (4, -2))
    return np.array(
        jaw + right_brow + left_brow + nose + right_eye + left_eye + _mouth() + [(-4, -2), (4, -2)]
    )


def test_shapes_have_the_right_number_of_points():
    assert shape_68().shape == (68, 2) and shape_98().shape == (98, 2)


@pytest.mark.parametrize("shape", [shape_68(), shape_98()], ids=["68", "98"])
def test_mirroring_a_symmetric_face_gives_the_same_face(shape):
    mirrored = (shape * [-1, 1])[scheme_for(len(shape)).flip_order]
    np.testing.assert_allclose(mirrored, shape, atol=1e-12)


@pytest.mark.parametrize("k", SCHEMES)
def test_flip_order_is_an_involution_and_pairs_are_disjoint(k):
    scheme = scheme_for(k)
    order = scheme.flip_order
    assert sorted(order) == list(range(k)) and (order[order] == np.arange(k)).all()
    flat = [i for pair in scheme.flip_pairs for i in pair]
    assert len(flat) == len(set(flat)) and all(a != b for a, b in scheme.flip_pairs)
    assert k - len(flat) == {19: 3, 29: 7, 68: 10, 98: 10}[k]  # middle line: chin, nose, lips
    assert not order.flags.writeable


def pairs(text):
    """The pairs of "a-b c-d …", unordered."""
    return {frozenset(map(int, pair.split("-"))) for pair in text.split()}


@pytest.mark.parametrize(
    ("k", "expected"),
    [  # from the definitions of the data sets, not from our tables
        (19, "0-5 1-4 2-3 6-11 7-10 8-9 12-14 15-17"),
        (29, "0-1 2-3 4-6 5-7 8-9 10-11 12-14 13-15 16-17 18-19 22-23"),
        (68, "0-16 1-15 2-14 3-13 4-12 5-11 6-10 7-9 17-26 18-25 19-24 20-23 21-22 31-35 32-34 36-45 37-44 38-43 39-42 "
             "40-47 41-46 48-54 49-53 50-52 55-59 56-58 60-64 61-63 65-67"),
    ],
)  # fmt: skip
def test_flip_pairs_are_those_of_the_data_sets(k, expected):
    assert {frozenset(pair) for pair in scheme_for(k).flip_pairs} == pairs(expected)


@pytest.mark.parametrize("k", SCHEMES)
def test_regions_cover_each_point_once_and_mirror_onto_themselves(k):
    scheme = scheme_for(k)
    covered = [i for name, ids in scheme.regions.items() if name != "inner" for i in ids]
    assert sorted(covered) == list(range(k))
    for ids in scheme.regions.values():
        assert set(scheme.flip_order[list(ids)]) == set(ids)
    if "inner" in scheme.regions:
        assert sorted(scheme.regions["inner"] + scheme.regions["jaw"]) == list(range(k))


@pytest.mark.parametrize("k", SCHEMES)
def test_eye_normalisers_join_mirrored_points(k):
    scheme = scheme_for(k)
    for a, b in scheme.eye_groups.values():
        assert set(scheme.flip_order[list(a)]) == set(b)


def test_the_98_to_68_mapping_commutes_with_the_flip_and_keeps_places():
    ids = np.array(WFLW_TO_IBUG)
    assert len(ids) == 68 == len(set(ids))
    assert (SCHEMES[98].flip_order[ids] == ids[SCHEMES[68].flip_order]).all()
    distance = np.linalg.norm(shape_98()[ids] - shape_68(), axis=1)
    assert distance.max() < 0.5  # in shapes 16 wide; eyelid points differ by the mark-ups themselves
    exact = [*range(36), 48, 54, 57, 60, 64]
    np.testing.assert_allclose(distance[exact], 0, atol=1e-9)


def test_normalisers_by_hand():
    points = np.zeros((1, 98, 2))
    points[0, 60], points[0, 72] = (10, 20), (13, 24)  # 3-4-5
    points[0, 96], points[0, 97] = (0, 0), (6, 8)
    scheme = SCHEMES[98]
    assert scheme.normaliser(points) == pytest.approx([5])
    assert scheme.normaliser(points, "inter-pupil") == pytest.approx([10])
    assert scheme.normaliser(points, "landmark-box") == pytest.approx([np.sqrt(13 * 24)])
    assert scheme.normaliser(points, "diagonal") == pytest.approx([np.hypot(13, 24)])
    assert scheme.normaliser(points, "box", rects=np.array([[1, 2, 10, 6]])) == pytest.approx([6])


def test_inter_pupil_of_68_is_between_the_means_of_the_eyes():
    points = np.full((1, 68, 2), 500.0)
    points[0, 36:42] = [[0, 0], [2, -1], [4, -1], [6, 0], [4, 1], [2, 1]]  # mean (3, 0)
    points[0, 42:48] = [[30, 40], [32, 39], [34, 39], [36, 40], [34, 41], [32, 41]]  # mean (33, 40)
    assert SCHEMES[68].normaliser(points, "inter-pupil") == pytest.approx([50])
    assert SCHEMES[68].normaliser(points) == pytest.approx([np.hypot(36, 40)])


def test_unlabelled_points_leave_the_landmark_box_alone():
    points = np.full((2, 19, 2), np.nan)
    points[0, :2] = [[5, 5], [9, 21]]
    sizes = SCHEMES[19].normaliser(points, "landmark-box")
    assert sizes[0] == pytest.approx(8) and np.isnan(sizes[1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: scheme_for(5), "19, 29, 68, 98"),
        (lambda: SCHEMES[68].normaliser(np.zeros((1, 68, 2)), "iod"), "inter-ocular"),
        (lambda: SCHEMES[19].normaliser(np.zeros((1, 19, 2))), "landmark-box"),
        (lambda: SCHEMES[19].normaliser(np.zeros((1, 68, 2))), "(N, 19, 2)"),
        (lambda: SCHEMES[19].normaliser(np.zeros((2, 19, 2)), "box", np.zeros((1, 4))), "(2, 4)"),
    ],
)
def test_wrong_use_says_what_was_expected(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)
