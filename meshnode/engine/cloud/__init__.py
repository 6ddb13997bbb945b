"""Commercial APIs: what is sent to them, what comes back, and what must not be seen there. It counts no money."""
