"""What the paper claims, held against the measurements of every domain: it holds, it does not, or nobody measured it.

A claim of better or worse holds where the 95 % interval of the ratio over photos, drawn of both methods together, lies
on its side of 1; of effects that are not paired, where the intervals do not meet. A method that optimises in fewer
steps than published is not held against ours, nor an encoder that saw far fewer images than Phase I: the paper claims
nothing of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from hyperinverter.evaluation.tables import bracketed, table
from hyperinverter.inverters import INVERTERS
from hyperinverter.metrics.timing import own_time
from hyperinverter.reports.paper.methods import OURS, PHASE_1

Results = dict[str, dict[str, Any]]  # part -> its JSON, of one domain
HOLDS, FAILS, OPEN, NOT_YET = "holds", "does not hold", "open", "not measured"
ENCODERS = (PHASE_1, "psp", "e4e", "restyle", "hyperstyle")
DISTANCES = ("l2", "lpips")
IN_W_PLUS = ("psp", "e4e", "restyle", "sg2_plus")
FEW = 1 / 4  # of the images that Phase I saw are too few
NEARLY = 2 / 3  # of Phase I's effect is "nearly as far": the paper's Table 2 keeps 0.63 to 0.91 of it


class Finding(NamedTuple):
    """One comparison: its verdict, what was compared, with which method, and how it came out."""

    verdict: str
    what: str = ""
    against: str = ""
    numbers: str = ""


def claims_of(results: Results) -> dict[str, list[Finding]]:
    """Statement -> what was found; of what was not measured that it was not."""
    return {statement: list(check(results)) or [Finding(NOT_YET)] for statement, check in STATEMENTS.items()}


def claims_section(domains: dict[str, Results]) -> str:
    """The head of the page: a line for each claim, a column for each domain, and folded away the numbers behind it."""
    measured = {
        domain: results
        for domain, results in domains.items()
        if {"table1", "editability", "ablations"} & results.keys()
    }
    if not measured:
        return ""
    result = {domain: claims_of(results) for domain, results in measured.items()}
    words = {domain: {s: _in_words(findings) for s, findings in claims.items()} for domain, claims in result.items()}
    shown = [domain for domain in result if any(words[domain].values())]
    verdicts = [[_sentence(s), *(words[domain][s] or NOT_YET for domain in shown)] for s in STATEMENTS]
    rows = [
        [_sentence(statement), domain, one.numbers, one.verdict]
        for statement in STATEMENTS
        for domain, claims in result.items()
        for one in claims[statement]
        if one.numbers
    ]
    return "\n\n".join([
        "What the paper claims, and what of it holds here. A comparison is **open** where its 95 % interval leaves "
        "both answers possible. Encoders that saw far fewer images than Phase I, and optimisation in fewer steps than "
        "published, count as not measured:",
        table(["the paper's claim", *shown], verdicts),
        "<details><summary>The numbers behind it</summary>",
        "Brackets are 95 % intervals over photos. A ratio of distances is both phases' value over the other's. Of the "
        "ablations it is a ratio of L2, the first named over the second. Edits give the share of Phase I's effect that "
        f"is left ({NEARLY:.0%} or more is \"nearly as far\"), or the effect itself, for ages in years.",
        table(["claim", "domain", "measured", "verdict"], rows),
        "</details>",
    ])  # fmt: skip


def _sentence(statement: str) -> str:
    return statement[0].upper() + statement[1:]


def _in_words(findings: Sequence[Finding]) -> str:
    """`**holds** in 7 of 8 comparisons (**open**: lpips against e4e)`; the others alone where it never holds.

    "" where nothing was compared.
    """
    told = [one for one in findings if one.what or one.against]
    measured = [one.verdict for one in told if one.verdict != NOT_YET]
    parts = []
    for verdict in (FAILS, OPEN, NOT_YET):
        methods: dict[str, list[str]] = {}  # what was compared -> with whom
        for one in told:
            if one.verdict == verdict:
                methods.setdefault(one.what, []).append(one.against)
        pairs = [(what, ", ".join(filter(None, names))) for what, names in methods.items()]
        texts = [" against ".join(filter(None, pair)) for pair in pairs]
        parts += [f"**{verdict}**: {'; '.join(texts)}"] if texts else []
    if HOLDS not in measured:
        return ". ".join(parts)
    opponents = {one.against for one in told if one.verdict != NOT_YET and one.against}
    extent = f" against {opponents.pop()}" if len(opponents) == 1 else ""
    if {*measured} != {HOLDS}:
        extent = f" in {measured.count(HOLDS)} of {len(measured)} comparisons"
    return f"**{HOLDS}**{extent}" + (f" ({'. '.join(parts)})" if parts else "")


def _beats_encoders(results: Results) -> Iterator[Finding]:
    rows = results.get("table1", {}).get("rows", {})
    for name in ENCODERS:
        if name in results.get("table1", {}).get("paired", {}):
            yield from _against(results, name, smaller=True)
        elif name in rows:
            yield Finding(NOT_YET, "", rows[name]["title"], f"{rows[name]['title']}, no weights yet")


def _against(results: Results, name: str, smaller: bool) -> Iterator[Finding]:
    """Both phases' distances over another method's, on the photos of that one."""
    paired = results.get("table1", {}).get("paired", {}).get(name)
    if not paired or paired["of"] != OURS:
        return
    title = results["table1"]["rows"][name]["title"]
    if short := _shortened(results, name):
        yield Finding(NOT_YET, "", title, short)
        return
    for metric in DISTANCES:
        one = paired["metrics"].get(metric)
        if one is None or "ratio" not in one:
            yield Finding(NOT_YET, metric, title, f"{metric} against {title}")
            continue
        low, high = one["interval_95"]
        verdict = HOLDS if (high < 1 if smaller else low > 1) else FAILS if (low > 1 if smaller else high < 1) else OPEN
        numbers = f"{metric} × {bracketed(one['ratio'], (low, high), '.2f')} of {title}'s, n = {paired['n']}"
        yield Finding(verdict, metric, title, numbers)


def _shortened(results: Results, name: str) -> str:
    """Of a method that optimises in fewer steps than published, or of an encoder that saw few images: how many."""
    rows = results.get("table1", {}).get("rows", {})
    row = rows.get(name, {})
    saw, phase_1_saw = (_images(rows.get(encoder, {}), encoder) for encoder in (name, PHASE_1))
    if saw and phase_1_saw and saw < FEW * phase_1_saw:
        return f"{row['title']} saw {saw:,} images in its last training run, Phase I {phase_1_saw:,}"
    steps = {key: row.get("settings", {}).get(key) for key in ("steps", "tuning_steps")}
    usual = {key: getattr(INVERTERS[name], key) for key, value in steps.items() if value is not None}
    if all(steps[key] >= usual[key] for key in usual):
        return ""
    text = " and ".join(f"{steps[key]} of {number}" for key, number in usual.items())
    return f"{row['title']} was measured with {text} steps"


def _images(row: dict[str, Any], name: str) -> int | None:
    """That an encoder saw in its last training run."""
    return row.get("trained", {}).get(name, {}).get("images")


def _pti(results: Results) -> Iterator[Finding]:
    yield from _against(results, "pti", smaller=False)
    rows = results.get("table1", {}).get("rows", {})
    slow, fast = (own_seconds(rows.get(name, {})) for name in ("pti", OURS))
    if slow and fast and not _shortened(results, "pti"):
        numbers = f"{slow / fast:,.0f} times the time ({slow:.0f} s an image)"
        yield Finding(HOLDS if slow > fast else FAILS, "the time", "", numbers)


def own_seconds(row: dict[str, Any]) -> float | None:
    """Of an image; on one CPU thread those in which it computed, so that what else ran there does not count."""
    cell = row.get("cells", {}).get("seconds", {})
    return own_time(cell["value"], cell.get("computing"), row.get("device", "")) if cell.get("value") else None


def _nearly_as_far(results: Results) -> Iterator[Finding]:
    for direction, figures in results.get("editability", {}).get("directions", {}).items():
        for judge, measured in figures["classifiers"].items():
            if measured.get("kept") is None:
                continue
            low, high = measured["kept_interval_95"]
            verdict = HOLDS if low >= NEARLY else FAILS if high < NEARLY else OPEN
            what = f"{direction} by {judge}"
            yield Finding(verdict, what, "", f"{what} {bracketed(measured['kept'], (low, high), '.0%')}")


def _farther(results: Results) -> Iterator[Finding]:
    titles = results.get("table2", {}).get("titles", {})
    for direction, judges in results.get("table2", {}).get("directions", {}).items():
        for judge, one in judges.items():
            ours = one["methods"].get(OURS)
            for name in IN_W_PLUS:
                theirs = one["methods"].get(name)
                if ours is None or theirs is None:
                    continue
                title = titles.get(name, name)
                if short := _shortened(results, name):
                    yield Finding(NOT_YET, f"{direction} by {judge}", title, short)
                    continue
                mine, other = ours["effect"]["interval_95"], theirs["effect"]["interval_95"]
                verdict = HOLDS if mine[0] > other[1] else FAILS if mine[1] < other[0] else OPEN
                effects = f"{ours['effect']['mean']:.3g} against {title}'s {theirs['effect']['mean']:.3g}"
                what = f"{direction} by {judge}"
                yield Finding(verdict, what, title, f"{what} {effects}, n = {theirs['n']}")


def _ablations(results: Results) -> Iterator[Finding]:
    for one in (results.get("ablations") or results.get("table3") or {}).get("statements", ()):
        verdict = OPEN if one["verdict"].startswith(OPEN) else one["verdict"]
        ratio = bracketed(one["ratio"], one["interval_95"], ".3f")
        yield Finding(verdict, f'"{one["statement"]}"', "", f"{one['statement']}: × {ratio}")


STATEMENTS: dict[str, Callable[[Results], Iterator[Finding]]] = {  # statement -> what checks it
    "both phases beat every other encoder on L2 and LPIPS": _beats_encoders,
    "on L2 and LPIPS they also beat SG2 W+": lambda results: _against(results, "sg2_plus", smaller=True),
    "PTI reconstructs better, at a multiple of the time": _pti,
    "after Phase II edits still go nearly as far as in Phase I": _nearly_as_far,
    "edits go farther than those of W+ methods": _farther,
    "every part that the ablations leave out makes it worse, a larger D better": _ablations,
}
