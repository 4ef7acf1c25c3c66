"""A hub on this machine: as much of its HTTP interface as uploading and downloading a file takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_the_test"


class Hub(BaseHTTPRequestHandler):
    """``server.commits`` has the files of each commit of each repository, the newest last."""

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, what):
        self.answer(404, {"error": what}, X_Error_Code=what)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "validate-yaml" in self.path:
            return self.answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(403, {"error": "this token may not write"})
        if self.path == "/api/repos/create":
            content = json.loads(body)
            name = "/".join(part for part in (content.get("organization") or "user", content["name"]) if part)
            self.server.commits.setdefault(name, [])
            return self.answer(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        name, action = re.match(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/", self.path).groups()
        if action == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        lines = [json.loads(line) for line in body.decode().splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        sha = hashlib.sha1(body).hexdigest()
        self.server.commits[name].append((sha, files))
        return self.answer(
            200, {"success": True, "commitOid": sha, "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{sha}"}
        )

    def do_GET(self):
        found = re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", self.path.partition("?")[0])
        about = re.match(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?$", self.path.partition("?")[0])
        name, revision = (found or about).group(1), (found or about).group(2) or "main"
        commits = self.server.commits.get(name)
        if not commits:
            return self.missing("RepoNotFound")
        commit = commits[-1] if revision == "main" else dict.get({c[0]: c for c in commits}, revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        sha, files = commit
        if about:
            return self.answer(200, {"id": name, "sha": sha, "siblings": [{"rfilename": file} for file in files]})
        if found.group(3) not in files:
            return self.missing("EntryNotFound")
        content = files[found.group(3)]
        return self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=sha)

    def do_HEAD(self):
        self.do_GET()


@contextmanager
def running():
    """The server, listening on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.commits = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
