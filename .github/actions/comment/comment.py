"""Say what the gate of a pull request decided in one comment, renewed from then on, and in a check.

This has a token that may write, and what it reads was written by code that nobody has reviewed: an archive is never
unpacked, its JSON is read by `stagebench summary`, which lets numbers and plain names through, and nothing else of it
is shown, not in the log either.

Needs GH_TOKEN, NAME, RUN_ID, RUN_CONCLUSION, HEAD (owner:branch) and HEAD_SHA, the last four from GitHub's own event,
and what GitHub gives every step.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import urlencode

LARGEST = 4 * 2**20  # bytes of the archive, and of the JSON in it
LONGEST = 50_000  # characters; GitHub takes 65,536
PAGE = 100
CONCLUSIONS = {0: "success", 3: "neutral"}  # by exit code; all others are failures
NO_VERDICT = "### stagebench gate: it left no verdict that can be read"
BOT = "github-actions[bot]"


def call(method, path, data=None, most=-1):
    """Ask the API of GitHub; return the answer, or so many bytes of it."""
    request = urllib.request.Request(os.environ["GITHUB_API_URL"] + path, data and json.dumps(data).encode())  # noqa: S310 # GitHub's
    request.method = method
    request.add_header("Accept", "application/vnd.github+json")
    # An archive lies elsewhere, and whoever keeps it there is not to see the token.
    request.add_unredirected_header("Authorization", f"Bearer {os.environ['GH_TOKEN']}")
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 # GitHub's
        return answer.read(most)


def ask(method, path, data=None, **query):
    """Ask the API of this repository, which answers in JSON."""
    path = f"/repos/{os.environ['GITHUB_REPOSITORY']}/{path}"
    return json.loads(call(method, f"{path}?{urlencode(query)}" if query else path, data))


def pull_request():
    """Return the number of the open pull request that is at the measured commit; None where it has moved on."""
    found = ask("GET", "pulls", state="open", head=os.environ["HEAD"])
    return next((each["number"] for each in found if each["head"]["sha"] == os.environ["HEAD_SHA"]), None)


def archive():
    """Return the latest artifact that the run left under the name; None without one."""
    name = os.environ["NAME"]
    found = ask("GET", f"actions/runs/{os.environ['RUN_ID']}/artifacts", name=name, per_page=PAGE)["artifacts"]
    ids = [each["id"] for each in found if each["name"] == name and not each["expired"]]
    if not ids:
        return None
    return call("GET", f"/repos/{os.environ['GITHUB_REPOSITORY']}/actions/artifacts/{max(ids)}/zip", most=LARGEST)


def decision(packed):
    """Return the JSON in an archive; None where there is none, or too much of it."""
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as files, files.open("gate.json") as file:
            data = file.read(LARGEST + 1)
    except Exception:  # noqa: BLE001 # an archive can be broken in any way, and none of them is a verdict
        return None
    return data if len(data) <= LARGEST else None


def summary(data):
    """Return what the JSON of a decision says, as Markdown, and its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gate.json")
        path.write_bytes(data)
        command = [sys.executable, "-P", "-m", "stagebench", "summary", str(path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)  # noqa: S603
    return (done.stdout, done.returncode) if done.stdout else (NO_VERDICT, 2)


def shortened(text):
    """Leave out lines at the end where there is no room for all."""
    if len(text) <= LONGEST:
        return text
    kept = text[: text.rindex("\n", 0, LONGEST)]
    folded = kept.count("<details>") > kept.count("</details>")
    return kept + "\n\n</details>" * folded + "\n\nThe rest is in the run.\n"


def renew(number, body, mark):
    """Write the comment, or write it anew: the first one of ours that begins with the mark."""
    page, comments = 1, []
    while len(comments) == PAGE * (page - 1):
        comments += ask("GET", f"issues/{number}/comments", per_page=PAGE, page=page)
        page += 1
    ours = [each for each in comments if each["user"] and each["user"]["login"] == BOT]
    if (old := next((each["id"] for each in ours if (each["body"] or "").startswith(mark)), None)) is not None:
        ask("PATCH", f"issues/comments/{old}", {"body": body})
    else:
        ask("POST", f"issues/{number}/comments", {"body": body})


def main():
    """Say it, where the pull request is still at the commit."""
    name, sha = os.environ["NAME"], os.environ["HEAD_SHA"]
    if (number := pull_request()) is None:
        print(f"no open pull request is at {sha} any more")  # noqa: T201
        return
    data = decision(archive() or b"")
    text, code = (NO_VERDICT, 2) if data is None else summary(data)
    conclusion = CONCLUSIONS.get(code, "failure")
    run = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{RUN_ID}".format(**os.environ)
    about = (
        f"At {sha}, by the code of the pull request itself in [this run]({run}): whoever wrote that code can have "
        "written these numbers too."
    )
    if conclusion != "failure" and os.environ["RUN_CONCLUSION"] != "success":
        conclusion, about = "failure", f"The run failed all the same. {about}"
    text = shortened(text)
    title = re.search("(?m)^### (.*)$", text)[1]
    output = {"title": title, "summary": f"{about}\n\n{text}"}
    check = {"name": f"{name} verdict", "head_sha": sha, "status": "completed", "conclusion": conclusion}
    ask("POST", "check-runs", check | {"details_url": run, "output": output})
    mark = f"<!-- stagebench: {name} -->"
    renew(number, f"{mark}\n{text}\n{about}\n", mark)
    print(f"{conclusion}: said on pull request {number}")  # noqa: T201


if __name__ == "__main__":
    try:
        main()
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.url.partition('?')[0]}: {error.code} {error.reason}")
