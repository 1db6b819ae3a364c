"""Every code block of README and docs runs; every error, figure and link in them is real."""

import ast
import dataclasses
import itertools
import json
import operator
import os
import pathlib
import re
import statistics
import subprocess
import sys
import textwrap
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks.report import COLUMNS, behind, summary, table

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {
    path.name: path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", flags=re.S | re.M)
# What a block may import beside the dependencies; where it is missing, the block does not run.
LIBRARIES = ("equinox", "flax", "haiku", "keras", "optimistix", "torch")
ERRORS = re.findall(r"^\| `([^|]+)` \| `([^|]+)` \|$", PAGES["errors.md"], flags=re.M)
README, BENCHMARKS, SPEED = (PAGES[name] for name in ("README.md", "benchmarks.md", "speed.md"))


def imported(code):
    """The names of the packages that a block imports."""
    nodes = [*ast.walk(ast.parse(code))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def blocks(page):
    """The code blocks of a page, those in tabs too: the number of the first line, and the code."""
    for block in BLOCK.finditer(page):
        yield page[: block.start(2)].count("\n"), textwrap.dedent(block[2])


def program(page, library=None):
    """The code of a page, each line where it stands, and none of other libraries than this one."""
    lines = [""] * len(page.splitlines())
    for first, block in blocks(page):
        if imported(block).intersection(LIBRARIES) <= {library}:
            code = block.splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines)


def libraries(page):
    """The libraries that blocks of a page import, and None for the others."""
    used = {name for _, block in blocks(page) for name in imported(block).intersection(LIBRARIES)}
    return [None, *sorted(used)]


def test_the_pages_have_what_these_tests_read():
    with_code = {name for name, page in PAGES.items() if BLOCK.search(page)}
    assert {"README.md", "quickstart.md", "data.md", "own_cell.md", "devices.md"} <= with_code
    assert sum(len(BLOCK.findall(page)) for page in PAGES.values()) >= 25
    assert len(ERRORS) >= 12
    assert README.count("\n") <= 100


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_import_what_there_is(name):
    """So that no block is left out, and none is run, for a name that is misspelt."""
    dependencies = {"chex", "jax", "numpy", "optax", "safetensors", "scipy", "seqjax"}
    known = dependencies.union(LIBRARIES, sys.stdlib_module_names)
    for _, block in blocks(PAGES[name]):
        assert imported(block) <= known
        assert len(imported(block).intersection(LIBRARIES)) <= 1


# As a reader runs it: float32, and the blocks of a page one after the other in one session.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
@pytest.mark.parametrize(
    ("name", "library"),
    [
        pytest.param(name, library, marks=() if name == "README.md" else pytest.mark.slow)
        for name, page in PAGES.items()
        for library in libraries(page)
        if BLOCK.search(page) and name != "devices.md"
    ],
)
def test_code_of_the_page_runs(name, library, monkeypatch):
    import jax

    monkeypatch.setenv("KERAS_BACKEND", "jax")
    if library is not None:
        pytest.importorskip(library)
    code = compile(program(PAGES[name], library), name, "exec")
    standard, allowed = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with jax.enable_x64(False), standard, allowed:
        exec(code, {"__name__": name})


def test_code_of_the_page_on_devices_runs():
    """JAX fixes the number of its devices when it starts: in a process of its own."""
    code = program(PAGES["devices.md"])
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    code += "\nassert jax.device_count() == 2\nassert len(gradient[0]['bias'].devices()) == 2\n"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-4000:]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_error_of_the_table(call, message):
    import jax
    import jax.numpy as jnp

    import seqjax as sj

    with jax.enable_x64(False):
        cell = sj.lstm(3, 4)
        names = {
            "dataclasses": dataclasses,
            "sj": sj,
            "jnp": jnp,
            "cell": cell,
            "params": cell.init(jax.random.key(0)),
        }
        names["xs"] = jnp.ones((10, 3))
        with pytest.raises((ValueError, TypeError)) as caught:
            eval(call, names)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_is_linked_is_there(name):
    folder = ROOT if name == "README.md" else ROOT / "docs"
    linked = set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[name]))
    assert [path for path in linked if not (folder / path).exists()] == []
    if name == "README.md":
        examples = ("tagging", "long_memory", "char_rnn", "system_identification", "music")
        assert {f"examples/{example}.py" for example in examples} <= linked


@pytest.mark.parametrize("name", PAGES)
def test_every_name_of_seqjax_exists(name):
    import seqjax as sj

    for dotted in set(re.findall(r"\bsj((?:\.[a-zA-Z_]\w*)+)", PAGES[name])):
        assert operator.attrgetter(dotted[1:])(sj) is not None


# Of each system, a word of the lines of the notes that the table of models sends a reader to.
WORDS = {
    "sj.tdnn": "TDNN", "sj.narx": "NARX", "sj.memory": "memory variable", "sj.jordan": "Jordan",
    "sj.elman": "Elman", "sj.rnn": "RNN", "sj.stack": "layers k", "sj.bidirectional": "backward",
    "sj.generate": "character-level", "any loss": "DIV", "sj.dense": "softmax",
}  # fmt: skip


def test_the_lines_of_the_notes_are_about_the_systems():
    line = re.compile(r"^\*\*(\d\.\d)\*\*(.*?)(?=^\*\*|^## |\Z)", re.S | re.M)
    lines = dict(line.findall(PAGES["notes.md"]))
    assert len(lines) == 19
    rows = [row.split("|") for row in PAGES["models.md"].splitlines() if row.startswith("| ")]
    cited = {row[1]: re.findall(r"\d\.\d", row[3]) for row in rows}
    assert set(itertools.chain(*cited.values())) <= set(lines)
    for system, word in WORDS.items():
        (numbers,) = (found for name, found in cited.items() if re.search(rf"{system}\b", name))
        assert any(word in lines[number] for number in numbers), system


def test_every_suite_is_described_to_contributors():
    said = re.findall(r"^\| `(test_\w+\.py)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert sorted(said) == sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))


def test_the_sections_that_docstrings_cite_are_those_of_the_notes():
    sections = re.findall(r"^## (\d)\.", PAGES["notes.md"], re.M)
    cited = {
        number
        for path in (ROOT / "seqjax").rglob("*.py")
        for number in re.findall(r"[Nn]otes, section (\d)", path.read_text())
    }
    assert {"1", "2", "3", "4", "5"} <= cited <= set(sections)


def reports(name):
    """The figures of a benchmark, by the version of JAX, the oldest first."""
    found = {}
    for path in (ROOT / "benchmarks" / "results").glob(f"{name}_jax_*.json"):
        version = re.search(r"_jax_([\d.]+)_", path.name)[1]
        found[version] = json.loads(path.read_text())
    return dict(sorted(found.items(), key=lambda pair: [int(n) for n in pair[0].split(".")]))


def results(name):
    """Those of the newest JAX."""
    return list(reports(name).values())[-1]


def test_the_table_of_speeds_is_that_of_the_committed_results():
    report = results("compare")
    assert table(report) in BENCHMARKS
    assert report["summary"] == summary(report["rows"])
    versions = report["versions"]
    assert f"(jax {versions['jax']}, torch {versions['torch']})" in " ".join(BENCHMARKS.split())


def test_what_is_said_of_the_oldest_jax_is_true_of_the_committed_results():
    report = next(iter(reports("compare").values()))
    _, _, section = BENCHMARKS.partition(f"**jax {report['versions']['jax']}**")
    lines = [line for line in table(report).splitlines() if "(" not in line or "all," in line]
    assert "\n".join(lines) in section.partition("\n## ")[0]
    assert report["summary"] == summary(report["rows"])


def test_what_is_said_of_the_speeds_is_true_of_the_committed_results():
    report, words = results("compare"), " ".join(BENCHMARKS.split())
    rows = {w: [r for r in report["rows"] if r["what"] == w] for w in ("gradient", "forward")}
    peak = [round(100 * r["fraction_of_matmul_peak"]) for r in rows["gradient"]]
    assert f"of which the gradient reaches {min(peak)} to {max(peak)} %" in words
    assert f"matmuls at {report['matmul_peak_gflops']:.0f} GFLOP/s at best" in words
    said = lambda what, column: behind(rows[what], COLUMNS[column][0])
    every, one = "best JAX peer, all cores", "best JAX peer, one device"
    assert f"The gradient, the best JAX peer on all cores: {said('gradient', every)};" in words
    assert f"; on one device: {said('gradient', one)};" in words
    assert f"; PyTorch: {said('gradient', 'PyTorch')}. Forward" in words
    assert f"the best JAX peer on one device: {said('forward', one)};" in words
    assert f"; on all cores: {said('forward', every)};" in words
    assert f"; PyTorch: {said('forward', 'PyTorch')}." in words


def test_what_the_readme_says_of_the_speeds_is_true_of_the_committed_results():
    found, words = results("compare")["summary"], " ".join(README.split())
    gradient, forward = (found[f"all, {what}"] for what in ("forward + backward", "forward alone"))
    columns = ("best JAX peer, all cores", "PyTorch")
    for column in columns:
        mean, worst = gradient[column]
        assert f"{column.removesuffix(', all cores')} {mean:.2f} times" in words
        assert f"({worst:.2f} at worst" in words
    means = " and ".join(f"{forward[column][0]:.2f}" for column in columns)
    assert f"the forward pass alone {means} times" in words


def test_the_table_of_blocks_is_that_of_the_committed_results():
    report = results("block")
    times = {what: [] for what in ("forward", "gradient", "forward scan", "gradient scan")}
    memory = []
    for row in report["rows"]:
        cells = [row["cell"], ", ".join(map(str, row["shape"])), row["what"]]
        figures = [row[kind].values() for kind in ("cpu_ms", "temp_mb")]
        cells += [f"{value:.1f}" for values in figures for value in values]
        assert f"| {' | '.join(cells)} |" in BENCHMARKS
        (ours, by_hand, scan), (mb, mb_by_hand, _) = figures
        times[row["what"]].append(ours / by_hand)
        times[f"{row['what']} scan"].append(ours / scan)
        memory.append(mb / mb_by_hand)
    said = lambda ratios: f"{min(ratios):.2f} to {max(ratios):.2f}"
    forward, gradient, forward_scan, gradient_scan = map(said, times.values())
    words = " ".join(BENCHMARKS.split())
    assert f"the models take {forward} times the CPU time forward and {gradient} times" in words
    assert f"and {said(memory)} times the temporary memory; beside `lax.scan`" in words
    assert (
        f"`lax.scan` {forward_scan} times the CPU time forward, and {gradient_scan} with" in words
    )
    assert f"jax {report['jax']}; `benchmarks/block.py`" in BENCHMARKS


def test_the_table_of_linear_recurrences_is_that_of_the_committed_results():
    report = results("affine")
    words, ratios = " ".join(BENCHMARKS.split()), {}
    for row in report["rows"]:
        kind, what = row["what"].split(", ")
        times = [f"{ms:.3g}" for ms in row["ms"].values()]
        if kind.startswith("sj."):
            times += ["–"] * (3 - len(times))
            assert f"| `{kind}` | {what} | {' | '.join(times)} |" in BENCHMARKS
            ours, by_hand, *_ = row["ms"].values()
            ratios.setdefault(("by hand", what), []).append(by_hand / ours)
            continue
        cells = [", ".join(map(str, row["shape"])), what, *times]
        assert f"| {' | '.join(cells)} |" in BENCHMARKS
        for name in ("lax.associative_scan/loop", "loop/streaming", "best peer/seqjax"):
            if name in row:
                ratios.setdefault((name, what), []).append(row[name])
    sentences = {
        "lax.associative_scan/loop": "takes {} times the time of the loop {}",
        "loop/streaming": "the loop {} times that of the pass {}",
        "best peer/seqjax": "the better of the two peers {} times the time of `sj.lru` {}",
        "by hand": "by hand {} times the time of the library's cell {}",
    }
    for (name, what), found in ratios.items():
        assert sentences[name].format(f"{min(found):.1f} to {max(found):.1f}", what) in words
    assert f"jax {report['jax']}; `benchmarks/affine.py`" in BENCHMARKS


def test_what_is_said_of_a_gpu_is_true_of_the_committed_results():
    report = results("gpu")
    peers, cudnn = ("flax nnx", "haiku"), ("cuDNN, jax", "torch")
    layer = ("seqjax", "plain scan", "plain scan, unroll=8", *peers, *cudnn)
    linear = ("associative", "loop", "loop, captured", "lax.scan", "lax.associative_scan")
    ratios = {}
    for row in report["rows"]:
        ms = row["ms"]
        kind, what = row["what"].split(", ")
        names = (*linear, "streaming") if kind == "h alone" else layer
        cells = [] if kind == "h alone" else [kind]
        cells += [", ".join(map(str, row["shape"])), what]
        cells += [f"{ms[name]:.3g}" if name in ms else "–" for name in names]
        assert f"| {' | '.join(cells)} |" in BENCHMARKS
        if kind != "h alone":
            for name, time in ms.items():
                ratios.setdefault((what, name), []).append(time / ms["seqjax"])
            best = min(ms.get(name, float("inf")) for name in peers)
            ratios.setdefault((what, "peer"), []).append(best / ms["seqjax"])
    between = lambda *of: f"{min(ratios[of]):.1f} to {max(ratios[of]):.1f}"
    words = " ".join(BENCHMARKS.split())
    said = between("gradient", "peer"), between("gradient", "torch")
    assert "peers takes {} times the time of seqjax, PyTorch {} times".format(*said) in words
    assert f"takes the best JAX peer {said[0]} times as long" in " ".join(README.split())
    said = between("forward", "peer"), between("forward", "torch")
    assert "Forward alone they take {} and {} times".format(*said) in words
    one, eight = "seqjax, store=preactivations, unroll=1", "seqjax, store=preactivations"
    pairs = zip(ratios["gradient", one], ratios["gradient", eight], strict=True)
    ratios["gradient", "unrolled"] = [a / b for a, b in pairs]
    said = between("forward", "seqjax, unroll=1"), between("gradient", "unrolled")
    assert "{} times as fast as one forward, {} times with the gradient".format(*said) in words
    versions = (f"{name} {report['versions'][name]}" for name in ("jax", "flax", "torch"))
    assert f"{', '.join(versions)}; `benchmarks/gpu.py`" in words


def test_what_is_said_of_the_character_model_is_true_of_the_committed_results():
    path = ROOT / "benchmarks" / "results" / "char_rnn_vs_torch.json"
    found = json.loads(path.read_text())["results"]
    section = BENCHMARKS.partition("## Character model")[2]
    said = re.findall(r"(\d\.\d{3}) ± (\d\.\d{3})", section)
    ours = found["seqjax"], found["torch"], found["torch, same start"]
    assert said == [(f"{row['mean']:.3f}", f"{row['sd']:.3f}") for row in ours]


def test_the_table_of_the_character_models_update_is_that_of_the_committed_results():
    report = results("char_rnn_step")
    names = ["seqjax", "plain scan", "flax nnx", "equinox", "haiku", "keras", "torch"]
    for where in ("one device", "all cores"):
        ms = report[f"ms, {where}"]
        cells = [f"{ms[name]:#.3g}".rstrip(".") if name in ms else "–" for name in names]
        assert f"| {where}, ms | {' | '.join(cells)} |" in BENCHMARKS
    relative = report["relative to seqjax"]
    best = min(relative[name] for name in names[2:-1])
    said = f"takes {best:.2f} times as long as seqjax, PyTorch {relative['torch']:.2f} times"
    assert said in BENCHMARKS
    assert f"jax {report['versions']['jax']}, 2 cores; `benchmarks/char_rnn_step.py`" in BENCHMARKS
    speeds = [report["characters/s of the example"][cores] for cores in ("one", "all")]
    said = re.search(
        r"reads\n([\d,]+) characters a second on one core and ([\d,]+) on both", BENCHMARKS
    )
    assert said.groups() == tuple(f"{speed:,.0f}" for speed in speeds)


def test_the_table_of_stores_is_that_of_the_committed_results():
    report = results("memory")
    found = report["long"]
    rows = re.findall(r"\| (\d+) MB \| ([\d.]+) s \|$", SPEED, re.M)
    measured = {
        (f"{megabytes:.0f}", f"{found['ms'][name] / 1e3:.2f}")
        for name, megabytes in found["temp_mb"].items()
    }
    assert len(rows) == 5
    assert set(rows) <= measured
    assert f"2 cores, jax {report['jax']}; `benchmarks/memory.py`" in " ".join(SPEED.split())
    seconds = lambda row, name: f"{row['ms'][name] / 1e3:.2f}"
    libraries = ("keras", "haiku", "equinox", "flax nnx")
    times = sorted(seconds(found, name) for name in libraries)
    least, *_, most = sorted(round(found["temp_mb"][name]) for name in libraries)
    assert f"take {times[0]} to {times[-1]} s there, in {least} to {most} MB" in SPEED
    assert f"and PyTorch {seconds(found, 'torch')} s." in SPEED
    few, names = report["few series"], ("BPTT()", "preactivations")
    said = [f"{seconds(few, name)} s in {few['temp_mb'][name]:.0f} MB" for name in names]
    assert 'takes {} so, with `"preactivations"` {}.'.format(*said) in SPEED


def test_what_is_said_of_the_schedule_is_true_of_the_committed_results():
    ratios = [row["auto/best"] for row in results("schedule")["rows"]]
    worst, mean = max(ratios), statistics.geometric_mean(ratios)
    words = " ".join(SPEED.split())
    assert f"Of {len(ratios)} layers measured, of `sj.rnn`, `sj.gru` and `sj.lstm`, what" in words
    assert f"what it chooses takes {worst:.2f} times the time of the fastest" in words
    assert f"choices at worst, {mean:.2f} times in the mean" in words


def test_what_is_said_of_the_floor_is_true_of_the_committed_results():
    rows, words = results("floor")["rows"], " ".join(BENCHMARKS.split())
    for where, sentence in {
        "one device": "takes {} times the time of seqjax on one device,",
        "all cores": "on one device, and {} times on all cores (`benchmarks/floor.py`,",
    }.items():
        ratios = [row[where]["products/seqjax"] for row in rows]
        mean = statistics.geometric_mean(ratios)
        said = f"{mean:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        assert sentence.format(said) in words


def test_time_is_proportional_to_the_length():
    """Where JAX's own scan is; a jaxlib where it is not is excluded."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (jaxlib,) = [d for d in project["dependencies"] if d.startswith("jaxlib")]
    ratios = []
    for version, found in reports("length").items():
        of = {(r["cell"], r["what"]): r["time(2T)/time(T)"].values() for r in found["rows"]}
        scan = of.pop(("plain scan", "forward"))
        measured = itertools.product(("rnn", "gru", "lstm"), ("forward", "gradient", "generate"))
        assert set(of) == set(measured)
        assert (f"!={version}" in jaxlib) == (min(scan) > 3)
        if max(scan) < 3:
            assert version in BENCHMARKS
            ratios += itertools.chain(*of.values())
        else:
            assert f"With jaxlib {version}, which is excluded," in BENCHMARKS
    said = f"each doubling takes {min(ratios):.2f} to {max(ratios):.2f} times as long"
    assert said in BENCHMARKS
    assert max(ratios) < 3  # quadratic: 4


@pytest.mark.parametrize("place", [".ci/run", ".github/workflows/ci.yml"])
def test_ci_calls_the_readmes_test_command(place):
    command = re.search(r"^(python3 -m venv \S+ && .* pytest)$", README, flags=re.M)
    assert command is not None
    assert command.group(1) in (ROOT / place).read_text()


def test_ci_tests_with_the_lower_bounds():
    """Each `name>=x` is `name==x` in the constraints of the oldest dependencies, and no others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tested = [extras[name] for name in ("examples", "onnx", "save", "frameworks", "test")]
    pytorch = [line for line in extras["bench"] if line.startswith("torch")]
    bounds = [Requirement(d) for d in sum(tested, project["dependencies"] + pytorch)]
    least = {r.name: Version(s.version) for r in bounds for s in r.specifier if s.operator == ">="}
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert {name: Version(version) for name, version in pins} == least


@pytest.mark.parametrize("tier", ["FAST", "SLOW"])
def test_every_test_that_is_moved_to_a_tier_is_there(tier):
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    entries = ast.literal_eval(re.search(rf"^{tier} = (\(.*?^\))", conftest, re.M | re.S)[1])
    for entry in entries:
        path, _, function = entry.partition("::")
        assert f"def {function.partition('[')[0]}" in (ROOT / "tests" / path).read_text(), entry
