"""Learn edit directions of labels or predictors: python scripts/learn_direction.py photos.zip labels=labels.csv.gz."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("learn-direction")
