"""Invert photos into small files: python scripts/invert.py photo.jpg photos/ output=outputs/inversions."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("invert")
