"""The command `airpipe`."""
