"""Find editing directions without labels: principal components of the generator's W (GANSpace), shown and saved."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("find-directions")
