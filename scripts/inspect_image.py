"""Show what pictures say of their origin: python scripts/inspect_image.py outputs/edit_faces64/photo/smile_+3.png."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("inspect-image")
