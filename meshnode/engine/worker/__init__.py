"""llama.cpp in a process of its own: `python -m meshnode.engine.worker`. It knows no node and no trio."""
