"""What the paper claims, held against the measurements of every domain: it holds, it does not, or nobody measured it.

A claim of better or worse holds where the 95 % interval of the ratio over photos, drawn of both methods together, lies
on its side of 1; of effects that are not paired, where the intervals do not meet.
"""

from collections.abc import Callable, Iterator
from typing import Any

from hyperinverter.evaluation.tables import table
from hyperinverter.metrics.timing import own_time
from hyperinverter.reports.paper.methods import OURS, PHASE_1

Results = dict[str, dict[str, Any]]  # part -> its JSON, of one domain
HOLDS, FAILS, OPEN, NOT_YET = "holds", "does not hold", "open", "not measured"
ENCODERS = (PHASE_1, "psp", "e4e", "restyle", "hyperstyle")
DISTANCES = ("l2", "lpips")
IN_W_PLUS = ("psp", "e4e", "restyle", "sg2_plus")
NEARLY = 2 / 3  # of Phase I's effect is "nearly as far": the paper's Table 2 keeps 0.63 to 0.91 of it


def claims_of(results: Results) -> dict[str, list[tuple[str, str]]]:
    """Statement -> verdicts with what was compared and how it came out; of what was not measured that it was not."""
    return {statement: list(check(results)) or [(NOT_YET, "")] for statement, check in STATEMENTS.items()}


def claims_section(domains: dict[str, Results]) -> str:
    """The head of the page: claims down, domains across."""
    measured = {
        domain: results
        for domain, results in domains.items()
        if {"table1", "editability", "ablations"} & results.keys()
    }
    if not measured:
        return ""
    found = {domain: claims_of(results) for domain, results in measured.items()}
    rows = [[statement, *(_cell(found[domain][statement]) for domain in measured)] for statement in STATEMENTS]
    return (
        "What the paper claims, and what holds here, made from the measurements below (ratios are both phases' value "
        "over the other's, with 95 % intervals over photos):\n\n" + table(["claim", *measured], rows)
    )


def _cell(verdicts: list[tuple[str, str]]) -> str:
    """Alike verdicts together, the word first."""
    parts = []
    for verdict in (HOLDS, FAILS, OPEN, NOT_YET):
        details = [detail for one, detail in verdicts if one == verdict]
        if details:
            text = "; ".join(filter(None, details))
            parts.append(f"**{verdict}**" + (f": {text}" if text else ""))
    return ". ".join(parts)


# ------------------------------------------------------------------------------------------------ reconstruction


def _beats_encoders(results: Results) -> Iterator[tuple[str, str]]:
    rows = results.get("table1", {}).get("rows", {})
    for name in ENCODERS:
        if name in results.get("table1", {}).get("paired", {}):
            yield from _against(results, name, smaller=True)
        elif name in rows:
            yield NOT_YET, f"{rows[name]['title']}, no weights yet"


def _against(results: Results, name: str, smaller: bool) -> Iterator[tuple[str, str]]:
    """Both phases' distances over another method's, on the photos of that one."""
    paired = results.get("table1", {}).get("paired", {}).get(name)
    if not paired or paired["of"] != OURS:
        return
    title = results["table1"]["rows"][name]["title"]
    for metric in DISTANCES:
        one = paired["metrics"].get(metric)
        if one is None or "ratio" not in one:
            yield NOT_YET, f"{metric} against {title}"
            continue
        low, high = one["interval_95"]
        verdict = HOLDS if (high < 1 if smaller else low > 1) else FAILS if (low > 1 if smaller else high < 1) else OPEN
        yield verdict, f"{metric} × {one['ratio']:.2f} [{low:.2f}, {high:.2f}] of {title}'s, n = {paired['n']}"


def _pti(results: Results) -> Iterator[tuple[str, str]]:
    yield from _against(results, "pti", smaller=False)
    rows = results.get("table1", {}).get("rows", {})
    slow, fast = (_seconds(rows.get(name, {})) for name in ("pti", OURS))
    if slow and fast:
        yield HOLDS if slow > fast else FAILS, f"{slow / fast:,.0f} times the time ({slow:.0f} s an image)"


def _seconds(row: dict[str, Any]) -> float | None:
    """Of an image; on one CPU thread those in which it computed, so that what else ran there does not count."""
    cell = row.get("cells", {}).get("seconds", {})
    return own_time(cell["value"], cell.get("computing"), row.get("device", "")) if cell.get("value") else None


# ------------------------------------------------------------------------------------------- edits and ablations


def _nearly_as_far(results: Results) -> Iterator[tuple[str, str]]:
    for direction, figures in results.get("editability", {}).get("directions", {}).items():
        for judge, measured in figures["classifiers"].items():
            if measured.get("kept") is None:
                continue
            low, high = measured["kept_interval_95"]
            verdict = HOLDS if low >= NEARLY else FAILS if high < NEARLY else OPEN
            yield verdict, f"{direction} ({judge}) {measured['kept']:.0%} [{low:.0%}, {high:.0%}]"


def _farther(results: Results) -> Iterator[tuple[str, str]]:
    titles = results.get("table2", {}).get("titles", {})
    for direction, judges in results.get("table2", {}).get("directions", {}).items():
        for judge, one in judges.items():
            ours = one["methods"].get(OURS)
            for name in IN_W_PLUS:
                theirs = one["methods"].get(name)
                if ours is None or theirs is None:
                    continue
                mine, other = ours["effect"]["interval_95"], theirs["effect"]["interval_95"]
                verdict = HOLDS if mine[0] > other[1] else FAILS if mine[1] < other[0] else OPEN
                effects = (
                    f"{ours['effect']['mean']:.3g} against {titles.get(name, name)}'s {theirs['effect']['mean']:.3g}"
                )
                yield verdict, f"{direction} ({judge}) {effects}, n = {theirs['n']}"


def _ablations(results: Results) -> Iterator[tuple[str, str]]:
    for one in (results.get("ablations") or results.get("table3") or {}).get("statements", ()):
        low, high = one["interval_95"]
        verdict = OPEN if one["verdict"].startswith(OPEN) else one["verdict"]
        yield verdict, f"{one['statement']} × {one['ratio']:.3f} [{low:.3f}, {high:.3f}]"


STATEMENTS: dict[str, Callable[[Results], Iterator[tuple[str, str]]]] = {  # statement -> what checks it
    "both phases beat every other encoder on L2 and LPIPS": _beats_encoders,
    "on L2 and LPIPS they also beat SG2 W+": lambda results: _against(results, "sg2_plus", smaller=True),
    "PTI reconstructs better, at a multiple of the time": _pti,
    "after Phase II edits still go nearly as far as in Phase I": _nearly_as_far,
    "and farther than those of W+ methods": _farther,
    "every part that the ablations leave out makes it worse, a larger D better": _ablations,
}
