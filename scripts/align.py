"""Align raw face photos as FFHQ does: python scripts/align.py photos/ portrait.jpg output=aligned domain=faces64."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("align")
