"""`meshnode doctor`: what is looked at before and behind a node, one family of checks a file."""
