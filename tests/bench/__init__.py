"""`make bench`: the gateway beside its peers, in one run on one machine.

Rule: a figure is CPU or memory of a process tree, told by the kernel, per unit of work; wall
time is shown only where it is the subject. Load and upstreams share one core, the contender has
another one to itself. Everything is measured round-robin, several times; the median counts, the
spread is told, and no ratio is made when nginx itself spread by more than 40 %.
"""
