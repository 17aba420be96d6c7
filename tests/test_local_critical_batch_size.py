"""The local critical batch size: of losses made by a law, where the truth is known, and of rows by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscale.analysis.local_critical_batch_size import Local, of
from batchscale.training.branches import Branch

REFERENCE = 8
WINDOW = 8192
SIZES = tuple(8 * 2**power for power in range(8))  # to 1024
START, WHOLE, GAP = 1.9, 1.2, 0.12  # losses at the switch, of the reference, and what the second half of it gains


def law(critical: float, *, sizes=SIZES, noise=0.0, orders=2, seed=0, rule="linear", updates=100) -> list[Branch]:
    """Rows of a training that takes 1 + B/B_crit images, and whose loss falls by GAP as its images double.

    Relative to the reference it takes r = (1 + B/B_crit)/(1 + B_ref/B_crit) images, so that after the same images its
    loss is higher by GAP·log₂ r. So r is 2 at B = B_crit + 2·B_ref.
    """
    random = np.random.default_rng(seed)
    rows = []
    for order in range(orders):
        for size, images in [(REFERENCE, WINDOW // 2), *((size, WINDOW) for size in sizes)]:
            more = (1 + size / critical) / (1 + REFERENCE / critical) * WINDOW / images
            loss = WHOLE + GAP * math.log2(more) + noise * random.standard_normal()
            rows.append(Branch(updates, rule, size, images, order, 0.1, START, loss))
    return rows


def truth(critical: float) -> float:
    return critical + 2 * REFERENCE


def one(rows) -> Local:
    (found,) = of(rows)
    return found


def ends(found: Local) -> tuple:
    return found.estimate, found.low, found.high


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_the_law_at_a_batch_size_that_was_tried(size):
    """B_crit + 2·B_ref is a power of two, where the loss is L_½ exactly."""
    found = one(law(size - 2 * REFERENCE))
    assert found.estimate == pytest.approx(size, rel=1e-4)
    assert found.low <= size * (1 + 1e-4)
    assert found.high >= size * (1 - 1e-4)
    assert (found.rule, found.updates, found.batch_size, found.largest) == ("linear", 100, 8, 1024)
    assert (found.start, found.whole, found.half) == pytest.approx((START, WHOLE, WHOLE + GAP))
    assert (found.destroyed_from, found.reasons) == (None, ())
    assert found.images(8) == pytest.approx(1)
    assert found.images(size) == pytest.approx(2, rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.floats(20, 800))
def test_the_law_anywhere(critical):
    """Between two batch sizes the interpolation is off by 2 % at most, and the interval knows."""
    found = one(law(critical))
    assert found.estimate == pytest.approx(truth(critical), rel=0.02)
    assert found.low <= truth(critical) * (1 + 1e-3)
    assert found.high >= truth(critical) * (1 - 1e-3)
    for size in (8, 16, 32):
        expected = (1 + size / critical) / (1 + REFERENCE / critical)
        if expected < 2:  # beyond, the curve may have ended
            assert found.images(size) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("critical", [30.0, 112.0, 400.0])
def test_the_interval_holds_the_truth(critical):
    """Noise of a tenth of the gap, in 200 studies of two orders."""
    held = 0
    for seed in range(200):
        found = one(law(critical, noise=GAP / 10, seed=seed))
        assert found.estimate is not None
        assert found.estimate == pytest.approx(truth(critical), rel=0.8)
        held += (found.low or 0) <= truth(critical) <= (found.high or math.inf)
    assert held >= 0.88 * 200


def test_more_noise_and_fewer_orders_say_less():
    def width(**options):
        found = [one(law(112.0, seed=seed, **options)) for seed in range(10)]
        return np.mean([math.log((each.high or 1024) / (each.low or 8)) for each in found])

    assert width(noise=0.001) < width(noise=0.012) < width(noise=0.03)
    assert width(noise=0.012, orders=8) < width(noise=0.012)


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_units_of_the_loss_do_not_matter(factor):
    rows = law(112.0, noise=GAP / 10)
    scaled = [replace(row, loss=factor * row.loss, start=factor * row.start) for row in rows]
    shifted = [replace(row, loss=row.loss + factor, start=row.start + factor) for row in rows]
    for other in (scaled, shifted):
        assert ends(one(other)) == pytest.approx(ends(one(rows)), rel=1e-3)
        for size in (16, 64, 128):
            assert one(other).images(size) == pytest.approx(one(rows).images(size), rel=1e-6)


def test_the_order_of_the_rows_does_not_matter():
    rows = law(112.0, noise=GAP / 10)
    shuffled = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    assert ends(one(shuffled)) == pytest.approx(ends(one(rows)), rel=1e-9)
    frame = pd.DataFrame([vars(row) for row in rows])
    assert ends(one(frame)) == ends(one(rows))


def test_one_order_gives_an_estimate_without_an_interval():
    found = one(law(112.0, orders=1))
    assert ends(found) == (pytest.approx(128, rel=1e-4), None, None)
    assert str(found) == "linear: local critical batch size 128 images"


def test_rules_and_checkpoints_are_told_apart():
    kinds = [("linear", 100, 48.0), ("sqrt", 100, 112.0), ("linear", 200, 240.0)]
    rows = [row for rule, updates, critical in kinds for row in law(critical, rule=rule, updates=updates)]
    found = of(rows)
    assert [(each.rule, each.updates) for each in found] == [kind[:2] for kind in kinds]
    assert [each.estimate for each in found] == pytest.approx([64, 128, 256], rel=1e-4)
    assert of([]) == ()
    assert of(pd.DataFrame()) == ()


# What cannot be said -------------------------------------------------------------------------------------------------


def row(size, loss, order=0, images=WINDOW) -> Branch:
    return Branch(100, "linear", size, images, order, 0.1, START, loss)


def half(loss, order=0) -> Branch:
    return row(REFERENCE, loss, order, WINDOW // 2)


@pytest.mark.parametrize(
    ("halves", "wholes"),
    [
        ((1.2, 1.2), (1.2, 1.2)),  # no gain at all
        ((1.2, 1.2), (1.3, 1.3)),  # a loss
        ((1.21, 1.25), (1.19, 1.24)),  # no more than noise
        ((math.inf, math.inf), (1.2, 1.2)),
        ((math.inf, math.inf), (math.inf, math.inf)),
    ],
)
def test_no_progress_is_a_reason(halves, wholes):
    rows = [part for order in (0, 1) for part in (half(halves[order], order), row(8, wholes[order], order))]
    rows += [row(size, 1.5, order) for order in (0, 1) for size in (16, 32)]
    found = one(rows)
    assert ends(found) == (None, None, None)
    assert [reason.kind for reason in found.reasons] == ["no progress"]
    assert math.isnan(found.images(16))
    assert str(found).startswith("linear: local critical batch size undetermined, the reference hardly improves within")


def test_open_above():
    found = one(law(1e5))
    assert (found.estimate, found.high, found.reasons) == (None, None, ())
    assert found.low is None or found.low >= 512
    assert str(found) == "linear: local critical batch size undetermined, not below 1024, the largest that was tried"
    assert found.images(1024) == pytest.approx(1.01, abs=0.01)


def test_batch_sizes_that_destroy_the_network():
    """By hand: from 512 on worse than the start in one order, which is enough. Infinite losses count as the start's."""
    rows = [part for part in law(112.0) if part.batch_size <= 256]
    rows += [row(512, 1.8, 0), row(512, 2.5, 1), row(1024, math.inf, 0)]
    found = one(rows)
    assert (found.destroyed_from, found.largest) == (512, 1024)
    assert found.losses[-2:] == ((512, pytest.approx((1.8 + START) / 2)), (1024, START))
    assert [size for size, _ in found.losses] == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert found.estimate == pytest.approx(128, rel=1e-3)
    assert math.isfinite(found.images(256))
    assert one([part for part in rows if part.batch_size < 512]).destroyed_from is None


def test_a_loss_beyond_the_start_says_no_more_than_the_start():
    rows = [part for part in law(112.0) if part.batch_size <= 256]
    for loss in (START, 5.0, math.inf):
        found = one([*rows, row(512, loss, 0), row(512, loss, 1)])
        assert ends(found) == pytest.approx(ends(one([*rows, row(512, START, 0), row(512, START, 1)])))


def test_a_window_that_was_cut_short_says_nothing():
    """Time may be over after the reference's first half window; other rules and checkpoints count all the same."""
    rows = [*law(112.0), replace(half(1.3), updates=200)]
    assert [found.updates for found in of(rows)] == [100]
    assert of([half(1.3)]) == ()


def test_orders_that_were_cut_short_count_as_far_as_they_go():
    rows = [part for part in law(112.0, noise=0.002) if part.order == 0 or part.images < WINDOW]
    found = one(rows)
    assert found.estimate == pytest.approx(128, rel=0.2)
    assert found.low < found.estimate < found.high


def test_words():
    found = one(law(112.0, noise=0.005, seed=1))
    low, high = (f"{end:.{2 if end < 100 else 3}g}" for end in (found.low, found.high))
    assert str(found) == f"linear: local critical batch size {found.estimate:.3g} ({low}–{high}) images"
