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


def spelling(law: str) -> str:
    """A test of one spelling of attention."""
    name = "causal_attention_" if law.startswith("is_refused") else "spelling_"
    return f"tests/test_spellings.py::test_{name}{law}"


OPS, ORACLE, MASKS = "tests/test_ops.py", "tests/test_oracle_models.py", "tests/test_masks.py"
PADDING, BIASES = "tests/test_padding.py", "tests/test_biases.py"
RESIDUALS = "tests/test_residuals.py"
BY_PAPER = "tests/test_oracle_models.py::test_however_it_is_spelled"

MUTANTS = [
    Mutant(
        "padding may use up every pair",
        "passes/plan.py",
        "margin, block.axis in padded)",
        "margin, False)",
        "tests/properties/test_programs.py",
    ),
    Mutant(
        "what is too short is decided for one length",
        "passes/plan.py",
        "            if not recompiles:",
        "            if True:",
        "tests/test_dynamic_shapes.py::test_numbers_do_not_depend_on_which_length_came_first",
    ),
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
        "    _refuse_writes(known.program, point, tokens, labels, known.order)\n",
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
        "_fan_out(best.node, tokens, paths)",
        "best.node",
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
        "no attention is proportional",
        "passes/rewrite.py",
        "if not options.proportional and not site.oddity",
        "if not site.oddity",
        BY_PAPER,
    ),
    Mutant(
        "an error of one op names none",
        "passes/replay.py",
        "            with failing_in(stage, node):\n",
        "            with failing_in(stage):\n",
        "tests/test_failures.py",
    ),
    Mutant(
        "what failed is said to have no attention",
        "backends/verdict.py",
        'if present != {"dense"} or any(',
        'if "merged" in present or any(',
        "tests/test_failures.py",
    ),
    Mutant(
        "an attention-free graph is taken for the whole",
        "backends/verdict.py",
        "if call is None or _is_whole(graph, call):",
        "if True:",
        "tests/test_verdict.py",
    ),
    Mutant(
        "what merged in an earlier call is forgotten",
        "backends/verdict.py",
        "any(code not in fates for code in self.merging)",
        "False",
        "tests/test_verdict.py",
    ),
    Mutant(
        "strict raises in the first call alone",
        "backends/verdict.py",
        "                    reset_code(code)\n",
        "                    continue\n",
        "tests/test_verdict.py",
    ),
    Mutant(
        "a call that raises is judged",
        "backends/verdict.py",
        "if not _is_raising(sys._getframe(1)):",
        "if True:",
        "tests/test_verdict.py",
    ),
    Mutant(
        "what ran under vmap is replayed",
        "passes/detect.py",
        "            if vmapped:\n",
        "            if False:\n",
        "tests/test_failures.py",
    ),
    Mutant(
        "a failing merged graph ends explain",
        "pitome_fx/explaining.py",
        "        return with_fallback(\n            merged.forward,",
        "        return merged.forward\n        with_fallback(\n            merged.forward,",
        "tests/test_failures.py",
    ),
    Mutant(
        "a package takes any name",
        "pitome_fx/deploy.py",
        "if path.suffix != wanted.suffix and not wanted.any_name:",
        "if False:",
        "tests/cli/test_bad_input.py",
    ),
    Mutant(
        "a gate is a residual connection",
        "passes/stream.py",
        "if node.target in SCALING or node.target in COSTLY:",
        "if False:",
        f"{RESIDUALS}::test_a_gate_inside_the_attention_is_not_the_residual",
    ),
    Mutant(
        "the first join is the residual",
        "passes/stream.py",
        "if best is None or join.kind < best.kind:",
        "if best is None:",
        f"{RESIDUALS}::test_a_gate_inside_the_attention_is_not_the_residual",
    ),
    Mutant(
        "weights carry the tokens that they mix",
        "passes/paths.py",
        "self.operands(node) if node.target in COSTLY else []",
        "[]",
        f"{RESIDUALS}::test_without_a_path_from_token_to_token_there_is_no_residual",
    ),
    Mutant(
        "heads may be a batch",
        "passes/detect.py",
        "if len(unshared) > 1 and not left <= _channels(known, left):",
        "if len(unshared) > 1:",
        f"{RESIDUALS}::test_a_stream_is_followed_however_it_is_joined[streams]",
    ),
    Mutant(
        "a graph that goes on is taken for a new one",
        "passes/breaks.py",
        'if resumed else ""',
        'if False else ""',
        "tests/test_graph_breaks.py",
    ),
    Mutant(
        "all cross-attention was cut off",
        "passes/severed.py",
        """        if not any(self._is_given(node, tokens) for node, tokens in sides):
            return ""
""",
        "",
        "tests/test_graph_breaks.py::test_cross_attention_keeps_its_reason",
    ),
    Mutant(
        "what takes a subclass weight is called as an ATen op",
        "passes/rewrite.py",
        "    restore_calls(graph)\n",
        "",
        "tests/test_subclasses.py::test_the_graph_calls_what_the_model_calls",
    ),
    Mutant(
        "tokens that are subclass tensors merge",
        "passes/subclasses.py",
        'if getattr(node.target, "namespace", "") == "pitome":',
        "if False:",
        "tests/test_subclasses.py::TestRefused::test_an_input_that_is_a_subclass_tensor",
    ),
    Mutant(
        "what a failed first run wrote stays written",
        "backends/fallback.py",
        "            before.put_back()\n",
        "",
        "tests/test_fallback.py::test_what_the_failed_run_wrote_is_put_back",
    ),
    Mutant(
        "nobody is told that checkpoints save nothing",
        "passes/capture.py",
        "return bool(checkpoints) and torch.is_grad_enabled()",
        "return False",
        "tests/test_training.py::TestCheckpointsThatSaveNothing",
    ),
    Mutant(
        "a sink counts as two keys",
        "passes/spaces.py",
        "return first.size.new_ones((batch, count))",
        "return first.size.new_full((batch, count), 2)",
        spelling("keeps_the_law[sink_column-none]"),
    ),
    Mutant(
        "a bias under any curve is merged by what a group weighs",
        "passes/biases.py",
        "            if place is None:\n                return False\n",
        "            if place is None:\n                continue\n",
        spelling("keeps_the_law[sigmoid-bias]"),
    ),
    Mutant(
        "what multiplies scores hides none of them",
        "passes/meetings.py",
        "elif node.target in SCALING and scales:",
        "elif node.target in SCALING and meeting.weighing:",
        spelling("is_refused[sigmoid_masked]"),
    ),
    Mutant(
        "what is subtracted counts as added",
        "passes/meetings.py",
        "return alpha if node.target == aten.add.Tensor else -alpha",
        "return 1.0",
        "tests/test_spellings.py::test_refused_for_its_true_reason[scaled_sum]",
    ),
    Mutant(
        "scores may go through any op",
        "passes/follow.py",
        "                value = replace(value, dims=first.dims)\n"
        "                state = replace(state, oddities=(*state.oddities, node))\n",
        "                value = replace(value, dims=first.dims)\n",
        "tests/test_spellings.py::test_refused_for_its_true_reason[cut]",
    ),
    Mutant(
        "a wrong label is believed",
        "passes/check.py",
        "        if len(shape) != len(x.dims):\n",
        "        if False:\n",
        "tests/properties/test_operands.py::test_a_wrong_label_is_an_error",
    ),
    Mutant(
        "a lent dtype brings its tokens",
        "passes/rules/lend.py",
        "    return TokenTensor(step(x, other, *args, **kwargs), x.dims)",
        "    return TokenTensor(step(x, other, *args, **kwargs), other.dims)",
        "tests/test_lent_operands.py",
    ),
    Mutant(
        "what lends is a value",
        "passes/operands.py",
        "    if lent is None:\n",
        "    if True:\n",
        "tests/test_lent_operands.py",
    ),
    Mutant(
        "a group draws for its members",
        "passes/rules/lend.py",
        "    return TokenTensor(step(room, *args, **kwargs), dense)",
        "    return TokenTensor(step(x, *args, **kwargs), x.dims)",
        "tests/test_lent_operands.py::test_every_token_draws_for_itself",
    ),
    Mutant(
        "a recorded size is its own",
        "passes/replay.py",
        'follow(node.meta.get("val"), own)',
        "pass",
        "tests/test_image_sizes.py",
    ),
    Mutant(
        "a mask of symbolic size is judged at one size",
        "passes/dataflow.py",
        "        value = self.evaluate(node)\n        if value is None and is_tensor(node):",
        "        value = self.example(node)\n        if value is None and is_tensor(node):",
        "tests/test_sizes_in_masks.py",
    ),
    Mutant(
        "every dtype holds every size",
        "passes/bounds.py",
        "(sizes and dtype not in SIZED)",
        "False",
        "tests/test_sizes_in_masks.py",
    ),
    Mutant(
        "a mask is what it was made as",
        "passes/functional.py",
        "_storage(node) in storages)",
        "False)",
        "tests/test_sizes_in_masks.py",
    ),
    Mutant(
        "floats of sizes are left as they are",
        "passes/whole.py",
        "    if not expression.has(*ROUNDINGS):",
        "    if True:",
        "tests/test_image_sizes.py",
    ),
]
