"""Figures 6 and 10: which method people put first, of reconstructions and of edits.

Builds the blind page (ranking.html with its pictures, used by keyboard or pointer), and counts the votes that it saved.
Nothing in the page says which method made a picture: pictures have codes, and what a code means lies in another file.
Questions and pictures are shuffled anew for every participant, in the browser; nothing is sent anywhere. Nobody's votes
are made up: without files in `votes` there is the page and no figure.
"""

import hashlib
import html
import json
import secrets
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from hyperinverter.directions.direction import edit
from hyperinverter.evaluation.drawing import new_figure, save_figure
from hyperinverter.evaluation.editability import choose_photos, shown
from hyperinverter.evaluation.tables import bracketed, listed
from hyperinverter.metrics import NotMeasured
from hyperinverter.metrics.base import middle_95
from hyperinverter.reports.html_page import Block, Picture, Table, address_of, filled
from hyperinverter.reports.paper.bench import Bench, photos_at
from hyperinverter.reports.paper.methods import Method
from hyperinverter.reports.paper.values import FIRST_PLACES
from hyperinverter.reports.reproduce.edits import directions_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import ordinary_bytes, write_text
from hyperinverter.utils.images import file_bytes, to_pil

PAGE = Path(__file__).with_suffix(".html")
MOST_PX = 512  # side of a picture on the page
TASKS = ("reconstruction", "editing")
RESAMPLES = 1000
MOST_BYTES = 10_000_000  # of a file of votes, which holds 12 letters a picture
# kind -> task -> what people are asked, as the paper's supplement B.2 says
ASKED = {
    "faces": {
        "reconstruction": "Rank how well each picture shows the input: the same person, the same details (background, "
        "makeup, shadow, hat), and a good picture.",
        "editing": "Each picture is the input with this changed: {edit}. Rank how well the person and all other "
        "details of the input are kept.",
    },
    "scenes": {
        "reconstruction": "Rank how well each picture shows the input: as many of its details as possible, and a good "
        "picture.",
        "editing": "Each picture is the input with this changed: {edit}. Rank how well all other details are kept.",
    },
}


def encoded(picture: Image.Image) -> str:
    """A picture as a data address, at most MOST_PX wide."""
    small = picture.copy()
    small.thumbnail((MOST_PX, MOST_PX), Image.Resampling.LANCZOS)
    return address_of(file_bytes(small, format="PNG"), "image/png")


def write_page(path: Path, page_id: str, title: str, questions: Sequence[dict[str, Any]]) -> None:
    """Write the page.

    Args:
        page_id: stands in the votes that it saves.
        questions: `id`, `task`, `text`, `photo` (the input) and `pictures`: code -> what a method made. Pictures are as
            `encoded` gives them.
    """
    data = json.dumps({"page": page_id, "questions": questions})
    safe = data.replace("<", "\\u003c")  # no text of it ends the script
    write_text(path, filled(PAGE, TITLE=html.escape(title), DATA=safe))


def ranking(figure: str, bench: Bench) -> dict[str, Any]:
    """`<figure>_ranking.html` to be voted on, its key beside it, and the figure of the votes that are given."""
    key = _built(bench, figure)
    result: dict[str, Any] = {
        "page": f"{figure}_ranking.html",
        "questions": len(key["questions"]),
        "methods": {name: bench.methods[name].title for name in key["methods"]},
        "missing": [line for line in bench.faults() if line.partition(":")[0] in bench.config.ranked],
        "credit": bench.credit(),
        "participants": 0,
        "tasks": {},
    }
    if not bench.config.votes:
        return result
    votes = read_votes(bench.config.votes, key)
    kind = bench.config.domain.kind
    result["participants"] = len({vote["participant"] for vote in votes})
    result["tasks"] = {task: count(votes, task, key, kind) for task in TASKS}
    _draw(result, bench.output / figure)
    return result


def _ranked(bench: Bench) -> list[Method]:
    return [m for name in bench.config.ranked if (m := bench.methods.get(name)) and not m.fault]


def lacks_ranked(bench: Bench) -> list[str]:
    here = [method.name for method in _ranked(bench)]
    text = f"people rank two methods or more of ranked ({', '.join(bench.config.ranked)}); here are "
    return [] if len(here) > 1 else [text + (", ".join(here) or "none")]


def _built(bench: Bench, figure: str) -> dict[str, Any]:
    """What the codes of the page mean; the page is kept as long as its pictures are the same, as are its codes."""
    methods = _ranked(bench)
    if lacking := lacks_ranked(bench):
        raise NotMeasured(lacking[0])
    page, place = bench.output / f"{figure}_ranking.html", bench.output / f"{figure}_key.json"
    strengths = [bench.config.strengths, bench.config.strength_unit, bench.config.ranked_photos]
    key = bench.key(figure, [bench.method_key(method) for method in methods], bench.shown_digest, strengths)
    if known := bench.found(place, key, [page]):
        return known
    salt = secrets.token_hex(16)
    indices = choose_photos([None] * len(bench.shown), bench.config.ranked_photos)
    photos, names = photos_at(bench.shown, indices)
    directions = directions_of(bench.load(methods[-1]))
    strength = sorted(bench.config.strengths)[len(bench.config.strengths) // 2]
    edits = [directions[i % len(directions)] for i in range(len(names))] if directions else []
    made: dict[str, dict[str, Sequence[Tensor]]] = {task: {} for task in TASKS}
    for method in methods:
        inverter = bench.load(method)
        inversions = list(bench.reconstructor(method, bench.shown).invert(photos.to(bench.device), names))
        made["reconstruction"][method.name] = [shown(inverter, one)[0].cpu() for one in inversions]
        gammas = [inverter.in_w([strength], bench.config.strength_unit, direction)[0] for direction in edits]
        moved = [edit(*one) for one in zip(inversions, edits, gammas, strict=True)] if edits else []
        made["editing"][method.name] = [shown(inverter, one)[0].cpu() for one in moved]
    questions: list[dict[str, Any]] = []
    codes: dict[str, str] = {}
    tasks: dict[str, list[str]] = {}
    for task in TASKS:
        for i in range(len(next(iter(made[task].values())))):
            own = _codes(salt, f"{task} {i}", methods)
            codes |= {code: name for name, code in own.items()}
            told = f"{edits[i].name.replace('_', ' ')} (+)" if edits else ""
            text = ASKED[bench.config.domain.kind][task].format(edit=told)
            pictures = {code: encoded(to_pil(made[task][name][i].clamp(-1, 1))) for name, code in own.items()}
            pictures = dict(sorted(pictures.items()))  # in an order that tells nothing
            photo = encoded(to_pil(photos[i]))
            questions.append({"id": f"{task}_{i}", "task": task, "text": text, "photo": photo, "pictures": pictures})
            tasks[f"{task}_{i}"] = sorted(own.values())
    write_page(page, key, f"Which picture is best? {bench.domain_name}", questions)
    return bench.keep(place, key, {"methods": [m.name for m in methods], "codes": codes, "questions": tasks})


def _codes(salt: str, question: str, methods: Sequence[Method]) -> dict[str, str]:
    """Method -> a code that says nothing of it without the salt, which is kept nowhere."""
    return {m.name: hashlib.sha256(f"{salt} {question} {m.name}".encode()).hexdigest()[:12] for m in methods}


def read_votes(patterns: Sequence[str], key: dict[str, Any]) -> list[dict[str, Any]]:
    """Files that the page saved -> one dict per vote: `participant`, `question`, `ranked` (methods, the best first).

    Raises:
        UserError: a file is missing, of another page, not whole, or a participant's question is given twice; names all.
    """
    paths = [Path(path) for pattern in patterns for path in (sorted(glob(pattern, recursive=True)) or [pattern])]
    votes: list[dict[str, Any]] = []
    faults: list[str] = []
    seen: set[tuple[str, str]] = set()
    for path in dict.fromkeys(paths):
        try:
            votes += _votes_of(path, key, seen)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return votes


def _votes_of(path: Path, key: dict[str, Any], seen: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    refusal = f"votes: {path}: is no file of votes that the page saved; ask for it again"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(refusal)
        saved = json.loads(ordinary_bytes(path).decode("utf-8"))
        page, participant, votes = saved["page"], saved["participant"], list(saved["votes"])
        pairs = [(vote["question"], list(vote["ranked"])) for vote in votes]
    except OSError as error:
        raise UserError(f"votes: {path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(refusal) from error
    texts = [page, participant, *(text for question, ranked in pairs for text in (question, *ranked))]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(refusal)
    if page != key["key"]:
        raise UserError(
            f"votes: {path}: was saved by page {page[:40]!r}, this one is {key['key']}: votes count only for the "
            f"page they were given on; give the output folder of that page, or leave the file out"
        )
    for question, ranked in pairs:
        if question not in key["questions"] or sorted(ranked) != key["questions"][question]:
            raise UserError(
                f"votes: {path}: question {str(question)[:40]!r} does not rank the page's pictures, each once"
            )
        if (participant, question) in seen:
            raise UserError(f"votes: {path}: question {question} of participant {participant[:40]} is given twice")
        seen.add((participant, question))
    return iter(
        {"participant": participant, "question": question, "ranked": [key["codes"][code] for code in ranked]}
        for question, ranked in pairs
    )


def count(votes: Sequence[dict[str, Any]], task: str, key: dict[str, Any], kind: str) -> dict[str, Any]:
    """Votes, participants, and method -> share of votes at each rank (the best first), with 95 % intervals.

    The interval is over participants drawn again, as one's votes are alike; of one participant there is none.
    """
    own = [vote for vote in votes if vote["question"].startswith(f"{task}_")]
    people = sorted({vote["participant"] for vote in own})
    names = key["methods"]
    counts = np.zeros((len(people), len(names), len(names)))  # [participant, method, rank]
    for vote in own:
        for rank, name in enumerate(vote["ranked"]):
            counts[people.index(vote["participant"]), names.index(name), rank] += 1
    if not own:
        return {"votes": 0, "participants": 0, "methods": {}}
    drawn = counts[np.random.default_rng(0).integers(0, len(people), (RESAMPLES, len(people)))].sum(1)
    totals = drawn.sum(axis=2, keepdims=True)
    shares, resampled = counts.sum(0) / len(own), drawn / np.maximum(totals, 1)
    methods = {}
    for i, name in enumerate(names):
        methods[name] = {
            "shares": shares[i].tolist(),
            "intervals_95": [list(middle_95(resampled[:, i, rank])) for rank in range(len(names))]
            if len(people) > 1
            else None,
            "paper": FIRST_PLACES.get(kind, {}).get(task, {}).get(name),
        }
    return {"votes": len(own), "participants": len(people), "methods": methods}


def _draw(result: dict[str, Any], stem: Path) -> None:
    """Stacked bars per task: the best rank at the bottom, with its interval; the paper's share as a dash."""
    tasks = {task: one for task, one in result["tasks"].items() if one["votes"]}
    if not tasks:
        return
    figure, axes = new_figure(5.0 * len(tasks), 4.2, ncols=len(tasks), squeeze=False)
    for axis, (task, one) in zip(axes[0], tasks.items(), strict=True):
        names = list(one["methods"])
        bottom = np.zeros(len(names))
        for rank in range(len(names)):
            shares = np.array([method["shares"][rank] for method in one["methods"].values()])
            grey = 0.25 + 0.6 * rank / max(len(names) - 1, 1)
            label = f"{rank + 1}." + (" (best)" if rank == 0 else " (worst)" if rank == len(names) - 1 else "")
            axis.bar(range(len(names)), 100 * shares, bottom=100 * bottom, color=str(grey), label=label, width=0.6)
            bottom += shares
        for place, method in enumerate(one["methods"].values()):
            share = method["shares"][0]
            if method["intervals_95"]:
                low, high = method["intervals_95"][0]
                axis.errorbar(
                    place, 100 * share, [[100 * (share - low)], [100 * (high - share)]], color="red", capsize=4
                )
            if method["paper"] is not None:
                axis.plot([place - 0.3, place + 0.3], [100 * method["paper"]] * 2, color="tab:blue", linestyle="--")
        axis.set(xticks=range(len(names)), xticklabels=[result["methods"][name] for name in names], ylim=(0, 100))
        axis.set(title=f"{task}, {one['votes']} votes", ylabel="% of votes")
    axes[0][0].legend(fontsize="small", title="rank")
    save_figure(figure, stem)


def ranking_blocks(result: dict[str, Any]) -> Iterator[Block]:
    methods = ", ".join(result["methods"].values())
    if not result["participants"]:
        yield (
            f"Nobody has voted yet. {result['page']} has {result['questions']} questions on {methods}: let people open "
            "it, collect the files that it saves, and give them as 'votes=[FOLDER/votes_*.json]'."
        )
    else:
        yield (
            f"Votes of {result['participants']} participants on {result['questions']} questions: how often each method "
            "was put first, second, ..., with 95 % intervals over participants; in italics the paper's share of first "
            "places."
        )
        yield Picture(
            f"{result['page'].partition('_')[0]}.svg",
            "Shares of votes: red 95 % intervals of first places, blue the paper's",
        )
        rows = []
        for task, one in result["tasks"].items():
            for name, method in one["methods"].items():
                cells = []
                for rank, share in enumerate(method["shares"]):
                    bounds = method["intervals_95"] and method["intervals_95"][rank]
                    cells.append(bracketed(share, bounds, ".1%"))
                if method["paper"] is not None:
                    cells[0] += f" *{method['paper']:.1%}*"
                rows.append([task, one["votes"], result["methods"][name], *cells])
        yield Table(["task", "votes", "method", *(f"rank {i + 1}" for i in range(len(result["methods"])))], rows)
    yield f"Images: {result['credit']}."
    if result["missing"]:
        yield listed("Not among them", result["missing"])
