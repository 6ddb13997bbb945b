"""The walk of one request, one step a file. It knows no sockets and no HTTP."""
