"""Find editing directions without labels: principal components of the generator's W (GANSpace), shown and saved."""

from hyperinverter.config import GanspaceConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        GanspaceConfig,
        "hyperinverter.editing.ganspace_command:find_directions",
        "configs/ganspace/faces64.yaml",
        __doc__,
    )
