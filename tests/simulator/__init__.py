"""A deterministic simulator: the real voter, leader and their runners, everything around them simulated and driven by one seed.

Machines, a store of several members behind a network that drops, delays and repeats, clocks, and a chain with forks live in
virtual time; validators of the older kind may work on the same keys. Processes are killed, frozen and thawed, cut off,
restarted, wherever they are in a call; leaders of the store come and go; the operator hands over in every state of everything.
What is sent goes to judges that see nothing else. `python -m tests.simulator --seed N` repeats a run exactly.

=============  ======================================================================================================
`world`        virtual time, processes and their threads
`members`      the store's servers, their leader and its end
`store`        the network, and this product's client
`legacy`       the client of a validator of the older kind
`machine`      processes and lives on one machine
`leading`      the leader duty of a life
`chain`        banks, forks, and what the vote program makes of a vote
`judges`       blocks and timestamps; votes are judged by `tower.localnet.judge`
`coverage`     what must have been visited
`run`          the operator, fate, and the verdict
=============  ======================================================================================================
"""
