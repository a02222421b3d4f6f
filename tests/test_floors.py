"""The house rules a machine can check: who may import whom, what pure rooms keep out, what no file may contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
CORE = ("domain", "rules", "wire", "effects", "ports", "controls", "desk", "admission", "pipeline")

# The picture: a room (folder or file below src/bursar) -> what of ours it may import, at any depth.
# A longer name wins over a shorter one. Rooms that are not listed are edges, and may import everything.
OURS: dict[str, tuple[str, ...]] = {
    "domain": ("domain",),
    "rules": ("rules", "domain"),
    "wire": ("wire", "domain"),
    "stores": ("stores", "domain", "ports"),
    "effects": ("domain",),
    "ports": ("domain", "effects"),
    "controls": ("controls", "domain", "rules", "wire", "effects"),
    "desk": ("domain", "rules", "wire", "effects", "controls"),
    "admission": ("domain", "rules", "wire", "effects", "controls", "desk"),
    "pipeline": CORE,
    "drive": (*CORE, "drive", "stores"),
}
# … and which packages from outside the standard library.
THEIRS: dict[str, tuple[str, ...]] = {
    "domain": (),
    "domain.policy": ("msgspec",),
    "domain.shape": ("msgspec",),
    "rules": (),
    "rules.price": ("msgspec",),  # to write the legs: its encoder is a third of a row's cost less
    "wire": ("msgspec", "brotli", "zstandard"),
    "wire.opening": ("msgspec", "blake3"),
    "stores": ("apsw", "duckdb", "sqlglot", "msgspec"),
    "effects": (),
    "ports": (),
    "controls": (),
    "desk": (),
    "admission": (),
    "pipeline": (),
    "drive": (),
    "testing": (),  # ships with the package: the provider's invoice must share nothing with our books
}
# The auditor that we are checked against must not be us.
APART = {f"testing.{name}" for name in (
    "provider", "answering", "invoice", "script", "speech", "speech_openai", "spoken",
    "company", "agents", "shapes", "planned", "talk", "prose", "failures", "scenario", "causes", "variants", "traffic", "conversing",
    "truth",
)}  # fmt: skip

PURE = ("domain", "rules", "wire")
WORLD = {"asyncio", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "selectors", "socket", "ssl",
         "subprocess", "tempfile", "threading", "time"}  # clock, file, socket, environment, chance  # fmt: skip

# Modules on the way of a call, and what they must never load: 105 MB of prices, two query engines, terminal toys.
HOT = ("bursar.pipeline", "bursar.drive", "bursar.surfaces.gateway", "bursar.surfaces.transport")
HEAVY = ("duckdb", "sqlglot", "genai_prices", "rich", "click")

# Who may catch everything, and why. A handler that ends by raising again catches nothing and needs no entry.
CATCH_ALL = {
    "drive.py": "our fault must not break the caller's call; tests re-raise",
    "surfaces/watch.py": "one failing chore must not stop the clockwork; tests re-raise",
    "surfaces/bell.py": "a channel that fails must not silence the others; tests re-raise",
}


@cache
def modules() -> list[Path]:
    return sorted((SRC / "bursar").rglob("*.py"))


def dotted(path: Path) -> str:
    """`rules.guard` for src/bursar/rules/guard.py, `rules` for its package, empty for bursar itself."""
    parts = path.relative_to(SRC / "bursar").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def nodes(root: ast.AST, module_level: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(root):
        if module_level and (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or is_typing_only(child)):
            continue
        yield child
        yield from nodes(child, module_level)


def imports(path: Path, module_level: bool = False) -> Iterator[str]:
    """Absolute dotted names imported, `bursar.domain.money` style; of `from . import x` the module x where there is one."""
    known = {f"bursar.{dotted(p)}" for p in modules()}
    name = dotted(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in nodes(tree(path), module_level):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = [part for part in package if part]
                here = here[: len(here) - (node.level - 1)]
                base = ".".join(["bursar", *here, *filter(None, [node.module])])
            for alias in node.names:
                # `from . import sse` needs the module sse, not what the package's own file says.
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base


def lookup(table: dict[str, tuple[str, ...]], name: str) -> tuple[str, ...] | None:
    while name:
        if name in table:
            return table[name]
        name = name.rpartition(".")[0]
    return None


def ours(path: Path, module_level: bool = False) -> set[str]:
    """The modules of this package that a file imports, as dotted names below `bursar`."""
    known = {dotted(p) for p in modules()}
    found = {i.removeprefix("bursar.") for i in imports(path, module_level) if i.startswith("bursar.")}
    return {i for i in found if i in known} - {dotted(path)}


def picture_faults() -> list[str]:
    faults: list[str] = []
    for path in modules():
        name = dotted(path)
        allowed = lookup(OURS, name)
        for target in sorted(ours(path)):
            if allowed is not None and target.split(".")[0] not in allowed:
                faults.append(f"{name} imports bursar.{target}")
            if name in APART and target not in APART:
                faults.append(f"{name} imports bursar.{target}: the auditor must share no code with the audited")
        allowed = lookup(THEIRS, name)
        for target in {i.split(".")[0] for i in imports(path)} - {"bursar", ""}:
            if allowed is not None and target not in sys.stdlib_module_names and target not in allowed:
                faults.append(f"{name} imports {target}")
    return faults


def test_every_room_imports_only_what_the_picture_allows() -> None:
    """domain at the bottom, rules and wire beside each other, pipeline above them, edges on top."""
    assert picture_faults() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """At module level, so that any file can be read, imported and tested by itself."""
    graph = {dotted(path): ours(path, module_level=True) for path in modules()}
    state: dict[str, int] = {}

    def walk(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == 2:
            return
        assert name not in trail, "import cycle: " + " -> ".join([*trail[trail.index(name) :], name])
        for target in sorted(graph.get(name, ())):
            walk(target, (*trail, name))
        state[name] = 2

    for name in graph:
        walk(name, ())


def test_the_pure_rooms_know_no_clock_no_file_no_socket_and_never_wait() -> None:
    """What decides can be replayed from the ledger only if nothing in it depends on when and where it runs."""
    faults: list[str] = []
    for path in modules():
        name = dotted(path)
        if name.split(".")[0] not in PURE:
            continue
        faults += [f"{name} imports {i}" for i in {i.split(".")[0] for i in imports(path)} & WORLD]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith):
                faults.append(f"{name}:{node.lineno} waits")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("open", "print", "input") or called.endswith((".now", ".utcnow", ".today")):
                    faults.append(f"{name}:{node.lineno} calls {called}")
    assert faults == []


def test_no_float_comes_near_money() -> None:
    """A float constructor in the nouns or in pricing is how a cent gets lost."""
    faults: list[str] = []
    for path in modules():
        name = dotted(path)
        if not (name.startswith("domain") or name in ("rules.price", "rules.rerate")):
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "float":
                faults.append(f"{name}:{node.lineno}")
    assert faults == []


def test_only_three_places_catch_everything() -> None:
    """A catch-all hides a bug in money; the three that exist re-raise in tests."""
    faults: list[str] = []
    for path in modules():
        file = path.relative_to(SRC / "bursar").as_posix()
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler) or file in CATCH_ALL:
                continue
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = any(c is None or ast.unparse(c) in ("Exception", "BaseException") for c in caught)
            last = node.body[-1]
            if broad and not (isinstance(last, ast.Raise) and last.exc is None):
                faults.append(f"{file}:{node.lineno}")
    assert faults == []


def test_every_file_says_first_what_may_live_in_it() -> None:
    """The first line of a file is its docstring."""
    files = [*modules(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    faults = [
        str(path.relative_to(ROOT))
        for path in files
        if path.stat().st_size  # an empty __init__.py makes a package, and that is all that lives in it
        and not (ast.get_docstring(tree(path)) and path.read_text(encoding="utf-8").startswith(('"""', 'r"""')))
    ]
    assert faults == []


@pytest.mark.parametrize("module", HOT)
def test_the_way_of_a_call_never_loads_a_query_engine(module: str) -> None:
    """The gateway must start in under 0.4 s and idle under 60 MB, the wrapper import in under 80 ms."""
    code = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY!r})))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=SRC, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing says which files are ours")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_machine_or_a_package_index() -> None:
    """The project must work where it is cloned, with the index that is set up there. Spelled in pieces, or this file
    would be the first to break the rule."""
    folders = "|".join(("ro" + "ot", "ho" + "me", "wo" + "rk"))
    hosts = "|".join(re.escape(dot.replace(" ", ".")) for dot in (
        "pypi org", "files pythonhosted org", "registry npmjs org", "deb debian org", "proxy golang org"))  # fmt: skip
    pattern = re.compile(rf"(?<![\w.}}*~-])/(?:{folders})/|{hosts}")
    faults: list[str] = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        faults += [f"{path.relative_to(ROOT)}: {found.group()}" for found in pattern.finditer(text)]
    assert faults == []


def test_every_requirement_is_pinned_and_hashed() -> None:
    """What CI tested is what gets installed; a line that is not pinned would make pip refuse the whole file."""
    for file in ("requirements.txt", "requirements-build.txt", "requirements-test.txt"):
        text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert lines
        for line in lines:
            assert re.match(r"[\w.\[\]-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line), f"{file}: {line[:80]}"


def test_the_three_requirement_files_agree_on_every_version() -> None:
    """`make demo` and `make test` share one environment: the second must not replace what the first installed."""
    pins: dict[str, set[str]] = {}
    for file in ("requirements.txt", "requirements-build.txt", "requirements-test.txt"):
        for name, version in re.findall(r"^([\w.\[\]-]+)==(\S+)", (ROOT / file).read_text(encoding="utf-8"), re.M):
            pins.setdefault(name, set()).add(version)
    assert {name: found for name, found in pins.items() if len(found) > 1} == {}
