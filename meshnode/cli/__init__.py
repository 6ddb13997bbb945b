"""The person at the terminal; talks to the running node through its control socket."""
