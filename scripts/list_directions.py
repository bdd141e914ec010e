"""Show what directions do and what else they move: python scripts/list_directions.py smile age."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("list-directions")
