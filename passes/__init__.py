"""The pass, from any traced program to its merged graph: ``pipeline``, stage by stage.

    capture   any traced program → one pre-dispatch ATen graph
    detect    dimension identities, attention sites, merge points, protected tokens
    plan      how many tokens every block removes
    rewrite   the graph on merged tokens, as far as that pays
    dissolve  other bodies for the pitome ops, for where the graph is to run

What the stages stand on: ``aten`` (which op does what to values), ``tokens`` (axes, token spaces,
dimensions), ``replay`` (the interpreter), ``rules`` (what each op makes of merged tokens).
"""
