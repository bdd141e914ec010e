"""Train pSp, e4e, ReStyle or HyperStyle against the domain's frozen generator."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("train encoder")
