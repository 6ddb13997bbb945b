"""Answers that need not be computed again: runs that are shared, and answers that are kept."""
