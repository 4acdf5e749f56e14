"""`openos-localnet`: a local cluster with the real vote program, and the demo that plays the operator's guide on it."""
