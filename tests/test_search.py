"""The chooser of `find` on tables made by hand, and what holds for every search."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscale import modes
from batchscale.analysis import progress
from batchscale.analysis.findings import analyse
from batchscale.analysis.search import Prior, Runs, Search, expected, is_untrained, known, rank, sizes_between
from batchscale.epoch import COLUMNS
from batchscale.modes import MODES
from batchscale.records.study import Study

REFERENCE, BASE, SCALED, WARM = "baseline_small", "baseline_large", "scaled_lr", "gradual_warmup_scaled_lr"


def searched(*names: str, **fields) -> Search:
    given = {"small": (2, 4, 8, 16, 32), "largest": 8192, "reference_batch_size": 8, "within": 1.5} | fields
    return Search(modes={name: MODES[name] for name in names or (SCALED,)}, **given)


def runs(*of: tuple, **how) -> Runs:
    """Runs as (name, size, accuracies of the seeds from 0 on); None for one that diverged."""
    each = [(name, size, seed, value) for name, size, *values in of for seed, value in enumerate(values)]
    finals = [row for row in each if row[3] is not None]
    diverged = tuple(row[:3] for row in each if row[3] is None)
    return Runs(pd.DataFrame(finals, columns=["experiment", "batch_size", "seed", "accuracy"]), diverged, **how)


def cost(name: str, size: int) -> float:
    return 30 + 140 / size


def best(search: Search, *of: tuple, **how):
    return next(iter(rank(search, runs(*of, **how), cost)), None)


PLATEAU = ((REFERENCE, 32, 0.78), (REFERENCE, 16, 0.795), (REFERENCE, 8, 0.8), (REFERENCE, 4, 0.78))


def test_the_reference_comes_first_and_its_cheap_sizes_before_the_others():
    search = searched()
    assert rank(search, runs(), cost) == [(REFERENCE, size, 0) for size in (32, 16, 8, 4, 2)]
    assert best(search, (REFERENCE, 32, 0.78)) == (REFERENCE, 16, 0)
    # 4 loses two points to 8: still smaller ones are not tried.
    assert best(search, *PLATEAU[:3]) == (REFERENCE, 4, 0)
    assert best(search, *PLATEAU)[0] == SCALED
    # Nor after two that are no better; one may be chance.
    assert best(search, (REFERENCE, 32, 0.8), (REFERENCE, 16, 0.797)) == (REFERENCE, 8, 0)
    assert best(search, (REFERENCE, 32, 0.8), (REFERENCE, 16, 0.797), (REFERENCE, 8, 0.798))[0] == SCALED
    # One that diverges is no reason to stop: its rate is too high for a large minibatch alone.
    assert best(search, (REFERENCE, 32, None), (REFERENCE, 16, 0.797)) == (REFERENCE, 8, 0)


def test_what_was_begun_is_finished_first():
    begun = ((SCALED, 1024, 0), (REFERENCE, 2, 0))
    assert rank(searched(), runs(*PLATEAU, begun=begun), cost) == [(SCALED, 1024, 0), (REFERENCE, 2, 0)]
    assert rank(searched(), runs(begun=begun, failed=begun[:1]), cost)[0] == (REFERENCE, 2, 0)


def test_the_range_is_halved_at_powers_of_two_from_its_geometric_middle():
    search, of = searched(), list(PLATEAU)
    for size, accuracy in ((256, 0.799), (1024, 0.6), (512, 0.797)):
        assert best(search, *of) == (SCALED, size, 0)
        of.append((SCALED, size, accuracy))
    assert best(search, *of) == (SCALED, 512, 1)  # two sizes an octave apart: now a second seed


def test_a_prior_is_where_the_search_begins_and_data_overrule_it():
    search = searched(priors={SCALED: Prior(128, 2)})
    assert best(search, *PLATEAU) == (SCALED, 128, 0)
    assert best(search, *PLATEAU, (SCALED, 128, 0.7)) == (SCALED, 64, 0)
    kept = (SCALED, 128, 0.8), (SCALED, 256, 0.8)
    assert best(search, *PLATEAU, *kept[:1]) == (SCALED, 256, 0)
    assert best(search, *PLATEAU, *kept) == (SCALED, 1024, 0)


def test_an_open_range_is_tried_at_its_end_and_every_mode_has_its_own():
    kept = [(SCALED, size, 0.8) for size in (256, 2048, 4096)]
    assert best(searched(), *PLATEAU, *kept) == (SCALED, 8192, 0)
    both = searched(SCALED, WARM)
    assert rank(both, runs(*PLATEAU, *kept), cost) == [(SCALED, 8192, 0), (WARM, 256, 0)]


def test_a_second_seed_before_anything_is_narrowed():
    """Of the cheapest size that tells: without a pair of seeds there are no errors."""
    of = (*PLATEAU, (SCALED, 256, 0.798), (SCALED, 512, 0.76))
    assert best(searched(), *of) == (SCALED, 256, 1)
    assert best(searched(), *of, under_way=((SCALED, 256, 1),)) != (SCALED, 256, 1)


def test_a_run_has_one_name():
    """Up to B_ref every mode is the reference; at the base rate, at each of the reference's sizes."""
    search = searched(BASE, SCALED)
    assert search.run(SCALED, 8, 1) == search.run(BASE, 8, 1) == (REFERENCE, 8, 1)
    assert search.run(BASE, 32, 0) == (REFERENCE, 32, 0)
    assert search.run(SCALED, 32, 0) == (SCALED, 32, 0)
    assert search.run(BASE, 24, 0) == (BASE, 24, 0)


def test_a_size_that_diverges_or_fails_gets_no_more_seeds():
    of = (*PLATEAU, (SCALED, 256, 0.798, 0.799), (SCALED, 512, None))
    ranked = rank(searched(), runs(*of, failed=((SCALED, 368, 0),)), cost)
    assert ranked
    assert {512, 368}.isdisjoint(size for _, size, _ in ranked)


def test_done_within_the_factor_and_at_the_ends():
    sharp = (
        *[(REFERENCE, size, 0.8, 0.8005) for size in (8, 16, 32)],
        (SCALED, 256, 0.8, 0.7995),
        (SCALED, 304, 0.799, 0.7985),
        (SCALED, 368, 0.7, 0.701),
        (SCALED, 432, 0.6, 0.601),
    )
    small = {"small": (8, 16, 32)}
    assert known(searched(**small), runs(*sharp)).width(SCALED) < 1.5
    assert rank(searched(**small), runs(*sharp), cost) == []
    assert rank(searched(**small, within=1.01), runs(*sharp), cost) != []
    keeps = [(name, size, 0.8, 0.8005) for name, size in ((REFERENCE, 8), (REFERENCE, 16), (SCALED, 64), (SCALED, 256))]
    search = searched(small=(8, 16), largest=256)
    assert rank(search, runs(*keeps), cost) == []
    assert progress.state(known(search, runs(*keeps)), 60)[SCALED] == (
        "linearly scaled rate: keeps the accuracy up to 256, the largest, 4 runs"
    )


@pytest.mark.parametrize(
    ("reference", "is_dead"),
    [
        ([(REFERENCE, 8, 0.1), (REFERENCE, 16, 0.1), (REFERENCE, 32, 0.1)], True),
        ([(REFERENCE, 8, 0.1), (REFERENCE, 16, 0.09), (REFERENCE, 32, 0.11)], True),  # 4 and 2 are not tried
        ([(REFERENCE, 8, None), (REFERENCE, 16, None), (REFERENCE, 32, None)], True),
        ([(REFERENCE, 16, 0.09), (REFERENCE, 32, 0.11)], False),  # 8 may train
        ([(REFERENCE, 8, 0.5), (REFERENCE, 16, 0.1), (REFERENCE, 32, 0.1)], False),
    ],
)
def test_a_reference_that_learned_nothing_ends_the_search(reference, is_dead):
    search = searched(small=(8, 16, 32), chance=0.145)
    of = runs(*reference)
    assert is_untrained(known(search, of), of) == is_dead
    assert (rank(search, of, cost) == []) == is_dead


def test_the_verdict_is_that_of_the_analysis():
    generator = np.random.default_rng(0)
    rows = [
        (name, size, seed, 0.8 - 0.02 * max(0, math.log2(size / 200)) + generator.normal(0, 0.003))
        for name, sizes in ((REFERENCE, (8, 16, 32)), (SCALED, (128, 256, 512)), (WARM, (128, 512, 1024)))
        for size in sizes
        for seed in range(3)
    ]
    table = pd.DataFrame(rows, columns=["experiment", "batch_size", "seed", "accuracy"])
    epochs = table.assign(epoch=1, updates=table["batch_size"]).reindex(columns=list(COLUMNS))
    found = analyse(Study.of(epochs), with_target=False)
    ours = known(searched(SCALED, WARM, reference_batch_size=32), Runs(table))  # no sidecar names another
    assert ours.threshold.accuracy == pytest.approx(found.threshold.accuracy)
    for name in (SCALED, WARM):
        point = found.modes[name].breaking_points["accuracy"]
        assert (ours.points[name].estimate, ours.points[name].interval) == (point.estimate, point.interval)


def test_sizes_are_round_and_four_an_octave():
    sizes = sizes_between(8, 8192)
    ratios = [larger / smaller for smaller, larger in itertools.pairwise(sizes)]
    assert max(ratios) < 1.31
    assert min(ratios) > 1.07
    assert {2**power for power in range(4, 13)} < set(sizes)
    assert sizes_between(100, 101) == []


def test_lines_of_progress():
    of = (*PLATEAU, (SCALED, 256, 0.798, 0.799), (SCALED, 512, 0.77, 0.772), (SCALED, 1024, 0.6))
    search = searched(SCALED, WARM)
    lines = progress.state(known(search, runs(*of)), 2400)
    assert lines[SCALED].startswith("linearly scaled rate: ")
    assert lines[SCALED].endswith(", 5 runs, 40 min left")
    assert progress.state(known(search, runs((REFERENCE, 32, 0.7))), math.inf)[WARM].endswith(
        "waiting for the reference, 0 runs"
    )
    said = progress.report(known(search, runs(*of)), {SCALED: 7200.0})
    assert "threshold 79" in said[0]
    assert said[1].endswith("5 runs, 2 h of training")
    now = known(search, runs(*of))
    (after,) = progress.following(now, known(search, runs(*of, (WARM, 256, 0.799, 0.8), (WARM, 512, 0.6))), 3500)
    assert after.startswith("One more hour would be expected to narrow the linear rule with gradual warm-up from ")
    assert "by less than 5 %" in progress.following(now, now, 3500)[0]


def accuracy(seed: int, shape: float, place: float, noise: float, run: tuple) -> float | None:
    """Of a run of a random study, whatever was asked before."""
    name, size, _ = run
    generator = np.random.default_rng([seed, size, run[2], len(name)])
    loss = 0.01 * (size / place) ** shape if name != REFERENCE else 0.01 * abs(math.log2(size / 8)) / 3
    value = 0.8 - min(0.7, loss) + generator.normal(0, noise)
    return None if loss > 0.4 and generator.random() < 0.3 else value


studies = st.tuples(
    st.integers(0, 1000), st.floats(0.3, 4), st.floats(12, 3000), st.sampled_from([0.0, 0.001, 0.004, 0.02])
)


def searched_to_the_end(search: Search, study: tuple, most: int = 60) -> list[tuple]:
    done: list[tuple] = []
    while len(done) < most:
        answers = [(*run[:2], run[2], accuracy(*study, run)) for run in done]
        rows = [row for row in answers if row[3] is not None]
        table = pd.DataFrame(rows, columns=["experiment", "batch_size", "seed", "accuracy"])
        diverged = tuple(row[:3] for row in answers if row[3] is None)
        ranked = rank(search, Runs(table, diverged), cost)
        shuffled = Runs(table.sample(frac=1, random_state=len(done)), diverged[::-1])
        if len(done) % 5 == 0:
            assert rank(search, shuffled, cost) == ranked
        if not ranked:
            return done
        done.append(ranked[0])
    raise AssertionError("it does not end")


@settings(max_examples=4, deadline=None)
@given(studies, st.sampled_from([1.5, 3.0]))
def test_every_search_ends_without_a_run_twice_or_outside_its_range(study, within):
    search = searched(SCALED, within=within, largest=512, small=(8, 16), seeds=2)
    done = searched_to_the_end(search, study, most=200)
    assert len(set(done)) == len(done)
    assert all(search.run(*run) == run for run in done)
    assert all(size in search.small if name == REFERENCE else 8 < size <= 512 for name, size, _ in done)
    assert max(seed for *_, seed in done) < search.seeds


@settings(max_examples=5, deadline=None)
@given(studies)
def test_runs_under_way_are_not_chosen_and_a_search_of_two_processes_has_other_work(study):
    search = searched(SCALED, WARM, largest=1024, small=(4, 8, 16))
    of = [(REFERENCE, size, accuracy(*study, (REFERENCE, size, 0))) for size in (16, 8, 4)]
    now = runs(*of)
    following = list(itertools.islice(expected(search, now, cost), 4))
    assert len(set(following)) == 4
    assert not set(following) & now.taken


def test_a_mode_of_the_users_own():
    mine = modes.own("mine", {"lr_scaling": "sqrt", "warmup": "none"})
    search = Search(modes={"mine": mine}, small=(8, 16), largest=1024, reference_batch_size=8, within=2)
    assert best(search, (REFERENCE, 8, 0.8), (REFERENCE, 16, 0.799)) == ("mine", 64, 0)
    assert search.run("mine", 16, 0) == ("mine", 16, 0)


NOISY = (
    *[(REFERENCE, size, 0.8, 0.798, 0.799) for size in (8, 16)],
    (SCALED, 128, 0.799, 0.7975),
    (SCALED, 256, 0.796, 0.797, 0.795),
    (SCALED, 512, 0.78, 0.783),
    (SCALED, 1024, 0.6, 0.606),
)


def test_what_narrows_most_per_second_depends_on_the_cost():
    search = searched(small=(8, 16), within=1.2)
    useful = {size for _, size, _ in rank(search, runs(*NOISY), cost)}
    assert len(useful) > 2
    for cheap in useful:
        ranked = rank(search, runs(*NOISY), lambda _, size, cheap=cheap: 1.0 if size == cheap else 1e6)
        assert ranked[0][1] == cheap


def test_an_interval_that_is_narrow_with_few_second_seeds_is_confirmed():
    sharp = [(REFERENCE, 8, 0.8, 0.8005), (REFERENCE, 16, 0.8, 0.8005), (REFERENCE, 32, 0.799)]
    sharp += [(SCALED, 256, 0.8, 0.7995), (SCALED, 304, 0.799), (SCALED, 368, 0.7), (SCALED, 432, 0.6)]
    search = searched(small=(8, 16, 32), within=3)
    now = known(search, runs(*sharp))
    assert now.width(SCALED) < 3
    assert not now.is_done(SCALED)
    *before, last = sharp
    assert best(search, *sharp)[2] > 0  # another seed of a size, not another size
    assert rank(search, runs(*before[:-1], (*before[-1], 0.7005), last), cost) == []


def test_two_seeds_of_a_new_batch_size_under_way():
    """They say nothing of its spread, and break nothing, whatever is known of the others."""
    for seeds in ((0.795,), (0.795, 0.79)):
        of = [*PLATEAU, (SCALED, 64, *seeds), (SCALED, 128, 0.76)]
        for under_way in ([(SCALED, 256, 0), (SCALED, 256, 1)], [(SCALED, 64, 5), (SCALED, 256, 0), (SCALED, 256, 1)]):
            now = known(searched(), runs(*of, under_way=tuple(under_way)))
            assert now.has_errors == (len(seeds) > 1)
            assert now.points[SCALED].between == (64, 128)
