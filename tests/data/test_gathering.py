import numpy as np
import pytest

from jaxinpaint.data.gathering import gather


def make(count, calls=None):
    def items():
        if calls is not None:
            calls.append(1)
        for k in range(count):
            yield None, {"reason": "odd", "k": -k}
            yield (
                {"a": np.full((2, 3), k % 256, np.uint8), "b": np.float32([k])},
                {"k": k},
            )

    return items


@pytest.mark.parametrize("count", [1, 7, 1200])
def test_files_hold_what_memory_holds(tmp_path, count):
    calls = []
    few = gather(tmp_path / "x" / "one", make(count, calls), limit=10**6)
    assert not (tmp_path / "x").exists()
    many = gather(tmp_path / "x" / "one", make(count, calls), limit=5)
    again = gather(tmp_path / "x" / "one", make(count, calls), limit=5)
    assert len(calls) == 2  # not made a third time
    for found in (few, many, again):
        assert found.meta == [{"k": k} for k in range(count)]
        assert found.left_out == [{"reason": "odd", "k": -k} for k in range(count)]
        assert sorted(found.arrays) == ["a", "b"]
        want = np.arange(count) % 256
        np.testing.assert_array_equal(found.arrays["a"][:, 1, 2], want)
        assert found.arrays["a"].shape == (count, 2, 3)
        np.testing.assert_array_equal(found.arrays["b"][:, 0], np.arange(count))
        assert found.arrays["b"].dtype == np.float32
    assert isinstance(again.arrays["a"].base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again.arrays["a"][0] = 1


def test_nothing_is_gathered_from_nothing(tmp_path):
    found = gather(tmp_path / "one", make(0))
    assert found == ({}, [], [])


def test_a_failure_leaves_no_folder(tmp_path):
    def items():
        yield from make(5)()
        raise OSError("damaged")

    with pytest.raises(OSError, match="damaged"):
        gather(tmp_path / "x" / "one", items, limit=5)
    assert list((tmp_path / "x").iterdir()) == []


def test_a_damaged_folder_is_named(tmp_path):
    home = tmp_path / "one"
    gather(home, make(4), limit=5)
    lines = (home / "meta.jsonl").read_text().splitlines()
    (home / "meta.jsonl").write_text("\n".join(lines[:3]))
    with pytest.raises(ValueError, match="one is damaged .*delete that folder"):
        gather(home, make(4), limit=5)
