"""The loop against a plain re-implementation, and the invariants of its epochs, its clock and its state."""

import contextlib
import copy
import functools
import gc
import io
import math
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm.optim
import torch
from networks import DrawsFromEveryGenerator
from plain import InDouble, plain_loop, random_images
from torch import nn
from torch.nn import functional
from torchvision.transforms import functional as transforms

from batchscale.errors import UserError
from batchscale.experiment import Experiment
from batchscale.training import datasets, loop, noise_scale
from batchscale.training.device import autocast, configure, select_device
from batchscale.training.loop import Training
from batchscale.training.network import build_model
from batchscale.training.optimizers import build_optimizer
from batchscale.training.randomness import epoch_seed, permutation, seed_generators
from models import CNN

TIMES = {"running_time": 0, "epoch_time": 0, "images_per_second": 0}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def noise():
    return random_images()


def experiment(**fields) -> Experiment:
    return Experiment(**{"batch_size": 32, "dataset": "digits", "width": 0.25, "epochs": 1, **fields})


class InFloat(CNN):
    def __init__(self):
        super().__init__(width=0.25)

    def forward(self, images):
        return super().forward(images.float())


def with_settings(optimizer, *, on_weights=0.0, **settings):
    """An optimizer for the plain loop, whose weight decay spares what has one dimension: biases and batch norm."""

    def build(parameters, lr):
        parameters = list(parameters)
        if on_weights:
            biases = [parameter for parameter in parameters if parameter.ndim == 1]
            weights = [parameter for parameter in parameters if parameter.ndim > 1]
            parameters = [{"params": weights, "weight_decay": on_weights}, {"params": biases, "weight_decay": 0}]
        return optimizer(parameters, lr=lr, **settings)

    return build


def mirrored(image, draws):
    return transforms.hflip(image) if draws[0] else image


def mirrored_and_shifted(image, draws):
    """torchvision's functions, for the same draws: padded with black, cropped, then mirrored."""
    return mirrored(transforms.crop(transforms.pad(image, 4), 4 + draws[1], 4 + draws[2], 32, 32), draws)


SGD, AdamW = torch.optim.SGD, torch.optim.AdamW
# η = 0.002, k = 32/8 = 4, T_w = 10, half of an epoch, T = 20
PLAIN = [
    ({}, lambda t: 0.002, {}),
    ({"lr_scaling": "linear"}, lambda t: 0.008, {}),
    ({"lr_scaling": "sqrt"}, lambda t: 0.004, {}),
    ({"lr_scaling": "linear", "warmup": "constant"}, lambda t: 0.002 if t < 10 else 0.008, {}),
    ({"lr_scaling": "linear", "warmup": "gradual"}, lambda t: 0.002 + 0.006 * min(t, 10) / 10, {}),
    ({"lr_scaling": "sqrt", "warmup": "gradual", "seed": 3}, lambda t: 0.002 + 0.002 * min(t, 10) / 10, {}),
    ({"weight_decay": 0.01}, lambda t: 0.002, {"optimizer": with_settings(SGD, momentum=0.9, weight_decay=0.01)}),
    ({"micro_batch_size": 12}, lambda t: 0.002, {}),
    ({"decay": "linear"}, lambda t: 0.002 * (20 - t) / 20, {}),
    ({"decay": "cosine"}, lambda t: 0.001 * (1 + math.cos(math.pi * t / 20)), {}),
    ({"decay": "step"}, lambda t: 0.002 / 10 ** ((t >= 7) + (t >= 14) + (t >= 18)), {}),
    (
        {"lr_scaling": "linear", "warmup": "gradual", "decay": "linear"},
        lambda t: 0.002 + 0.006 * t / 10 if t < 10 else 0.008 * (20 - t) / 10,
        {},
    ),
    (
        {"optimizer": "nesterov", "weight_decay": 0.01},
        lambda t: 0.002,
        {"optimizer": with_settings(SGD, momentum=0.9, nesterov=True, weight_decay=0.01)},
    ),
    (
        {"optimizer": "adamw", "momentum": 0.8, "weight_decay": 0.1, "lr_scaling": "sqrt", "decay": "cosine"},
        lambda t: 0.002 * (1 + math.cos(math.pi * t / 20)),
        {"optimizer": with_settings(AdamW, betas=(0.8, 0.999), on_weights=0.1)},
    ),
    ({"optimizer": "adamw"}, lambda t: 0.002, {"optimizer": with_settings(AdamW, weight_decay=0)}),
    (
        {"optimizer": "torch.optim:RMSprop", "momentum": 0.5, "weight_decay": 0.1, "micro_batch_size": 12},
        lambda t: 0.002,
        {"optimizer": with_settings(torch.optim.RMSprop, momentum=0.5, on_weights=0.1)},
    ),
    (
        {"optimizer": "timm.optim:Lars", "weight_decay": 0.01, "base_lr": 0.5, "decay": "linear"},
        lambda t: 0.5 * (20 - t) / 20,
        {"optimizer": with_settings(timm.optim.Lars, momentum=0.9, on_weights=0.01)},
    ),
    (
        {"optimizer": "timm.optim:Lamb", "weight_decay": 0.01, "warmup": "gradual", "lr_scaling": "sqrt"},
        lambda t: 0.002 + 0.002 * min(t, 10) / 10,
        {"optimizer": with_settings(timm.optim.Lamb, on_weights=0.01)},
    ),
    ({"augment": "flip"}, lambda t: 0.002, {"change": mirrored}),
    ({"augment": "flip-crop", "micro_batch_size": 12}, lambda t: 0.002, {"change": mirrored_and_shifted}),
    (
        {"augment": "flip-crop", "optimizer": "adamw", "decay": "step", "seed": 3},
        lambda t: 0.002 / 10 ** ((t >= 7) + (t >= 14) + (t >= 18)),
        {"change": mirrored_and_shifted, "optimizer": with_settings(AdamW, weight_decay=0)},
    ),
]


@pytest.mark.parametrize(
    ("fields", "rate", "plainly"),
    [pytest.param(*case, id="-".join(map(str, case[0].values())) or "base") for case in PLAIN],
)
def test_weights_equal_the_plain_loops_after_20_updates(noise, fields, rate, plainly):
    """In float64. In float32, two memory layouts of the plain loop itself differ by 3e-5 after 20 updates: the kinks of
    ReLU and max-pooling amplify rounding errors of 1e-8."""
    run = Training(experiment(train_size=20 * 32, warmup_epochs=0.5, **fields), noise, model=InDouble())
    assert len(list(run.epochs())) == 1
    assert run.updates == 20
    same = {"seed": fields.get("seed", 0), "micro": fields.get("micro_batch_size")}
    plain = plain_loop(noise, InDouble(), updates=20, size=32, rate=rate, **same, **plainly)
    for (name, ours), theirs in zip(run.model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_weights_equal_the_plain_loops_in_float32(noise):
    """Few updates, before rounding errors grow. The network is built by its name.

    torch 2.4 and 2.6 add in another order than the versions since 2.11, up to 2.2e-5 here.
    """
    run = Training(experiment(train_size=5 * 32, lr_scaling="linear"), noise)
    list(run.epochs())
    torch.manual_seed(epoch_seed(0, 0))
    plain = plain_loop(noise, InFloat(), updates=5, size=32, rate=lambda t: 0.008)
    for ours, theirs in zip(run.model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=0)


def network_without_batch_norm(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.Tanh(), nn.Linear(16, num_classes))


@pytest.mark.parametrize("micro", [1, 5, 31])
def test_micro_batches_sum_to_the_minibatch(digits, micro):
    runs = []
    for size in (None, micro):
        torch.manual_seed(0)
        run = Training(experiment(train_size=320, micro_batch_size=size), digits, model=network_without_batch_norm(10))
        list(run.epochs())
        runs.append(run)
    for ours, theirs in zip(runs[1].model.parameters(), runs[0].model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert runs[0].updates == runs[1].updates == 10


def test_an_epoch_uses_each_image_once_and_drops_the_incomplete_batch(digits, monkeypatch):
    seen = []
    monkeypatch.setattr(
        datasets.Dataset,
        "batch",
        lambda self, places, original=datasets.Dataset.batch: seen.append(places) or original(self, places),
    )
    list(Training(experiment(train_size=100, epochs=2), digits, model=network_without_batch_norm(10)).epochs())
    assert [len(places) for places in seen] == 2 * ([32] * 3 + [8] * 10)  # and those of the noise scale
    epochs = [torch.cat(seen[:3]), torch.cat(seen[13:16])]
    for epoch in epochs:
        assert len(epoch.unique()) == 96
        assert 0 <= epoch.min() <= epoch.max() < 100
    assert epochs[0].tolist() != epochs[1].tolist()


def test_permutation_depends_only_on_seed_and_epoch():
    first = permutation(1000, seed=0, epoch=1)
    torch.manual_seed(123)
    assert torch.equal(first, permutation(1000, seed=0, epoch=1))
    assert sorted(first.tolist()) == list(range(1000))
    others = [permutation(1000, seed, epoch) for seed, epoch in ((0, 2), (1, 1), (1, 0))]
    assert all(not torch.equal(first, other) for other in others)


@pytest.mark.parametrize("fields", [{}, {"model": "networks:drawn_from_every_generator", "width": 1}])
def test_initial_weights_depend_only_on_the_seed_and_preserve_the_generators(digits, fields):
    seed_generators(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    weights = [
        nn.utils.parameters_to_vector(
            build_model(experiment(seed=seed, batch_size=size, **fields), digits).parameters()
        )
        for seed, size in ((0, 8), (0, 32), (1, 8))
    ]
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_rows(digits):
    run = Training(experiment(epochs=3, lr_scaling="linear", warmup="gradual", warmup_epochs=2), digits)
    rows = list(run.epochs())
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert [row.updates for row in rows] == [46, 92, 138]  # 1500 // 32 = 46
    # the rate of each epoch's last update: η + (kη − η)·t/T_w with t = 45, 91, 137 and T_w = 92
    expected = [0.002 + 0.006 * 45 / 92, 0.002 + 0.006 * 91 / 92, 0.008]
    assert [row.learning_rate for row in rows] == pytest.approx(expected, rel=1e-12)
    last = rows[-1]
    assert (last.batch_size, last.experiment, last.seed) == (32, "baseline_small", 0)
    assert last.generalization_error == last.train_accuracy - last.accuracy
    assert last.accuracy > 0.5  # it learns
    # the last row describes the final weights, in eval mode
    model = run.model.eval()
    with torch.no_grad():
        logits = model(digits.normalised(digits.test_images))
    assert last.accuracy == (logits.argmax(1) == digits.test_labels).sum().item() / 297
    assert last.test_loss == pytest.approx(functional.cross_entropy(logits, digits.test_labels).item(), rel=1e-5)


def test_noise_scale_uses_the_next_epochs_first_images(digits):
    digits = digits.first(480)
    run = Training(experiment(epochs=2, seed=3), digits)
    first, last = run.epochs()
    order, seed = permutation(480, seed=3, epoch=3), epoch_seed(3, 3)

    def loss(part):
        return functional.cross_entropy(
            run.model(digits.normalised(digits.train_images[part])), digits.train_labels[part]
        )

    expected = noise_scale.measure(run.model, loss, order, random_seed=seed, with_standard_error=True)
    assert (expected.small_batch_size, expected.big_batch_size) == (8, 80)
    assert last.noise_scale == pytest.approx(expected.noise_scale, rel=1e-5) != first.noise_scale
    precise = run.measure_noise_scale(images=480, with_standard_error=True)
    assert precise == noise_scale.measure(
        run.model, loss, order, random_seed=seed, micro_batch_size=8, micro_batches=60, with_standard_error=True
    )
    assert precise.standard_error < expected.standard_error / 2
    for images in (23, 481):
        with pytest.raises(UserError, match=rf"images is {images}; it must be from 24 \(three micro-batches\) to 480"):
            run.measure_noise_scale(images)


@pytest.mark.parametrize("model", ["DrawsFromEveryGenerator", "Remembers", "JoinsLate"])
def test_measuring_does_not_change_the_run(digits, monkeypatch, model):
    """The networks also draw from Python's and NumPy's generators, replace a buffer, count passes and fill caches."""
    runs = []
    for measured in (True, False):
        if not measured:
            monkeypatch.setattr(Training, "evaluate", lambda *arguments: (0.5, 1.0))
        run = Training(experiment(train_size=160, epochs=3, model=f"networks:{model}", width=1), digits)
        rows = list(run.epochs(with_noise_scale=measured))
        assert [math.isfinite(row.noise_scale) for row in rows] == [measured] * 3
        runs.append(run)
    torch.testing.assert_close(*(run.model.state_dict() for run in runs), rtol=0, atol=0)
    torch.testing.assert_close(*(run.optimizer.state_dict() for run in runs), rtol=0, atol=0)
    if model == "Remembers":
        assert runs[0].model.seen == [32] * 15
        assert list(runs[0].model.cache) == [32]


def test_measurements_need_memory_for_few_gradients(digits):
    """Counted in the last pass: a sum, for the standard error that of a block, and nothing per micro-batch."""
    run = Training(experiment(model="networks:linear", width=1), digits)
    size, alive = sum(parameter.nbytes for parameter in run.model.parameters()), []

    def count(*arguments):
        tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.numel() > 30_000]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        alive.append(sum(storages.values()) / size if len(passes) in (1, *last) else 0)

    for last, most in (((10,), 2.5), ((10, 20), 3.5)):
        alive.clear()
        passes = []
        handles = [run.model.register_forward_pre_hook(lambda *_, seen=passes: seen.append(1))]
        handles.append(run.model.register_forward_hook(count))
        run.measure_noise_scale(with_standard_error=len(last) > 1)
        for handle in handles:
            handle.remove()
        assert 0.5 < max(alive) - alive[0] < most


# What real networks do


def steps(optimizer, gradients, skipped=()):
    """Take one step per list of gradients, as fp16's scaler does: a skipped one finds an infinite gradient."""
    (parameters,) = [group["params"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    for number, of_step in enumerate(gradients):
        scaler.scale(torch.zeros(()))
        for parameter, gradient in zip(parameters, of_step, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
            if number in skipped and gradient is not None:
                parameter.grad.view(-1)[0] = math.inf
        scaler.step(optimizer)
        scaler.update(1.0)


@pytest.mark.parametrize("skipped", [(), (0,), (0, 1, 4)])
@pytest.mark.parametrize("absent", [(), (0,), (0, 1, 2), (1, 3)])
def test_the_fused_step_is_the_plain_one(digits, skipped, absent):
    """Also where the first updates overflow, and where a parameter gets its first gradient late."""
    generator = torch.Generator().manual_seed(0)
    build = functools.partial(nn.Linear, 5, 4)
    fused, plain = build(), build()
    plain.load_state_dict(fused.state_dict())
    gradients = [
        [torch.randn(4, 5, generator=generator), None if step in absent else torch.randn(4, generator=generator)]
        for step in range(6)
    ]
    ours = build_optimizer(fused, experiment(base_lr=0.1, weight_decay=0.01))
    theirs = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=False, foreach=False)
    assert ours.defaults["fused"]
    steps(ours, gradients, skipped)
    steps(theirs, gradients, skipped)
    torch.testing.assert_close(list(fused.parameters()), list(plain.parameters()), rtol=1e-6, atol=1e-7)


def test_a_state_without_every_momentum_is_continued(digits):
    """An older version did not save those of parameters that had no gradient."""
    of = experiment(model="networks:JoinsLate", width=1, train_size=64, epochs=4)
    run = Training(of, digits)
    next(run.epochs())
    state = copy.deepcopy(run.state_dict())
    del state["optimizer"]["state"][0]["momentum_buffer"]
    resumed = Training(of, digits)
    resumed.load_state_dict(state)
    assert len(list(resumed.epochs())) == 3


@pytest.mark.parametrize("model", ["SparseGradient", "ComplexWeights"])
def test_what_the_fused_step_cannot_take_is_trained_by_the_plain_one(digits, model):
    run = Training(experiment(model=f"networks:{model}", width=1, train_size=320, epochs=3), digits)
    assert not run.optimizer.defaults["fused"]
    first, *_, last = run.epochs()
    assert last.train_loss < first.train_loss
    assert math.isfinite(first.noise_scale)


@pytest.mark.parametrize(
    ("model", "memory_format"),
    [
        ("models:CNN", torch.channels_last),
        ("networks:StochasticDepth", torch.channels_last),
        ("networks:LeNet", torch.contiguous_format),
        ("networks:ViewInTraining", torch.contiguous_format),
        ("networks:Volume", torch.contiguous_format),
    ],
)
def test_a_network_gets_images_in_a_layout_that_it_can_take(digits, model, memory_format):
    fields = {} if model == "models:CNN" else {"width": 1}
    run = Training(experiment(model=model, train_size=64, **fields), digits)
    assert run.memory_format == memory_format
    (row,) = run.epochs()
    assert math.isfinite(row.train_loss + row.noise_scale)


@pytest.mark.parametrize("model", ["StochasticDepth", "Awkward", "JoinsLate", "Remembers", "LeNet"])
def test_awkward_networks_resume_exactly(digits, model):
    """Those that keep their state in buffers; of a state in attributes a checkpoint knows nothing."""
    of = experiment(model=f"networks:{model}", width=1, train_size=160, epochs=3)
    straight = Training(of, digits)
    rows = [replace(row, **TIMES) for row in straight.epochs()]
    first = Training(of, digits)
    begun = next(first.epochs())
    resumed = Training(of, digits)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    if model in ("JoinsLate", "Remembers"):
        for name in ("passes", "seen", "cache"):
            if hasattr(first.model, name):
                setattr(resumed.model, name, getattr(first.model, name))
    assert [replace(row, **TIMES) for row in (begun, *resumed.epochs())] == rows


def test_the_initial_weights_are_the_constructors(digits):
    """Whatever the check of the network on two images does."""
    run = Training(experiment(model="networks:Remembers", width=1), digits)
    assert run.model.scale == 1
    assert run.model.seen == []


def test_a_network_without_parameters(digits):
    with pytest.raises(UserError, match="PlainList has no parameters to train; layers in a plain list or dict"):
        Training(experiment(model="networks:PlainList", width=1), digits)


@pytest.mark.parametrize(("images", "measured"), [(19, False), (20, True)])
def test_noise_scale_needs_two_images_per_micro_batch(digits, images, measured):
    run = Training(experiment(train_size=images, batch_size=4), digits)
    assert (run.measure_noise_scale() is not None) == measured
    assert math.isnan(next(run.epochs()).noise_scale) or measured


def test_train_accuracy_uses_the_first_10_000_images():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12_000, 2, 2, 1), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(12_000, dtype=torch.int64)
    labels[10_000:] = 1
    data = datasets.Dataset("made", images, labels, images[:10], labels[:10], ("a", "b"), torch.ones(1), torch.ones(1))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([5.0, 0.0])  # always class 0
    row = next(Training(experiment(batch_size=6000, base_lr=1e-9), data, model=model).epochs())
    assert row.train_accuracy == 1.0


def test_clock_counts_only_training(digits, monkeypatch):
    now = 0.0

    def taking(seconds, original):
        def timed(*arguments, **keywords):
            nonlocal now
            now += seconds
            return original(*arguments, **keywords)

        return timed

    monkeypatch.setattr(loop.time, "perf_counter", lambda: now)
    monkeypatch.setattr(Training, "update", taking(1, Training.update))
    for name in ("evaluate", "measure_noise_scale"):
        monkeypatch.setattr(Training, name, taking(1000, getattr(Training, name)))
    run = Training(experiment(train_size=320, epochs=2), digits, model=network_without_batch_norm(10))
    rows = []
    for row in run.epochs(taking(100, lambda progress: None)):
        rows.append(row)
        now += 10_000  # saving
    assert [(row.running_time, row.epoch_time) for row in rows] == [(10, 10), (20, 10)]
    assert rows[0].images_per_second == 32


def test_progress_between_updates(digits, monkeypatch):
    monkeypatch.setattr(loop, "PULSE_SECONDS", 0)
    seen = []
    run = Training(experiment(train_size=160, epochs=2), digits, model=network_without_batch_norm(10))
    list(run.epochs(seen.append))
    assert [(progress.epoch, progress.images) for progress in seen] == [
        (1, 32), (1, 64), (1, 96), (1, 128), (2, 192), (2, 224), (2, 256), (2, 288),
    ]  # fmt: skip
    assert {progress.total_images for progress in seen} == {320}


class Killed(Exception):
    pass


PEOPLE = {"optimizer": "adamw", "weight_decay": 0.1, "decay": "cosine", "augment": "flip-crop"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": DrawsFromEveryGenerator, "width": 1},
        PEOPLE,
        {**PEOPLE, "optimizer": "nesterov", "model": "networks:StochasticDepth", "width": 1},
        {**PEOPLE, "optimizer": "timm.optim:Lamb", "model": "networks:LeNet", "width": 1},
        {**PEOPLE, "optimizer": "timm.optim:Lars", "model": "networks:linear", "width": 1, "augment": "flip"},
    ],
    ids=["CNN", "generators", "adamw", "nesterov", "lamb", "lars"],
)
@pytest.mark.parametrize("killed_after", [1, 7, 10, 13, 20, 29])
def test_resumes_exactly_from_its_state(digits, monkeypatch, killed_after, fields):
    """Including dropout and batch norm; 10 updates per epoch, killed within and between epochs."""
    monkeypatch.setattr(loop, "PULSE_SECONDS", 0)
    run_of = experiment(train_size=320, epochs=3, lr_scaling="linear", warmup="gradual", warmup_epochs=1.5, **fields)
    whole = Training(run_of, digits)
    expected = [replace(row, **TIMES) for row in whole.epochs()]

    killed, rows, saved = Training(run_of, digits), [], io.BytesIO()

    def kill(progress=None):
        if killed.updates == killed_after:
            torch.save(killed.state_dict(), saved)
            raise Killed

    with pytest.raises(Killed):  # noqa: PT012
        for row in killed.epochs(kill):
            rows.append(row)
            kill()
    saved.seek(0)
    torch.rand(100), random.random(), np.random.rand()  # noqa: NPY002 (as another process might draw)
    resumed = Training(run_of, digits)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert resumed.updates == killed_after
    rows += resumed.epochs()
    assert [replace(row, **TIMES) for row in rows] == expected
    for ours, theirs in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_resuming_does_not_warm_up_again(digits):
    fields = {"train_size": 320, "lr_scaling": "linear", "warmup": "gradual", "warmup_epochs": 1}
    first = Training(experiment(epochs=1, **fields), digits)
    list(first.epochs())
    longer = Training(experiment(epochs=3, **fields), digits)
    longer.load_state_dict(first.state_dict())
    assert [row.learning_rate for row in longer.epochs()] == [0.008, 0.008]


def test_training_preserves_the_global_generators(digits):
    def draw():
        return torch.rand(()).item(), random.random(), np.random.rand()  # noqa: NPY002

    torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002
    expected = draw()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002
    list(Training(experiment(train_size=64, model=DrawsFromEveryGenerator, width=1), digits).epochs())
    assert draw() == expected


def test_a_loss_that_is_not_finite_ends_the_run(digits):
    run = Training(experiment(train_size=320, epochs=3, base_lr=1e30), digits)
    assert list(run.epochs()) == []
    assert run.diverged


def test_divergence_is_detected_within_an_epoch(digits, monkeypatch):
    monkeypatch.setattr(loop, "PULSE_SECONDS", 0)
    run = Training(experiment(base_lr=1e30), digits)
    assert list(run.epochs()) == []
    assert run.diverged
    assert run.updates < 46


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(digits, precision):
    run = Training(experiment(precision=precision, train_size=320), digits)
    (row,) = run.epochs()
    exact = Training(experiment(train_size=320), digits)
    (expected,) = exact.epochs()
    assert row.train_loss == pytest.approx(expected.train_loss, rel=0.02)
    assert row.train_loss != expected.train_loss
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}


def fp16(**fields):
    return experiment(precision="fp16", train_size=320, width=1, epochs=2, model="networks:linear", **fields)


def test_resumes_the_scale_of_the_loss(digits):
    run = Training(fp16(), digits)
    next(run.epochs())
    state = run.state_dict()
    assert state["scaler"]["_growth_tracker"] == 10  # updates without an overflow
    resumed = Training(fp16(), digits)
    resumed.load_state_dict(copy.deepcopy(state))
    (last,) = resumed.epochs()
    (expected,) = run.epochs()
    assert replace(last, **TIMES) == replace(expected, **TIMES)
    assert resumed.state_dict()["scaler"] == run.state_dict()["scaler"]


def test_an_update_that_overflows_is_skipped(digits):
    run = Training(fp16(), digits)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = [parameter.clone() for parameter in run.model.parameters()]
    next(run.epochs())
    assert run.updates == 10
    assert run.scaler.get_scale() == 2.0**50
    for ours, theirs in zip(run.model.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)


def test_noise_scale_of_fp16_is_measured_in_fp32(digits):
    run = Training(fp16(), digits)
    exact = Training(replace(fp16(), precision="fp32"), digits)
    exact.load_state_dict(copy.deepcopy(run.state_dict()))
    assert run.measure_noise_scale() == exact.measure_noise_scale()


@pytest.mark.parametrize(
    ("precision", "capability", "refused"), [("bf16", 7, True), ("bf16", 8, False), ("fp16", 7, False)]
)
def test_bf16_needs_a_gpu_that_supports_it(monkeypatch, precision, capability, refused):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    convolutions, products = SimpleNamespace(), SimpleNamespace()
    monkeypatch.setattr(torch.backends, "cudnn", convolutions)
    monkeypatch.setattr(torch.backends.cuda, "matmul", products)
    with (
        pytest.raises(UserError, match="bf16, which Tesla T4 only emulates; use --precision fp16")
        if refused
        else (contextlib.nullcontext())
    ):
        configure(torch.device("cuda"), precision)
    assert vars(convolutions) == ({} if refused else {"deterministic": True})
    assert vars(products) == ({} if refused else {"allow_tf32": True})


def test_only_half_precision_needs_autocast():
    cpu, vector = torch.device("cpu"), torch.ones(2)
    products = {}
    for precision in ("fp32", "bf16", "fp16"):
        with autocast(cpu, precision):
            products[precision] = (vector @ vector).dtype
    assert products == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def test_error_of_a_network_names_the_place(digits):
    run = Training(experiment(train_size=320, model="networks:fails_in_training", width=1), digits)
    with pytest.raises(UserError) as failed:
        next(run.epochs())
    assert re.fullmatch(
        r"model networks:fails_in_training failed in training, after update 0: "
        r"ValueError: too much of a good thing \(.+networks\.py:\d+\)",
        str(failed.value),
    )


def test_a_network_edited_since_the_last_save(digits):
    state = Training(experiment(), digits).state_dict()
    with pytest.raises(UserError) as refused:
        Training(experiment(width=0.5), digits).load_state_dict(state)
    assert "the saved state does not fit the network models:CNN (" in str(refused.value)
    assert "size mismatch for features.0.weight" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_batch_larger_than_the_training_set(digits):
    with pytest.raises(UserError, match="batch_size is 101 but digits has 100 training images"):
        Training(experiment(batch_size=101, train_size=100), digits)


def takes_no_width(num_classes):
    return network_without_batch_norm(num_classes)


def wrong_shape(num_classes, **keywords):
    return network_without_batch_norm(num_classes + 1)


def fails(**keywords):
    raise ZeroDivisionError("cannot build")


def test_networks_of_other_signatures(digits):
    model = build_model(experiment(model=takes_no_width, width=1), digits)
    assert isinstance(model, nn.Sequential)
    model = build_model(experiment(model="torchvision.models:resnet18", width=1), digits)
    assert model.fc.out_features == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": takes_no_width, "width": 0.5}, "takes no width"),
        ({"model": wrong_shape, "width": 1}, r"\(2, 11\) for 2 images of digits; they must have shape \(2, 10\)"),
        ({"model": fails, "width": 1}, "cannot build"),
        ({"width": 0.001}, "without a channel"),
    ],
)
def test_networks_that_do_not_fit(digits, fields, message):
    with pytest.raises(UserError, match=message):
        Training(experiment(**fields), digits)


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu:x", "cuda:99"])
def test_missing_device(name):
    with pytest.raises(UserError, match=f"device is '{name}', which cannot be used here"):
        select_device(name)
