"""One operator action a file; used by the command line, the control socket and the library alike."""
