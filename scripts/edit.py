"""Edit photos along semantic directions: python scripts/edit.py photo.jpg directions=[smile] strengths=[-2,0,2]."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("edit")
