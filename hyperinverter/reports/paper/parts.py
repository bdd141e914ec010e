"""The paper's tables and figures, and two beyond it, by name: what each needs and makes, and how it reads."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperinverter.config.report_schema import ALL, OF_FACES, OF_SCENES, PAPER
from hyperinverter.reports.html_page import Block, Report, add_to
from hyperinverter.reports.paper.analyses import (
    analysis_blocks,
    blends,
    lacks_ablations,
    lacks_ours,
    mean_map,
    quality_time,
    quality_time_blocks,
    single_maps,
    table3,
    table3_blocks,
    weight_changes,
)
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.edit_fid import edit_fid
from hyperinverter.reports.paper.edit_fid_page import edit_fid_blocks
from hyperinverter.reports.paper.grids import (
    figure4,
    figure5,
    figure7,
    figure26,
    grid_blocks,
    lacks_both,
    lacks_directions,
)
from hyperinverter.reports.paper.ranking import lacks_ranked, ranking, ranking_blocks
from hyperinverter.reports.paper.refine_curve import refine_curve, refine_curve_blocks
from hyperinverter.reports.paper.table1 import lacks_networks, table1
from hyperinverter.reports.paper.table1_page import table1_blocks
from hyperinverter.reports.paper.table2 import lacks_judges, table2, table2_blocks


@dataclass(frozen=True)
class Part:
    """One table or figure.

    Attributes:
        make: measures and draws; the result is its JSON.
        blocks: JSON -> what the page says.
        needs: settings without which it cannot be made.
        lacks: asked before any work: each line says what is not there, so that it or some of it cannot be made.
        pictures: files of `output` that may be published: none that shows held-out photos.
    """

    title: str
    make: Callable[[Bench], dict[str, Any]]
    blocks: Callable[[dict[str, Any]], Iterable[Block]]
    needs: Sequence[str] = ()
    pictures: Sequence[str] = ()
    lacks: Callable[[Bench], Iterable[str]] = lambda bench: ()


WEIGHTS = "How much Phase II changes each layer's weights, mean over the held-out photos"
BROUGHT_BACK = "What the second phase brings back"
BLENDED = "Photos blended into each other: codes and weights together, and codes alone"
MAPS = analysis_blocks("Input, Phase I, both phases, and where the second changes the first: least, middling and most")
PARTS: dict[str, Part] = {
    "table1": Part("Table 1: reconstruction by every method", table1, table1_blocks, ["photos"], lacks=lacks_networks),
    "table2": Part("Table 2: edits by every method", table2, table2_blocks, ["photos"], lacks=lacks_judges),
    "edit_fid": Part(
        "Edits against real photos", edit_fid, edit_fid_blocks, ["photos", "labels"], ["edit_fid.png"], lacks_judges
    ),
    "refine_curve": Part(
        "Refinement: quality, seconds, edits",
        refine_curve,
        refine_curve_blocks,
        ["photos"],
        ["refine_curve.svg"],
        lacks_both,
    ),
    "table3": Part("Table 3: ablations", table3, table3_blocks, lacks=lacks_ablations),
    "fig1": Part(
        "Figure 1: quality against time",
        quality_time,
        quality_time_blocks,
        ["photos"],
        ["fig1.svg", "fig1_lpips.svg"],
        lacks_networks,
    ),
    "fig4": Part("Figure 4: reconstructions", figure4, grid_blocks("Reconstructions"), [], ["fig4.png"]),
    "fig5": Part("Figure 5: edits", figure5, grid_blocks("Edits by every method"), [], ["fig5.png"], lacks_directions),
    "fig6": Part("Figure 6: what people prefer", ranking("fig6"), ranking_blocks, [], ["fig6.svg"], lacks_ranked),
    "fig7": Part("Figure 7: Phase II", figure7, grid_blocks(BROUGHT_BACK), [], ["fig7.png"], lacks_both),
    "fig8": Part(
        "Figure 8: changed weights",
        weight_changes("fig8"),
        analysis_blocks(WEIGHTS),
        ["photos"],
        ["fig8.svg"],
        lacks_ours,
    ),
    "fig9": Part("Figure 9: interpolation", blends, analysis_blocks(BLENDED), [], ["fig9.png"], lacks_ours),
    "fig10": Part("Figure 10: what people prefer", ranking("fig10"), ranking_blocks, [], ["fig10.svg"], lacks_ranked),
    "fig11": Part(
        "Figure 11: changed weights",
        weight_changes("fig11"),
        analysis_blocks(WEIGHTS),
        ["photos"],
        ["fig11.svg"],
        lacks_ours,
    ),
    "fig12": Part(
        "Figure 12: where the image changes",
        mean_map,
        analysis_blocks("Mean absolute difference between Phase I and both phases over the held-out photos"),
        ["photos"],
        ["fig12.png"],
        lacks_ours,
    ),
    "fig13": Part("Figure 13: changes of single images", single_maps("fig13"), MAPS, [], ["fig13.png"], lacks_ours),
    "fig14": Part("Figure 14: changes of single images", single_maps("fig14"), MAPS, [], ["fig14.png"], lacks_ours),
    "fig26": Part("Figure 26: interpolation by several methods", figure26, grid_blocks("Blends"), [], ["fig26.png"]),
}  # fmt: skip


def expanded_parts(parts: Sequence[str], kind: str) -> list[str]:
    """The parts with `all` written out: of figures that the paper has once for each kind of domain, this one's."""
    others = OF_SCENES if kind == "faces" else OF_FACES
    whole = [part for part in PAPER if part not in others]
    return list(dict.fromkeys(one for part in parts for one in (whole if part == ALL else [part])))


def write_html(results: dict[str, dict[str, Any]], output: Path, title: str) -> Path:
    """One page of all parts that were made, pictures inside it."""
    report = Report(title)
    for name in PARTS:
        if name in results:
            report.section(PARTS[name].title)
            report.command(results[name]["about"]["command"])
            add_to(report, PARTS[name].blocks(results[name]), output)
    return report.write(output / "paper.html")
