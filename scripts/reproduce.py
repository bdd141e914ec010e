"""Measure all that docs/results.md says of a model, into docs/results/, and make the page from it."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("reproduce")
