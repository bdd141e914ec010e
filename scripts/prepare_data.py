"""Split and check a dataset: python scripts/prepare_data.py FOLDER dataset=celeba_hq mapping=A.txt partition=B.txt."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("prepare-data")
