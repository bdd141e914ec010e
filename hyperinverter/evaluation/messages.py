"""What long commands say while they work."""

import sys
import time

from tqdm import tqdm


def log_message(message: str) -> None:
    """A line with the time, on stderr, beside any progress bar."""
    tqdm.write(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr)
