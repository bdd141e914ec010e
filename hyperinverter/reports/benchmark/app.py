"""How long the app takes from a moved slider to the new picture, as a browser on this machine waits for it."""

import json
import os
import statistics
import time
import urllib.request
from collections.abc import Callable
from itertools import count
from typing import Any

from hyperinverter.app.editor import make_editor
from hyperinverter.app.session import FIRST, Settings
from hyperinverter.app.web import App, serving
from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import AppConfig
from hyperinverter.reports.benchmark.clock import Rounds, Side, speed_up, summarise, take_turns
from hyperinverter.reports.benchmark.sides import make_images
from hyperinverter.utils.images import file_bytes, to_pil

STRENGTHS = (1.7, -0.9, 2.4, -2.2, 0.6)  # that a slider is moved to, in turn


def measure_app(path: str, settings: list[str], rounds: Rounds) -> dict[str, Any]:
    """One app, on a sample of its own generator.

    Args:
        settings: `key=value`, over the config's.
    Returns:
        "moving" (a preview), "stopped" (settings kept, and the picture in full): px; times from the request to the last
        byte, and the processor's own, in ms; and "over_synthesis", the former over those of the synthesis alone.
    """
    config = load_config(AppConfig, path, [*settings, "port=0", "refine.steps=0"])
    editor = make_editor(config)
    app = App(editor, config)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with serving(app) as address:
        name = app.sessions.open()
        session = app.sessions.get(name)
        (sample,) = make_images(editor.inverter, 1)
        editor.open(session, FIRST, file_bytes(to_pil(sample.cpu()), format="PNG"), "sample.png", aligned=False)
        ask = _asker(address, name)
        sliders = [slider.name for slider in editor.sliders.values() if not slider.sets] or list(editor.sliders)
        moves = ({sliders[i % len(sliders)]: STRENGTHS[i % len(STRENGTHS)]} for i in count())
        full, small = editor.inverter.resolution, min(config.preview_px, editor.inverter.resolution)
        result: dict[str, Any] = {"config": path, "domain": editor.inverter.domain.name, "load": load}
        for what, px in (("moving", small), ("stopped", full)):
            spent: list[float] = []

            def slide(_: Any, what: str = what, spent: list[float] = spent) -> None:
                begin = time.process_time()
                if what == "moving":
                    ask("/api/preview", {"edits": next(moves)})
                else:
                    ask("/api/change", {"edits": next(moves)})
                    ask("/api/picture?view=edit", None)
                spent.append(1000 * (time.process_time() - begin))

            def synthesis(_: Any, px: int = px) -> None:
                inversion = editor.edited(session, Settings(next(moves)))
                editor.inverter.render(inversion, resolution=None if px == full else px)

            sides: dict[str, Side] = {"app": slide, "synthesis": synthesis}
            readings = take_turns(sides, editor.inverter.device, rounds)
            times = {side: summarise(values)["total"] for side, values in readings.items()}
            result[what] = {
                "px": px,
                "cpu_ms": statistics.median(spent),
                "times": times,
                "over_synthesis": speed_up(readings["app"], readings["synthesis"]),
            }
    return result


def _asker(address: str, name: str) -> Callable[[str, dict[str, Any] | None], bytes]:
    def ask(path: str, body: dict[str, Any] | None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(address + path, data, {"X-Session": name})) as answer:
            return answer.read()

    return ask
