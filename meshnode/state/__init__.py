"""What the node must not forget, in one SQLite file."""
