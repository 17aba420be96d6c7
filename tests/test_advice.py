"""Advice: a table worked out by hand, properties, the measuring on a device whose time is made up, the command."""

import json
import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscale import cli
from batchscale.analysis.advice import Advice, Measured, NoiseScaleAt, Stage, advise, update_seconds
from batchscale.analysis.crossing import Crossing
from batchscale.analysis.json_object import advice_object
from batchscale.analysis.local_critical_batch_size import Local
from batchscale.analysis.reasons import Reason
from batchscale.analysis.terminal import advice_text
from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.records import advice as kept
from batchscale.sweeps.advise import advise as measure_and_advise
from batchscale.training import throughput
from batchscale.training.loop import Training
from batchscale.training.throughput import Speed, Throughput

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
MILLISECONDS = (4, 4, 4, 4, 4, 5, 8, 16)  # of an update
EXPERIMENT = Experiment(batch_size=8, lr_scaling="linear", warmup="gradual")  # base_lr 0.002 at 8, 10 epochs
START, HALF, WHOLE = 2.0, 1.0, 0.8


def timed(milliseconds=MILLISECONDS, sizes=SIZES) -> list[dict]:
    rows = zip(sizes, milliseconds, strict=True)
    return [{"batch_size": size, "seconds": ms / 1000, "error": 1e-5, "bytes": 10**6 * size} for size, ms in rows]


def local(estimate, images, *, low=None, high=None, updates=100, rule="linear", **others) -> Local:
    """That needs so many times the images of the reference at 8, 16, 32 …: a loss of L + (L_½ − L)·log₂ of it."""
    sizes = tuple(8.0 * 2**power for power in range(len(images)))
    values = tuple(-(WHOLE + (HALF - WHOLE) * math.log2(each)) for each in images)
    curve = Crossing(estimate, low, high, sizes, values)
    known = {"start": START, "half": HALF, "whole": WHOLE, "curve": curve, "destroyed_from": None}
    known["losses"] = tuple((int(size), -value) for size, value in zip(sizes, values, strict=True))
    known |= {"estimate": estimate, "low": low, "high": high, "batch_size": 8, "largest": int(sizes[-1])}
    return Local(rule=rule, updates=updates, **known | others)


# After one epoch it needs twice the images at 64, after two epochs at 128.
FIRST = local(64.0, (1, 1, 1.21, 2, 8), low=50.0, high=81.92)
SECOND = local(128.0, (1, 1, 1, 1.28, 2), low=60.0, high=200.0, updates=200)


def measured(*locals_, **others) -> Measured:
    known = {"experiment": EXPERIMENT, "train_images": 803, "device": "a cpu", "throughput": timed(), "largest": 128}
    known |= {"limit": "images", "evaluation_seconds": 0.5, "window": 400, "orders": 2, "seconds": 90.0}
    known |= {"noise_scales": (NoiseScaleAt(100, 40.0, 5.0), NoiseScaleAt(200, math.nan, math.nan))}
    return Measured(**known | {"locals": locals_ or (FIRST, SECOND)} | others)


def test_time_of_an_update_between_those_that_were_timed():
    """Log t over log B: between 4 ms at 16 and 5 ms at 32 it is √20 ms. Below the smallest it stays, above it grows."""
    rows = measured().times
    assert [update_seconds(rows, size) for size in SIZES] == pytest.approx([ms / 1000 for ms in MILLISECONDS])
    assert update_seconds(rows, 16 * math.sqrt(2)) == pytest.approx(math.sqrt(20) / 1000)
    assert update_seconds(rows, 0.5) == pytest.approx(0.004)
    assert update_seconds(rows, 256) == pytest.approx(0.032)
    assert update_seconds([(8, 0.003)], 12) == pytest.approx(0.0045)


def test_table_by_hand():
    """1000 updates of 4 ms at 8. Images are geometric means: √(1.21·1) at 32, √(2·1.28) at 64, √(8·2) at 128."""
    found = advise(measured())
    rows = [(row.batch_size, row.images, row.updates, row.seconds, row.speedup) for row in found.table]
    expected = [
        (8, 1.0, 1000, 4.0, 1.0),
        (16, 1.0, 500, 2.0, 2.0),
        (32, 1.1, 275, 1.375, 4 / 1.375),
        (64, 1.6, 200, 1.6, 2.5),
        (128, 4.0, 250, 4.0, 1.0),
    ]
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-9)
    assert [row.images_per_second for row in found.table] == pytest.approx([2000, 4000, 6400, 8000, 8000])
    assert [row.learning_rate for row in found.table] == pytest.approx([0.002, 0.004, 0.008, 0.016, 0.032])
    assert [row.bytes for row in found.table] == [8e6, 16e6, 32e6, 64e6, 128e6]
    assert (found.full_from, found.rule, found.reasons) == (64, "linear", ())
    assert found.recommended is found.table[2]
    assert found.saving_up_to == 32


def test_prediction_by_hand():
    """The geometric mean of 64 and 128; their logarithms deviate by ln 2/√2, and the mean by ln 2/2: 0.98 octaves."""
    found = advise(measured()).main
    assert found.estimate == pytest.approx(64 * math.sqrt(2))
    assert (found.low, found.high) == pytest.approx((64 * 2**-0.48, 64 * 2**1.48))
    assert (found.is_at_least, found.destroyed_from, found.reasons) == (False, None, ())
    # Where the checkpoints agree, their own intervals count, here ± 1.96 in log B with two checkpoints.
    wide = {"low": 64 * math.exp(-1.96), "high": 64 * math.exp(1.96)}
    found = advise(measured(replace(FIRST, **wide), replace(FIRST, updates=200, **wide))).main
    half = 1.96 / math.sqrt(2)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (64, 64 * math.exp(-half), 64 * math.exp(half)), rel=1e-9
    )
    found = advise(measured(FIRST)).main
    assert (found.estimate, found.low, found.high) == pytest.approx((64, 50, 81.92))
    found = advise(measured(replace(FIRST, low=None, high=None))).main
    assert (found.estimate, found.low, found.high) == (pytest.approx(64), None, None)


def test_a_checkpoint_that_keeps_everything_makes_it_a_lower_bound():
    found = advise(measured(FIRST, replace(SECOND, estimate=None, low=128.0, high=None))).main
    assert found.estimate == pytest.approx(64 * math.sqrt(2))
    assert found.is_at_least
    assert found.high is None
    assert found.low == pytest.approx(64 * 2**-0.48)


def test_all_checkpoints_keep_everything():
    open_ = {"estimate": None, "low": 64.0, "high": None}
    found = advise(measured(replace(FIRST, **open_), replace(SECOND, **open_, largest=64)))
    assert (found.main.estimate, found.main.low, found.main.high) == (None, 64.0, None)
    assert found.main.is_at_least
    assert found.reasons == (Reason.of("all kept", size=64),)
    assert found.recommended.batch_size == 32


def test_a_checkpoint_without_progress_does_not_count():
    lost = replace(SECOND, estimate=None, low=None, high=None, curve=None, reasons=(NO_PROGRESS,))
    found = advise(measured(FIRST, lost)).main
    assert (found.estimate, found.low, found.high) == pytest.approx((64, 50, 81.92))
    assert found.images(32) == pytest.approx(1.21)
    nothing = advise(measured(replace(lost, updates=100), lost))
    assert (nothing.main.estimate, nothing.recommended, nothing.saving_up_to) == (None, None, None)
    assert nothing.reasons == (NO_PROGRESS,)
    assert [math.isnan(row.images) for row in nothing.table] == [False, True, True, True, True]


NO_PROGRESS = Reason.of("no progress", half=1.0, whole=1.0)


def test_the_smallest_batch_size_that_destroys_the_network_at_any_checkpoint():
    found = advise(measured(replace(FIRST, destroyed_from=256), replace(SECOND, destroyed_from=128)))
    assert found.main.destroyed_from == 128


def test_without_any_branch():
    found = advise(measured(locals=()))
    assert (found.main, found.recommended, found.reasons) == (None, None, (Reason.of("no branches"),))
    assert len(found.table) == 5
    assert advice_text(found).startswith("No batch size can be recommended: no checkpoint was reached in the time.")
    json.dumps(advice_object(found), allow_nan=False)


def test_the_rule_that_was_asked_for():
    sqrt = replace(FIRST, rule="sqrt", estimate=16.0)
    locals_ = FIRST, SECOND, sqrt
    for wanted, rule in (("sqrt", "sqrt"), ("linear", "linear"), ("none", "linear")):
        found = advise(measured(*locals_, experiment=replace(EXPERIMENT, lr_scaling=wanted)))
        assert found.rule == rule
        assert list(found.predictions) == ["linear", "sqrt"]
    found = advise(measured(*locals_, experiment=replace(EXPERIMENT, lr_scaling="sqrt")))
    assert [row.learning_rate for row in found.table] == pytest.approx([0.002 * 2 ** (k / 2) for k in range(5)])
    assert found.recommended.batch_size == 16  # 32 would be faster, but it is beyond the prediction
    assert found.saving_up_to == 32


def test_the_smallest_within_a_tenth_of_the_shortest_time():
    """275 updates of 5 ms at 32 take 1.375 s. Over 500 of 3.05 ms at 16 this saves less than a tenth, over 3.06 more"""
    for milliseconds, size in ((3.05, 16), (3.06, 32)):
        found = advise(measured(throughput=timed((*MILLISECONDS[:3], 4, milliseconds, 5, 8, 16))))
        assert (found.recommended.batch_size, found.saving_up_to) == (size, size)


def test_nothing_larger_saves_time():
    """Updates of twice the images take twice the time."""
    found = advise(measured(throughput=timed(SIZES)))
    assert (found.recommended.batch_size, found.saving_up_to) == (8, 8)
    assert found.full_from == 1
    assert advice_text(found).startswith("Stay at batch size 8: within the prediction no larger one saves time")


def test_fewer_images_than_the_reference_are_chance():
    found = advise(measured(local(64.0, (1, 0.8, 0.9, 2, 8))))
    assert [row.images for row in found.table] == pytest.approx([1, 1, 1, 2, 8])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(1.0, 3.0), min_size=7, max_size=7),
    st.lists(st.floats(1.0, 2.0), min_size=1, max_size=6),
    st.floats(8, 512),
)
def test_properties(growth, wasted, estimate):
    """Definitions, applied anew."""
    milliseconds, images = [1.0], [1.0]
    for factor in growth:
        milliseconds.append(milliseconds[-1] * factor)
    for factor in wasted:
        images.append(images[-1] * factor)
    found = advise(measured(local(estimate, images), throughput=timed(milliseconds)))
    sizes = [row.batch_size for row in found.table]
    assert sizes == [8, 16, 32, 64, 128]
    tried = [row for row in found.table if not math.isnan(row.images)]
    assert len(tried) == min(5, len(images))
    for row in tried:
        assert row.updates * row.batch_size == pytest.approx(8000 * row.images)
        assert row.seconds * row.speedup == pytest.approx(tried[0].seconds)
    within = [row for row in tried if row.batch_size <= estimate]
    shortest = min(row.seconds for row in within)
    assert found.recommended in within
    assert 0.9 * found.recommended.seconds <= shortest * (1 + 1e-6)
    assert all(0.9 * row.seconds > shortest for row in within if row.batch_size < found.recommended.batch_size)
    later = [row.seconds for row in tried if row.batch_size > found.saving_up_to]
    (knee,) = [row for row in tried if row.batch_size == found.saving_up_to]
    assert all(seconds >= 0.9 * knee.seconds * (1 - 1e-6) for seconds in later)
    text, result = advice_text(found), advice_object(found)
    assert max(map(len, text.splitlines())) <= 80
    json.dumps(result, allow_nan=False)


# Schedules -----------------------------------------------------------------------------------------------------------

GROWN = replace(SECOND, low=70.0)
EARLY = local(16.0, (1, 2, 4, 8, 16), low=15.0, high=17.0)
LATE = local(128.0, (1, 1, 1, 1, 2), low=100.0, high=150.0, updates=200)
FREE = timed([1] * 8)  # a device that is far from full


def test_no_schedule_that_takes_longer():
    """64 for two epochs, with twice the images: 2·2/64·8 ms an image. Then 128, also twice: 8·2/128·16 ms.

    Together 2.5 ms, against 10·1.1/32·5 ms = 1.71875 ms of 32 throughout.
    """
    assert advise(measured(FIRST, GROWN)).schedule is None


@pytest.mark.parametrize(
    "locals_",
    [
        (EARLY,),
        (EARLY, replace(LATE, low=15.9)),  # it may not have grown
        (EARLY, replace(LATE, low=None)),
        (EARLY, replace(LATE, estimate=31.9, low=30.0)),  # less than twice
        (replace(LATE, updates=100), replace(EARLY, updates=200)),  # it shrinks
        (EARLY, replace(LATE, estimate=None)),
        (EARLY, replace(LATE, updates=1000)),  # at the end of the training
    ],
)
def test_no_schedule(locals_):
    found = advise(measured(*locals_, throughput=FREE))
    assert found.schedule is None
    assert "schedule" not in advice_text(found)


def test_a_schedule_that_saves():
    """On a device that is far from full: 1 ms whatever the size, and 16 at most by what follows from one checkpoint."""
    found = advise(measured(EARLY, LATE, throughput=FREE))
    assert found.schedule.stages == (Stage(0.0, 16), Stage(2.0, 128))
    # Images are √2, 2, √8 and √32 times as many, so that 8 to 64 take as long as √2/16 ... and 32 is the prediction.
    assert found.recommended.batch_size == 32
    constant = 10 * 2 / 32
    assert found.schedule.saved == pytest.approx(1 - (2 * 2 / 16 + 8 * 2 / 128) / constant)
    assert "saves 40.0 % of the time against 32 throughout" in " ".join(advice_text(found).split())


# Words ---------------------------------------------------------------------------------------------------------------


def test_text():
    """The base rate, whose 64 and 16 have the mean 32: their logarithms deviate by ln 4/√2, and the mean by ln 2."""
    others = replace(FIRST, rule="none"), replace(SECOND, rule="none", estimate=16.0, low=None, high=None)
    found = advise(measured(FIRST, replace(SECOND, destroyed_from=128), *others))
    assert advice_text(found).splitlines() == [
        "Take batch size 32 with learning rate 0.008 and 2 epochs of warm-up: 2.9 times",
        "  faster than 8 on this device, to the same loss.",
        "     B  images/s      MB     rate  images   updates    time  faster",
        "     8      2000       8    0.002    1.00      1000     4 s       1",
        "    16      4000      16    0.004    1.00       500     2 s       2",
        "    32      6400      32    0.008    1.10       275     1 s     2.9",
        "    64      8000      64    0.016    1.60       200     2 s     2.5",
        "   128      8000     128    0.032    4.00       250     4 s       1",
        "images, updates and time are those to the loss of the reference; images and",
        "  faster are relative to it; – : not tried.",
        "The linear rule needs twice the images at 91 (95 % interval 46–179).",
        "From 128 on, its rate destroys the network.",
        "Beyond 32, no batch size that was tried saves a tenth of the time.",
        "The device is full from batch size 64 on.",
        "The base rate needs twice the images at 32 (95 % interval 8.2–124).",
        "The prediction rests on branches after 1 and 2 epochs (64 and 128), each over",
        "  400 images at most in 2 orders, and took 90 s.",
        "The gradient noise scale at the same checkpoints is 40 ± 5 images.",
        "It compares training losses early in training; `find` measures the accuracy at",
        "  its end.",
    ]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_lines_keep_within_the_width(width):
    for locals_ in ((FIRST, SECOND), (FIRST, GROWN), (replace(FIRST, estimate=None, low=128.0, high=None),)):
        text = advice_text(advise(measured(*locals_)), width)
        assert max(map(len, text.splitlines())) <= max(width, 70)


def test_json():
    """What `find` reads of it, and that nothing in it is NaN."""
    found = advise(measured(FIRST, GROWN, noise_scales=()))
    result = json.loads(json.dumps(advice_object(found), allow_nan=False))
    assert Experiment(**result["experiment"]) == EXPERIMENT
    assert (result["device"], result["evaluation_seconds"], result["seconds"]) == ("a cpu", 0.5, 90.0)
    assert [row["seconds"] for row in result["throughput"]] == [ms / 1000 for ms in MILLISECONDS]
    assert result["largest_that_fits"] == {"batch_size": 128, "limit": "images"}
    linear = result["rules"]["linear"]
    assert (linear["estimate"], linear["low"], linear["high"]) == pytest.approx(
        (found.main.estimate, found.main.low, found.main.high)
    )
    assert (linear["is_at_least"], linear["destroyed_from"], linear["reason"]) == (False, None, None)
    first, second = linear["checkpoints"]
    assert (first["epoch"], second["epoch"], second["updates"]) == (1.0, 2.0, 200)
    assert [row["batch_size"] for row in first["losses"]] == [8, 16, 32, 64, 128]
    assert [row["loss"] for row in first["losses"]] == pytest.approx(
        [WHOLE + (HALF - WHOLE) * math.log2(each) for each in (1, 1, 1.21, 2, 8)]
    )
    assert result["recommended"]["batch_size"] == result["saving_up_to"] == 32
    assert result["schedule"] is None
    assert (result["full_from"], result["rule"], result["window"], result["reason"]) == (64, "linear", 400, None)


def test_what_is_missing_is_null_in_json():
    lost = replace(FIRST, estimate=None, low=None, high=None, curve=None, reasons=(NO_PROGRESS,))
    result = advice_object(advise(measured(lost)))
    json.dumps(result, allow_nan=False)
    assert (result["recommended"], result["schedule"], result["saving_up_to"]) == (None, None, None)
    assert result["reason"].startswith("the reference hardly improves")
    assert result["rules"]["linear"]["checkpoints"][0]["estimate"] is None
    assert result["noise_scale"][1]["noise_scale"] is None
    assert [row["images"] for row in result["batch_sizes"]] == [1.0, None, None, None, None]


# Measuring -----------------------------------------------------------------------------------------------------------


class Device:
    """Its clock advances by `update` and `image` seconds for an update, and for everything else by fixed ones."""

    def __init__(self, update=0.01, image=0.0005, evaluation=0.05, noise=0.1):
        self.update, self.image, self.evaluation, self.noise = update, image, evaluation, noise
        self.now, self.largest, self.limit = 0.0, 320, "images"

    def __call__(self) -> float:
        return self.now

    def speeds(self) -> Throughput:
        sizes = [size for size in (*SIZES, 256, 320) if size <= self.largest]
        speeds = tuple(Speed(size, self.update + self.image * size, 0.0, 1000 * size) for size in sizes)
        return Throughput("made up", speeds, self.largest, self.limit, 2 * self.evaluation + self.noise)


@pytest.fixture
def device(monkeypatch):
    device = Device()
    update, evaluate, noise = Training.update, Training.evaluate, Training.measure_noise_scale

    def slow(function, seconds):
        def run(training, *arguments, **keywords):
            device.now += seconds(*arguments)
            return function(training, *arguments, **keywords)

        return run

    monkeypatch.setattr(Training, "update", slow(update, lambda part, *_: device.update + device.image * len(part)))
    monkeypatch.setattr(Training, "evaluate", slow(evaluate, lambda *_: device.evaluation))
    monkeypatch.setattr(Training, "measure_noise_scale", slow(noise, lambda *_: device.noise))

    def measure(experiment, data, *, seconds, **_):
        device.now += seconds / 2
        return device.speeds()

    monkeypatch.setattr(throughput, "measure", measure)
    return device


def small(**fields) -> Experiment:
    fixed = {"dataset": "digits", "train_size": 320, "width": 1, "model": "networks:linear", "base_lr": 0.003}
    return Experiment(**{"batch_size": 1, "lr_scaling": "linear", "warmup": "gradual", **fixed, **fields})


def checkpoints(found: Advice) -> list[int]:
    return [each.updates for each in found.main.locals]


def test_measures_and_keeps_what_it_found(device, tmp_path, capsys):
    found = measure_and_advise(small(), minutes=10, data_dir=tmp_path, clock=device)
    assert checkpoints(found) == [40, 80, 160]
    assert list(found.predictions) == ["linear", "sqrt", "none"]
    assert found.measured.window == 320
    assert found.measured.train_images == 320
    assert {each.updates for each in found.measured.noise_scales} == {40, 80, 160}
    assert found.recommended is not None
    assert found.recommended.batch_size <= max(found.main.estimate or 0, found.main.low or 0)
    assert found.measured.seconds == device.now
    assert [path.name for path in tmp_path.iterdir()] == ["advice.json"]
    assert kept.read(tmp_path) == json.loads(json.dumps(advice_object(found)))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (
        captured.err.splitlines()[0] == "made up: 1882 images/s at batch size 320; timed up to 320, all training images"
    )
    assert len(captured.err.splitlines()) == 4


def test_less_time_gives_fewer_checkpoints_and_rules_and_shorter_windows(device):
    """And the time is kept, up to a branch that is in progress."""
    said = []
    for minutes in (0.05, 0.1, 0.2, 0.6):
        device.now = 0.0
        found = measure_and_advise(small(), minutes=minutes, clock=device)
        assert found.measured.seconds <= 60 * minutes * 1.02
        assert found.measured.seconds == device.now
        said.append((len(checkpoints(found)), len(found.predictions), found.measured.window))
    assert said[0][:2] == (1, 1)
    assert said[0][2] < 320
    assert said[-1] == (3, 3, 320)
    for less, more in pairwise(said):
        assert all(few <= many for few, many in zip(less, more, strict=True))


@pytest.mark.parametrize("minutes", [0, -1, math.inf, math.nan, "ten", None])
def test_minutes_that_are_none(minutes):
    with pytest.raises(UserError, match=f"minutes is {minutes!r}; it must be a number above 0"):
        measure_and_advise(small(), minutes=minutes)


@pytest.mark.parametrize(
    ("minutes", "message"),
    [
        (0.001, "the time was over before the reference's first update; give it more minutes"),
        (0.01, "0 s are left for branches, which need 2 s at least; give it 1 minute or more"),
    ],
)
def test_too_little_time_is_one_line(device, tmp_path, minutes, message):
    with pytest.raises(UserError) as refused:
        measure_and_advise(small(), minutes=minutes, data_dir=tmp_path, clock=device)
    assert str(refused.value) == message
    assert list(tmp_path.iterdir()) == []


def test_the_minutes_that_it_asks_for_suffice(device):
    device.update = 1.0
    with pytest.raises(UserError, match="give it 3 minutes or more") as refused:
        measure_and_advise(small(), minutes=0.2, clock=device)
    minutes = int(str(refused.value).split("give it ")[1].split()[0])
    device.now = 0.0
    assert checkpoints(measure_and_advise(small(), minutes=minutes, clock=device))


def test_a_reference_that_does_not_train_is_one_line(device, tmp_path):
    with pytest.raises(
        UserError,
        match=r"the reference does not train: its loss was .* after 40 updates, with base_lr 1000 at batch size 8",
    ):
        measure_and_advise(small(base_lr=1e3), minutes=10, data_dir=tmp_path, clock=device)
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_are_one_line(device):
    with pytest.raises(UserError, match="reference_batch_size is 8 and there are 159 training images; branches need"):
        measure_and_advise(small(train_size=159), minutes=10, clock=device)
    assert checkpoints(measure_and_advise(small(train_size=160), minutes=10, clock=device))


@pytest.mark.parametrize(("limit", "what"), [("memory", "fit"), ("time", "minutes")])
def test_a_device_that_is_full_below_the_reference_is_one_line(device, limit, what):
    device.largest, device.limit = 4, limit
    with pytest.raises(UserError, match=f"reference_batch_size is 8.* 4 .*{what}") as refused:
        measure_and_advise(small(), minutes=10, clock=device)
    assert "\n" not in str(refused.value)


def test_a_device_with_room_for_the_reference_alone(device):
    device.largest, device.limit = 8, "memory"
    found = measure_and_advise(small(), minutes=10, clock=device)
    assert [row.batch_size for row in found.table] == [8]
    advice_text(found)


# The command ---------------------------------------------------------------------------------------------------------

COMMAND = ["advise", "--dataset", "digits", "--train-size", "320", "--model", "networks:linear", "--base-lr", "0.003"]


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([*COMMAND, "--minutes", "0.2", "--data-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(("Take batch size", "Stay at batch size", "No batch size"))
    assert said[-1] == "  its end."
    assert max(map(len, said)) <= 80
    noted = kept.read(tmp_path)
    assert noted["experiment"]["warmup"] == "gradual"
    assert {field.name for field in fields(Experiment)} == set(noted["experiment"])


def test_command_with_json(capsys):
    assert cli.main([*COMMAND, "--minutes", "0.2", "--json", "--lr-scaling", "sqrt"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result["rule"] == "sqrt"
    assert result["batch_sizes"][1]["learning_rate"] == pytest.approx(0.003 * math.sqrt(2))
