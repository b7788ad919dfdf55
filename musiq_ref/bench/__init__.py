"""How fast this machine is: scores, gradients and training steps beside PyTorch's, and beside the products alone.

Every contender runs in a process of its own, with equally many threads; they take turns, so that what slows the machine
slows them all. cases: what is timed; ours, products, rivals: who is, and contenders: who can be here; worker: the
processes; measure: the turns; parts: where the time goes; machine, tables, plot: what is shown.
"""
