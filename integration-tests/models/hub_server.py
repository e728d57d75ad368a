"""A Hub on the loopback address: the part of its API that a download uses, with gates, tokens and lines that break."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Commits with their files, and names for commits."""

    commits: dict[str, Files]
    refs: dict[str, str]
    gate_token: str | None = None  # files need this token
    is_private: bool = False  # and so does everything else
    is_broken: bool = False  # the Hub fails over it

    def commit(self, revision: str) -> str | None:
        """What a branch, tag or commit resolves to."""
        return self.refs.get(revision, revision if revision in self.commits else None)


def commit_id(text: str) -> str:
    """Forty hexadecimal digits."""
    return hashlib.sha1(text.encode()).hexdigest()


def repository(files: Files, **gates: object) -> Repository:
    """One commit on `main`."""
    first = commit_id(repr(sorted(files)))
    return Repository({first: files}, {"main": first}, **gates)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    token: str | None
    bytes_range: str | None


@dataclass
class FakeHub:
    """Serves `repositories` while entered."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    break_once: dict[str, int] = field(default_factory=dict)  # file name: bytes after which the line breaks, once
    after_info: Callable[[], None] | None = None  # called once when a revision has been resolved
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        handler = type("Handler", (HubHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def files_asked(self) -> list[tuple[str, str]]:
        """Revision and name of every file that was fetched."""
        matches = [FILE.fullmatch(request.path) for request in self.asked if request.method == "GET"]
        return [(match[2], match[3]) for match in matches if match is not None]


class HubHandler(BaseHTTPRequestHandler):
    """One connection."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        """Metadata of a file."""
        self._answer()

    def do_GET(self) -> None:
        """A file, or what the API knows of a repository."""
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        raw = urlsplit(self.path).path
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ") or None
        self.hub.asked.append(Asked(self.command, path, token, self.headers.get("range")))
        if match := API.fullmatch(raw):
            self._api(match[1], match[2], unquote(match[3] or "main"), token)
        elif match := FILE.fullmatch(raw):
            self._file(match[1], unquote(match[2]), unquote(match[3]), token)
        else:
            self._refuse(404, None)

    def _api(self, name: str, what: str | None, revision: str, token: str | None) -> None:
        repo = self._repository(name, token)
        if repo is None:
            return
        commit = repo.commit(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        files = repo.commits[commit]
        if what == "tree":
            tree = [
                {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
                for path, content in files.items()
            ]
            self._send(json.dumps(tree).encode())
            return
        siblings = [{"rfilename": path} for path in files]
        self._send(json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings}).encode())
        if self.hub.after_info is not None:
            callback, self.hub.after_info = self.hub.after_info, None
            callback()

    def _file(self, name: str, revision: str, path: str, token: str | None) -> None:
        repo = self._repository(name, token)
        if repo is None:
            return
        commit = repo.commit(revision)
        if repo.gate_token is not None and token != repo.gate_token:
            self._refuse(401 if token is None else 403, "GatedRepo")
        elif commit is None:
            self._refuse(404, "RevisionNotFound")
        elif path not in repo.commits[commit]:
            self._refuse(404, "EntryNotFound")
        else:
            self._content(path, repo.commits[commit][path], commit)

    def _repository(self, name: str, token: str | None) -> Repository | None:
        """The repository; else an answer has been given, as the real Hub gives it."""
        repo = self.hub.repositories.get(name)
        if token == "hf_invalid":
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif repo is not None and repo.is_broken:
            self._refuse(500, None, "Internal Error")
        elif repo is None or (repo.is_private and token != repo.gate_token):
            self._refuse(401 if token is None else 404, None if token is None else "RepoNotFound")
        else:
            return repo
        return None

    def _content(self, path: str, content: bytes, commit: str) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        begin = int(match[1]) if match else 0
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(content)}"', "Accept-Ranges": "bytes"}
        if match:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        room = self.hub.break_once.pop(path, None) if self.command == "GET" else None
        self._send(content[begin:], 206 if match else 200, headers, room)

    def _refuse(self, status: int, code: str | None, message: str = "no") -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(json.dumps({"error": message}).encode(), status, headers)

    def _send(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, room: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:room])
        if room is not None:
            self.close_connection = True


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
