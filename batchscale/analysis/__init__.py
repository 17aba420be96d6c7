"""Records to verdicts, words and figures. Pure: no files, no clock, no global state, and no torch."""
