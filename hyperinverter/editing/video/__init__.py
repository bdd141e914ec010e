"""Edit the faces of a film: follow them, invert them in batches, smooth in time, edit, put back."""
