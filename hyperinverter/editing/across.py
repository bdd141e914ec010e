"""invert, edit and interpolate by several methods: each in a folder of its own, and sheets across them.

A sheet across methods shows what the paper's comparing figures show (5, 9, 18 to 29): the same photos, the methods
beside each other or below each other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from hyperinverter.config.schema import InvertConfig, RefineConfig
from hyperinverter.editing.inputs import check_inputs, saved_roots
from hyperinverter.inverters import INVERTERS, check_methods
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json
from hyperinverter.utils.images import contact_sheet
from hyperinverter.utils.provenance import COMPOSITE

C = TypeVar("C", bound=InvertConfig)


@dataclass
class Sheet:
    """A contact sheet of one method.

    Attributes:
        method: its heading.
        rows, headings, captions: as `contact_sheet` takes them.
        column: heading of the one column that a sheet across methods shows beside the first; None: it shows whole rows
            below each other.
    """

    method: str
    rows: list[list[Image.Image | None]]
    headings: list[str]
    captions: list[str]
    column: str | None = None

    def write(self, path: Path) -> None:
        contact_sheet(self.rows, self.headings, path, self.captions, made=COMPOSITE)


Sheets = dict[str, Sheet]  # file name -> the sheet that was written there


def by_every_method(config: C, command: str, act: Callable[[C, Sheets], dict[str, Any]]) -> dict[str, Any]:
    """What `act` does by `config.method`; or by each of `config.methods` in a folder of its name, and sheets across.

    Returns:
        What `act` returns; of several methods `methods`: method -> that, as `<command>.json` holds too.
    Raises:
        UserError: a saved Inversion among the inputs, which belongs to one method.
        FileNotFoundError: files of methods are missing; names all before any work.
    """
    if not config.methods:
        return act(config, {})
    if saved := saved_roots(config):
        raise UserError(
            f"{', '.join(saved)}: a saved Inversion or code is of one method; give photos, or leave methods out"
        )
    check_inputs(config)
    check_methods(config.model or config.domain, config.methods)
    results: dict[str, Any] = {}
    drawn: list[Sheets] = []
    for method in dict.fromkeys(config.methods):
        refine = config.refine if INVERTERS[method].refines else RefineConfig()
        folder = str(Path(config.output) / method)
        drawn.append({})
        results[method] = act(replace(config, method=method, methods=[], output=folder, refine=refine), drawn[-1])
    names = list(drawn[0])
    for name in names:
        across([sheets[name] for sheets in drawn]).write(Path(config.output) / name)
    write_json(Path(config.output) / f"{command}.json", {"command": command, "methods": results})
    print(f"across {len(results)} methods: look at {', '.join(names)} in {config.output}")
    return {"command": command, "methods": results}


def across(sheets: list[Sheet]) -> Sheet:
    """One sheet of several methods' sheets of the same photos."""
    first = sheets[0]
    if first.column is None:
        # a strip has more rows where weights are blended too; of many pairs each has as many as a sheet may show
        is_even = len({tuple(sheet.captions) for sheet in sheets}) == 1
        captions = [[f"{caption}\n{sheet.method}" for caption in sheet.captions] for sheet in sheets]
        each = [list(zip(sheet.rows, lines, strict=True)) for sheet, lines in zip(sheets, captions, strict=True)]
        pairs = list(chain.from_iterable(zip(*each, strict=True) if is_even else each))
        return Sheet("", [row for row, _ in pairs], first.headings, [caption for _, caption in pairs])
    columns = [sheet.headings.index(str(sheet.column)) for sheet in sheets]
    rows = [
        [own[0][0], *(row[column] for row, column in zip(own, columns, strict=True))]
        for own in zip(*(sheet.rows for sheet in sheets), strict=True)
    ]
    return Sheet("", rows, [first.headings[0], *(sheet.method for sheet in sheets)], first.captions)
