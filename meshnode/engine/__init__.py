"""What turns a Job into Pieces: the llama.cpp worker and the scripted fake."""
