"""What is run: checked when made, named after its file, and never ambiguous."""

import functools
import json
import math
import sys
from dataclasses import FrozenInstanceError, asdict, replace

import networks
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscale.epoch import COLUMNS
from batchscale.errors import UserError
from batchscale.experiment import LARGE_BATCH_SIZES, SMALL_BATCH_SIZES, Experiment
from batchscale.sweeps.grid import grid, shard
from batchscale.sweeps.same import joined
from batchscale.training.by_name import find_callable
from models import CNN


def test_defaults_of_the_study():
    experiment = Experiment(batch_size=8)
    assert (experiment.momentum, experiment.weight_decay) == (0.9, 0)
    assert (experiment.base_lr, experiment.reference_batch_size) == (0.002, 8)
    assert (experiment.epochs, experiment.warmup_epochs) == (10, 2)
    assert SMALL_BATCH_SIZES == (2, 4, 8, 16, 32, 64)
    assert LARGE_BATCH_SIZES == (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def test_columns_of_a_record():
    assert ",".join(COLUMNS) == (
        "batch_size,epoch,accuracy,generalization_error,running_time,experiment,seed,updates,learning_rate,"
        "train_accuracy,train_loss,test_loss,epoch_time,images_per_second,noise_scale"
    )


def test_is_frozen_and_varied_by_replace():
    experiment = Experiment(batch_size=8)
    with pytest.raises(FrozenInstanceError):
        experiment.batch_size = 16
    assert replace(experiment, batch_size=16).stem == "baseline_small_bs16_seed0"
    with pytest.raises(UserError):
        replace(experiment, batch_size=-1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 2.5),
        ("batch_size", "8"),
        ("batch_size", True),
        ("seed", -1),
        ("epochs", 0),
        ("epochs", 1.5),
        ("reference_batch_size", 0),
        ("base_lr", 0),
        ("base_lr", -0.1),
        ("base_lr", math.nan),
        ("base_lr", math.inf),
        ("base_lr", "fast"),
        ("width", 0),
        ("width", math.inf),
        ("momentum", 1),
        ("momentum", -0.1),
        ("weight_decay", -1e-4),
        ("warmup_epochs", -1),
        ("train_size", 0),
        ("micro_batch_size", 0),
        ("lr_scaling", "quadratic"),
        ("warmup", "slow"),
        ("decay", "exponential"),
        ("augment", "mixup"),
        ("optimizer", "adam"),
        ("optimizer", ""),
        ("optimizer", None),
        ("precision", "int8"),
        ("dataset", ""),
        ("device", None),
        ("name", ""),
        ("name", "../evil"),
        ("name", "a b"),
        ("name", "mine_bs8"),
        ("name", "mine_bs8_seed0"),
    ],
)
def test_refuses_naming_field_and_value(field, value):
    with pytest.raises(UserError) as refused:
        Experiment(**{"batch_size": 8, field: value})
    assert str(refused.value).startswith(f"{field} is {value!r}")
    assert "\n" not in str(refused.value)


def test_warmup_not_longer_than_training():
    Experiment(batch_size=8, epochs=2, warmup="gradual", warmup_epochs=2)
    with pytest.raises(UserError, match=r"warmup_epochs is 3.0 but epochs is 2"):
        Experiment(batch_size=8, epochs=2, warmup="gradual", warmup_epochs=3)
    Experiment(batch_size=8, epochs=1, warmup="none", warmup_epochs=2)  # not used, so not wrong


def test_nesterov_needs_a_momentum():
    with pytest.raises(UserError, match="optimizer is nesterov but momentum is 0; give it a momentum, or use sgd"):
        Experiment(batch_size=8, optimizer="nesterov", momentum=0)


def test_an_optimizer_in_hand_is_kept_by_name():
    of = Experiment(batch_size=8, optimizer=torch.optim.RMSprop)
    assert of.optimizer == "torch.optim.rmsprop:RMSprop"
    assert json.loads(json.dumps(asdict(of))) == asdict(of)
    with pytest.raises(UserError, match="optimizer is an object of type partial, which another process cannot import"):
        Experiment(batch_size=8, optimizer=functools.partial(torch.optim.SGD, nesterov=True))


def test_micro_batch_not_larger_than_batch():
    with pytest.raises(UserError, match="micro_batch_size is 9 but batch_size is 8"):
        Experiment(batch_size=8, micro_batch_size=9)


def test_numpy_numbers_become_plain_ones():
    experiment = Experiment(batch_size=np.int64(8), base_lr=np.float32(0.5), width=1)
    assert json.loads(json.dumps(asdict(experiment))) == asdict(experiment)
    assert experiment == Experiment(batch_size=8, base_lr=0.5, width=1)


def test_numpy_strings_become_plain_ones():
    """A checkpoint with any other string could not be loaded."""
    texts = {"name": "mine", "lr_scaling": "sqrt", "dataset": "digits", "model": "models:CNN", "precision": "fp32"}
    experiment = Experiment(batch_size=8, **{field: np.str_(text) for field, text in texts.items()})
    assert {type(getattr(experiment, field)) for field in texts} == {str}
    assert experiment == Experiment(batch_size=8, **texts)


def test_a_network_in_hand_is_kept_by_name():
    experiment = Experiment(batch_size=8, model=CNN)
    assert experiment.model == "models:CNN"
    assert find_callable(experiment.model, "model") is CNN


def made_here() -> type:
    class Local(CNN):
        pass

    return Local


class Named:
    """Its `__main__` is that of a script or notebook."""


Named.__module__ = "__main__"


@pytest.mark.parametrize(
    ("network", "what"),
    [
        (CNN(width=0.1), "an object of type CNN"),
        (functools.partial(CNN, width=0.1), "an object of type partial"),
        (lambda num_classes: CNN(), "<lambda> of test_experiment"),
        (made_here(), "made_here.<locals>.Local of test_experiment"),
        (CNN(width=0.1).forward, "CNN.forward of models"),
        (Named, "Named of __main__"),
    ],
)
def test_a_network_that_no_other_process_finds(network, what):
    with pytest.raises(UserError) as refused:
        Experiment(batch_size=8, model=network)
    assert str(refused.value) == (
        f"model is {what}, which another process cannot import; pass a class or function of a file of its own, as in "
        f"model='networks:Net', or train the object with Training(experiment, data, model=...)"
    )


def test_a_function_and_a_method_of_a_class_are_names():
    assert Experiment(batch_size=8, model=networks.linear).model == "networks:linear"
    assert Experiment(batch_size=8, model=Made.small).model == "test_experiment:Made.small"


class Made(CNN):
    @classmethod
    def small(cls):
        return cls(width=0.1)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("class RNN: pass", "but {} has no CNN; name one that it has, or, if another file was meant, rename this one"),
        ("import not_there", "but importing it needs not_there, which is not installed; install not_there: Module"),
        ("import sys; sys.exit('usage: models.py IMAGE')", "but importing it failed: SystemExit: usage: models.py IMA"),
        ("class CNN:\n    def __init__(self, hidden): ...", "but {} was found, whose CNN takes hidden; rename"),
        ("def CNN(num_classes=10): ...", "but {} was found, whose CNN takes num_classes; rename that file or start"),
        ("def CNN(width, **others): ...", None),
        ("def CNN(width=1, hidden=5): ...", None),
    ],
)
def test_another_models_py_in_the_way(monkeypatch, tmp_path, models, message):
    """`models` is the name of the study's file, and of many others."""
    (tmp_path / "models.py").write_text(models)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "models")
    if message is None:
        assert find_callable("models:CNN", "model") is sys.modules["models"].CNN
        return
    with pytest.raises(UserError) as refused:
        find_callable("models:CNN", "model")
    assert str(refused.value).startswith("model is 'models:CNN'")
    assert message.format(tmp_path / "models.py") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("models", "must have the form module:name"),
        ("nowhere:CNN", "nowhere cannot be imported"),
        ("models:RNN", r"models\.py has no RNN; name one that it has"),
        ("models:nn", "cannot be called"),
    ],
)
def test_model_that_is_not_there(what, message):
    with pytest.raises(UserError, match=message):
        find_callable(what, "model")


def test_a_grid_of_single_numbers():
    (experiment,) = grid("scaled_lr", 128, seeds=3)
    assert (experiment.batch_size, experiment.seed, experiment.lr_scaling) == (128, 3, "linear")
    assert grid("mine", np.int64(8), seeds=range(2)) == grid("mine", [8], seeds=[0, 1])
    for wrong in ("128", 128.0, None):
        with pytest.raises(UserError, match=f"batch_size is {wrong!r}; it must be a whole number"):
            grid("mine", wrong)


def test_grid_takes_whole_seeds_in_turn():
    experiments = grid("gradual_warmup_scaled_lr", [128, 256], seeds=[0, 1], epochs=5)
    assert [(experiment.seed, experiment.batch_size) for experiment in experiments] == [
        (0, 128),
        (0, 256),
        (1, 128),
        (1, 256),
    ]
    assert {(e.lr_scaling, e.warmup, e.epochs) for e in experiments} == {("linear", "gradual", 5)}
    assert grid("mine", [8])[0].lr_scaling == "none"
    assert grid("scaled_lr", [8], lr_scaling="sqrt")[0].lr_scaling == "sqrt"


@settings(deadline=None)  # a busy machine is not a failure
@given(
    sizes=st.lists(st.integers(1, 9000), unique=True),
    seeds=st.lists(st.integers(0, 9), unique=True),
    names=st.lists(st.sampled_from(["baseline_small", "scaled_lr", "mine"]), unique=True),
    n=st.integers(1, 60),
)
def test_shards_are_the_study(sizes, seeds, names, n):
    whole = [experiment for name in names for experiment in grid(name, sizes, seeds)]
    shards = [shard(whole, f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(whole.index(each) for part in shards for each in part) == list(
        range(len(whole))
    )  # each once: they are disjoint
    assert all(part == [each for each in whole if each in part] for part in shards)  # in its order
    # Updates, in epochs of one image. What is one run under several names is trained once.
    costs = [sum(1 / run[0].batch_size for run in joined(part)) for part in shards]
    assert max(costs) - min(costs) <= max((1 / each.batch_size for each in whole), default=0) + 1e-9


def test_shards_share_out_what_takes_long():
    """Of every second run in the study's order, one half would have all those of B = 2 and 8, the other none."""
    whole = grid("baseline_small", [2, 4, 8, 16], seeds=[0, 1])
    assert [(each.batch_size, each.seed) for each in shard(whole, "1/2")] == [(2, 0), (4, 0), (8, 0), (16, 0)]
    assert [(each.batch_size, each.seed) for each in shard(whole * 2, "2/2")] == [(2, 1), (4, 1), (8, 1), (16, 1)]
    assert shard(whole, "9/9") == []


@pytest.mark.parametrize("which", ["0/2", "3/2", "1/0", "2", "1/2/3", "-1/2", "1 / 2", "a/b", ""])
def test_no_shard(which):
    with pytest.raises(UserError, match="it must be i/n with i from 1 to n"):
        shard(grid("mine", [8]), which)
