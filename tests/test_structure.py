"""The house: no circle among modules, no arrow from a lower stage to a higher one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pitome_fx

ROOT = Path(pitome_fx.__file__).parent

ORDER = (
    (
        "errors",
        "algorithms",
        "clock",
        "groups",
        "lowerings",
        "matching",
        "options",
        "ops",
        "portable",
        "progress",
        "rendering",
        "report",
        "switch",
    ),
    ("passes.failures",),
    ("passes.aten",),
    ("passes.tokens",),
    ("passes.capture",),
    ("passes.replay",),
    ("passes.rules",),
    ("passes.detect",),
    ("passes.plan",),
    ("passes.rewrite",),
    ("passes.dissolve",),
    ("passes.regions",),
    ("passes.observing",),
    ("passes.pipeline",),
    ("passes.reporting",),
    ("deploy",),
    ("backends",),
    (
        "frontends.grid",
        "frontends.tokens",
        "frontends.transform",
        "frontends.transformed",
        "frontends.watching",
    ),
    ("viz",),
    ("page",),
    ("frontends",),
    ("measuring",),
    ("calibration", "spectral"),
    ("testing",),
    ("cli",),
)
"""From the lowest to the highest: each may import its own folder, and what stands before it."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name without ``pitome_fx.``."""
    found = {}
    # Through the symlinks of a checkout: passes and backends lie at the top level.
    for folder, files in ((ROOT, ROOT.glob("*.py")), *((d, d.rglob("*.py")) for d in _folders())):
        for path in files:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
        assert folder.exists()
    return {name: path for name, path in found.items() if name not in ("__init__", "__main__")}


def _folders() -> list[Path]:
    return [path for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()]


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """What a module imports of the package, for types alone included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pitome_fx"):
            module = (node.module or "").removeprefix("pitome_fx").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix(".")
                yield inner if inner in known else module


def arrows() -> list[tuple[str, str]]:
    """(module, what it imports). A package's ``__init__`` gathers what lies in it."""
    known = modules()
    return [
        (name, other)
        for name, path in known.items()
        for other in imports(path, known)
        if other and not other.startswith(f"{name}.") and other != name
    ]


def stage(module: str) -> int:
    """How high a module stands."""
    for height, names in enumerate(ORDER):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return height
    raise AssertionError(f"{module} has no place in the order: say in ORDER where it belongs")


def test_no_arrow_points_upwards() -> None:
    named = [(name, other) for name, other in arrows() if name != "passes" and other != "passes"]
    upwards = [f"{name} → {other}" for name, other in named if stage(other) > stage(name)]
    assert not upwards, f"imports of what stands higher: {upwards}"


def test_no_circle_among_modules() -> None:
    after: dict[str, set[str]] = {}
    for name, other in arrows():
        after.setdefault(name, set()).add(other)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in after.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in after:
        visit(name, ())


def test_every_folder_of_the_passes_is_described() -> None:
    text = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text()
    folders = [path.name for path in (ROOT / "passes").iterdir() if (path / "__init__.py").exists()]
    missing = [name for name in folders if f"`passes/{name}/`" not in text]
    assert folders and not missing, f"docs/architecture.md does not say what is in {missing}"
