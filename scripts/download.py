"""Fetch released weights by name: python scripts/download.py ffhq; without a name it lists them."""

from hyperinverter.config.cli import run
from hyperinverter.config.weights import DownloadConfig

if __name__ == "__main__":
    run(
        DownloadConfig,
        "hyperinverter.pretrained.download_command:download",
        default_config=None,
        description="Fetch released weights from their publishers, or from a mirror (--base-url ADDRESS, --hub "
        "OWNER/REPO), check them against the hash of the first time, and make model folders of released models. "
        "Interrupted downloads go on where they stopped. --list shows what there is, what is here, and the licences.",
        positional="names",
        positional_help="names of models (ffhq, church) or files, as --list shows them",
        positional_name="NAME",
        dashed=("output", "base_url", "hub"),
        plan="hyperinverter.pretrained.download_command:describe",
    )
