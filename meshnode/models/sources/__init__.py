"""Where models come from: one file a kind of source, all behind the same two steps, find and fetch."""
