"""The command line: what it prints and writes, and the one sentence for what is wrong."""
