"""Mutants: for each guard of the code a patch that takes it out, and the tests that notice.

`patches` holds one file for each, `catalog` reads them and says where each fits, `run` applies them to a copy of the tree and
runs the tests there, `report` writes docs/mutants.md. A mutant that no test notices is a missing test.
"""
