"""What `reproduce` can measure, by name: what each part needs and makes, and how it reads.

The paper's tables and figures, two beyond it, and what else docs/results.md says of a model.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hyperinverter.config.report_schema import ALL, BEYOND, OF_FACES, OF_SCENES, PAPER
from hyperinverter.reports.html_page import Block, Report, add_to
from hyperinverter.reports.paper import analyses, grids
from hyperinverter.reports.paper.analyses import analysis_blocks
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.edit_fid import edit_fid
from hyperinverter.reports.paper.edit_fid_page import edit_fid_blocks
from hyperinverter.reports.paper.grids import grid_blocks
from hyperinverter.reports.paper.ranking import lacks_ranked, ranking, ranking_blocks
from hyperinverter.reports.paper.refine_curve import refine_curve, refine_curve_blocks
from hyperinverter.reports.paper.table1 import lacks_networks, table1
from hyperinverter.reports.paper.table1_page import table1_blocks
from hyperinverter.reports.paper.table2 import lacks_judges, table2, table2_blocks
from hyperinverter.reports.reproduce import measures, page
from hyperinverter.reports.reproduce.edits_page import edits_blocks
from hyperinverter.utils.files import read_json

OF_PAPER = {*PAPER, *BEYOND}
Make = Callable[[Bench], dict[str, Any] | None]
Blocks = Callable[[dict[str, Any]], Iterable[Block]]
OF_METHODS = ("projection", "refine")  # steps of methods


@dataclass(frozen=True)
class Part:
    """One table, figure or measurement.

    Attributes:
        make: measures and draws; the result is its JSON. None: another command does.
        blocks: JSON -> what the page says.
        needs: settings without which it cannot be made.
        pictures: files of `output` that may be published: none that shows held-out photos.
        lacks: asked before any work: each line says what is not there, so that it or some of it cannot be made.
        named: settings that the command on the page names where they are not the usual ones.
        used: settings that it names where they are given; those that it needs anyway.
    """

    title: str
    make: Make | None
    blocks: Blocks
    needs: Sequence[str] = ()
    pictures: Sequence[str] = ()
    lacks: Callable[[Bench], Iterable[str]] = lambda bench: ()
    named: Sequence[str] = ()
    used: Sequence[str] = ()


def _on_shown(
    title: str, make: Make, blocks: Blocks, picture: str, lacks: Callable[[Bench], Iterable[str]] = lambda bench: ()
) -> Part:
    """A figure of the photos that may be shown."""
    named = ("methods", "shown_photos", *OF_METHODS)
    return Part(title, make, blocks, pictures=[picture], lacks=lacks, named=named, used=["shown"])


def _on_photos(title: str, make: Make, what: str, picture: str) -> Part:
    """A figure of means over the held-out photos."""
    blocks, named = partial(analysis_blocks, what), ("table_photos", "refine")
    return Part(title, make, blocks, ["photos"], [picture], analyses.lacks_ours, named)


WEIGHTS = "How much Phase II changes each layer's weights, mean over the held-out photos"
BROUGHT_BACK = partial(grid_blocks, "What the second phase brings back")
BLENDED = partial(analysis_blocks, "Photos blended into each other: codes and weights together, and codes alone")
MAPS = partial(
    analysis_blocks,
    "Input, Phase I, both phases, and where the second changes the first: least, middling and most",
)
MEAN_MAP = "Mean absolute difference between Phase I and both phases over the held-out photos"
EDITED = ("edited_photos", "strengths", "strength_unit", "classifiers")
REFINED = ("refine_steps", "refine_edit_consistency")
PARTS: dict[str, Part] = {
    "table1": Part("Table 1: reconstruction by every method", table1, table1_blocks, ["photos"], lacks=lacks_networks,
                   named=("methods", "table_photos", "optimised_photos", *OF_METHODS), used=["labels"]),
    "table2": Part("Table 2: edits by every method", table2, table2_blocks, ["photos"], lacks=lacks_judges,
                   named=("methods", EDITED[0], "optimised_photos", *EDITED[1:], *OF_METHODS),
                   used=["training_photos", "labels"]),
    "edit_fid": Part("Edits against real photos", edit_fid, edit_fid_blocks, ["photos", "labels"], ["edit_fid.png"],
                     lacks_judges, ("methods", EDITED[0], *REFINED, *EDITED[1:3]), ["training_photos", "shown"]),
    "refine_curve": Part("Refinement: quality, seconds, edits", refine_curve, refine_curve_blocks, ["photos"],
                         ["refine_curve.svg"], grids.lacks_both, (*REFINED, "curve_photos", "classifiers"),
                         ["training_photos", "labels"]),
    "table3": Part("Table 3: ablations", analyses.table3, page.ablations_blocks, lacks=analyses.lacks_ablations,
                   used=["photos", "training_photos"]),
    "fig1": Part("Figure 1: quality against time", analyses.quality_time, analyses.quality_time_blocks, ["photos"],
                 ["fig1.svg", "fig1_lpips.svg"], lacks_networks,
                 ("methods", "table_photos", "optimised_photos", *OF_METHODS), ["labels"]),
    "fig4": _on_shown("Figure 4: reconstructions", grids.figure4, partial(grid_blocks, "Reconstructions"), "fig4.png"),
    "fig5": _on_shown("Figure 5: edits", grids.figure5, partial(grid_blocks, "Edits by every method"), "fig5.png",
                      grids.lacks_directions),
    "fig6": _on_shown("Figure 6: what people prefer", partial(ranking, "fig6"), ranking_blocks, "fig6.svg",
                      lacks_ranked),
    "fig7": _on_shown("Figure 7: Phase II", grids.figure7, BROUGHT_BACK, "fig7.png", grids.lacks_both),
    "fig8": _on_photos("Figure 8: changed weights", partial(analyses.weight_changes, "fig8"), WEIGHTS, "fig8.svg"),
    "fig9": _on_shown("Figure 9: interpolation", analyses.blends, BLENDED, "fig9.png", analyses.lacks_ours),
    "fig10": _on_shown("Figure 10: what people prefer", partial(ranking, "fig10"), ranking_blocks, "fig10.svg",
                       lacks_ranked),
    "fig11": _on_photos("Figure 11: changed weights", partial(analyses.weight_changes, "fig11"), WEIGHTS, "fig11.svg"),
    "fig12": _on_photos("Figure 12: where the image changes", analyses.mean_map, MEAN_MAP, "fig12.png"),
    "fig13": _on_shown("Figure 13: changes of single images", partial(analyses.single_maps, "fig13"), MAPS, "fig13.png",
                       analyses.lacks_ours),
    "fig14": _on_shown("Figure 14: changes of single images", partial(analyses.single_maps, "fig14"), MAPS, "fig14.png",
                       analyses.lacks_ours),
    "fig26": _on_shown("Figure 26: interpolation by several methods", grids.figure26, partial(grid_blocks, "Blends"),
                       "fig26.png"),
    "photos": Part("Held-out photos", partial(measures.photos, "photos"), page.reconstruction_blocks, ["photos"]),
    "other_photos": Part("Photos of another collection", partial(measures.photos, "other_photos"),
                         page.reconstruction_blocks, ["other_photos"]),
    "generated": Part("Images of the generator", measures.generated, page.reconstruction_blocks,
                      named=["generated"]),
    "editability": Part("Edits", measures.editability, edits_blocks, ["photos"], ["edits.png"], named=EDITED,
                        used=["labels"]),
    "generator": Part("Generator", measures.generator, page.generator_blocks, ["photos"], used=["labels"]),
    "analysis": Part("What Phase II changes", measures.analysis, page.analysis_blocks, ["photos"],
                     ["weight_changes.svg", "difference_map.png"]),
    "figures": Part("Figures", measures.figures, page.figures_blocks, named=["generated"],
                    pictures=[f"figures/{name}" for name in page.FIGURES]),
    "bounds": Part("What bounds it", measures.bounds, page.bounds_blocks, ["photos"],
                   named=("bounds_photos", "bounds_steps", "bounds_losses")),
    "learning_curve": Part("Learning curve", measures.learning_curve, page.curve_blocks, ["runs"],
                           ["learning_curve.svg"]),
    "ablations": Part("Ablations", None, page.ablations_blocks),
    "pictures": Part("", measures.pictures, lambda result: ()),
}  # fmt: skip


def expanded_parts(parts: Sequence[str], kind: str) -> list[str]:
    """The parts with `all` written out: of figures that the paper has once for each kind of domain, this one's."""
    others = OF_SCENES if kind == "faces" else OF_FACES
    whole = [part for part in PAPER if part not in others]
    return list(dict.fromkeys(one for part in parts for one in (whole if part == ALL else [part])))


def write_html(output: Path, domain: str) -> Path:
    """paper.html: all parts of the paper that lie in `output`, of earlier calls too, pictures inside it."""
    report = Report(f"The paper's tables and figures on {domain}")
    for name, part in PARTS.items():
        if name in OF_PAPER and (result := read_json(output / f"{name}.json")) is not None:
            report.section(part.title)
            report.command(result["about"]["command"])
            add_to(report, part.blocks(result), output)
    return report.write(output / "paper.html")
