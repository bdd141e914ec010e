"""Blend two photos, codes and weights: python scripts/interpolate.py first.jpg second.jpg steps=9."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("interpolate")
