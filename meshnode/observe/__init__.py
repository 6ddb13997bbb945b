"""What is going on: logs and the snapshot. It knows nothing above it."""
