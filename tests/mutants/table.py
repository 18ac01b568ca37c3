"""The mutants: one small change each, of the kind that a lifting pass gets wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A text of one file replaced by another.

    Attributes:
        tests: where it should be noticed first; the whole suite is asked after them.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


def law_of(case: str) -> str:
    """The test of one case of a token rule."""
    return f"tests/properties/test_rules.py::test_rule_keeps_the_law[{case}]"


OPS, ORACLE, MASKS = "tests/test_ops.py", "tests/test_oracle_models.py", "tests/test_masks.py"
PADDING, BIASES = "tests/test_padding.py", "tests/test_biases.py"
BY_PAPER = "tests/test_oracle_models.py::test_however_it_is_spelled"

MUTANTS = [
    Mutant(
        "softmax forgets sizes",
        "passes/rules/normalise.py",
        "weighted(value, over, aten.mul.Tensor).data.sum(dim, keepdim=True)",
        "value.data.sum(dim, keepdim=True)",
        law_of("softmax"),
    ),
    Mutant(
        "log_softmax forgets sizes",
        "passes/rules/normalise.py",
        "lambda data, size: data + size.log())",
        "lambda data, size: data)",
        law_of("log_softmax"),
    ),
    Mutant(
        "layer norm over tokens is not lifted",
        "passes/rules/normalise.py",
        "    if any(is_merged(dim) for dim in x.dims[len(x.dims) - len(normalized_shape) :]):\n",
        "    if False:\n",
        law_of("layer norm over tokens"),
    ),
    Mutant(
        "attention without log size",
        "passes/rules/attention.py",
        "shown = None if waived else log_size",
        "shown = None",
        law_of("sdpa"),
    ),
    Mutant(
        "causal attention is not lifted",
        "passes/rules/attention.py",
        "    if is_causal:\n",
        "    if False:\n",
        law_of("sdpa causal"),
    ),
    Mutant(
        "a masked group is seen",
        "passes/rules/attention.py",
        "torch.where(kept, shown, -torch.inf)",
        "torch.where(kept, shown, 0.0)",
        PADDING,
    ),
    Mutant(
        "rows of the lowest float see scores",
        "passes/rules/normalise.py",
        "highest.abs() * torch.finfo(highest.dtype).eps > ABSORBED",
        "highest.abs() < 0",
        PADDING,
    ),
    Mutant(
        "queries of a bias are not projected",
        "passes/rules/attention.py",
        "return project(named, len(named.dims) - 2, target[-2])",
        "return pick(named, len(named.dims) - 2, target[-2])",
        MASKS,
    ),
    Mutant(
        "the mean counts groups",
        "passes/rules/reduce.py",
        "return total * (1 / count) if",
        "return total * (1 / (count - 1)) if",
        law_of("mean"),
    ),
    Mutant(
        "weights of large groups are cut off",
        "passes/rules/reduce.py",
        "size = spread(space.size, space, x.dims, (d, a)).to(data.dtype)",
        "size = spread(space.size, space, x.dims, (d, a)).to(data.dtype).clamp(max=1)",
        law_of("sum"),
    ),
    Mutant(
        "a product over tokens forgets sizes",
        "passes/rules/contract.py",
        "return weighted(a, [len(a.dims) - 1], aten.mul.Tensor), b, lead",
        "return a, b, lead",
        law_of("bmm over tokens"),
    ),
    Mutant(
        "einsum forgets sizes",
        "passes/rules/contract.py",
        "operands[holder] = weighted(operands[holder], [at], aten.mul.Tensor)",
        "pass",
        law_of("einsum over tokens"),
    ),
    Mutant(
        "a wide convolution counts as width one",
        "passes/rules/contract.py",
        "    if x.merged and not (_is_width_one(bound) and not is_merged(x.dims[1])):\n",
        "    if False:\n",
        law_of("conv"),
    ),
    Mutant(
        "a reshape keeps a stale literal",
        "passes/rules/shape.py",
        "sizes = [length(dim) if is_merged(dim) else size for dim, size in zip(dims, shape, "
        "strict=True)]",
        "sizes = list(shape)",
        law_of("split heads"),
    ),
    Mutant(
        "a group loses the member that joins",
        "pitome_fx/ops.py",
        "merged = torch.baddbmm(take(x, kept).to(wide) * own, share, finite)",
        "merged = take(x, kept).to(wide) * own + 0 * share.sum() * finite.sum()",
        OPS,
    ),
    Mutant(
        "sizes do not grow",
        "pitome_fx/ops.py",
        "return size.gather(1, kept) + joining.sum(-1)",
        "return size.gather(1, kept) + 0 * joining.sum(-1)",
        OPS,
    ),
    Mutant(
        "members are handed to the wrong group",
        "pitome_fx/ops.py",
        "scatter(1, index, torch.cat([group, target], 1))",
        "scatter(1, index, torch.cat([group, target.flip(1)], 1))",
        OPS,
    ),
    Mutant(
        "projection with wrong shares",
        "pitome_fx/ops.py",
        "share = take(1 / size.unsqueeze(-1).to(wide), assign)",
        "share = take(1 / size.clamp(max=2).unsqueeze(-1).to(wide), assign)",
        OPS,
    ),
    Mutant(
        "logsumexp without its peak",
        "pitome_fx/ops.py",
        "log_total = torch.where(empty, 1, total).log() + peak",
        "log_total = torch.where(empty, 1, total).log()",
        OPS,
    ),
    Mutant(
        "targets are off by the protected tokens",
        "pitome_fx/ops.py",
        "return kept, found.moved + front, found.target + front",
        "return kept, found.moved + front, found.target",
        OPS,
    ),
    Mutant(
        "a window numbers its groups from the whole",
        "passes/spaces.py",
        "torch.sub(self.assign[:, first:last], low)",
        "torch.sub(self.assign[:, first:last], 0)",
        law_of("drop the first"),
    ),
    Mutant(
        "a later merge forgets the earlier one",
        "passes/spaces.py",
        "return last if parent is None else last.gather(1, parent.assign)",
        "return last if parent is None else parent.assign",
        ORACLE,
    ),
    Mutant(
        "representatives of groups, not of tokens",
        "passes/spaces.py",
        "return kept if self.parent is None else self.parent.representative.gather(1, kept)",
        "return kept",
        PADDING,
    ),
    Mutant(
        "a concatenation counts dense tokens",
        "passes/spaces.py",
        "offset = offset + (count if space is None else space.count)",
        "offset = offset + count",
        law_of("append"),
    ),
    Mutant(
        "what was unmerged is projected back",
        "passes/align.py",
        'raise Lift("a value computed after an unmerge meets a merged one")',
        "pass",
        law_of("flip and add"),
    ),
    Mutant(
        "a bool per token is picked anywhere",
        "passes/align.py",
        "    if picked and not all(",
        "    if False and not all(",
        law_of("bool per token"),
    ),
    Mutant(
        "items of a batch are mixed",
        "passes/align.py",
        "    if any(atom.axis in batch for d in over for atom in x.dims[d]):\n",
        "    if False:\n",
        law_of("softmax over the batch"),
    ),
    Mutant(
        "a bias on keys is averaged",
        "passes/align.py",
        "        elif is_bias and p == -1:\n",
        "        elif False:\n",
        ORACLE,
    ),
    Mutant(
        "an unmerged value counts as dense from the start",
        "passes/replay.py",
        "return _taint(value) if any(x.tainted for x in operands) else value",
        "return value",
        law_of("flip and add"),
    ),
    Mutant(
        "structured masks pass for biases",
        "passes/masks.py",
        "    if not bool(hidden.any()):\n        return MaskKind.BIAS\n",
        "    return MaskKind.BIAS\n",
        "tests/test_masks.py::test_structured_masks_are_refused",
    ),
    Mutant(
        "any mask is the same for every query",
        "passes/masks.py",
        "return self.dataflow.varies_along(mask, -2)",
        "return False",
        MASKS,
    ),
    Mutant(
        "writes into token tensors are ignored",
        "passes/detect.py",
        "    _refuse_writes(program, point, tokens, labels, order)\n",
        "",
        "tests/test_backend.py",
    ),
    Mutant(
        "nothing is protected",
        "passes/rewrite.py",
        "how = (self.options.algorithm, k, front, back, merge.margin, self.options.alpha)",
        "how = (self.options.algorithm, k, 0, 0, merge.margin, self.options.alpha)",
        ORACLE,
    ),
    Mutant(
        "keys of one head decide",
        "passes/metric.py",
        "mean = mean.mean(heads, dtype=torch.promote_types(mean.dtype, torch.float32))",
        "mean = mean.amax(heads)",
        ORACLE,
    ),
    Mutant(
        "a changed op body meets a warm cache",
        "backends/lowering.py",
        'return hashlib.sha256("\\0".join(parts).encode()).hexdigest()',
        'return ""',
        "tests/test_cache.py",
    ),
    Mutant(
        "later merges forget padding",
        "passes/metric.py",
        "    if not masks:\n        return None\n    hidden",
        "    if not masks or parent is not None:\n        return None\n    hidden",
        PADDING,
    ),
    Mutant(
        "a write to shared memory is made pure",
        "passes/functional.py",
        "if node is target or own is None or own != storage or _derives_from(node, write):",
        "if True:",
        "tests/properties/test_programs.py::test_a_write_of_every_kind_is_kept",
    ),
    Mutant(
        "learned tokens beside the others are not protected",
        "passes/protect.py",
        "front, back = _appended(axis, labels, constant)",
        "front, back = 0, 0",
        "tests/test_plan.py",
    ),
    Mutant(
        "queries are compared instead of keys",
        "passes/sites.py",
        "query, keys = operands",
        "keys, query = operands",
        BY_PAPER,
    ),
    Mutant(
        "a merge before the post-norm",
        "passes/stream.py",
        "return _fan_out(node, tokens, labels)",
        "return node",
        BY_PAPER,
    ),
    Mutant(
        "a bias on keys is averaged where attention is spelled out",
        "passes/biases.py",
        "if mask.adds",
        "if False",
        BIASES,
    ),
    Mutant(
        "a group's weight is read as each member's",
        "passes/biases.py",
        "if site.node.target == SDPA or _is_only_summed(mask.consumer)",
        "if True",
        BIASES,
    ),
    Mutant(
        "two biases are both merged by what they weigh",
        "passes/biases.py",
        "[*learned, *adding][:1]",
        "adding",
        BIASES,
    ),
    Mutant(
        "merged tokens are a table to look up in",
        "passes/rules/index.py",
        "    keep_dense(weight)\n",
        "",
        "tests/properties/test_rules_anywhere.py",
    ),
    Mutant(
        "every item of a batch meets every other",
        "passes/rules/contract.py",
        "    keep_axes_apart([a, b], [*lead, *a.dims[-2:], b.dims[-1]])\n",
        "",
        "tests/properties/test_rules_anywhere.py",
    ),
    Mutant(
        "unmerged tokens have any strides",
        "passes/replay.py",
        "if self.node.target in STRIDED:",
        "if False:",
        "tests/test_strides.py",
    ),
    Mutant(
        "outputs share no memory",
        "passes/outputs.py",
        "        if node is base:\n",
        "        if not isinstance(self.replay.env[node], list):\n",
        "tests/test_outputs.py",
    ),
    Mutant(
        "outputs have no gaps",
        "passes/layout.py",
        "if room is None or all(map(_is_none, room)):",
        "if True:",
        "tests/test_outputs.py",
    ),
    Mutant(
        "a transformed module may switch modes",
        "pitome_fx/transformed.py",
        "        if mode == self.training:\n",
        "        if True:\n",
        "tests/test_transformed.py",
    ),
    Mutant(
        "a copy loses what is no parameter",
        "pitome_fx/transformed.py",
        "        copied._take_over(self)\n",
        "",
        "tests/test_transformed.py",
    ),
    Mutant(
        "log(size) has the dtype it was traced in",
        "passes/rules/attention.py",
        "shown.type_as(q.data), None",
        "shown.to(q.data.dtype), None",
        "tests/test_transformed.py",
    ),
    Mutant(
        "groups of one frame meet those of another",
        "passes/rules/attention.py",
        "if together and (apart or rows):",
        "if together and rows:",
        "tests/test_frames.py",
    ),
    Mutant(
        "no attention is proportional",
        "passes/rewrite.py",
        "if not options.proportional and not site.oddity",
        "if not site.oddity",
        BY_PAPER,
    ),
]
