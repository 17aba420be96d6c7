"""The explorer: one HTML file in which to look at every recorded run, with the verdicts of the analysis.

    write(Study.load("data"), "explorer.html")

It needs Plotly (`pip install "batchscale[explorer]"`) to write the file, and a browser alone to open it.
"""

from batchscale.explorer.page import write

__all__ = ["write"]
