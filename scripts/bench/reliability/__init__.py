"""The rows of the mesh benchmark: one file a family of faults, each with its `TESTS`."""
