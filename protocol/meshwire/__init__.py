"""The meshnode wire protocol, sans-IO: bytes in, events out. It knows no clock, socket, randomness or log."""
