"""Draw what Phase II changes: weights per layer, difference maps, blends of real images, and quality against time."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("analyze")
