"""Models on the Hugging Face hub, against a small server that answers as it does."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from conftest import folder
from huggingface_hub import constants

import finetune
from utils import hub
from utils.errors import UserError
from utils.files import CONFIG
from utils.results import export as export_module
from utils.results.export import FISHER, export
from utils.training.arguments import add_start_flags, training_parser
from utils.training.checkpoints import read_export
from utils.training.fisher import FILE, read_fisher
from utils.training.sources import load_model

COMMIT = "c" * 40
TOKEN = "hf_of_the_owner"


class Hub(BaseHTTPRequestHandler):
    """Repositories of one owner: ``server.repositories`` is ``{name: SimpleNamespace(private, gated, files, commits)}``."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        repositories, address = self.server.repositories, f"http://{self.headers['Host']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "owner":
                return self.answer(403, {"error": "You don't have the rights"})
            if name in repositories:
                return self.answer(409, {"error": "You already created this model repo", "url": f"{address}/{name}"})
            private = asked.get("visibility") == "private"
            repositories[name] = SimpleNamespace(private=private, gated=False, files={}, commits=0)
            return self.answer(200, {"url": f"{address}/{name}"})
        _, _, _, owner, name, what, _ = self.path.split("/")
        repository = repositories[f"{owner}/{name}"]
        if what == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        repository.commits += 1
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer(
            200, {"success": True, "commitUrl": f"{address}/{owner}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        )

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.answer(404, {}, "RepoNotFound")
        if parts[0] == "api":
            return self.answer(200, {"id": name, "private": repository.private})
        if repository.gated:
            return self.answer(403, {}, "GatedRepo")
        revision, file = parts[3:]
        if revision not in ("main", COMMIT):
            return self.answer(404, {}, "RevisionNotFound")
        if file not in repository.files:
            return self.answer(404, {}, "EntryNotFound")
        self.answer(200, repository.files[file])

    do_HEAD = do_GET

    def answer(self, status, body, error=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Length": len(content), "X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        for name, value in (headers | ({"X-Error-Code": error} if error else {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture()
def server(tmp_path, monkeypatch):
    """The stand-in, with nothing in it; a token, and an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories = {}
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def line_of(call, *arguments):
    with pytest.raises(UserError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_is_pushed_is_read_again(server, outputs, tmp_path, call_main, call, monkeypatch):
    run, path = folder(outputs, "task_a", "KEMDy19"), tmp_path / "a.safetensors"
    code, stdout, stderr = call_main(export_module, run, path, "--with_fisher", "--push", "owner/a", "--private")
    assert code == 0, stderr
    repository = server.repositories["owner/a"]
    assert set(repository.files) == {"model.safetensors", "README.md", "model.fisher.safetensors"}
    assert repository.private and repository.commits == 1
    assert all(name in stdout for name in (*repository.files, "/owner/a", str(path.with_suffix(FISHER))))
    for name, file in (("model.safetensors", path), ("README.md", path.with_suffix(".md"))):
        assert repository.files[name] == file.read_bytes()
    for content in repository.files.values():
        assert str(outputs.parent).encode() not in content and b"Sess" not in content
    # A file that was exported before; its repository is there.
    code, stdout, stderr = call_main(export_module, path, "--push", "owner/a")
    assert code == 0 and repository.commits == 2 and "model.fisher" not in stdout, stderr
    code, _, stderr = call_main(export_module, path, "--push", "owner/b")
    assert code == 0 and not server.repositories["owner/b"].private and len(server.repositories["owner/b"].files) == 2, stderr

    for named in ("hub:owner/a", "hub:owner/a@main", f"hub:owner/a@{COMMIT}"):
        assert load_model(named).digest == load_model(run).digest
    starting = ("--task", "KEMDy20", "--checkpoint", "hub:owner/a")
    code, _, stderr = call(finetune, *starting, output_root=tmp_path)
    assert code == 0, stderr
    config = json.loads((folder(tmp_path, "finetune", "KEMDy20") / CONFIG).read_text())
    assert config["started_from"]["sequence"] == ["KEMDy19"] and config["started_from"]["method"] == "task_a"
    # Without a network it is the copy in the cache.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    parser = training_parser("", "finetune")
    add_start_flags(parser)
    assert read_export(parser.parse_args(starting).checkpoint).facts["task"] == "KEMDy19"
    assert "HF_HUB_OFFLINE" in line_of(hub.local_path, "hub:owner/b")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.shutdown()
    server.server_close()
    assert hub.local_path("hub:owner/a").read_bytes() == path.read_bytes()
    assert "is there a network" in line_of(hub.local_path, "hub:owner/b")
    assert "is there a network" in line_of(hub.upload, "owner/a", {"x": b""})


def test_what_cannot_be_downloaded_is_one_line(server):
    server.repositories["owner/empty"] = SimpleNamespace(private=False, gated=False, files={}, commits=0)
    server.repositories["owner/gated"] = SimpleNamespace(private=False, gated=True, files={}, commits=0)
    for named, answer in (
        ("hub:owner/none", "no such repository"),
        ("hub:owner/empty", "has no model.safetensors"),
        ("hub:owner/empty@v2", "no such revision"),
        ("hub:owner/gated", "grants access one by one"),
        ("hub:owner/a/b", "not of the form OWNER/NAME"),
        ("hub:", "not of the form OWNER/NAME"),
    ):
        line = line_of(hub.local_path, named)
        assert line.startswith(f"{named} cannot be downloaded: ") and answer in line


def test_what_cannot_be_pushed_is_one_line(server, outputs, tmp_path, call_main, monkeypatch):
    path = tmp_path / "a.safetensors"
    export(folder(outputs, "adapter", "KEMDy19"), path)
    server.repositories["owner/public"] = SimpleNamespace(private=False, gated=False, files={}, commits=0)

    def refused(*arguments):
        code, _, stderr = call_main(export_module, path, *arguments)
        assert code and stderr.startswith("error: ") and stderr.count("\n") == 1
        return stderr

    assert "'a' is not of the form OWNER/NAME" in refused("--push", "a")
    assert "not of the form OWNER/NAME" in refused("--push", "owner/a--b")
    assert "use a token with write access" in refused("--push", "another/a")
    assert "exists and is public" in refused("--push", "owner/public", "--private")
    assert "--with_fisher" in refused("--push", "owner/a", "--with_fisher")
    assert "export the run again" in refused("--push", "owner/a", "--with_centroids")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert "hf auth login" in refused("--push", "owner/a")
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refused("--push", "owner/a")
    path.write_bytes(path.read_bytes()[:-1])
    assert "is not a whole file" in refused("--push", "owner/a")
    assert list(server.repositories) == ["owner/public"] and not server.repositories["owner/public"].files


def test_fisher_information_of_another_model_is_not_pushed(server, outputs, tmp_path):
    run, path = folder(outputs, "task_a", "KEMDy19"), tmp_path / "a.safetensors"
    export(run, path, with_fisher=True)
    assert read_fisher(path.with_suffix(FISHER))["model"] == read_fisher(run / FILE.format("fisher", 10))["model"]
    export(folder(outputs, "task_a", "KEMDy20"), path, overwrite=True)
    assert "of another model" in line_of(export_module.push, path, "owner/a", False, True)
    assert not server.repositories
