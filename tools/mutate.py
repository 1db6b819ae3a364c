"""The mutation test: every term of every hand-written rule is noticed by the suite.

    python tools/mutate.py [-k PATTERN] [--sample N] [--list] [--quick] [--tests TEST …] [--jobs N]

Each mutant changes one thing in one rule (a sign, a term, a factor, a gate, a branch). It is
put into a copy of `seqjax/` and `tests/` in a temporary directory and the suite is run on the
copy, at first the tests that are likely to notice, then, if they pass, all of it. Of all mutants
(no -k, no --sample) the table is written to tools/mutation.txt. Exits with 1 if a mutant survives
that is not listed in `EQUIVALENT`.
"""

import argparse
import ast
import contextlib
import copy
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
REPORT = ROOT / "tools" / "mutation.txt"
QUICK_LIMIT, WHOLE_LIMIT = 300, 3600  # seconds

# What is mutated: functions, inner ones included, and module-level statements (`x.defvjp(...)`).
RULES = {
    "seqjax/models/rnn.py": ["tanh_vjp", "relu_vjp", "other_vjp", "preactivate_vjp"],
    "seqjax/models/lstm.py": ["activate_vjp", "update_vjp", "output_vjp", "preactivate_vjp"],
    "seqjax/models/_lstm_variants.py": [
        "coupled_update_vjp",
        "peephole_preactivate_vjp",
        "peephole_output_vjp",
        "normed_output_vjp",
        "projected_preactivate_vjp",
    ],
    "seqjax/models/_layer_norm.py": ["normalize_vjp", "normed_product_vjp"],
    "seqjax/models/_parts.py": ["product_vjp"],
    "seqjax/models/gru.py": [
        "activate_after_vjp",
        "preactivate_after_vjp",
        "activate_before_vjp",
        "preactivate_before_vjp",
    ],
    "seqjax/models/slstm.py": ["activate_vjp", "preactivate_vjp", "log_forget_slope"],
    "seqjax/models/_feedback.py": ["layers_vjp", "output", "output_vjp"],
    "seqjax/models/jordan.py": ["activate_vjp"],
    "seqjax/models/narx.py": ["activate_vjp", "preactivate_vjp"],
    "seqjax/models/narx_ahead.py": ["scan", "_repeat", "_delayed"],
    "seqjax/models/rg_lru.py": ["_bounded_sqrt_jvp"],
    "seqjax/models/_delay_line.py": ["_convolve", "_gather", "_grid", "extend", "read_series"],
    "seqjax/models/_recurrent_dropout.py": ["dropped"],
    "seqjax/models/_dropped.py": ["drop", "scaled"],
    "seqjax/models/dropout.py": ["bounded_step", "_shared", "drop_tree"],
    "seqjax/models/weight_drop.py": ["dropped"],
    "seqjax/engine/keys.py": ["step_keys", "part_key"],
    "seqjax/compose/zoneout.py": [
        "_draw",
        "_mixed",
        "_preactivate_vjp",
        "_activate_vjp",
        "_coefficients",
    ],
    "seqjax/compose/stack.py": ["_through", "scan"],
    "seqjax/compose/bidirectional.py": ["scan", "resets_of_backward"],
    "seqjax/compose/branches.py": [
        "receptive_field",
        "opaque",
        "preactivation_bytes",
        "scan",
        "_all",
    ],
    "seqjax/compose/residual.py": ["scan", "_sum"],
    "seqjax/models/norms.py": ["apply", "normalize", "_over_rms"],
    "seqjax/ops/matmul.py": [
        "_kernel_cotangent",
        "_rows_cotangent",
        "_batch_matmul",
        "ad.defbilinear",
        "_batch_add",
        "_jvp_add",
        "_transpose_add",
    ],
    "seqjax/ops/rows.py": ["beside_rows", "_sum", "_transpose_sum"],
    "seqjax/ops/shift.py": [
        "_concatenate",
        "_batch_shift",
        "_transpose_shift",
        "_batch_spread",
        "_jvp_spread",
        "_transpose_spread",
    ],
    "seqjax/ops/lookup.py": ["lookup", "_jvp"],
    "seqjax/ops/hoist.py": ["hoist"],
    "seqjax/ops/zero_cotangent.py": ["zero_cotangent", "_jvp"],
    "seqjax/engine/bptt.py": [
        "bptt",
        "local_vjps",
        "_hoist_step_vjp",
        "_derived_activate_vjp",
        "_run.defvjp",
        "_reroute_cotangent.defvjp",
        "_adjoint_fwd",
        "_adjoint_bwd",
        "outside",
    ],
    "seqjax/engine/loops.py": ["forward_scan", "reverse_scan"],
    "seqjax/engine/chunks.py": ["scan_chunks", "_extended", "truncation"],
    "seqjax/engine/schedule.py": ["schedule", "divisor", "batch_size"],
    "seqjax/engine/plain_scan.py": ["plain_scan", "one_by_one", "widened"],
    "seqjax/engine/bound.py": ["__call__", "part", "handed_on", "output", "clipped"],
    "seqjax/compose/trajectory.py": ["trajectory", "bounded_step"],
    "seqjax/engine/recurrence.py": ["fill", "zero_invalid", "over_steps", "harmless"],
    "seqjax/engine/history.py": ["push", "entering", "add", "before", "_found"],
    "seqjax/engine/affine.py": [
        "affine_step",
        "_over_time",
        "_through_steps",
        "forward",
        "backward",
        "_split",
        "_associative",
        "_run.defvjp",
        "_adjoint_fwd",
        "_adjoint_bwd",
        "_product",
    ],
    "seqjax/engine/across.py": ["entered", "of_first", "of_last"],
    "seqjax/engine/adjoint.py": ["resolve", "scan_states", "scan_affine", "windows"],
    "seqjax/engine/cotangents.py": [
        "inexact",
        "complete",
        "returned",
        "instantiate",
        "zeros",
        "add",
    ],
}
RULE_TESTS = "tests/engine/test_rules.py"
SCHEDULE, EXPORT = "tests/engine/test_schedule.py", "tests/laws/test_export.py"
HALF = "tests/engine/test_user_functions.py tests/laws/test_half_precision.py"
# Which tests are tried first: of test_rules.py, or files.
QUICK = {
    "seqjax/models/rnn.py": "its_function and (rnn or elu)",
    "seqjax/models/lstm.py": "its_function and lstm",
    "seqjax/models/_lstm_variants.py": "its_function and lstm",
    "seqjax/models/_layer_norm.py": "its_function and norm",
    "seqjax/models/_parts.py": "its_function and (lstm or after)",
    "seqjax/models/gru.py": "its_function and (after or before)",
    "seqjax/models/slstm.py": f"{RULE_TESTS} tests/models/test_slstm.py",
    "seqjax/models/_feedback.py": "its_function and (jordan or narx)",
    "seqjax/models/jordan.py": "its_function and jordan",
    "seqjax/models/narx.py": "its_function and narx",
    "seqjax/models/narx_ahead.py": "tests/models/test_narx_ahead.py",
    "seqjax/models/rg_lru.py": "tests/models/test_linear.py",
    "seqjax/models/_delay_line.py": "tests/models/test_tdnn.py",
    "seqjax/compose/stack.py": "tests/models/test_bidirectional.py tests/laws/test_masking.py",
    "seqjax/compose/bidirectional.py": "tests/models/test_bidirectional.py",
    "seqjax/compose/branches.py": "tests/models/test_blocks.py",
    "seqjax/compose/residual.py": "tests/models/test_blocks.py",
    **dict.fromkeys(
        (
            "seqjax/models/_recurrent_dropout.py",
            "seqjax/models/_dropped.py",
            "seqjax/models/dropout.py",
            "seqjax/models/weight_drop.py",
            "seqjax/engine/keys.py",
            "seqjax/compose/zoneout.py",
        ),
        "tests/models/test_dropout.py",
    ),
    "seqjax/models/norms.py": "tests/models/test_norms.py",
    "seqjax/ops/matmul.py": "tests/engine/test_rows.py",
    "seqjax/ops/rows.py": "tests/engine/test_rows.py",
    "seqjax/ops/shift.py": "tests/engine/test_rows.py tests/laws/test_half_precision.py",
    "seqjax/ops/lookup.py": "tests/models/test_embed.py",
    "seqjax/ops/hoist.py": "tests/engine/test_hoist.py tests/engine/test_user_functions.py",
    "seqjax/ops/zero_cotangent.py": "not its_function and not matmul",
    "seqjax/engine/bptt.py": "not its_function and not matmul",
    "seqjax/engine/affine.py": "tests/engine/test_affine.py tests/engine/test_across.py",
    "seqjax/engine/across.py": "tests/engine/test_across.py",
    "seqjax/engine/loops.py": f"{RULE_TESTS} {EXPORT} tests/engine/test_hlo.py",
    "seqjax/engine/chunks.py": f"{RULE_TESTS} {SCHEDULE} {EXPORT}",
    "seqjax/engine/schedule.py": "tests/engine/test_schedule.py",
    "seqjax/engine/bound.py": "tests/laws/test_clip.py tests/models/test_trajectory.py",
    "seqjax/compose/trajectory.py": "tests/models/test_trajectory.py",
    "seqjax/engine/plain_scan.py": f"{RULE_TESTS} tests/laws/test_clip.py {HALF}",
    "seqjax/engine/recurrence.py": f"{RULE_TESTS} tests/laws/test_masking.py {HALF}",
    "seqjax/engine/history.py": "tests/engine/test_history.py",
    "seqjax/engine/adjoint.py": f"{SCHEDULE} tests/laws/test_gradients.py {EXPORT}",
    "seqjax/engine/cotangents.py": "not its_function and not matmul",
}
SAME_ZEROS = "zeros_like alone reads it: h and c have one shape and dtype"
OTHER_KEY = "another draw, independent as well: that of a mask is split once more"
EXAMPLE = "of the step that serves as an example only the shapes and dtypes are read"
SHORT_CUT = "the general case of the short cut"
VECTOR = "of one step: the last axis of a vector is its first"
LAYOUT = "where a mapped axis lies changes no number, and test_hlo looks at the usual shapes alone"
UNASKED = "JAX drops the cotangent of an operand that is not being transposed"
LIKE = "of `like` only the axes that are mapped are read"
UNION = "the axes and the mesh of all operands together"
UNUSED = "what is there is not read"
NOTHING = "where(None, a, b) is b"
# Mutants that compute the same thing, by "file.rule: mutation" (", in " the line, where there is
# another one of that text), and why no test can notice them.
EQUIVALENT: dict[str, str] = {
    "zoneout._draw: 0 -> 1": OTHER_KEY,
    "zoneout._draw: 1 -> 0": OTHER_KEY,
    "zoneout._activate_vjp: (dz, masks) -> (masks, dz)": (
        "of z the leaves that have derivatives are read, in their order, and no mask has one"
    ),
    "lstm.activate_vjp: h_prev.h -> h_prev.c": SAME_ZEROS,
    "lstm.activate_vjp: Gates(**d_update, **d_output) -> Gates(**d_output, **d_update)": (
        "keywords have no order"
    ),
    "_layer_norm.normed_product_vjp: matmul(x, kernel) -> -matmul(x, kernel)": (
        "the derivative of an odd function is even"
    ),
    "lstm.preactivate_vjp: h_prev.c -> h_prev.h": SAME_ZEROS,
    "lstm.preactivate_vjp: 1 -> 0": VECTOR,
    "slstm.activate_vjp: h_prev.h -> h_prev.c": SAME_ZEROS,
    "slstm.preactivate_vjp: h_prev.c -> h_prev.h": SAME_ZEROS,
    "slstm.preactivate_vjp: h_prev.c -> h_prev.n": SAME_ZEROS,
    "gru.preactivate_after_vjp: 1 -> 0": VECTOR,
    "gru.preactivate_before_vjp: 1 -> 0": VECTOR,
    "matmul._batch_add: y.ndim - 1 -> 1": LAYOUT,
    "matmul._batch_add: 1 -> 2": LAYOUT,
    "rows.beside_rows: 2 -> 1": LAYOUT,
    "rows.beside_rows: x.ndim - 2 -> 2": LAYOUT,
    "zero_cotangent._jvp: jnp.zeros_like(a) if again else zero_tangent(a) -> jnp.zeros_like(a)": (
        "zeros, where there might be nothing at all"
    ),
    "loops.forward_scan: z_t if keep_z else None -> z_t": (
        "XLA drops what is not read: temporary memory is the same to the byte"
    ),
    "recurrence.harmless: jnp.full_like(leaf, 0.5) if is_inexact(leaf) else leaf -> "
    "jnp.full_like(leaf, 0.5)": "what a step makes of an invalid one is not used",
    "recurrence.over_steps: 0 -> 1, in params = spread_half_vectors(params, at_step(series, 0), "
    "length_of(series))": LIKE,
    "recurrence.over_steps: 0 -> 2, in params = spread_half_vectors(params, at_step(series, 0), "
    "length_of(series))": LIKE,
    "recurrence.fill: zero_cotangent(where(some, a[first], harmless(a[first]))) -> "
    "where(some, a[first], harmless(a[first]))": "what comes back from invalid steps is zero",
    "bptt._adjoint_bwd: a if isinstance(a, jax.Array) else jnp.asarray(a) -> jnp.asarray(a)": (
        "an error on explicit axes in JAX 0.8 alone"
    ),
    "bptt.bptt: (params, u, steps) -> (u, params, steps)": UNION,
    "bptt.bptt: (params, u, steps) -> (params, steps, u)": UNION,
    "bptt._adjoint_bwd: (state, reset_state) -> (reset_state, state)": UNION,
    "plain_scan.plain_scan: (inputs, steps) -> (steps, inputs)": UNION,
    "dropout._shared: 1 -> 2, in source = lax.cummax(jnp.where(draws, jnp.arange(time), -1))": (
        "any negative number says that the mask was drawn before"
    ),
    "bptt._hoist_step_vjp: (through_state, through_z) -> (through_z, through_state)": "a sum",
    "plain_scan.plain_scan: if at.cut is not None -> if True": NOTHING,
    "chunks.scan_chunks: 1 -> 0, in xs = jax.tree.map(lambda a: _extended(a, a[-1], rest), xs)": (
        UNUSED
    ),
    "chunks.scan_chunks: 1 -> 2, in xs = jax.tree.map(lambda a: _extended(a, a[-1], rest), xs)": (
        UNUSED
    ),
    "schedule.divisor: n - about -> about - n": "a distance has no sign",
    "bptt._adjoint_bwd: if steps.reset is not None -> if True": (
        "without a reset it stays zero, and is never added to"
    ),
    "bptt.bptt: 0 -> 1": EXAMPLE,
    "bound.clipped: jnp.clip(lam, -bound, bound) -> jnp.clip(-bound, lam, bound)": (
        "the same maximum and minimum"
    ),
    "adjoint.scan_states: 0 -> 1": EXAMPLE,
    "adjoint.scan_states: 0 -> 2": EXAMPLE,
    "bptt.bptt: 0 -> 2": EXAMPLE,
    "history.entering: if steps.reset is None -> if False": "where(None, start, h) is h",
    "history.entering: if steps.valid is None and steps.reset is None -> if False": SHORT_CUT,
    "_delay_line._convolve: if count == len(delays) -> if False": SHORT_CUT,
    "_delay_line.extend: (line.shape[0], 0) -> (0, line.shape[0])": "no rows before, none after",
    "_delay_line._grid: delay - delays[0] -> delays[0] - delay": "a divisor has no sign",
    "_delay_line._grid: 1 -> 2": "of a single delay: there is no gap to fill",
    "narx_ahead.scan: min(self.steps_ahead, time) if isinstance(time, int) else self.steps_ahead "
    "-> self.steps_ahead": "passes beyond the length of the record change nothing",
    "narx_ahead.scan: delay < ahead -> delay <= ahead": "what lies as far back is measured",
    "narx_ahead._repeat: 1 -> 2, in us, fed = fill(steps.valid, (us, jnp.concatenate(read, "
    "axis=1)))": "a step flattens what it reads",
    "narx_ahead._repeat: False -> True": "common subexpressions are no other numbers",
    "matmul._transpose_add: sum_rows(cotangent, cotangent.ndim - 1) if ad.is_undefined_primal(bias)"
    " else None -> sum_rows(cotangent, cotangent.ndim - 1)": UNASKED,
    "matmul._transpose_add: cotangent if ad.is_undefined_primal(y) else None -> cotangent": UNASKED,
}

GATES = [list("ifgo"), list("hc"), list("cnm"), list("rznm")]
UNWRAP = {"sigmoid", "jnp.tanh", "jnp.clip", "zero_cotangent", "inexact", "zeros", "complete"}
UNWRAP |= {"checkpoint_name"}
MATMULS = {"matmul", "_matmul.bind", "_pool.bind"}
ORDERED = {"where", "jnp.where", "Gates", "GatesAfter", "LSTMState", *MATMULS}
ORDERED |= {"partial", "jnp.clip", "_reroute_cotangent.defvjp", "_run.defvjp"}
ORDERED |= {"ad.defbilinear", "lax.dot_general"}


class Mutant(NamedTuple):
    path: str
    rule: str
    line: int
    what: str
    source: str

    @property
    def key(self) -> str:
        return f"{pathlib.Path(self.path).stem}.{self.rule}: {self.what}"

    @property
    def equivalent(self) -> str | None:
        """Why it computes the same, if it does."""
        line = (ROOT / self.path).read_text().splitlines()[self.line - 1].strip()
        return EQUIVALENT.get(self.key) or EQUIVALENT.get(f"{self.key}, in {line}")


def alternatives(node: ast.AST):
    """Every way to get one node wrong: expressions to stand in its place."""
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, (ast.Add, ast.Sub)):
            other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield ast.BinOp(node.left, other, node.right)
            yield node.left
            yield node.right
            if isinstance(node.op, ast.Sub):
                yield ast.BinOp(node.right, ast.Sub(), node.left)
        if isinstance(node.op, (ast.Mult, ast.Div)):
            yield node.left
            yield node.right
            yield ast.UnaryOp(ast.USub(), node)
        if isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            yield node.left
            yield node.right
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node.operand
    elif isinstance(node, ast.BoolOp):
        yield from node.values
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.Compare):
        swaps = {ast.Lt: ast.LtE, ast.Gt: ast.Lt, ast.Eq: ast.NotEq, ast.Is: ast.IsNot}
        swaps |= {ast.IsNot: ast.Is, ast.NotEq: ast.Eq, ast.GtE: ast.Lt, ast.LtE: ast.Gt}
        swaps |= {ast.In: ast.NotIn, ast.NotIn: ast.In}
        yield ast.Compare(node.left, [swaps[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield from (ast.Constant(n) for n in (0, 1, 2) if n != node.value)
    elif isinstance(node, ast.Attribute):
        if node.attr == "T":
            yield node.value
        for gates in GATES:
            if node.attr in gates:
                number = (gates.index(node.attr) + 1) % len(gates)
                yield ast.Attribute(node.value, gates[number], node.ctx)
    elif isinstance(node, (ast.Tuple, ast.List)) and isinstance(node.ctx, ast.Load):
        yield from (type(node)(elts, node.ctx) for elts in swapped(node.elts))
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name in UNWRAP and node.args:
            yield node.args[0]
        if name == "zero_cotangent":  # right in first order, wrong in second
            yield ast.Call(ast.parse("lax.stop_gradient", mode="eval").body, node.args, [])
        if name in MATMULS:
            yield ast.UnaryOp(ast.USub(), node)
        if name in ORDERED:
            yield from (ast.Call(node.func, args, node.keywords) for args in swapped(node.args))
        for values in swapped([keyword.value for keyword in node.keywords]):
            keywords = [ast.keyword(k.arg, v) for k, v in zip(node.keywords, values, strict=True)]
            yield ast.Call(node.func, node.args, keywords)


def swapped(items: list):
    """The list with two neighbours swapped, wherever they differ."""
    for n in range(len(items) - 1):
        if ast.dump(items[n]) != ast.dump(items[n + 1]):
            yield [*items[:n], items[n + 1], items[n], *items[n + 2 :]]


def mutants_of(path: str):
    """All mutants of the rules in one file."""
    source = (ROOT / path).read_text()
    tree = ast.parse(source)
    for rule in RULES[path]:
        found = [node for node in ast.walk(tree) if is_rule(node, rule)]
        if len(found) > 1:
            found = [node for node in found if "abstractmethod" not in ast.dump(node)]
        if not found:
            raise LookupError(f"{path} has no {rule}: bring RULES up to date")
        for outer in found:
            for node, parent, field, index in places(outer):
                for wrong in replacements(node):
                    yield Mutant(
                        path, rule, node.lineno, *edited(source, parent, field, index, wrong, node)
                    )


def is_rule(node: ast.AST, rule: str) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name == rule
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) == rule
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return call and ast.unparse(node.value.func) == rule


def replacements(node: ast.AST):
    if isinstance(node, ast.If):
        yield [ast.Pass()]  # the branch is never taken
        yield [ast.If(ast.Constant(True), node.body, [])]  # always taken
    elif isinstance(node, ast.expr):
        yield from alternatives(node)


NO_TERMS = ("decorator_list", "annotation", "returns")


def walk(node: ast.AST):
    """The node and all below it but types and decorators."""
    yield node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in NO_TERMS:
                yield from walk(child)


def places(outer: ast.AST):
    """The nodes of the body of a rule, each with where it hangs."""
    for parent in walk(outer):
        if isinstance(parent, ast.arguments) or getattr(parent, "arg", None) == "strict":
            continue  # defaults and zip(strict=…) are checks, not terms
        for field, value in ast.iter_fields(parent):
            if field in NO_TERMS or (field == "slice" and not isinstance(value, ast.Slice)):
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(node, (ast.expr, ast.If)):
                    yield node, parent, field, index


def edited(source, parent, field, index, wrong, node) -> tuple[str, str]:
    """(what was done, the new source): only the text of this node changes."""
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    begin = starts[node.lineno - 1] + node.col_offset
    end = starts[node.end_lineno - 1] + node.end_col_offset
    if isinstance(node, ast.If):
        test, always = ast.unparse(node.test), isinstance(wrong[0], ast.If)
        begin = starts[node.test.lineno - 1] + node.test.col_offset
        end = starts[node.test.end_lineno - 1] + node.test.end_col_offset
        old, new, what = test, str(always), f"if {test} -> if {always}"
    else:
        old, new = ast.unparse(node), ast.unparse(ast.fix_missing_locations(copy.deepcopy(wrong)))
        new_text = new if isinstance(wrong, (ast.Name, ast.Constant)) else f"({new})"
        what, new = f"{old} -> {new}", new_text
    text = source.encode()
    changed = (text[:begin] + new.encode() + text[end:]).decode()
    ast.parse(changed)
    return " ".join(what.split()), changed


def run_suite(directory: str, arguments: list[str], result: str) -> None:
    """In a process of its own: pytest on the copy; writes the first failing test."""
    os.chdir(directory)
    sys.path[:0] = [directory, os.path.join(directory, "tests")]
    os.environ["PYTHONPATH"] = directory  # for the processes that tests start
    out = os.open("out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1), os.dup2(out, 2)
    import pytest

    class First:
        failed = None

        def pytest_runtest_logreport(self, report):
            if report.failed and not self.failed:
                self.failed = report.nodeid

        def pytest_collectreport(self, report):
            if report.failed and not self.failed:
                self.failed = f"{report.nodeid} (collection)"

    first = First()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
    options += ["-W", "ignore:Module already imported"]  # by the parent of this process
    code = pytest.main([*options, "-m", "not slow", *arguments], plugins=[first])
    seqjax = sys.modules.get("seqjax")
    if seqjax is not None and not seqjax.__file__.startswith(directory):
        raise AssertionError(f"the suite ran {seqjax.__file__}, not the mutant")
    if first.failed is None and code not in (0, 1):
        raise AssertionError(f"pytest ended with {code}: nothing was tested")
    pathlib.Path(result).write_text(first.failed or "")


def copy_project(place: str) -> None:
    folders = ("seqjax", "tests", "tools", "examples", "benchmarks", "docs", ".ci", ".github")
    for part in (*folders, "pyproject.toml", "README.md", "CONTRIBUTING.md"):
        source, to = ROOT / part, pathlib.Path(place, part)
        if source.is_dir():
            shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, to)


class Bench:
    """Runs the suite on mutants, in processes that start with JAX imported."""

    def __init__(self, directory: str, quick: bool, tests: list[str]):
        self.directory, self.quick, self.tests = directory, quick, tests
        self.lock, self.proven = threading.Lock(), False
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            # Programs of a moment: compile fast. Those of the oracles are the same every time.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": os.path.join(directory, "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["jax", "optax", "chex", "pytest", "hypothesis"])

    def noticed_by(self, mutant: Mutant | None) -> str | None:
        """The first test that fails on the mutant (None: on the code as it is)."""
        with tempfile.TemporaryDirectory(dir=self.directory) as place:
            copy_project(place)
            if mutant is not None:
                pathlib.Path(place, mutant.path).write_text(mutant.source)
            likely = [RULE_TESTS, "tests/models/test_tdnn.py", "tests/models/test_bidirectional.py"]
            if self.tests:
                likely = self.tests
            elif mutant is not None:
                first = QUICK[mutant.path]
                likely = first.split() if first.startswith("tests/") else [RULE_TESTS, "-k", first]
            noticed = self.first_failure(place, likely, QUICK_LIMIT)
            if noticed or mutant is None or self.quick:
                return noticed
            self.prove_whole_suite()
            return self.first_failure(place, ["tests"], WHOLE_LIMIT)

    def prove_whole_suite(self) -> None:
        """A suite that fails without a mutant would seem to notice every one."""
        with self.lock:
            if not self.proven:
                with tempfile.TemporaryDirectory(dir=self.directory) as place:
                    copy_project(place)
                    failure = self.first_failure(place, ["tests"], WHOLE_LIMIT)
                if failure:
                    raise RuntimeError(f"the suite fails as it is: {failure}")
                self.proven = True

    def first_failure(self, place: str, arguments: list[str], limit: float) -> str | None:
        result = os.path.join(place, "result")
        with contextlib.suppress(FileNotFoundError):
            os.remove(result)
        process = self.context.Process(target=run_suite, args=(place, arguments, result))
        process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
            return f"more than {limit} s"
        if not os.path.exists(result):
            out = pathlib.Path(place, "out.txt")
            tail = out.read_text()[-2000:] if out.exists() else ""
            raise RuntimeError(f"no result from {arguments}: {tail}")
        return pathlib.Path(result).read_text() or None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", default="", help="only mutants whose path, rule or text match")
    parser.add_argument("--sample", type=int, help="only so many of them, drawn at random")
    parser.add_argument("--list", action="store_true", help="only print the mutants")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="only the tests that are likely to notice"
    )
    parser.add_argument("--tests", nargs="+", default=[], help="what is tried first, if not QUICK")
    options = parser.parse_args()
    mutants = [m for path in RULES for m in mutants_of(path)]
    mutants = [m for m in mutants if re.search(options.k, f"{m.path} {m.key}")]
    mutants = list({(m.path, m.source): m for m in mutants}.values())
    if options.sample is not None:
        mutants = random.Random(0).sample(mutants, min(options.sample, len(mutants)))
    if options.list:
        print(*(f"{m.path}:{m.line} {m.key}" for m in mutants), f"{len(mutants)} mutants", sep="\n")
        return 0
    skipped = [m for m in mutants if m.equivalent]
    mutants = [m for m in mutants if not m.equivalent]
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(directory, options.quick, options.tests)
        failure = bench.noticed_by(None)
        if failure:
            print(f"the suite fails as it is: {failure}")
            return 2

        def run(mutant):
            start = time.perf_counter()
            noticed = bench.noticed_by(mutant)
            row = f"{mutant.path}:{mutant.line}  {mutant.key}  |  {noticed or 'SURVIVED'}"
            print(row, f"({time.perf_counter() - start:.0f} s)", flush=True)
            return noticed is not None, row

        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = list(pool.map(run, mutants))
    noticed = sum(seen for seen, _ in outcomes)
    lines = ["rule, mutation  |  the first test that noticed it", ""]
    lines += [row for _, row in outcomes]
    lines += ["", "Left out, since they compute the same thing:", ""]
    lines += [f"{m.path}:{m.line}  {m.key}  |  {m.equivalent}" for m in skipped]
    count = f"{len(mutants)} mutants, {noticed} noticed"
    print(count)
    if not options.k and options.sample is None:
        REPORT.write_text("\n".join([*lines, "", count, ""]))
    return int(noticed < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
