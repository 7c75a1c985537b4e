"""Lists of bad sections, and the order of their repair, against cases worked by hand."""

import pytest

from jaxinpaint.data.bad_sections import Repair, order, parse, runs


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("12", [12]),
        ("12,40-42", [12, 40, 41, 42]),
        (" 3, 1 2,2-3,", [1, 2, 3]),
        ("0,49", [0, 49]),
    ],
)
def test_lists(text, want):
    assert parse(text, 50) == want


def test_a_file_may_hold_the_list(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("# seen by eye\n12, 40-41\n7 # folded\n\n")
    assert parse(str(path), 50) == [7, 12, 40, 41]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("50", "no section 50; the volume has 50, from 0 to 49"),
        ("40-50", "no section 50"),
        ("9-7", "'9-7' is no position and no range"),
        ("1-2-3", "'1-2-3' is no position"),
        ("-3", "'-3' is no position"),
        (" , ", "names no section"),
        ("twelve", "'twelve'; give positions from 0 on such as 12,40-42"),
    ],
)
def test_wrong_lists(text, match):
    with pytest.raises(ValueError, match=match):
        parse(text, 50)


def test_runs():
    assert runs([5, 1, 2, 9, 3]) == [(1, 3), (5, 5), (9, 9)]
    assert runs([]) == []


def test_a_run_is_restored_outside_in_from_both_sides():
    repairs, failed = order(10, [3, 4, 5, 6, 7], 2)
    assert not failed
    assert repairs == [
        Repair(3, 2, 8, 1),
        Repair(7, 2, 8, 1),
        Repair(4, 3, 7, 2),
        Repair(6, 3, 7, 2),
        Repair(5, 4, 6, 3),
    ]
    assert [one.alpha for one in repairs] == [1 / 6, 5 / 6, 1 / 4, 3 / 4, 1 / 2]


def test_rounds_of_several_runs_go_together():
    repairs, _ = order(12, [1, 5, 6, 7], 2)
    assert [(one.section, one.round) for one in repairs] == [
        *((1, 1), (5, 1), (7, 1)),
        (6, 2),
    ]


def test_at_an_end_of_the_stack_one_neighbour_is_enough_only_if_one_is_read():
    repairs, failed = order(6, [0, 1, 5], 1)
    assert not failed
    assert repairs == [
        *(Repair(1, None, 2, 1), Repair(5, 4, None, 1)),
        Repair(0, None, 1, 2),
    ]
    repairs, failed = order(6, [0, 1, 3, 5], 2)
    assert repairs == [Repair(3, 2, 4, 1)]
    assert sorted(failed) == [0, 1, 5]
    assert "no sound section comes before it" in failed[1]
    assert "no sound section comes after it" in failed[5]


def test_nothing_sound_and_nothing_needed():
    repairs, failed = order(3, [0, 1, 2], 1)
    assert not repairs and sorted(failed) == [0, 1, 2]
    repairs, failed = order(3, [2, 0], 0)
    assert repairs == [Repair(0, None, None, 1), Repair(2, None, None, 1)]
    assert not failed
