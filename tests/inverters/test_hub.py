"""Models on the hub: pushed to, and fetched from, a local server that answers as the Hugging Face hub does."""

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import hyperinverter
from hyperinverter.inverters import hub
from hyperinverter.utils.errors import UserError

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories in memory: name -> file -> bytes. `asked` are method and path of every request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if found := re.fullmatch(rf"/([\w.-]+/[\w.-]+)/resolve/{SHA}/(.+)", path):
            content = self.server.repositories.get(found[1], {}).get(found[2])
            return self.answer(content) if content is not None else self.refuse("EntryNotFound")
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/.*)?", path):
            files = self.server.repositories.get(found[1])
            if files is None:
                return self.refuse("RepoNotFound")
            if (found[2] or "").startswith("/tree/"):
                return self.answer([
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ])  # fmt: skip
            siblings = [{"rfilename": name} for name in files]
            return self.answer({"id": found[1], "modelId": found[1], "sha": SHA, "siblings": siblings, "tags": []})
        return self.refuse("EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.server.url}/{name}"})
        path = self.path.partition("?")[0]
        name, action = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", path).groups()
        if action == "preupload":
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": file["path"], **how} for file in json.loads(body)["files"]]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                self.server.repositories[name][value["path"]] = base64.b64decode(value["content"])
        return self.answer({"success": True, "commitOid": SHA, "commitUrl": f"{self.server.url}/{name}/commit/{SHA}"})

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers |= {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": SHA,
            "Content-Length": str(len(data)),
        }
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, code: str) -> None:
        self.answer({"error": "not found"}, 404, **{"X-Error-Code": code})

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def one_server():
    """One address for all tests: huggingface_hub takes parts of it over when it is imported."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server(one_server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", one_server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.chdir(tmp_path)
    one_server.repositories.clear()
    one_server.asked.clear()
    return one_server


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> hyperinverter.HyperInverter:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    (folder / "directions").mkdir(exist_ok=True)
    torch.save({"private": 1}, folder / "notes.pt")
    return hyperinverter.load(folder)


def test_a_pushed_model_comes_back_the_same(server, model, tmp_path):
    from hyperinverter.directions import Direction, save_direction

    vector = torch.eye(model.generator.w_dim)[0]
    save_direction(Direction("smile", vector, {"projection_std": 2.0}), model.folder / "directions/smile.safetensors")
    assert model.push_to_hub("somebody/faces", private=True) == f"{server.url}/somebody/faces/commit/{SHA}"
    there = server.repositories["somebody/faces"]
    assert {"README.md", "directions/smile.safetensors", "generator.safetensors"} < set(there)
    assert "notes.pt" not in there and all(name.endswith((".safetensors", "README.md")) for name in there)
    card = there["README.md"].decode()
    assert card.startswith("---\nlibrary_name: hyperinverter\n") and 'from_pretrained("somebody/faces")' in card

    again = hyperinverter.HyperInverter.from_pretrained("somebody/faces", cache_dir=tmp_path / "cache")
    assert again.model_hash == model.model_hash and again.model_name == "somebody/faces"
    assert again.directions == ["smile"]
    image = torch.zeros(1, 3, model.resolution, model.resolution)
    torch.testing.assert_close(again.invert(image).images, model.invert(image).images, atol=1e-5, rtol=0)

    server.asked.clear()
    offline = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    assert hyperinverter.HyperInverter.from_pretrained("somebody/faces", **offline).model_hash == model.model_hash
    assert server.asked == []


def test_a_folder_s_own_card_is_the_one_that_is_pushed(server, model):
    (model.folder / "README.md").write_text("mine")
    model.push_to_hub("somebody/faces")
    assert server.repositories["somebody/faces"]["README.md"] == b"mine"


def test_load_fetches_from_the_hub_only_when_it_may(server, model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    model.push_to_hub("somebody/faces")
    server.asked.clear()
    with pytest.raises(FileNotFoundError):
        hyperinverter.load("somebody/faces")
    assert server.asked == []
    found = hyperinverter.load("somebody/faces", "w_encoder", download=True)
    assert found.name == "w_encoder" and found.generator_hash == model.generator_hash


def test_folders_come_before_the_hub(server, model):
    assert hyperinverter.HyperInverter.from_pretrained(str(model.folder)).model_hash == model.model_hash
    (Path("somebody")).mkdir()
    shutil.copytree(model.folder, "somebody/faces")
    assert hyperinverter.HyperInverter.from_pretrained("somebody/faces", precision="bf16").precision == "bf16"
    assert server.asked == []


def test_what_the_hub_has_not_is_one_message(server, model, tmp_path):
    cache = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(UserError, match="nobody/nothing: cannot be fetched from the Hugging Face hub"):
        hyperinverter.HyperInverter.from_pretrained("nobody/nothing", **cache)
    server.repositories["somebody/text"] = {"README.md": b"words", "model.bin": b"pickle"}
    with pytest.raises(UserError, match=r"somebody/text: holds no generator\.safetensors"):
        hyperinverter.HyperInverter.from_pretrained("somebody/text", **cache)
    assert not any("model.bin" in asked for asked in server.asked), "what is not read as data is not fetched"
    with pytest.raises(TypeError, match="Inverter is no method"):
        hyperinverter.Inverter.from_pretrained("somebody/text")


def test_a_push_that_would_send_something_else_is_refused(server, model, monkeypatch):
    with pytest.raises(UserError, match="write OWNER/NAME"):
        model.push_to_hub("faces")
    (model.folder / "generator.safetensors").unlink()
    with pytest.raises(UserError, match="does not hold this model's generator"):
        model.push_to_hub("somebody/faces")
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hyperinverter\[hub\]'"):
        model.push_to_hub("somebody/faces")
    assert server.asked == []
