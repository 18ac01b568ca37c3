"""The pipeline, stage by stage:

    capture   any traced program → one pre-dispatch ATen graph
    detect    dimension identities, attention sites, merge points, protected tokens
    plan      how many tokens every block removes
    rewrite   replay the graph with token rules, merging at the planned points

What the stages speak: ``axes`` (dimensions), ``spaces`` (merge states), ``masks``, ``replay``
(the interpreter), ``rules`` (what each op makes of merged tokens), ``metric`` (what tokens are
compared by).
"""
