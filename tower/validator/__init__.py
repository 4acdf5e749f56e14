"""`openos-validator`: the validator process around the core, and the commands that drive it."""
