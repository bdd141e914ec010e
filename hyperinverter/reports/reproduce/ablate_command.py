"""ablate as a command: the rows of Table 3, and with `publish` their section of the page."""

from pathlib import Path
from typing import Any

from hyperinverter.config.report_schema import AblateConfig
from hyperinverter.reports.reproduce.ablations import measure_ablations
from hyperinverter.reports.reproduce.publish import publish, write_pages
from hyperinverter.utils.waiting import log_message


def ablate(config: AblateConfig) -> dict[str, Any]:
    """Measure every row, see `measure_ablations`; `publish` puts the result on the page."""
    result = measure_ablations(config)
    if config.publish is not None:
        publish(Path(config.publish), config.domain.name, "ablations", result)
        log_message(f"written: {write_pages(Path(config.publish))}")
    return result
