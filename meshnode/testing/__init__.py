"""The simulator: real nodes on an in-memory network in virtual time."""
