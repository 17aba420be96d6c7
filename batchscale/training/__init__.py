"""One run: the loop, data sets, networks, noise scale, random numbers, memory and workers. Writes nothing."""
