"""Fetch released weights by name: python scripts/download.py ffhq; without a name it lists them."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("download")
