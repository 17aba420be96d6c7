"""Records to results, on tables worked out by hand."""

import pandas as pd
import pytest

from batchscale.analysis import final, over_seeds, planned_epochs, threshold, unfinished
from batchscale.experiment import COLUMNS


def table(*runs) -> pd.DataFrame:
    """Runs of (experiment, batch_size, seed, accuracies by epoch)."""
    rows = [
        {"experiment": name, "batch_size": size, "seed": seed, "epoch": epoch, "accuracy": accuracy}
        for name, size, seed, accuracies in runs
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


STUDY = table(
    ("baseline_small", 2, 0, [0.3, 0.60]),
    ("baseline_small", 2, 1, [0.3, 0.70]),
    ("baseline_small", 8, 0, [0.4, 0.66]),
    ("baseline_small", 8, 1, [0.4, 0.68]),
    ("scaled_lr", 128, 0, [0.2, 0.5]),
)
NOTHING = pd.DataFrame(columns=list(COLUMNS))


def test_over_seeds():
    assert over_seeds(final(STUDY), "accuracy").values.tolist() == [
        ["baseline_small", 2, pytest.approx(0.65), 0.60, 0.70, 2],
        ["baseline_small", 8, pytest.approx(0.67), 0.66, 0.68, 2],
        ["scaled_lr", 128, 0.5, 0.5, 0.5, 1],
    ]


def test_threshold_is_the_best_mean_less_the_tolerance():
    found = threshold(STUDY)
    assert (found.from_batch_size, found.seeds, found.tolerance) == (8, 2, 0.01)
    assert found.best == pytest.approx(0.67)
    assert found.accuracy == pytest.approx(0.66)
    assert threshold(STUDY, tolerance=0.1).accuracy == pytest.approx(0.57)
    assert threshold(STUDY, experiment="scaled_lr").from_batch_size == 128
    assert threshold(STUDY, experiment="baseline_large") is None


def test_a_killed_run_is_not_final_and_an_extended_one_makes_no_other_unfinished():
    records = pd.concat(
        [STUDY, table(("scaled_lr", 256, 0, [0.9]), ("scaled_lr", 512, 0, [0.1, 0.2, 0.9]))], ignore_index=True
    )
    assert planned_epochs(records).to_dict() == {"baseline_small": 2, "scaled_lr": 3}  # 1, 2 and 3 are equally common
    records = pd.concat([records, table(("scaled_lr", 1024, 0, [0.1, 0.3]))], ignore_index=True)
    assert planned_epochs(records)["scaled_lr"] == 2
    of_mode = final(records).query("experiment == 'scaled_lr'")
    assert of_mode[["batch_size", "accuracy"]].values.tolist() == [[128, 0.5], [512, 0.2], [1024, 0.3]]
    assert unfinished(records)[["batch_size", "epoch"]].values.tolist() == [[256, 1]]


def test_no_records():
    assert final(NOTHING).empty
    assert unfinished(NOTHING).empty
    assert over_seeds(NOTHING, "accuracy").empty
    assert threshold(NOTHING) is None


def test_analysis_and_plots_need_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, batchscale.analysis, batchscale.plots, batchscale.records, batchscale.schedules\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
