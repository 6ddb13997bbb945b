"""Who serves a request, and why. Pure decisions over plain data."""
