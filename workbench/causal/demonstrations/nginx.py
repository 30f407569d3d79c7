"""NGINX: a page that is compressed for every request, which is its own bottleneck; and in front of an application."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from workbench.causal.demonstrations.model import CLIENT, Demonstration, Process, Spot, client

if TYPE_CHECKING:
    from workbench.causal.demonstrations.model import Place

__all__ = ("NGINX", "NGINX_APPLICATION")

_PORT, _APPLICATION, _TURNS = 7103, 7104, 600
_WORDS, _SYLLABLES = (
    900,
    ("ca", "che", "ker", "nel", "sche", "du", "ler", "pro", "fi", "le", "re", "gi", "on"),
)
_REQUEST = r"GET /{0} HTTP/1.1\r\nHost: lab\r\nAccept-Encoding: gzip\r\n\r\n"
_CHUNKS_END, _PAGE_END = r"\r\n0\r\n\r\n", r"</html>\n"

_CONFIGURATION = """
daemon off; master_process off; worker_processes 1; error_log stderr crit; pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
  access_log off; keepalive_requests 1000000000; default_type text/html;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream application {{ server 127.0.0.1:{application}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location /compressed/ {{ alias {folder}/; gzip on; gzip_comp_level 6; gzip_min_length 1; }}
    location /plain/ {{ alias {folder}/; }}
    location /application/ {{
      proxy_pass http://application; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""


def _prepare(place: Place) -> None:
    random = Random(1)
    words = ["".join(random.choices(_SYLLABLES, k=random.randint(1, 4))) for _ in range(_WORDS)]
    (place.folder / "page.html").write_text("<html>" + " ".join(words) + "</html>\n")
    text = _CONFIGURATION.format(folder=place.folder, port=_PORT, application=_APPLICATION)
    (place.folder / "nginx.conf").write_text(text)


def _server(place: Place) -> list[str]:
    return [
        "nginx",
        "-e",
        "stderr",
        "-p",
        str(place.folder),
        "-c",
        str(place.folder / "nginx.conf"),
    ]


NGINX = Demonstration(
    name="nginx",
    about="a page is compressed for every request (its own: gzip at level 6, switched off)",
    processes=(
        Process("nginx", _server, port=_PORT),
        client(
            _PORT, 16,
            _REQUEST.format("compressed/page.html"), _CHUNKS_END, _REQUEST.format("plain/page.html"), _PAGE_END,
        ),
    ),
    progress=(CLIENT, "exchanged"),
    spots=(
        Spot("libz", "text:libz.so"),
        Spot("nginx itself", "text:nginx"),
        Spot("libc", "text:libc.so"),
        Spot("ngx_http_finalize_request", "ngx_http_finalize_request"),
        Spot("the client", "text:load_client"),
    ),
    knobs={1: 0},
    fix=lambda fraction: {1: int(fraction == 1)},
    fractions=(1.0,),
    prepare=_prepare,
    planted=False,
)  # fmt: skip

NGINX_APPLICATION = Demonstration(
    name="nginx-application",
    about="NGINX in front of an application of another process, which renders its pages slowly (planted)",
    processes=(
        Process(
            "application",
            lambda place: [str(place.programs / "web_application"), str(_APPLICATION), str(place.knobs)],
            port=_APPLICATION,
        ),
        Process("nginx", _server, port=_PORT),
        client(_PORT, 16, _REQUEST.format("application/"), _PAGE_END),
    ),
    progress=(CLIENT, "exchanged"),
    spots=(
        Spot("render_page", "render_page"),
        Spot("nginx itself", "text:nginx"),
        Spot("libc", "text:libc.so"),
        Spot("the client", "text:load_client"),
        Spot("answer", "answer"),
    ),
    knobs={0: _TURNS},
    fix=lambda fraction: {0: round(_TURNS * (1 - fraction))},
    prepare=_prepare,
)  # fmt: skip
