"""What is done for a release: `python -m release.audit`, `python -m release.build`."""
