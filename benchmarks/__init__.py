"""How long the parts of the vote's way take, measured beside what they are compared with; see docs/benchmarks.md."""
