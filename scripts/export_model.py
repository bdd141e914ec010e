"""Write a trained model folder as it is shipped: python scripts/export_model.py model=outputs/phase2_faces64/model."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("export-model")
