"""Other bodies for the pitome ops, for where the graph is to run."""
