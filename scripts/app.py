"""Edit photos in a browser on this machine: python scripts/app.py, then open the address that it prints."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("app")
