"""Tables of runs, configs, the graph of stages, what is to be made and by which code."""
