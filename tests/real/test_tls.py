"""Case 78: certificates of an authority made here, and what is wrong with them. Who is not trusted hears no request."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from framefetch.warehouse import hdf5_file
from tests.conftest import needed
from tests.nginx import Nginx
from tests.servers import free_port

pytestmark = pytest.mark.nginx

BODY = hdf5_file(3000, seed=1)
NOW, NOT_YET = ("20200101000000Z", "21200101000000Z"), ("21100101000000Z", "21200101000000Z")
PAST = ("20200101000000Z", "20210101000000Z")
#: What is wrong with each certificate, in OpenSSL's words.
FAULTS = {
    "expired": "certificate has expired",
    "early": "certificate is not yet valid",
    "elsewhere": "IP address mismatch",
    "alone": "self-signed certificate",
    "stranger": "unable to get local issuer certificate",
}
CONFIG = """
[ca]
default_ca = authority
[authority]
database = {name}.index
new_certs_dir = .
policy = policy
default_md = sha256
rand_serial = yes
[policy]
commonName = supplied
[more]
basicConstraints = critical,CA:{is_authority}
subjectAltName = {host}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
keyUsage = critical,{usage}
"""


def certify(
    folder: Path, name: str, by: str | None = None, *, valid: tuple[str, str] = NOW, host: str = "IP:127.0.0.1"
) -> None:
    """Make a key and a certificate for a host, signed by an authority or by itself."""
    # From Python 3.13 on a certificate must say what it is for, as RFC 5280 has it (sections 4.2.1.1 and 4.2.1.3).
    usage = "digitalSignature" if by else "digitalSignature,keyCertSign"
    config = CONFIG.format(name=name, host=host, is_authority="FALSE" if by else "TRUE", usage=usage)
    (folder / f"{name}.conf").write_text(config)
    (folder / f"{name}.index").write_text("")
    signs = ["-cert", f"{by}.pem", "-keyfile", f"{by}.key"] if by else ["-selfsign", "-keyfile", f"{name}.key"]
    for words in (
        [
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}",
        ],
        [
            "ca", "-batch", "-notext", "-config", f"{name}.conf", "-extensions", "more", *signs,
            "-in", f"{name}.csr", "-out", f"{name}.pem", "-startdate", valid[0], "-enddate", valid[1],
        ],
    ):  # fmt: skip
        done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of certificates, good ones and each kind of bad one; the authority to be trusted is ca.pem."""
    needed(shutil.which("openssl") is not None, "openssl")
    folder = tmp_path_factory.mktemp("certificates")
    certify(folder, "ca")
    certify(folder, "unknown")
    certify(folder, "good", "ca")
    certify(folder, "expired", "ca", valid=PAST)
    certify(folder, "early", "ca", valid=NOT_YET)
    certify(folder, "elsewhere", "ca", host="DNS:warehouse.example.org,IP:127.0.0.2")
    certify(folder, "alone")
    certify(folder, "stranger", "unknown")
    (folder / "trusted").mkdir()
    shutil.copy(folder / "ca.pem", folder / "trusted")
    subprocess.run(["openssl", "rehash", str(folder / "trusted")], check=True)
    return folder


@dataclass(frozen=True)
class Site:
    """An nginx with a port for each certificate."""

    server: Nginx
    ports: dict[str, int]

    def url(self, name: str, file: str = "f.nwb") -> str:
        return f"https://127.0.0.1:{self.ports[name]}/{file}"

    def heard(self) -> Counter[str]:
        """Return how many requests were heard under each certificate."""
        names = {port: name for name, port in self.ports.items()}
        return Counter(names[answer.port] for answer in self.server.answers())

    def handshakes(self) -> Counter[str]:
        """Return how many handshakes the client broke off under each certificate."""
        lines = [line for line in self.server.errors() if "while SSL handshaking" in line]
        return Counter(
            name for name, port in self.ports.items() for line in lines if f"server: 127.0.0.1:{port}" in line
        )


@pytest.fixture
def site(certificates: Path, tmp_path: Path, nginx: Callable[..., Nginx]) -> Site:
    www = tmp_path / "www"
    www.mkdir()
    (www / "f.nwb").write_bytes(BODY)
    ports = {name: free_port() for name in ("good", *FAULTS)}
    leads = "".join(f"location /{name}.nwb {{ return 302 https://127.0.0.1:{ports[name]}/f.nwb; }}" for name in FAULTS)
    servers = [
        f"server {{ listen 127.0.0.1:{port} ssl; root {www}; {leads}"
        f"location /named.nwb {{ return 302 https://localhost:{port}/f.nwb; }}"
        f"ssl_certificate {certificates}/{name}.pem; ssl_certificate_key {certificates}/{name}.key; }}"
        for name, port in ports.items()
    ]
    return Site(nginx(www, http="".join(servers)), ports)


def mirror(urls: list[str], folder: Path, *more: str, **trusts: Path) -> tuple[int, dict[str, Any], pd.DataFrame]:
    """Mirror in a process of its own, since OpenSSL reads whom to trust once; return code, figures and report."""
    folder.mkdir(exist_ok=True)
    pd.DataFrame({"url": urls}).to_csv(folder / "table.csv", index=False)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT")}
    words = ["mirror", "table.csv", "cache", "--json", "--report", "report.csv", "--path-template", "{url!q}", *more]
    done = subprocess.run(
        [sys.executable, "-m", "framefetch", *words],
        cwd=folder, env=clean | {name: str(path) for name, path in trusts.items()},
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout), pd.read_csv(folder / "report.csv")


@pytest.mark.parametrize(("variable", "named"), [("SSL_CERT_FILE", "ca.pem"), ("SSL_CERT_DIR", "trusted")])
def test_an_authority_that_the_environment_names(
    variable: str, named: str, site: Site, certificates: Path, tmp_path: Path
) -> None:
    code, figures, report = mirror([site.url("good")], tmp_path / "work", **{variable: certificates / named})
    assert (code, figures["downloaded"]) == (0, 1), report["error"].tolist()
    assert Path(report["path"][0]).read_bytes() == BODY
    assert site.heard() == {"good": 1}


def test_who_cannot_be_trusted_hears_nothing(site: Site, certificates: Path, tmp_path: Path) -> None:
    rows = {"good": site.url("good")}
    rows |= {name: site.url(name) for name in FAULTS}
    rows |= {f"to {name}": site.url("good", f"{name}.nwb") for name in FAULTS}
    code, figures, report = mirror(list(rows.values()), tmp_path / "work", SSL_CERT_FILE=certificates / "ca.pem")
    assert code == 1
    assert (figures["downloaded"], figures["failed"]) == (1, len(rows) - 1)
    report.index = pd.Index(rows)
    assert Path(report["path"]["good"]).read_bytes() == BODY
    for name, reason in FAULTS.items():
        for at in (name, f"to {name}"):
            assert (report["error_type"][at], report["attempts"][at]) == ("TlsFailed", 1)
            assert reason in report["error"][at]
            assert f"no secure connection to https://127.0.0.1:{site.ports[name]}" in report["error"][at]
    assert site.heard() == {"good": 1 + len(FAULTS)}
    assert figures["requests"] == 1 + len(FAULTS)
    assert site.handshakes() == dict.fromkeys(FAULTS, 2), "one for the row, one for the redirect"
    held = [path for path in (tmp_path / "work" / "cache" / "v0").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in held] == [BODY]


def test_an_authority_that_nobody_named(site: Site, tmp_path: Path) -> None:
    code, figures, report = mirror([site.url("good")] * 2 + [site.url("good", "g.nwb")], tmp_path / "work")
    assert (code, figures["failed"], figures["requests"]) == (1, 3, 0)
    assert set(report["error_type"]) == {"TlsFailed"}
    assert report["error"].str.contains(FAULTS["stranger"]).all()
    assert site.heard() == {}
    assert 1 <= site.handshakes()["good"] <= 2, "one for each file"


def test_a_session_goes_on_under_its_own_name_only(site: Site, certificates: Path, tmp_path: Path) -> None:
    """It shows no certificate again, and this one is not for the name that the same port has here."""
    urls = [site.url("good", "named.nwb")]
    code, figures, report = mirror(urls, tmp_path / "work", SSL_CERT_FILE=certificates / "ca.pem")
    assert (code, figures["failed"], report["error_type"][0]) == (1, 1, "TlsFailed")
    assert "Hostname mismatch" in report["error"][0]
    assert site.heard() == {"good": 1}, "the redirect, and nothing under the other name"


@pytest.mark.parametrize("protocol", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("remembers", ["by tickets", "in a cache"])
def test_sessions_go_on_from_connection_to_connection(
    protocol: str, remembers: str, certificates: Path, tmp_path: Path, nginx: Callable[..., Nginx]
) -> None:
    """Each file has a connection of its own here, and the server says which handshakes were short."""
    www, log, port, files, at_once = tmp_path / "www", tmp_path / "handshakes.log", free_port(), 40, 4
    www.mkdir()
    for at in range(files):
        (www / f"{at}.nwb").write_bytes(BODY)
    tickets = "on" if remembers == "by tickets" else "off"
    server = nginx(
        www,
        http=f"""
        log_format handshakes '$ssl_protocol $ssl_session_reused';
        ssl_session_cache shared:all:1m;
        ssl_session_tickets {tickets};
        server {{
            listen 127.0.0.1:{port} ssl; root {www}; ssl_protocols {protocol}; keepalive_requests 1;
            ssl_certificate {certificates}/good.pem; ssl_certificate_key {certificates}/good.key;
            access_log {log} handshakes;
        }}""",
    )
    urls = [f"https://127.0.0.1:{port}/{at}.nwb" for at in range(files)]
    words = ["--per-host", str(at_once)]
    code, figures, report = mirror(urls, tmp_path / "work", *words, SSL_CERT_FILE=certificates / "ca.pem")
    server.stop()  # by then all is in its log
    assert (code, figures["downloaded"]) == (0, files), report["error"].tolist()
    told = Counter(log.read_text().splitlines())
    assert set(told) == {f"{protocol} .", f"{protocol} r"}
    assert told.total() == files
    assert told[f"{protocol} ."] <= at_once, "those that were made before any of them had answered"
