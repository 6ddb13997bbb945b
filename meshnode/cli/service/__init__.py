"""`meshnode service`: have the system keep a node running, with systemd or launchd."""
