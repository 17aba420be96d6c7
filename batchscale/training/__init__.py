"""One run: the loop, network, data sets, noise scale, random numbers, device, memory and workers. Writes no records."""
