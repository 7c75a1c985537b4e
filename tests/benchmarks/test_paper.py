import pytest

from benchmarks import paper

CCPGAN = paper.PRINTED["ccpgan"]
CARD = {  # a reference card: 4.1x, 24x, 48x the arithmetic, 6.4x the bandwidth
    "copy": 4.3e12,
    "float32_highest": 67e12,
    "float32_default": 395e12,
    "bfloat16": 790e12,
}


def test_the_ratio_table_by_hand():
    rows = paper.compare(CCPGAN, {"device": 10.0, "host": 20.0}, CARD)
    becomes = [row["becomes_ms"] for row in rows]
    assert becomes == pytest.approx([52.3, 8.2, 12.7, 2.16, 1.08], abs=0.03)
    assert [row["ratio"]["device"] for row in rows] == pytest.approx(
        [5.23, 0.82, 1.27, 0.216, 0.108], abs=0.003
    )
    assert all(r["ratio"]["host"] == r["ratio"]["device"] / 2 for r in rows)


def test_the_absolute_ratio_never_stands_alone():
    least = {"copy": 4.3e12, "float32_highest": 67e12}
    limits = [row["limit"] for row in paper.compare(CCPGAN, {"device": 1.0}, least)]
    assert limits == ["nothing (absolute)", "memory bandwidth", "float32 arithmetic"]


def test_a_slower_machine_may_take_longer_than_the_paper():
    slow = {"copy": 6.72e9, "float32_highest": 0.163e12}  # a hundredth of the card
    rows = paper.compare(CCPGAN, {"device": 5230.0}, slow)
    assert [row["ratio"]["device"] for row in rows] == pytest.approx([0.01, 1.0, 1.0])


def test_only_the_same_network_at_the_same_size_is_compared():
    assert paper.why_not(CCPGAN, 512, 1, 5_091_241) == ""
    assert paper.why_not(CCPGAN, 256, 1, 5_091_241) == "the size is 256, not 512"
    both = paper.why_not(CCPGAN, 512, 8, 1000)
    assert "batch is 8, not 1" in both and "1000, not 5091241" in both


def test_the_share_of_the_card_by_hand():
    use = paper.card_use(CCPGAN)  # 479.9 / 0.0523 = 9176 of 16300 GFLOP/s
    assert use["literal patches"] == pytest.approx(0.563, abs=5e-4)
    assert list(use.values()) == sorted(use.values(), reverse=True)
