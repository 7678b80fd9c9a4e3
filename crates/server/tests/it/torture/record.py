#!/usr/bin/env python3
"""Records what nginx does with each case of the corpus, into nginx.toml.

Debian's nginx (nginx-light) on loopback, before an API that notes what it gets. To be run again when
cases are added; `the_corpus_is_nowhere_looser_than_nginx` compares.
"""

import contextlib
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE = 3

CONF = """
{user}
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
  uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  upstream api {{ server 127.0.0.1:{api}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 8m;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    location = /proxy {{ proxy_pass http://api; }}
    location /a/ {{ proxy_pass http://api; }}
    location / {{ return 404; }}
  }}
}}
"""


def expand(text, caller="", inner=""):
    def one(match):
        what = match[1]
        if what in ("caller", "inner"):
            return {"caller": caller, "inner": inner}[what]
        count, kind, rest = re.fullmatch(r"(\d+)([*#!])(.?)", what, re.S).groups()
        if kind == "#":
            return "".join(f"X-{number}: v\r\n" for number in range(int(count)))
        return (rest if kind == "*" else "HTTP/1.1 103 Early Hints\r\n\r\n") * int(count)

    return re.sub(r"\$\{([^}]+)\}", one, text, flags=re.S)


def cases(file, body):
    for group in tomllib.loads((HERE / file).read_text())["group"]:
        for name, part, right, *_ in group["cases"]:
            yield {
                "name": f"{group['kind']}/{name}",
                "send": group["send"].replace("${x}", part),
                "method": group.get("method", "GET"),
                "body": expand(group.get("bodies", {}).get(name, group.get("body", body))).encode("latin-1"),
            }


class Stream:
    def __init__(self, connection):
        self.connection, self.buffer = connection, b""

    def more(self):
        try:
            piece = self.connection.recv(65536)
        except TimeoutError:
            raise
        except OSError:
            piece = b""
        self.buffer += piece
        return bool(piece)

    def take(self, count):
        while len(self.buffer) < count:
            if not self.more():
                taken, self.buffer = self.buffer, b""
                return taken, False
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken, True

    def line(self, end):
        while end not in self.buffer:
            if not self.more():
                return None
        taken, self.buffer = self.buffer.split(end, 1)
        return taken

    def message(self, answer, bodiless=False):
        """First line, headers, body, whole; None at the end."""
        head = self.line(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.split(b"\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        if answer and (bodiless or re.match(rb"HTTP/1.. (1..|204|304)", first)):
            return first, headers, b"", True
        if b"transfer-encoding" in headers:
            body = b""
            while True:
                size = self.line(b"\r\n")
                if size is None:
                    return first, headers, body, False
                size = int(size.split(b";")[0], 16)
                data, whole = self.take(size + 2)
                body += data[:size]
                if size == 0 or not whole:
                    return first, headers, body, whole
        if b"content-length" in headers:
            return first, headers, *self.take(int(headers[b"content-length"]))
        if not answer:
            return first, headers, b"", True
        while self.more():
            pass
        body, self.buffer = self.buffer, b""
        return first, headers, body, True


class Api(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256
    seen: dict = {}
    answers: list = []


class Answering(socketserver.BaseRequestHandler):
    def handle(self):
        stream = Stream(self.request)
        while message := stream.message(False):
            first, headers, body, whole = message
            target = first.split(b" ")[1]
            if target.startswith(b"/a/"):
                send, close = self.server.answers[int(target[3:])]
                with contextlib.suppress(OSError):
                    self.request.sendall(send)
                if close:
                    return
                continue
            nonce = headers.get(b"x-apideck-downstream-url", target).decode()
            self.server.seen.setdefault(nonce, []).append((body, whole))
            answer = f"HTTP/1.1 200 OK\r\nx-nonce: {nonce}\r\nContent-Length: {len(nonce)}\r\n\r\n"
            answer += nonce * (not first.startswith(b"HEAD "))
            with contextlib.suppress(OSError):
                self.request.sendall(answer.encode())


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def exchange(port, data, bodiless):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        def send():
            with contextlib.suppress(OSError):
                connection.sendall(data)

        sender = threading.Thread(target=send)
        sender.start()
        stream = Stream(connection)
        try:
            while True:
                message = stream.message(True, bodiless)
                if message is None:
                    return "close", b"", True
                status = message[0].split(b" ")[1].decode()
                if not status.startswith("1"):
                    return status, message[2], message[3]
        except TimeoutError:
            return "wait", b"", True
        except (ValueError, IndexError):
            return "malformed", b"", True
        finally:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            sender.join()


def request(api, port, number, case):
    nonce = f"/r/{number}"
    caller = f"Authorization: Bearer x\r\nx-apideck-downstream-url: {nonce}\r\n"
    inner = f"GET /proxy HTTP/1.1\r\nHost: g\r\nx-apideck-downstream-url: /smuggled/{number}\r\n\r\n"
    data = expand(case["send"], caller, inner).encode("latin-1")
    status, _, _ = exchange(port, data, data.startswith(b"HEAD "))
    seen = [body for body, whole in api.seen.get(nonce, []) if whole]
    verdict = status
    if seen and status == "200":
        verdict = "accept" if seen == [case["body"]] else "accept another body"
    if f"/smuggled/{number}" in api.seen:
        verdict += ", and the inner one"
    return verdict


def answer(port, number, case):
    request = f"{case['method']} /a/{number} HTTP/1.1\r\nHost: g\r\n\r\n".encode()
    status, body, whole = exchange(port, request, case["method"] == "HEAD")
    if status in ("502", "504", "close", "wait", "malformed"):
        return status
    if not whole:
        return "cut"
    verdict = "pass" if status == "200" else f"pass {status}"
    bodiless = case["method"] == "HEAD" or status in ("204", "304")
    return verdict if bodiless or body == case["body"] else f"{verdict}, another body"


def main():
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    if not os.path.exists(nginx):
        sys.exit("nginx is missing: scripts/deps.sh bench installs it")
    requests = list(cases("requests.toml", ""))
    answers = list(cases("answers.toml", "hello"))
    api = Api(("127.0.0.1", 0), Answering)
    for case in answers:
        text, close = case["send"], case["send"].endswith("${close}")
        api.answers.append((expand(text.removesuffix("${close}")).encode("latin-1"), close))
    threading.Thread(target=api.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as scratch:
        port = free_port()
        conf = Path(scratch) / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        conf.write_text(CONF.format(user=user, dir=scratch, port=port, api=api.server_address[1]))
        server = subprocess.Popen([nginx, "-p", scratch, "-c", conf], stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                time.sleep(0.05)
            with ThreadPoolExecutor(16) as pool:
                found = list(pool.map(lambda one: request(api, port, *one), enumerate(requests)))
            # One after the other: what one leaves behind is seen in the next.
            replied = [answer(port, number, case) for number, case in enumerate(answers)]
            said = subprocess.run([nginx, "-v"], stderr=subprocess.PIPE, text=True).stderr.strip()
        finally:
            server.terminate()
            server.wait()
    lines = [f"# What {said.split()[-1]} of Debian does. Written by record.py."]
    for part, those, verdicts in (("requests", requests, found), ("answers", answers, replied)):
        lines += ["", f"[{part}]"]
        lines += [f'"{case["name"]}" = "{verdict}"' for case, verdict in zip(those, verdicts)]
    (HERE / "nginx.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
