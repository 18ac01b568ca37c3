"""The interpreter: a graph node by node, each through its token rule."""
