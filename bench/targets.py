"""What is measured: the upstream, the peers and Tokenward, each as it is started."""

import dataclasses
import http.client
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from machine import ROOT, Children, Missing, free_port

# Where `scripts/deps.sh bench` puts those that Debian does not have.
PEERS = ROOT / "target/bench/peers"
TOKEN = "bench-access-token"
CONSUMERS = 10_000
# Connections whose tokens live for a second, for the 1 % that cross a refresh.
BRIEF = 300


@dataclasses.dataclass
class Target:
    name: str
    port: int
    pid: int  # leader of the session that holds all its processes
    tls_port: int = 0
    # Where it is asked for what the API sends in TLS; for Tokenward, `via` says it.
    secure_port: int = 0
    headers: dict = dataclasses.field(default_factory=dict)
    # Where it sends requests, for those that are told with each.
    via: str = ""
    # Which consumers are asked for: one; all in turn; the first of them as if in turn ("one of all");
    # or all, with 1 % of brief ones ("brief").
    consumers: str = "one"
    # Grows, and is cut after each cell.
    log: Path | None = None
    # Who has signed its certificate.
    ca: Path | None = None

    def path(self, path: str) -> str:
        return "/proxy" if self.via else path

    def headers_for(self, path: str) -> dict:
        return self.headers | ({"x-apideck-downstream-url": self.via + path} if self.via else {})


NGINX_CONF = """
{user}
daemon off;
worker_processes 2;
pid {dir}/nginx.pid;
error_log {dir}/nginx-error.log warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {dir}/nginx-body;
  proxy_temp_path {dir}/nginx-proxy;
  fastcgi_temp_path {dir}/nginx-fastcgi;
  uwsgi_temp_path {dir}/nginx-uwsgi;
  scgi_temp_path {dir}/nginx-scgi;
  # The default of 1,000 requests per connection would make nginx alone reconnect all the time.
  keepalive_requests 100000000;
  # Long bodies are streamed, as by the others, and not put on the disk first.
  client_max_body_size 0;
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
  upstream api {{
    server 127.0.0.1:{upstream};
    keepalive 128;
    keepalive_requests 100000000;
  }}
  upstream secure_api {{
    server 127.0.0.1:{secure_upstream};
    keepalive 128;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{secure_port} backlog=4096;
    location / {{
      proxy_pass https://secure_api;
      proxy_ssl_name localhost;
      proxy_ssl_server_name on;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {ca};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
    }}
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls_port} ssl http2 backlog=4096;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    location / {{
      proxy_pass http://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
    }}
  }}
}}
"""

HAPROXY_CONF = """
global
  nbthread 2
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend gateway
  bind 127.0.0.1:{port}
  bind 127.0.0.1:{tls_port} ssl crt {both} alpn h2,http/1.1
  http-request set-header Authorization "Bearer {token}"
  default_backend api
backend api
  server api 127.0.0.1:{upstream}
"""

ENVOY_LISTENER = """
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: gateway
          route_config:
            virtual_hosts:
            - name: api
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                route: {{ cluster: api }}
              request_headers_to_add:
              - header: {{ key: Authorization, value: "Bearer {token}" }}
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"""

ENVOY_TLS = """
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: ["h2", "http/1.1"]
            tls_certificates:
            - certificate_chain: {{ filename: {cert} }}
              private_key: {{ filename: {key} }}
"""

ENVOY_CLUSTER = """
  clusters:
  - name: api
    type: STATIC
    circuit_breakers: {{ thresholds: [ {{ max_connections: 8192, max_pending_requests: 8192, max_requests: 8192 }} ] }}
    load_assignment:
      cluster_name: api
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }}
"""

ENVOY_SECURE_CLUSTER = (
    ENVOY_CLUSTER.replace("  clusters:\n", "").replace("api", "secure_api").replace("{upstream}", "{secure_upstream}")
    + """
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          validation_context:
            trusted_ca: {{ filename: {ca} }}
"""
)

ENVOY_CONF = (
    "\nstatic_resources:\n  listeners:"
    + ENVOY_LISTENER
    + ENVOY_LISTENER.replace("{port}", "{tls_port}").rstrip("\n")
    + ENVOY_TLS
    + ENVOY_LISTENER.replace("{port}", "{secure_port}").replace("cluster: api", "cluster: secure_api")
    + ENVOY_CLUSTER
    + ENVOY_SECURE_CLUSTER
)

CADDY_CONF = """
{{
  admin off
  auto_https off
}}
(api) {{
  reverse_proxy 127.0.0.1:{upstream} {{
    header_up Authorization "Bearer {token}"
    transport http {{
      keepalive_idle_conns_per_host 512
    }}
  }}
}}
http://127.0.0.1:{port} {{
  import api
}}
https://127.0.0.1:{tls_port} {{
  tls {cert} {key}
  import api
}}
"""

CONNECTOR = """\
id = "{id}"
name = "Bench"
unified_apis = ["crm"]
[authorization]
url = "{url}/authorize"
[token]
url = "{url}/token/{lifetime}"
per_second = 100000
[refresh]
rotation = "always"
replay = {{ policy = "revokes" }}
[api]
base_url = "{api}"
hosts = ["{api}"]
"""


def program(name: str, place: str = "") -> Path:
    """A peer's program: Debian's, or the one out of its package for Python."""
    found = shutil.which(name) or PEERS / place
    if not Path(found).is_file():
        raise Missing(f"{name} is not installed; `scripts/deps.sh bench` installs it")
    return Path(found)


def build(options) -> tuple[Path, bool]:
    """Builds what is measured: the directory of the release binaries, and whether the tokenward
    there is this tree's (never measure an older one without being told to)."""
    release = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    if options.no_build:
        return release, True
    cargo = ["cargo", "build", "--release"]
    examples = ["-p", "tokenward-testkit", "--example", "bench_upstream", "--example", "bare_proxy"]
    if subprocess.run(cargo + examples, cwd=ROOT).returncode != 0:
        raise Missing("the testkit examples do not build (--no-build uses the ones that are there)")
    if not any(name.startswith("tokenward") for name in options.targets):
        return release, False
    return release, subprocess.run(cargo + ["--bin", "tokenward"], cwd=ROOT).returncode == 0


def start_upstream(children: Children, release: Path) -> Target:
    binary = release / "examples/bench_upstream"
    if not binary.exists():
        raise Missing(f"{binary} is missing: run without --no-build")
    port, tls_port = free_port(), free_port()
    ca, cert, key = make_authority(children.scratch)
    pid = children.serve("upstream", [binary, port, tls_port, cert, key, TOKEN, TOKEN + "-*"], port)
    return Target("direct", port, pid, tls_port, headers={"Authorization": f"Bearer {TOKEN}"}, ca=ca)


class Peers:
    """Starts those that put one token into every request."""

    def __init__(self, children: Children, upstream: Target, release: Path):
        self.children, self.upstream, self.release = children, upstream, release
        self.cert, self.key = make_certificate(children.scratch)

    def start(self, name: str) -> Target:
        return self.bare_hyper() if name == "bare-hyper" else self.configured(name)

    def configured(self, name: str) -> Target:
        template, place, arguments = {
            "nginx": (NGINX_CONF, "", ["-p", self.children.scratch, "-c"]),
            "haproxy": (HAPROXY_CONF, "", ["-db", "-f"]),
            "envoy": (ENVOY_CONF, "envoy/_bin/envoy", ["--concurrency", "2", "--disable-hot-restart", "-l", "warn", "-c"]),
            "caddy": (CADDY_CONF, "bin/caddy", ["run", "--adapter", "caddyfile", "--config"]),
        }[name]
        scratch = self.children.scratch
        port, tls_port, secure_port = free_port(), free_port(), free_port()
        both = scratch / "both.pem"
        both.write_text(self.cert.read_text() + self.key.read_text())
        conf = scratch / {"envoy": "envoy.yaml"}.get(name, f"{name}.conf")
        conf.write_text(
            template.format(
                user="user root;" if os.geteuid() == 0 else "",  # the directory is ours alone
                dir=scratch,
                port=port,
                tls_port=tls_port,
                secure_port=secure_port,
                secure_upstream=self.upstream.tls_port,
                ca=self.upstream.ca,
                cert=self.cert,
                key=self.key,
                both=both,
                upstream=self.upstream.port,
                token=TOKEN,
            )
        )
        env = os.environ | {"HOME": str(scratch), "GOMAXPROCS": "2"}
        pid = self.children.serve(name, [program(name, place), *arguments, conf], port, env)
        # The others are not told to speak TLS to the API.
        return Target(name, port, pid, tls_port, secure_port if name in ("nginx", "envoy") else 0)

    def bare_hyper(self) -> Target:
        port = free_port()
        command = [self.release / "examples/bare_proxy", port, f"127.0.0.1:{self.upstream.port}", TOKEN]
        return Target("bare-hyper", port, self.children.serve("bare-hyper", command, port))


def make_certificate(scratch: Path) -> tuple[Path, Path]:
    cert, key = scratch / "cert.pem", scratch / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command = [program("openssl"), *command.split()[1:], "-addext", "subjectAltName=IP:127.0.0.1"]
    done = subprocess.run([*command, "-keyout", key, "-out", cert], capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"openssl makes no certificate: {done.stderr}")
    return cert, key


def make_authority(scratch: Path) -> tuple[Path, Path, Path]:
    """A certificate authority, and a certificate of its for localhost, with its key."""
    folder = scratch / "authority"
    folder.mkdir()
    new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"req -x509 {new_key} -days 2 -subj /CN=bench -keyout ca.key -out ca.pem",
        f"req {new_key} -subj /CN=localhost -keyout key.pem -out request.pem",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem",
    ):
        (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        done = subprocess.run([program("openssl"), *command.split()], cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise Missing(f"openssl makes no certificate: {done.stderr}")
    return folder / "ca.pem", folder / "cert.pem", folder / "key.pem"


class Tokenward:
    """One application, one connector whose tokens stay fresh for a day, and one whose tokens are
    good for a second. All that is known of tokenward's command line, files and headers is here."""

    def __init__(self, children: Children, upstream: Target, binary: Path, folder: str = "ours"):
        self.children, self.upstream = children, upstream
        self.binary = binary
        self.api = f"http://127.0.0.1:{upstream.port}"
        self.secure_api = f"https://localhost:{upstream.tls_port}"
        place = children.scratch / folder
        data, connectors = place / "data", place / "connectors"
        data.mkdir(mode=0o700, parents=True)
        connectors.mkdir()
        # HOME so that nothing can touch the user's own.
        self.env = os.environ | {
            "TOKENWARD_DATA_DIR": str(data),
            "TOKENWARD_CONNECTORS": str(connectors),
            "HOME": str(children.scratch),
            "XDG_DATA_HOME": str(children.scratch),
            "SSL_CERT_FILE": str(upstream.ca),
        }
        answer = self.run("applications", "create", "bench", "--json")
        try:
            application = json.loads(answer)
            self.app, self.api_key = application["id"], application["api_key"]
        except (ValueError, KeyError, TypeError):
            # Not the answer itself: it may hold a key.
            raise Missing("`tokenward applications create --json` gave no JSON with id and api_key")
        secret = children.scratch / "client-secret"
        secret.write_text("bench-client-secret")
        for name, lifetime in (("bench", 86400), ("brief", 1), ("secure", 86400)):
            text = CONNECTOR.format(
                id=name, url=self.api, api=self.secure_api if name == "secure" else self.api, lifetime=lifetime
            )
            (connectors / f"{name}.toml").write_text(text)
            self.run(
                *("clients", "set", "--app", self.app, "--connector", name),
                *("--client-id", "x", "--client-secret-file", secret),
            )
        credentials = children.scratch / "import.json"
        for name in ("bench", "secure"):
            credentials.write_text(json.dumps(tokens(TOKEN + "-secure" * (name == "secure"), 86400)))
            self.run(
                *("connections", "import", "--app", self.app, f"bench-consumer/crm+{name}"),
                *("--file", credentials),
            )

    def run(self, *arguments) -> str:
        done = subprocess.run(
            [str(self.binary), *map(str, arguments)],
            cwd=self.children.scratch,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        if done.returncode != 0:
            verb = " ".join(map(str, arguments[:2]))
            raise Missing(f"`tokenward {verb}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def serve(self, name: str, *arguments) -> Target:
        """Another process on the same vault."""
        port = free_port()
        command = [self.binary, "serve", "--listen", f"127.0.0.1:{port}", "--allow-private", "127.0.0.0/8"]
        # An older binary, which `--compare` may be given, has one listener.
        if "--ops-listen" in self.run("serve", "--help"):
            command += ["--ops-listen", "off"]
        pid = self.children.serve(name, [*command, *arguments], port, self.env)
        headers = {
            "Authorization": f"Bearer {self.api_key}",
            "x-apideck-app-id": self.app,
            "x-apideck-consumer-id": "bench-consumer",
            "x-apideck-service-id": "bench",
            "x-apideck-unified-api": "crm",
        }
        return Target(name, port, pid, headers=headers, via=self.api)

    def serve_tls(self, cert: Path, key: Path, name: str = "tokenward") -> Target:
        target = self.serve(name, "--tls-cert", cert, "--tls-key", key)
        return dataclasses.replace(target, tls_port=target.port)

    def to_secure_api(self, target: Target) -> Target:
        """The same server, asked for what the API sends in TLS."""
        headers = target.headers | {"x-apideck-service-id": "secure"}
        return dataclasses.replace(target, headers=headers, via=self.secure_api)

    def serve_logging(self) -> Target:
        log = self.children.scratch / "requests.log"
        return dataclasses.replace(self.serve("tokenward-log", "--request-log", log), log=log)

    def add_consumers(self, target: Target) -> None:
        """Many connections, each with a token of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
        every = [("bench", f"c{number}", number, 86400) for number in range(CONSUMERS)]
        every += [("brief", f"b{number}", CONSUMERS + number, 1) for number in range(BRIEF)]
        for service, consumer, number, lifetime in every:
            headers = target.headers | {"x-apideck-consumer-id": consumer, "content-type": "application/json"}
            body = json.dumps(tokens(f"{TOKEN}-{number}", lifetime))
            connection.request("POST", f"/vault/connections/crm/{service}/import", body, headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status >= 300:
                raise Missing(f"import {number} was answered {response.status}: {answer[:200]!r}")
        connection.close()


def tokens(name: str, lifetime: int) -> dict:
    return {
        "credentials": {
            "access_token": name,
            "refresh_token": f"{name}.0",
            "issued_at": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
            "expires_in": lifetime,
        }
    }
