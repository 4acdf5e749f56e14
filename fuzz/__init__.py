"""Hostile bytes: one target for each door through which foreign bytes enter, and what drives them.

`targets` holds the rules, `corpus` the seeds, `mutate` the plain mutations, `guided` and `native` the two ways to run for
long, `run` the command, `sanitize` the build that sees what Python cannot. docs/fuzzing.md is the guide.
"""
