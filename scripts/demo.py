"""The whole main job on the embedded domain, without network, GPU or data: python scripts/demo.py."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("demo")
