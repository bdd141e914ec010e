"""Edit the faces of a film, its sound kept: python scripts/edit_video.py in.mp4 out.mp4 'edits={smile: 2}'."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("edit-video")
