"""How large is the explorer's file, how long does a browser need to open it, and how fast does it react?

    python benchmarks/explorer.py                                   # 4 modes, 12 batch sizes, 20 seeds, 100 epochs
    python benchmarks/explorer.py --modes 25 --sizes 20 --seeds 2   # many modes
    python benchmarks/explorer.py --keep explorer.html              # and look at it

Makes a synthetic study, writes its explorer, and opens it in headless Chromium (`--browser`). Opening is the time from
the call to the first drawn views. A reaction is the time from an event to the next frame that the browser paints after
it. Of several the median, the least and the largest are printed; on a busy machine the least says most.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchscale import explorer
from batchscale.epoch import COLUMNS
from batchscale.modes import MODES
from batchscale.records import Study

IMAGES = 50_000

# The script of a reaction: an event on a control, and the milliseconds until the frame after it.
REACT = """async ([id, type, value]) => {
    const control = document.querySelector(id);
    const start = performance.now();
    if (type === "click") control.click();
    else { control.value = value; control.dispatchEvent(new Event(type, {bubbles: true})); }
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - start;
}"""
HOVER = """async at => {
    const start = performance.now();
    hovered = at; drawMarks(); // as the pointer does
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - start;
}"""


def study(modes: int, sizes: int, seeds: int, epochs: int) -> Study:
    """Runs whose accuracy falls with the batch size, of some modes later than of others."""
    generator = np.random.default_rng(0)
    names = [*MODES, *(f"own_{place:02}" for place in range(modes))][:modes]
    epoch, tables = np.arange(1, epochs + 1), []
    for place, name in enumerate(names):
        first = 1 if name == "baseline_small" else 4
        for size in (2 ** np.linspace(first, first + 10, sizes)).round().astype(int):
            for seed in range(seeds):
                steps = max(1, IMAGES // size)
                loss = 0.03 * max(0, np.log2(size / (64 * (1 + place % 5)))) + 0.003 * abs(
                    np.log2(size / 8) * (size < 8)
                )
                final = 0.78 - loss + generator.normal(0, 0.003)
                accuracy = final * epoch / (epoch + 0.3 * np.log2(size)) * (1 + 0.3 * np.log2(size) / epochs)
                accuracy = accuracy + generator.normal(0, 0.002, epochs)
                values = {"batch_size": size, "epoch": epoch, "accuracy": accuracy, "experiment": name, "seed": seed}
                values |= {"generalization_error": 0.002 * epoch, "running_time": epoch * steps * (4e-3 + 2e-5 * size)}
                values |= {
                    "updates": epoch * steps,
                    "train_loss": 2 * (0.95 - accuracy),
                    "test_loss": 2 * (1 - accuracy),
                }
                values |= {"noise_scale": 50 * epoch * generator.lognormal(0, 0.2, epochs)}
                tables.append(pd.DataFrame(values).reindex(columns=list(COLUMNS)))
    return Study.of(pd.concat(tables, ignore_index=True), folder="synthetic")


def measure(file: Path, browser: str) -> dict[str, list[float]]:
    """Seconds by what is done."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        opening = []
        for _ in range(3):
            page = chromium.new_page(viewport={"width": 1600, "height": 1000})
            start = time.perf_counter()
            page.goto(file.as_uri())
            page.wait_for_selector("body[data-ready]", timeout=60_000)
            opening.append(time.perf_counter() - start)
        steps = {
            "tolerance": [(REACT, ["#tolerance", "input", str(at)]) for at in range(1, 9)],
            "target": [(REACT, ["#target", "input", str(at)]) for at in range(1, 6)],
            "follow a run": [(HOVER, at) for at in range(5)],
            "hide a mode": [(REACT, ["#modes input", "click", None])] * 6,
            "hide a batch size": [(REACT, ["#sizes input", "click", None])] * 6,
            "hide a seed": [(REACT, ["#seeds input", "click", None])] * 6,
            "loss": [(REACT, ["#y", "change", value]) for value in ("test_loss", "accuracy") * 2],
            "against seconds": [(REACT, ["#x", "change", value]) for value in ("running_time", "epoch") * 2],
            "log axis": [(REACT, ["#log-size", "click", None])] * 4,
            "theme": [(REACT, ["#theme", "change", value]) for value in ("dark", "light")],
        }
        found = {"open": opening}
        for name, actions in steps.items():
            found[name] = [page.evaluate(script, argument) / 1000 for script, argument in actions]
        chromium.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("modes", 4), ("sizes", 12), ("seeds", 20), ("epochs", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--keep", type=Path, help="file to write; without it a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = study(arguments.modes, arguments.sizes, arguments.seeds, arguments.epochs)
        file, start, before = arguments.keep or Path(folder) / "explorer.html", time.perf_counter(), time.process_time()
        explorer.write(runs, file)
        seconds, used = time.perf_counter() - start, time.process_time() - before
        print(f"{len(runs.runs)} runs of {arguments.epochs} epochs: {file.stat().st_size / 1e6:.1f} MB")
        print(f"written in {seconds:.0f} s ({used:.0f} s of the processor)")
        print(f"{'seconds':20}{'median':>8}{'least':>8}{'largest':>9}")
        for name, seconds in measure(file.resolve(), arguments.browser).items():
            print(f"{name:20}{statistics.median(seconds):8.2f}{min(seconds):8.2f}{max(seconds):9.2f}", flush=True)


if __name__ == "__main__":
    main()
