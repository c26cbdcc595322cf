"""Stand-ins of GitHub: a runner for the steps of a composite action, and as much of the API as the actions ask."""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
TOKEN = "a-token"  # noqa: S105 # of the stand-in
PYTHON = f"""#!/bin/bash
case "$*" in
    "-m pip "*) echo "${{PIP_EXTRA_INDEX_URL-}} $*" >> "$PIP_LOG";;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
    *) exec "{sys.executable}" "$@";;
esac
"""
"""Installs nothing; an environment that it makes is as good as its own."""
STAGEBENCH = f"""#!/bin/bash
exec "{sys.executable}" -P -m stagebench "$@"
"""


def comment_module():
    """Import the script of the action "comment"."""
    spec = importlib.util.spec_from_file_location("comment", ROOT / ".github" / "actions" / "comment" / "comment.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Runner:
    """Runs steps of a job or an action in bash as GitHub's runner does; what they upload is an artifact of the API."""

    def __init__(self, folder, api, programs=None):
        """Make one that has its own files in a folder, and these programs, by name, before all others."""
        self.folder, self.api, self.temp = folder, api, folder / "temp"
        self.summary, self.said = folder / "summary", ""
        (folder / "bin").mkdir(parents=True)
        self.temp.mkdir()
        own = {"python": PYTHON, "python3": PYTHON, "stagebench": STAGEBENCH}
        for name, text in (own | (programs or {})).items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def job(self, workflow, workspace, contexts=None):
        """Run the one job of a workflow, which has checked out what is there; return whether all of it passed."""
        (job,) = yaml.safe_load(workflow.read_text())["jobs"].values()
        return all(self._job_step(step, job.get("env", {}), workspace, contexts or {}) for step in job["steps"])

    def _job_step(self, step, env, workspace, contexts):
        if "run" in step:
            return self._bash(step | {"env": env}, contexts, workspace, None)
        action, _, version = step["uses"].partition("@")
        if version and action.startswith("actions/"):
            assert action in ("actions/checkout", "actions/setup-python")
            return True
        return self.run(Path(action).name, workspace, contexts, **step.get("with", {}))[0]

    def run(self, of, workspace, contexts=None, **inputs):
        """Run the action in that folder; return whether all of its steps passed, and its outputs."""
        path = ROOT / ".github" / "actions" / of
        action = yaml.safe_load((path / "action.yml").read_text())
        assert inputs.keys() <= action["inputs"].keys()
        known = {"runner.temp": self.temp, "github.action_path": path, "github.token": TOKEN} | (contexts or {})
        for key, about in action["inputs"].items():
            known[f"inputs.{key}"] = inputs.get(key, filled(about["default"], known))
        passed = True
        for step in action["runs"]["steps"]:
            assert step.get("if", "always()") == "always()"
            if not passed and "if" not in step:
                continue
            if "uses" in step:
                assert step["uses"].startswith("actions/upload-artifact@")
                self.api.upload(*(filled(step["with"][key], known) for key in ("name", "path")))
            else:
                assert step["shell"] == "bash"
                passed = self._bash(step, known, workspace, path) and passed
        return passed, {key: filled(about["value"], known) for key, about in action.get("outputs", {}).items()}

    def _bash(self, step, known, workspace, path):
        output = self.folder / "output"
        output.write_text("")
        given = {
            "GITHUB_ACTION_PATH": path,
            "GITHUB_API_URL": self.api.url,
            "GITHUB_BASE_REF": "main",
            "GITHUB_OUTPUT": output,
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_STEP_SUMMARY": self.summary,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PIP_LOG": self.folder / "pip.log",
            "PYTHONPATH": ROOT / "src",
        } | {key: filled(value, known) for key, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["/usr/bin/env", "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=workspace / filled(step.get("working-directory", "."), known),
            env=os.environ | {key: str(value) for key, value in given.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.said += done.stdout
        for line in output.read_text().splitlines():
            key, _, value = line.partition("=")
            known[f"steps.{step['id']}.outputs.{key}"] = value
        return done.returncode == 0


def looks_of(text):
    """Return what a reader of Markdown sees beside words and code: kinds of things, and where links lead."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inside = [child for token in tokens for child in token.children or ()]
    kinds = {token.type.removesuffix("_open") for token in (*tokens, *inside) if token.nesting >= 0}
    html = [token.content.strip() for token in (*tokens, *inside) if token.type.startswith("html")]
    return (
        kinds - {"inline", "text", "code_inline", "html_block"},
        html,
        [token.attrs.get("href") for token in inside if token.attrs],
    )


def filled(text, known):
    """Fill in the expressions of a text, which are names alone; a KeyError for one that GitHub would not know."""
    unset = dict.fromkeys(re.findall(r"steps\.[\w.-]+", text), "")
    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: str((unset | known)[found[1]]), text)


class Api:
    """Serves one repository, o/r; whoever asks without the token is refused, and archives lie on another host."""

    def __init__(self):
        """Start it, with a pull request 12 of the branch "fork:branch", at the commit "abc"."""
        self.pulls = [{"number": 12, "head": {"sha": "abc"}}]
        self.comments, self.checks, self.archives, self.tokens_elsewhere = [], [], {}, []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def upload(self, name, path):
        """Keep the files of a folder as the artifact of a run."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as files:
            for file in sorted(Path(path).glob("*")):
                files.write(file, file.name)
        self.archives[name] = packed.getvalue()

    def answer(self, method, path, query, data):
        """Return what GitHub would, or a text to be sent to."""
        comment = {"user": {"login": "github-actions[bot]"}, **(data or {})}
        match method, path.removeprefix("/repos/o/r/").split("/"):
            case "GET", ["pulls"]:
                assert query == {"state": ["open"], "head": ["fork:branch"]}
                return self.pulls
            case "GET", ["actions", "runs", "7", "artifacts"]:
                return {"artifacts": [{"id": i, "name": n, "expired": False} for i, n in enumerate(self.archives)]}
            case "GET", ["actions", "artifacts", number, "zip"]:
                return self.url.replace("127.0.0.1", "localhost") + f"/archive/{number}"
            case "GET", ["issues", "12", "comments"]:
                first = (int(query["page"][0]) - 1) * int(query["per_page"][0])
                return self.comments[first : first + int(query["per_page"][0])]
            case "POST", ["issues", "12", "comments"]:
                self.comments.append(comment | {"id": len(self.comments)})
            case "PATCH", ["issues", "comments", number]:
                self.comments[int(number)] |= data
            case "POST", ["check-runs"]:
                self.checks.append(data)
            case other:
                raise AssertionError(other)
        return {}


def _handler(api):
    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            where, token = urlsplit(self.path), self.headers.get("Authorization")
            if where.path.startswith("/archive/"):
                api.tokens_elsewhere += [token] * (token is not None)
                return self.send(200, [*api.archives.values()][int(where.path.rpartition("/")[2])])
            if token != f"Bearer {TOKEN}":
                return self.send(401, b"{}")
            length = int(self.headers.get("Content-Length") or 0)
            data = json.loads(self.rfile.read(length)) if length else None
            found = api.answer(self.command, where.path, parse_qs(where.query), data)
            if isinstance(found, str):
                return self.send(302, b"", Location=found)
            return self.send(200, json.dumps(found).encode())

        do_GET = do_POST = do_PATCH = answer  # noqa: N815 # names of the library

        def send(self, status, body, **headers):
            self.send_response(status)
            for key, value in (headers | {"Content-Length": len(body)}).items():
                self.send_header(key, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler
