"""The house's floors, read from the imports: a file imports lower floors or its own folder, and there is no circle."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hyperinverter"
FLOORS = {
    "config": 1, "ops": 1, "utils": 1, "checkpoint": 1,
    "data": 2, "models": 2,
    "published": 3,
    "pretrained": 4,
    "releases": 5,
    "directions": 6, "extractors": 6,
    "losses": 7, "metrics": 7, "inverters": 7,
    "editing": 8,
    "training": 9, "app": 9,
    "evaluation": 10,
    "reports": 11, "__main__": 11,
}  # fmt: skip
BELOW_CONFIG = {"utils"}  # floor 1 itself is ordered: utils < config, ops, checkpoint


def room(path: Path) -> str:
    """config for hyperinverter/config/load.py, checkpoint for hyperinverter/checkpoint.py, '' for __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: write absolute imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "hyperinverter" and len(parts) > 1 and parts[1] in FLOORS:
                rooms.add(parts[1])
            outside = ("scripts", "tests")
            assert parts[0] not in outside, f"{path.relative_to(ROOT)}: nothing in the package imports {parts[0]}"
    return rooms


def test_every_room_has_a_floor():
    for path in PACKAGE.rglob("*.py"):
        assert room(path) in FLOORS or room(path) == "", f"{path.relative_to(ROOT)}: give its folder a floor in FLOORS"


def test_no_arrow_points_up():
    faults = []
    for path in PACKAGE.rglob("*.py"):
        here = room(path)
        if here == "":
            continue  # the package's front door hands out names of any floor, lazily
        for there in imported_rooms(path) - {here}:
            same_floor = FLOORS[there] == FLOORS[here] and there not in BELOW_CONFIG
            if FLOORS[there] > FLOORS[here] or (same_floor and FLOORS[here] > 1):
                faults.append(
                    f"{path.relative_to(ROOT)} (floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]})"
                )
    assert not faults, "\n".join(faults)


def modules() -> dict[str, Path]:
    """Dotted name -> file, of the whole package; a folder goes by the name of its __init__."""
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): path for path, p in parts.items()}


def imported_files(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Modules that a file imports, at any place in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {other for other in found if other in known and other != name}


def test_no_file_imports_itself_in_a_circle():
    known = modules()
    arrows = {name: imported_files(name, path, known) for name, path in known.items() if name != "hyperinverter"}
    done: set[str] = set()

    def follow(name: str, way: list[str]) -> None:
        assert name not in way, "a circle: " + " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(arrows.get(name, ())):
                follow(other, [*way, name])
            done.add(name)

    for name in arrows:
        follow(name, [])


def test_a_model_is_loaded_by_few_of_our_files():
    """What is imported before the first call; each further method, reader or command is fetched when it is used."""
    known, needed, waiting = modules(), set(), ["hyperinverter.inverters"]
    while waiting:
        name = waiting.pop()
        if name in needed or name not in known:
            continue
        needed.add(name)
        waiting.append(name.rpartition(".")[0])
        for node in ast.parse(known[name].read_text()).body:  # imports in functions wait for their call
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    assert len(needed) < 60, sorted(needed)


def test_no_file_grows_past_350_lines_without_a_reason():
    for folder in (PACKAGE, ROOT / "scripts", ROOT / "tests"):
        for path in folder.rglob("*.py"):
            text = path.read_text()
            if text.count("\n") > 350:
                head = text[:1500].lower()
                assert "lines" in head and "because" in head, (
                    f"{path.relative_to(ROOT)}: split it, or say why at its top"
                )


def test_contributing_draws_the_floors_as_they_are():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    shown = {folder: int(floor) for floor, folders in rows for folder in re.findall(r"`(\w+)`", folders)}
    assert shown == {folder: floor for folder, floor in FLOORS.items() if folder != "__main__"}


def test_contributings_map_leads_somewhere():
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where is what")[2].partition("## ")[0]
    rows = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 15
    for answer in rows:
        named = re.findall(r"`([\w./*]+)`", answer)
        found = {name: list(PACKAGE.glob(name if "/" in name else f"**/{name}")) for name in named}
        code = "".join(path.read_text() for paths in found.values() for path in paths if path.is_file())
        for name, paths in found.items():
            assert paths or re.search(rf"\bdef {name}\b", code), f"{name} is not there: {answer}"
