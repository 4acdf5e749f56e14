"""A deterministic simulator: the real voter and runner, everything around them simulated and driven by one seed.

Machines, a store behind a network that drops, delays and repeats, a clock, and a chain with forks live in virtual time.
Processes are killed, frozen and thawed, cut off, restarted; the operator hands over in every state of everything. What is
sent goes to the local cluster's judge, which sees nothing else. `python -m tests.simulator --seed N` repeats a run exactly.
"""
