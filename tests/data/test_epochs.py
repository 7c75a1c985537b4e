import numpy as np

from jaxinpaint.data.epochs import Rows, epoch_batches, fixed_batch

ROWS = Rows(
    {"a": np.arange(5)[:, None], "b": np.arange(5) * 10},
    {"a": np.arange(5, 8)[:, None], "b": np.arange(5, 8) * 10},
)


def test_rows_go_on_in_the_second_set():
    batch = ROWS.take([7, 0, 5, 4])
    assert batch["a"].tolist() == [[7], [0], [5], [4]]
    assert batch["b"].tolist() == [70, 0, 50, 40]


def test_an_epoch_is_a_permutation_and_drops_what_fills_no_batch():
    positions = [0, 2, 3, 4, 6, 7]
    batch = epoch_batches(ROWS, positions, 4, 9, 0, 1)
    for epoch in range(3):  # one batch each
        order = np.random.default_rng([9, epoch]).permutation(positions)
        assert batch(epoch)["a"][:, 0].tolist() == order[:4].tolist()
    batch = epoch_batches(ROWS, positions, 2, 9, 0, 1)
    for epoch in (0, 5, 1):  # in any order
        seen = [batch(3 * epoch + k)["b"].tolist() for k in range(3)]
        assert sorted(sum(seen, [])) == [10 * p for p in positions]
        want = np.random.default_rng([9, epoch]).permutation(positions) * 10
        assert sum(seen, []) == want.tolist()


def test_processes_share_the_rows_of_a_batch():
    whole = epoch_batches(ROWS, range(8), 6, 1, 0, 1)
    parts = [epoch_batches(ROWS, range(8), 6, 1, k, 3) for k in range(3)]
    for step in range(4):
        joined = [part(step)["b"].tolist() for part in parts]
        assert [len(part) for part in joined] == [2, 2, 2]
        assert sum(joined, []) == whole(step)["b"].tolist()


def test_a_fixed_batch_repeats_none_before_all_were_shown():
    few = fixed_batch(ROWS, [1, 2, 6], 2, 0)["a"][:, 0]
    many = fixed_batch(ROWS, [1, 2, 6], 7, 0)["a"][:, 0]
    assert len(set(few)) == 2 and many[:2].tolist() == few.tolist()
    assert sorted(many[:3]) == sorted(many[3:6]) == [1, 2, 6]
