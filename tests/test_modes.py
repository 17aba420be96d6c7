"""Modes of training: one table, names for a user's own, and such a mode in everything that the analysis makes."""

import ast
import json
from dataclasses import asdict

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import synthetic
from conftest import PROJECT
from synthetic import sidecars

from batchscale import modes
from batchscale.analysis import json_object, plots, sentences, terminal
from batchscale.analysis.findings import Findings, analyse
from batchscale.analysis.projection import project
from batchscale.analysis.words import number
from batchscale.experiment import Experiment
from batchscale.modes import MODES, Mode, comparisons, named
from batchscale.records.study import Study
from batchscale.schedules import LRScaling, Warmup

SQRT = {"lr_scaling": "sqrt", "warmup": "none"}
BASE = {"lr_scaling": "none", "warmup": "none"}


def test_the_table_has_every_fact_about_a_mode():
    assert list(MODES) == ["baseline_small", "baseline_large", "scaled_lr", "gradual_warmup_scaled_lr"]
    for name, mode in MODES.items():
        assert mode.name == name
        assert mode.label
        assert mode.phrase.startswith("the ")
        assert mode.summary
        assert (PROJECT / f"{mode.notebook}.ipynb").is_file()
        assert Experiment(name=name, batch_size=128, **mode.rule).name == name  # its rule is one that trains
        assert mode.summary.format(**asdict(Experiment(batch_size=8)))  # in README's table
        if mode.compared_with is not None:  # with what lacks one thing that it has, and that has a name
            assert MODES[mode.compared_with].role == "compared"
            assert mode.effect
            changed = [key for key in mode.rule if mode.rule[key] != MODES[mode.compared_with].rule[key]]
            assert len(changed) == 1
    assert [name for name, mode in MODES.items() if mode.role == "reference"] == [modes.REFERENCE.name]
    assert [name for name, mode in MODES.items() if mode.is_base_rate] == ["baseline_small", "baseline_large"]
    for fact in ("label", "phrase", "notebook"):
        assert len({getattr(mode, fact) for mode in MODES.values()}) == len(MODES)


def test_what_a_mode_is_called_stands_nowhere_else():
    """No other string of the code, docstrings aside, is a name, label or phrase of a mode."""
    words = {word for mode in MODES.values() for word in (mode.name, mode.label, mode.phrase)}
    found = set()
    for path in (PROJECT / "batchscale").rglob("*.py"):
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        strings = {node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings}
        found |= {(path.name, word) for word in words & strings if path.name != "modes.py"}
    assert found <= {("experiment.py", "baseline_small")}  # the default of the field `name`


def test_a_mode_of_ones_own_is_named_from_its_settings():
    (mode,) = named(["mine_sqrt"], {"mine_sqrt": SQRT}).values()
    assert (mode.label, mode.phrase) == ("square-root scaled rate (mine_sqrt)", "the square-root rule (mine_sqrt)")
    assert (mode.effect, mode.role, mode.rule) == ("square-root scaling", "compared", SQRT)
    assert not mode.is_base_rate


@pytest.mark.parametrize(
    ("settings", "label", "phrase", "effect"),
    [
        (BASE, "base rate (mine)", "the base rate (mine)", None),
        (
            {"lr_scaling": "linear", "warmup": "none"},
            "linearly scaled rate (mine)",
            "the linear rule (mine)",
            "linear scaling",
        ),
        (
            {"lr_scaling": "linear", "warmup": "constant"},
            "linearly scaled rate, constant warm-up (mine)",
            "the linear rule with constant warm-up (mine)",
            "constant warm-up",
        ),
        (
            {"lr_scaling": "sqrt", "warmup": "gradual"},
            "square-root scaled rate, gradual warm-up (mine)",
            "the square-root rule with gradual warm-up (mine)",
            "gradual warm-up",
        ),
        (None, "mine", "“mine”", None),
    ],
)
def test_words_of_every_rule(settings, label, phrase, effect):
    (mode,) = named(["mine"], {} if settings is None else {"mine": settings}).values()
    assert (mode.label, mode.phrase, mode.effect) == (label, phrase, effect)
    assert mode.is_base_rate == (settings == BASE)


def test_every_rule_that_trains_has_words():
    for scaling in LRScaling.__args__:
        for warmup in Warmup.__args__:
            assert modes.own("mine", {"lr_scaling": scaling, "warmup": warmup}).label.endswith("(mine)")


@pytest.mark.parametrize("settings", [{"lr_scaling": "cubic"}, {"warmup": "slow"}])
def test_an_unknown_rule_is_refused_with_its_values(settings):
    settings = SQRT | settings
    with pytest.raises(ValueError, match=r"which this batchscale does not know; upgrade") as error:
        named(["mine"], {"mine": settings})
    assert f"mode mine was trained with lr_scaling {settings['lr_scaling']!r} and warmup {settings['warmup']!r}" in str(
        error.value
    )


def test_long_names_are_shortened_in_their_middle():
    assert modes.own("a" * 32, None).label == "a" * 32
    long = [f"my_experiment_with_a_{'long_' * 10}name_{end}" for end in (1, 2)]
    labels = [mode.label for mode in named(long).values()]
    assert labels == ["my_experiment_w…long_long_name_1", "my_experiment_w…long_long_name_2"]
    (mode,) = named(long[:1], {long[0]: SQRT}).values()
    assert mode.name == long[0]
    assert mode.phrase == "the square-root rule (my_experiment_w…long_long_name_1)"


def test_order_is_the_studys_then_by_name():
    names = ["b", "gradual_warmup_scaled_lr", "a", "baseline_small"]
    assert list(named(names)) == ["baseline_small", "gradual_warmup_scaled_lr", "a", "b"]


def test_a_studys_name_under_another_rule_is_named_by_its_own():
    """scaled_lr trained with the square-root rule is not said to be linear."""
    mode = named(["scaled_lr"], {"scaled_lr": SQRT})["scaled_lr"]
    assert (mode.label, mode.phrase) == ("square-root scaled rate (scaled_lr)", "the square-root rule (scaled_lr)")
    assert named(["scaled_lr"], {"scaled_lr": MODES["scaled_lr"].rule}) == {"scaled_lr": MODES["scaled_lr"]}
    assert named(["scaled_lr"]) == {"scaled_lr": MODES["scaled_lr"]}  # as nothing else is known


def pairs(settings: dict[str, dict]) -> list[tuple[str, str]]:
    return [(mode.name, other.name) for mode, other in comparisons(named(settings, settings))]


OURS = {name: mode.rule for name, mode in MODES.items()}


def test_pairs_that_are_compared():
    own = {"mine": SQRT, "slow": SQRT | {"warmup": "gradual"}, "third": BASE | {"lr_scaling": "linear"}}
    table = [("scaled_lr", "baseline_large"), ("gradual_warmup_scaled_lr", "scaled_lr")]
    assert pairs(OURS) == table
    assert pairs(OURS | own) == [
        *table,
        ("mine", "baseline_large"),
        ("slow", "mine"),  # the mode of the same rule that does not warm up
        ("third", "baseline_large"),
    ]
    # A warm-up of the linear rule is compared with the study's own linear rule.
    assert pairs(OURS | {"mine": {"lr_scaling": "linear", "warmup": "constant"}})[2:] == [("mine", "scaled_lr")]
    # With the reference nothing is compared: its batch sizes are others. Nor where nothing lacks what it has.
    assert pairs({"baseline_small": BASE, "mine": SQRT}) == []
    assert pairs({"slow": own["slow"], "baseline_large": BASE}) == []
    # A base rate by another name is one.
    assert pairs({"plain": BASE, "mine": SQRT}) == [("mine", "plain")]


def test_a_studys_name_under_another_rule_is_compared_by_its_own():
    settings = {name: OURS[name] for name in ("baseline_large", "scaled_lr", "gradual_warmup_scaled_lr")}
    settings["scaled_lr"] = SQRT
    found = named(settings, settings)
    ((mode, other),) = comparisons(found)  # the linear rule with warm-up has none without it
    assert (mode, other) == (found["scaled_lr"], MODES["baseline_large"])
    assert mode.effect == "square-root scaling"


LABEL = "square-root scaled rate (mine_sqrt)"


def own_study() -> Study:
    """The user's curve begins with the reference's runs at B = 8, whose 5000·(1 + 100/8) updates are also
    S_min·(1 + 700/8)."""
    epochs = synthetic.study(small=(8, 32), large=(128, 256, 512, 1024), epochs=30)
    own = [
        synthetic.run("mine_sqrt", size, seed, 67_500 * (1 + 700 / size) / (1 + 700 / 8), final, 30, noise_scale=300.0)
        for size, mean in ((64, 0.766), (128, 0.765), (256, 0.764), (512, 0.76), (1024, 0.72))
        for seed, final in enumerate(mean + np.array([-0.001, 0, 0.001]))
    ]
    # One more, unlike any other, so that the colours of one's own modes can be mixed up.
    other = [synthetic.run("another", 128, seed, 3000, 0.7, 30) for seed in range(3)]
    records = pd.concat([epochs, *own, *other], ignore_index=True)
    beside = sidecars(epochs) + sidecars(pd.concat(own), **SQRT) + sidecars(pd.concat(other))
    for content in beside:
        content["parameters"] = 50_000
    return Study.of(records, sidecars=beside)


@pytest.fixture(scope="module")
def found() -> Findings:
    return analyse(own_study(), target=synthetic.TARGET)


class TestEndToEnd:
    """A mode of the user's own beside the study's, with sidecars that say its rule."""

    def test_findings(self, found):
        mine = found.modes["mine_sqrt"]
        assert mine.mode == Mode(
            name="mine_sqrt",
            label=LABEL,
            phrase="the square-root rule (mine_sqrt)",
            effect="square-root scaling",
            **SQRT,
        )
        assert list(found.modes) == [*list(MODES)[1:], "another", "mine_sqrt"]
        point = mine.breaking_points["accuracy"]  # between means of 0.76 and 0.72, on the way down past 0.75
        assert point.between == (512, 1024)
        assert 512 <= point.low <= point.estimate <= point.high <= 1024
        assert mine.critical.low < 700 < mine.critical.high
        assert mine.losses["batch_size"].tolist() == [8, 64, 128, 256, 512, 1024]  # from the reference on
        assert mine.noise_scale.median == 300
        effect = next(effect for effect in found.effects if effect.of is mine.mode)
        assert (effect.name, effect.over) == ("square-root scaling", MODES["baseline_large"])
        by_hand = effect.differences.set_index("batch_size").loc[512, "difference"]
        finals = found.finals[found.finals["batch_size"] == 512].groupby("experiment")["accuracy"].mean()
        assert by_hand == pytest.approx(finals["mine_sqrt"] - finals["baseline_large"])
        assert [(effect.of.name, effect.over.name) for effect in found.effects] == [
            ("scaled_lr", "baseline_large"),
            ("gradual_warmup_scaled_lr", "scaled_lr"),
            ("mine_sqrt", "baseline_large"),
        ]

    def test_words(self, found):
        shown = terminal.text(found, 300)
        estimate = number(found.modes["mine_sqrt"].breaking_points["accuracy"].estimate)
        assert "mine_sqrt: Under the square-root rule (mine_sqrt) the accuracy falls below the threshold at" in shown
        assert f"threshold at {estimate} (95 % interval " in shown
        assert "between 512 (76.0 ± 0.1 %) and 1024 (72.0 ± 0.1 %)." in shown
        assert "Effect of square-root scaling in points of accuracy: 128: +" in shown
        lines = shown.splitlines()
        assert lines[lines.index("mine_sqrt") + 1].split()[0] == estimate
        said = [*sentences.effects(found), *sentences.updates(found), *sentences.noise_scales(found)]
        said += [*sentences.breaking_points(found), *sentences.time(found), *sentences.comparison(found)]
        assert sum("the square-root rule (mine_sqrt)" in each for each in said) >= 5
        assert any(each.startswith("Square-root scaling raises the accuracy by ") for each in said)

    def test_json(self, found):
        result = json.loads(json.dumps(json_object.json_object(found), allow_nan=False))
        point = found.modes["mine_sqrt"].breaking_points["accuracy"]
        shown = result["modes"]["mine_sqrt"]["breaking_point"]["accuracy"]
        assert (shown["estimate"], shown["between"], shown["reason"]) == (point.estimate, [512, 1024], None)
        assert [effect["effect"] for effect in result["effects"]] == [
            "scaling",
            "gradual warm-up",
            "square-root scaling",
        ]
        assert "mine_sqrt" in {row["experiment"] for row in result["frontier"]}

    def test_every_figure_has_its_label_and_its_colour(self, found):
        mpl.use("agg")
        projection = project(own_study(), target=synthetic.TARGET)
        drawings = {
            "against_batch_size": lambda ax: plots.against_batch_size(ax, found, "accuracy"),
            "to_target": lambda ax: plots.to_target(ax, found.to_target, "updates", found.study.modes),
            "effects": lambda ax: plots.effects(ax, found.effects, found.modes),
            "breaking_points": lambda ax: plots.breaking_points(ax, found),
            "noise_scales": lambda ax: plots.noise_scales(ax, found),
            "frontier": lambda ax: plots.frontier(ax, found),
            "projection": lambda ax: plots.projection(ax, projection.modes["mine_sqrt"], projection.modes),
        }
        styles = [plots.mode_style(name, found.modes) for name in found.study.modes]
        own = plots.mode_style("mine_sqrt", found.modes)
        assert len({style["color"] for style in styles}) == len({style["marker"] for style in styles}) == 6
        for name, draw in drawings.items():
            figure, ax = plt.subplots()
            draw(ax)
            figure.canvas.draw()
            words = [text.get_text() for text in figure.findobj(mpl.text.Text)]
            words += ax.get_legend_handles_labels()[1]  # of what `label_lines` names
            assert any(LABEL in " ".join(text.split()) for text in words), name
            drawn = {(line.get_color(), line.get_marker()) for line in ax.get_lines() if len(line.get_xdata())}
            if name == "breaking_points":  # a tick is an estimate there
                assert (own["color"], "|") in drawn
            else:
                assert (own["color"], own["marker"]) in drawn, name
            plt.close(figure)
        for name, fit in (
            ("against_batch_size", lambda ax: plots.crossings(ax, found)),
            ("to_target", lambda ax: plots.critical_batch_sizes(ax, found.to_target)),
        ):
            _, ax = plt.subplots()
            drawings[name](ax)
            before = len(ax.get_lines())
            fit(ax)
            assert own["color"] in {line.get_color() for line in ax.get_lines()[before:]}
        _, ax = plt.subplots()
        plots.against_epoch(ax, found.study.epochs.query("experiment == 'mine_sqrt'"), "accuracy")
        assert [line.get_label() for line in ax.get_lines()] == [f"B = {size}" for size in (64, 128, 256, 512, 1024)]
        plt.close("all")
