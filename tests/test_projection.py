"""Time on more workers: values worked out by hand, properties, and what Goyal et al. 2017 report of 8 to 352 GPUs."""

import json
import math

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from test_analysis import NOTHING, table
from test_cli import run
from test_findings import LITTLE

from batchscale import cli
from batchscale.analysis import findings, json_object, plots
from batchscale.analysis.projection import (
    INTERCONNECTS,
    Interconnect,
    _scaling,
    best_batch_sizes,
    compute_seconds,
    fit_interconnect,
    project,
    ring_allreduce_seconds,
    times_to_target,
)
from batchscale.analysis.tables import seconds_per_update
from batchscale.analysis.terminal import projection_text
from batchscale.records.study import Study
from batchscale.training import allreduce

EPOCHS = synthetic.study()
STUDY = Study.of(EPOCHS)
STEPS = pd.Series({2: 0.00404, 8: 0.00416, 1024: 0.02448})  # 4 ms and 20 µs an image, as in synthetic
NONE = INTERCONNECTS["none"]
workers = st.integers(1, 10_000)
amounts = st.just(0.0) | st.floats(1e-12, 1e12)  # between them floats lose digits
bandwidths = st.floats(1e3, 1e15)


def test_ring_allreduce_by_hand():
    # 1 MB at 1 MB/s and 1 s a message. Two workers: two messages of half of it. Four: six of a quarter.
    assert ring_allreduce_seconds(1, 1e6, 1.0, 1e6) == 0
    assert ring_allreduce_seconds(2, 1e6, 1.0, 1e6) == 2 * (1 + 0.5)
    assert ring_allreduce_seconds(4, 1e6, 1.0, 1e6) == 6 * (1 + 0.25)
    assert ring_allreduce_seconds(4, 0, 1.0, 1e6) == 6
    assert ring_allreduce_seconds(4, 1e6, 0, math.inf) == 0


@given(workers, amounts, amounts, bandwidths)
def test_ring_allreduce_grows_with_everything_but_bandwidth(count, size, latency, bandwidth):
    seconds = ring_allreduce_seconds(count, size, latency, bandwidth)
    assert seconds >= 0
    assert ring_allreduce_seconds(1, size, latency, bandwidth) == 0
    assert ring_allreduce_seconds(count + 1, size, latency, bandwidth) >= seconds * (1 - 1e-12)
    assert ring_allreduce_seconds(count, 2 * size, latency, bandwidth) >= seconds
    assert ring_allreduce_seconds(count, size, 2 * latency, bandwidth) >= seconds
    assert ring_allreduce_seconds(count, size, latency, 2 * bandwidth) <= seconds


@pytest.mark.parametrize("wrong", [(0, 1, 1, 1), (2, -1, 1, 1), (2, 1, -1, 1), (2, 1, 1, 0), (2, math.nan, 1, 1)])
def test_ring_allreduce_of_what_cannot_be(wrong):
    with pytest.raises(ValueError, match="workers"):
        ring_allreduce_seconds(*wrong)


@pytest.mark.parametrize("count", [2, 8])
def test_an_interconnect_is_found_again(count):
    times = [(size, ring_allreduce_seconds(count, size, 3e-5, 2e9)) for size in allreduce.SIZES]
    found = fit_interconnect(times, count, "made up")
    assert found.latency == pytest.approx(3e-5)
    assert found.bandwidth == pytest.approx(2e9)
    assert found.source == "made up"
    assert fit_interconnect([(4, 1.1e-3), (1 << 20, 1e-3)], 2, "").bandwidth == math.inf  # no slower with the size


class TestGoyal2017:
    """Accurate, Large Minibatch SGD (arXiv:1706.02677), ResNet-50 on ImageNet, 32 images a GPU, 8 GPUs a server.

    What the paper gives (§4.1, §4.3, §5.5; the 29 hours are from NVIDIA's report of it,
    developer.nvidia.com/facebook-trains-imagenet-1-hour): 100 MB of gradients, 50 Gbit/s Ethernet between servers,
    120 ms of backpropagation on a P100; 90 epochs of 1 281 167 images take 29 hours on 8 GPUs and one on 256; an
    iteration takes 12 % longer on 352 GPUs than on 8; scaling efficiency ~90 %. It gives neither the latency (50 µs are
    assumed) nor the time of an all-reduce. There, GPUs of a server first sum among themselves, so that a ring goes
    round servers; the exchange overlaps with backpropagation; and it is by halving and doubling: as many bytes as in a
    ring, in fewer messages. So the formula, which knows no overlap, has to come out somewhat below what was measured.
    """

    SIZE, BANDWIDTH, BACKPROPAGATION = 100e6, 50e9 / 8, 0.120
    ITERATION = 29 * 3600 / (90 * 1_281_167 / 256)  # 0.232 s, on 8 GPUs
    ON_256 = 3600 / (90 * 1_281_167 / 8192)  # 0.256 s

    def exchange(self, servers: int) -> float:
        return ring_allreduce_seconds(servers, self.SIZE, 50e-6, self.BANDWIDTH)

    def test_efficiency_of_256_gpus(self):
        measured = self.ITERATION / self.ON_256
        assert measured == pytest.approx(0.90, abs=0.01)
        without_overlap = self.ITERATION / (self.ITERATION + self.exchange(32))
        assert without_overlap == pytest.approx(0.872, abs=0.001)
        assert measured - 0.05 < without_overlap < measured
        assert self.exchange(32) < self.BACKPROPAGATION  # so that overlap could hide all of it: 100 %

    def test_an_iteration_on_352_gpus(self):
        longer = self.exchange(44) / self.ITERATION
        assert 0.12 < longer < 0.12 + 0.05  # 15 %

    def test_the_bandwidth_that_backpropagation_needs(self):
        """§4.3: 200 MB in 0.125 s, 1600 MB/s, since every server sends twice the gradients."""
        assert ring_allreduce_seconds(10**6, self.SIZE, 0, 1600e6) == pytest.approx(0.125, rel=1e-5)

    def test_times_to_target_has_the_same_efficiency(self):
        """The same through the whole model, each of 32 workers being a server of 8 GPUs."""
        steps = pd.Series({256: self.ITERATION, 8192: 32 * self.ITERATION})
        between = Interconnect(50e-6, self.BANDWIDTH, "")
        of_32 = times_to_target({8192: 90 * 1_281_167 / 8192}, steps, self.SIZE, between).iloc[5]
        assert (of_32["workers"], of_32["batch_size"], of_32["extrapolated"]) == (32, 8192, False)
        assert of_32["seconds"] / 3600 == pytest.approx(1, abs=0.05)  # 1.04 hours


def test_seconds_per_update_are_medians():
    """Over the epochs of a run, then over the runs in logarithms: the geometric mean of two."""
    records = table(("a", 8, 0, [0.1] * 3), ("b", 8, 0, [0.1] * 2), ("a", 16, 0, [0.1]), ("a", 32, 0, [0.1]))
    records["updates"] = [10, 20, 30, 10, 20, 5, np.nan]
    records["running_time"] = [9.0, 10.0, 12.0, 4.0, 8.0, np.nan, 1.0]  # 0.9, 0.1 and 0.2 s an update; 0.4 twice
    records["epoch_time"] = [np.nan, 70.0, 70.0, 70.0, 70.0, np.nan, 1.0]  # of an epoch without a running time alone
    found = seconds_per_update(records)
    assert found["batch_size"].tolist() == [8]
    assert found["seconds"].tolist() == pytest.approx([math.sqrt(0.2 * 0.4)])
    # Two runs with logarithms log 2 apart: a deviation of log 2 / √2, and an error of half of log 2.
    assert found["error"].tolist() == pytest.approx([math.log(2) / 2])
    assert seconds_per_update(records.assign(running_time=np.nan, epoch_time=[9.0, 1, 2, 4, 4, 1, 1]))[
        "seconds"
    ].tolist() == pytest.approx([math.sqrt(0.2 * 0.4), 0.2])
    by_size = seconds_per_update(EPOCHS).set_index("batch_size")
    assert by_size.loc[128, "seconds"] == pytest.approx(0.004 + 128 * 0.00002)
    assert by_size["error"].max() < 1e-9  # all runs of the study take the same time
    assert seconds_per_update(NOTHING.epochs).empty


def test_a_single_run_has_no_error_of_its_time():
    found = seconds_per_update(EPOCHS[(EPOCHS["seed"] == 0) & (EPOCHS["experiment"] == "scaled_lr")])
    assert found["seconds"].notna().all()
    assert found["error"].isna().all()


def test_compute_seconds():
    steps = pd.Series({8: 1.0, 16: 1.4, 32: 1.6})
    assert [compute_seconds(images, steps) for images in (8, 16, 24, 32)] == pytest.approx([1, 1.4, 1.5, 1.6])
    assert compute_seconds(4, steps) == pytest.approx(0.8)  # the line of 0.05 an image goes on
    # A worker is not more efficient with fewer images, nor slower than with more.
    assert compute_seconds(4, pd.Series({8: 1.0, 16: 3.0})) == pytest.approx(0.5)
    disturbed = pd.Series({8: 1.0, 16: 1.7, 32: 1.4, 64: 3.0})
    assert [compute_seconds(images, disturbed) for images in (8, 16, 24, 32)] == pytest.approx([1, 1.4, 1.4, 1.4])


@given(st.integers(1, 1024))
def test_compute_seconds_of_a_step_with_overhead(images):
    assert compute_seconds(images, STEPS) == pytest.approx(0.004 + 0.00002 * images)


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=6), st.integers(1, 64), st.integers(1, 64))
def test_compute_seconds_grow_with_the_images_whatever_was_measured(seconds, one, other):
    steps = pd.Series(seconds, index=[2 ** (power + 1) for power in range(len(seconds))])
    fewer, more = (min(images, int(steps.index[-1])) for images in sorted((one, other)))
    assert 0 <= compute_seconds(fewer, steps) <= compute_seconds(more, steps) * (1 + 1e-9)


def test_times_to_target_by_hand():
    """10 updates of 4 ms and 20 µs an image; 1 MB over links of 1 ms and 1 GB/s: 3 ms between two, 7.5 between four."""
    times = times_to_target({4: 10.0, 1000: 1.0}, STEPS, 1e6, Interconnect(1e-3, 1e9, ""))
    assert times["workers"].tolist() == [1, 2, 4, *(2**power for power in range(10))]
    four = times[times["batch_size"] == 4]
    assert four["seconds"].tolist() == pytest.approx([0.0408, 0.0404 + 0.03, 0.0402 + 0.075])
    assert four["extrapolated"].tolist() == [False, False, True]
    # 1000 images among 16: the slowest has 63
    (among_16,) = times[(times["batch_size"] == 1000) & (times["workers"] == 16)]["seconds"]
    assert among_16 == pytest.approx(0.004 + 63 * 0.00002 + 30 * (1e-3 + 1e6 / 16 / 1e9))


def test_without_overhead_and_exchange_scaling_is_perfect():
    times = times_to_target({1024: 7.0}, pd.Series({2: 0.2, 1024: 102.4}), 1e9, NONE)
    best = best_batch_sizes(times)
    assert best["efficiency"].tolist() == pytest.approx([1] * 11)
    assert best["seconds"].tolist() == pytest.approx([7 * 102.4 / 2**power for power in range(11)])


def result_of(study: Study | pd.DataFrame, **options) -> dict:
    """A projection as JSON has it."""
    study = Study.of(study) if isinstance(study, pd.DataFrame) else study
    return json_object.projection_object(project(study, **options))


@pytest.fixture(scope="module")
def known() -> dict:
    return result_of(STUDY, parameters=50_000, target=synthetic.TARGET)


def test_one_worker_takes_what_was_recorded(known):
    """Whatever the interconnect; and the time of the best batch size is that of the records themselves."""
    measured = json_object.json_object(findings.analyse(STUDY, target=synthetic.TARGET))["modes"]
    for name, mode in known["modes"].items():
        first = {label: found["workers"][0]["seconds"] for label, found in mode["interconnects"].items()}
        assert len(set(first.values())) == 1
        rows = measured[name]["batch_sizes"]
        recorded = min(row["running_time_to_target"] for row in rows if row["running_time_to_target"] is not None)
        assert first["none"] == pytest.approx(recorded, rel=1e-9)


def test_points_at_which_more_workers_stop_paying(known):
    """Definitions applied anew to the curve; the cheaper the exchange, the more workers pay."""
    for mode in known["modes"].values():
        for found in mode["interconnects"].values():
            seconds = {row["workers"]: row["seconds"] for row in found["workers"]}
            stop = found["pays_up_to"]
            assert all(seconds[2 * count] <= 0.9 * seconds[count] for count in seconds if count < stop)
            assert seconds[2 * stop] > 0.9 * seconds[stop]
            assert seconds[found["fastest"]] == min(seconds.values())
            half = found["half_efficient_up_to"]
            assert seconds[1] / (half * seconds[half]) >= 0.5 > seconds[1] / (2 * half * seconds[2 * half])
            assert min(row["seconds"] for row in found["times"] if row["workers"] == 4) == seconds[4]
        stops = [mode["interconnects"][label]["pays_up_to"] for label in ("ethernet", "fast", "none")]
        assert stops == sorted(stops)
        assert stops[0] < stops[-1]
    scaled = known["modes"]["scaled_lr"]["interconnects"]
    assert [scaled[label]["pays_up_to"] for label in ("ethernet", "fast", "none")] == [8, 16, 32]
    # By hand, ms a step with B = 1024: none 4 + 20.48/N; 5.28 with sixteen, 4.64, 4.32 with 64. Ethernet adds
    # 2(N−1)(0.05 + 0.16/N): 9.66 with four, 7.54 with eight, 7.08 with sixteen. Fast adds 2(N−1)(0.005 + 0.008/N): 6.65
    # with eight, 5.45, 4.97 with 32.


def test_of_equally_fast_batch_sizes_the_smallest_counts():
    rows = [(1, 8, 0.1 + 0.2, False), (1, 16, 0.3, False), (2, 16, 0.2, False)]
    best = best_batch_sizes(pd.DataFrame(rows, columns=["workers", "batch_size", "seconds", "extrapolated"]))
    assert best["batch_size"].tolist() == [8, 16]


@pytest.mark.parametrize("milliseconds", range(1, 40))
def test_a_saving_of_exactly_a_tenth_pays(milliseconds):
    """Ten of these against nine of them; as floats it may be less than a tenth."""
    steps = pd.Series({8: 9 * milliseconds / 1000, 16: 10 * milliseconds / 1000})
    found = _scaling(NONE, pd.Series({16: 1.0}), steps, 0, None)
    assert found.workers[1].seconds == pytest.approx(0.9 * found.workers[0].seconds)
    assert found.pays_up_to.workers >= 2


def test_a_curve_that_pays_to_its_end_says_so():
    records = EPOCHS[EPOCHS["batch_size"].isin([8, 32, 128])].assign(running_time=lambda rows: 0.5 * rows["epoch"])
    result = result_of(records, parameters=0, target=synthetic.TARGET)
    found = result["modes"]["scaled_lr"]["interconnects"]["none"]
    assert (found["pays_up_to"], found["fastest"]) == (128, 128)
    assert found["reason"] == (
        "128 workers, the most that the batch sizes allow, still pay; extrapolated: workers have fewer images than the "
        "smallest recorded minibatch, 8"
    )


def test_times_that_are_upper_bounds_are_not_projected():
    """They would rank before what they may exceed."""
    slow = synthetic.run("mine", 64, 0, steps=300, final=0.76, epochs=5)  # reached in the first of 781 updates
    other = synthetic.run("mine", 32, 0, steps=9000, final=0.76, epochs=12)
    mode = result_of(pd.concat([slow, other]), parameters=1, target=0.7)["modes"]["mine"]
    ((size, updates),) = [(row["batch_size"], row["updates"]) for row in mode["batch_sizes"]]
    assert (size, updates) == (32, pytest.approx(9000, rel=0.01))
    assert {row["batch_size"] for row in mode["interconnects"]["fast"]["times"]} == {32}
    alone = result_of(pd.concat([slow, other]), parameters=1, target=0.2)["modes"]["mine"]  # so does the other one
    assert alone["batch_sizes"] == []
    assert alone["reason"] is not None


@pytest.mark.slow
def test_runs_of_several_workers_are_not_timed():
    is_shared = EPOCHS["seed"] == 2
    twice = EPOCHS.assign(running_time=EPOCHS["running_time"] * np.where(is_shared, 0.5, 1))
    sidecars = synthetic.sidecars(EPOCHS, parameters=7, device=CPU)
    for sidecar in sidecars:
        if sidecar["experiment"]["seed"] == 2:
            sidecar["workers"] = 2
    found = project(Study.of(twice, sidecars=sidecars))
    expected = project(STUDY, parameters=7)
    pd.testing.assert_series_equal(found.seconds_per_update, expected.seconds_per_update)
    assert found.gradient_bytes == expected.gradient_bytes == 28
    assert found.remarks == ()
    # Also where most runs are of several workers.
    for sidecar in sidecars:
        sidecar["workers"] = 2 if sidecar["experiment"]["seed"] else 1
    shared = EPOCHS.assign(running_time=EPOCHS["running_time"] * np.where(EPOCHS["seed"] > 0, 0.5, 1))
    found = project(Study.of(shared, sidecars=sidecars)).seconds_per_update
    pd.testing.assert_series_equal(found, expected.seconds_per_update)


CPU, GPU = ({"type": kind, "name": f"a {kind}", "threads": threads} for kind, threads in (("cpu", 1), ("cuda", 16)))


def test_times_of_the_commonest_device_count():
    """That of seeds 0 and 1; the other one, which is ten times as fast, is named."""
    sidecars = synthetic.sidecars(EPOCHS, parameters=7, device=CPU)
    for sidecar in sidecars:
        if sidecar["experiment"]["seed"] == 2:
            sidecar["device"] = GPU
    mixed = EPOCHS.assign(running_time=EPOCHS["running_time"] * np.where(EPOCHS["seed"] == 2, 0.1, 1))
    few = mixed["epoch"] <= np.where(mixed["seed"] == 2, 30, 5)  # though most epochs are the other's
    mixed, usual = (epochs[few] for epochs in (mixed, EPOCHS))
    found = project(Study.of(mixed, sidecars=sidecars))
    expected = project(Study.of(usual[usual["seed"] < 2]), parameters=7)
    pd.testing.assert_series_equal(found.seconds_per_update, expected.seconds_per_update)
    assert [str(remark) for remark in found.remarks] == [
        "the runs were trained on different devices or numbers of threads; the commonest one counts"
    ]


def test_parameters_are_those_of_the_sidecars():
    records = EPOCHS[EPOCHS["batch_size"] == 8]
    sidecars = synthetic.sidecars(records, device=CPU)
    assert project(Study.of(records, sidecars=sidecars)).gradient_bytes is None
    sidecars[0]["parameters"] = 7
    found = project(Study.of(records, sidecars=sidecars), target=0.7)
    assert (found.gradient_bytes, [remark.kind for remark in found.remarks]) == (28, ["no large records"])
    assert project(Study.of(records, sidecars=sidecars), parameters=9).gradient_bytes == 36
    sidecars[1]["parameters"] = 5
    found = project(Study.of(records, sidecars=sidecars), target=0.7)
    assert found.gradient_bytes is None
    assert [str(remark) for remark in found.remarks] == [
        "there are no records of large minibatches",
        "the runs are of networks with 5 and 7 parameters; put each network in a folder of its own",
    ]


FEW = {case: study for case, (study, _) in LITTLE.items()} | {
    "no times": Study.of(EPOCHS.assign(running_time=np.nan, epoch_time=np.nan)),
    "no updates": Study.of(EPOCHS.assign(updates=np.nan)),
    "nothing reaches it": Study.of(EPOCHS.assign(accuracy=EPOCHS["accuracy"] / 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 1_000_000])
@pytest.mark.parametrize("case", FEW)
def test_what_is_missing_is_null_with_a_reason(case, size):
    for target in (None, synthetic.TARGET):
        projection = project(FEW[case], parameters=size, target=target)
        result = json_object.projection_object(projection)
        json.dumps(result, allow_nan=False)
        for mode in result["modes"].values():
            for label, found in mode["interconnects"].items():
                unknown = size is None and label != "none"
                assert (found["pays_up_to"] is None) == (mode["reason"] is not None or unknown)
                assert found["reason"] or found["pays_up_to"]
                assert bool(found["workers"]) == (found["pays_up_to"] is not None)
        assert result["modes"] or result["missing"]
        for width in (60, 80):
            assert max(len(line) for line in projection_text(projection, width).splitlines()) <= max(width, 70)
        figure = Figure()
        for mode in projection.modes.values() or [None]:
            ax = figure.add_subplot()
            plots.projection(ax, mode, projection.modes)
            assert ax.get_lines() or ax.texts
        figure.draw_without_rendering()


@pytest.mark.slow
def test_what_is_missing_is_named():
    def reason(case: str, size=1_000_000, label="ethernet", target=synthetic.TARGET):
        result = result_of(FEW[case], parameters=size, target=target)
        return result["modes"]["baseline_large"]["interconnects"][label]["reason"]

    assert reason("no times") == "the time of an update is recorded at 0 batch sizes; two are needed"
    assert reason("nothing reaches it") == "at no batch size with recorded updates does every run reach the target"
    assert reason("no accuracies", target=None) == "no target: there is no threshold, and none was given"
    assert reason("one mode missing", size=None) == "the number of parameters is not recorded; give --parameters"
    assert result_of(NOTHING, parameters=1)["missing"][0] == "there are no records of large minibatches"


def test_figure_shows_curves_and_where_they_stop(known):
    ax = Figure().add_subplot()
    drawn = project(STUDY, parameters=50_000, target=synthetic.TARGET).modes
    plots.projection(ax, drawn["scaled_lr"], drawn)
    assert ax.get_title() == "linearly scaled rate"
    found = known["modes"]["scaled_lr"]["interconnects"]
    lines = {line.get_label(): line for line in ax.get_lines()}
    for label, dashes in (("ethernet", "-"), ("fast", "--"), ("none", "-.")):
        rows = [row for row in found[label]["workers"] if not row["extrapolated"]]
        points = [point for point in lines[label].get_xydata().tolist() if not np.isnan(point[1])]
        assert points == [[row["workers"], row["seconds"]] for row in rows]
        assert lines[label].get_linestyle() == dashes
    colour = mpl.colors.to_rgba(plots.mode_style("scaled_lr")["color"])
    marker = plots.mode_style("scaled_lr")["marker"]
    marked = [line.get_xydata() for line in ax.get_lines() if line.get_marker() == marker]
    markers = {tuple(points[0]) for points in marked if len(points)}
    assert markers == {
        (row["workers"], row["seconds"])
        for of_one in found.values()
        for row in of_one["workers"]
        if row["workers"] == of_one["pays_up_to"]
    }
    assert mpl.colors.to_rgba(lines["fast"].get_color()) == colour
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "log", "workers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("records")
    for (name, size, seed), rows in EPOCHS.groupby(["experiment", "batch_size", "seed"]):
        rows.to_csv(path / f"{name}_bs{size}_seed{seed}.csv", index=False)
    experiment = {"name": "scaled_lr", "batch_size": 128, "seed": 0}
    (path / "scaled_lr_bs128_seed0.json").write_text(
        json.dumps({"status": "complete", "experiment": experiment, "parameters": 50_000})
    )
    return path


@pytest.mark.slow
def test_command_with_an_interconnect_of_ones_own(folder, capsys, monkeypatch, tmp_path):
    """Microseconds and Gbit/s become seconds and bytes; text has the same numbers; parameters are the sidecar's."""
    own = [str(folder), "--target", "0.7", "--latency", "30", "--bandwidth", "8"]
    assert cli.main(["project", *own, "--json"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    given = Interconnect(pytest.approx(30e-6), 1e9, "as given")
    assert Interconnect(**result["interconnects"]["given"]) == given
    assert list(result["interconnects"]) == ["given", "ethernet", "fast", "none"]
    assert result["gradient_bytes"] == 200_000
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["project", *own, "--figure", str(tmp_path / "figure.png")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 80
    found = result["modes"]["scaled_lr"]["interconnects"]["given"]
    place = next(number for number, line in enumerate(printed) if line.startswith("scaled_lr: one worker takes"))
    shown = printed[place + 2].split()
    assert shown[0] == "given"
    assert [int(shown[column]) for column in (1, 4, 5)] == [
        found["pays_up_to"],
        found["half_efficient_up_to"],
        found["fastest"],
    ]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["project", *own, "--parameters", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gradient_bytes"] == 28


@pytest.mark.slow
def test_command_measures_an_all_reduce(folder):
    """In a process of its own, whose own processes start as a user's do."""
    shown = run("project", str(folder), "--target", "0.7", "--json")
    assert shown.returncode == 0, shown.stderr
    here = json.loads(shown.stdout)["interconnects"]["here"]
    assert here["source"] == "measured between 2 processes here, with gloo"
    assert 0 <= here["latency"] < 1
    assert here["bandwidth"] > 1e6


def test_measuring_that_fails_is_one_line(folder, capsys, monkeypatch):
    def spawn(*_, **__):
        raise RuntimeError("\n\n-- Process 1 terminated with the following error:\nTraceback\nRuntimeError: no way\n")

    monkeypatch.setattr("torch.multiprocessing.spawn", spawn)
    assert cli.main(["project", str(folder)]) == 2
    assert capsys.readouterr().err == (
        "error: an all-reduce between two processes here failed (RuntimeError: no way); give --latency and "
        "--bandwidth\n"
    )


def test_command_on_an_empty_folder(tmp_path, capsys):
    assert cli.main(["project", str(tmp_path), "--figure", str(tmp_path / "figure.svg")]) == 0  # nothing is measured
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == [
        "Note: there are no records of large minibatches",
        "Note: no target: there is no threshold, and none was given",
    ]
