"""Align raw face photos as FFHQ does: python scripts/align.py photos/ portrait.jpg output=aligned domain=faces64."""

from hyperinverter.config import EditConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        EditConfig,
        "hyperinverter.data.align_folder:align_folder",
        default_config="configs/edit/faces64.yaml",
        description="Find the face in each photo and crop it as FFHQ does, at the domain's resolution. Needs the extra "
        "`faces`; its landmark model was trained on iBUG 300-W, whose terms exclude commercial use.",
        positional="data.root",
        positional_help="photos, folders of photos or .zip files",
    )
