"""What routing.py plays with: a fleet of machines in virtual time, and whoever routes requests to it."""
