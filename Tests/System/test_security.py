"""Who may use the ports: addresses, passwords, users and their rights, TLS on both ports, certificates that are replaced."""

from __future__ import annotations

import base64
import http.client
import json
import os
import pathlib
import pty
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pytest
import redis

from harness import SLICE, WEIR, Server, as_json, read_rows, wait_for, weir, write_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured")
    write_rows(folder / "events.csv", read_rows(SLICE)[:200])
    weir("ingest", "purchases", folder / "events.csv", "--data", folder / "data")
    return folder / "data"


def hashed(password: str) -> str:
    return weir("hash-password", input=password + "\n").stdout.strip()


def refused_start(data, *arguments, environment=None) -> str:
    done = subprocess.run([WEIR, "run", "--data", str(data), "--port", "0", "--http", "0", *map(str, arguments)],
                          capture_output=True, text=True, timeout=30, env={**os.environ, **(environment or {})})
    assert done.returncode in (1, 64), done
    return done.stderr


def test_only_loopback_is_open(data, tmp_path):
    for address in ["0.0.0.0", "::"]:
        error = refused_start(data, "--bind", address)
        assert f"--bind {address}" in error and "--users" in error and "--insecure" in error and error.count("\n") == 1
    with Server(data, "--bind", "127.0.0.2"):
        pass
    with Server(data, "--bind", "0.0.0.0", "--insecure") as server:
        assert server.client().ping()
    with Server(data, "--bind", "0.0.0.0", environment={"WEIR_PASSWORD": "s3cret"}) as server:
        with pytest.raises(redis.AuthenticationError):
            server.client().ping()
        assert redis.Redis(port=server.port, password="s3cret").ping()
    (tmp_path / "password").write_text("from a file\n")
    with Server(data, "--bind", "0.0.0.0", "--password-file", tmp_path / "password") as server:
        assert redis.Redis(port=server.port, password="from a file").ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=server.port, password="from a file\n").ping()
    (tmp_path / "empty").write_text("\n")
    assert "first line is empty" in refused_start(data, "--password-file", tmp_path / "empty")
    assert "cannot read" in refused_start(data, "--password-file", tmp_path / "none")
    assert "give one of" in refused_start(data, "--password-file", tmp_path / "password", environment={"WEIR_PASSWORD": "x"})


def test_passwords_are_not_shown(data):
    environment = {**os.environ, "WEIR_PASSWORD": "s3cret-word"}
    assert "s3cret-word" not in subprocess.run([WEIR, "run", "--help"], capture_output=True, text=True, env=environment, check=True).stdout
    with Server(data, environment={"WEIR_PASSWORD": "s3cret-word"}) as server:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=server.port, password="s3cret-word-not").ping()
        client = redis.Redis(port=server.port, password="s3cret-word", decode_responses=True)
        assert "s3cret" not in str(client.info("everything")) + str(client.client_list())
        assert b"s3cret" not in pathlib.Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        server.stop()
        assert "s3cret" not in server.process.stderr.read()


def test_hash_password():
    first, second = hashed("secret"), hashed("secret")
    assert first.startswith("$scrypt$ln=14,r=8,p=5$") and first != second
    assert weir("hash-password", input="\n", check=False).returncode == 1
    # At a terminal it is asked for, and not echoed.
    master, slave = pty.openpty()
    process = subprocess.Popen([WEIR, "hash-password"], stdin=slave, stdout=subprocess.PIPE, stderr=slave, text=True, start_new_session=True,
                               preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0))
    os.close(slave)
    shown = b""
    while b"Password: " not in shown:
        shown += os.read(master, 100)
    os.write(master, b"secret\n")
    output = process.communicate(timeout=30)[0]
    assert "$scrypt$" in output and process.returncode == 0
    assert b"secret" not in shown
    os.close(master)


def test_users_and_rights(data, tmp_path):
    """As redis-py has it; the file is changed under the server."""
    def write(text):
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", tmp_path / "users")
    reader, loader, ops = hashed("r"), hashed("l"), hashed("o")
    write(f"# users\nreader read {reader}\nloader push {loader}\nops admin {ops}\n")
    row = read_rows(SLICE)[0]
    with Server(data, "--users", tmp_path / "users", "--bind", "0.0.0.0") as server:
        def client(user, password, protocol=3):
            return redis.Redis(port=server.port, username=user, password=password, protocol=protocol, decode_responses=True)
        read, push, admin = client("reader", "r"), client("loader", "l", 2), client("ops", "o")
        assert len(read.hgetall(f"household_spend:{row['household']}")) > 5
        assert read.acl_whoami() == "reader"
        with pytest.raises(redis.exceptions.NoPermissionError, match="events.add"):
            read.execute_command("EVENTS.ADD", "purchases", as_json(dict(row, id="new")))
        assert int(push.execute_command("EVENTS.ADD", "purchases", as_json(dict(row, id="new")))) == 1
        with pytest.raises(redis.exceptions.NoPermissionError):
            push.hgetall("household_spend:1")
        with pytest.raises(redis.exceptions.NoPermissionError):
            read.client_list()
        assert {entry["user"] for entry in admin.client_list()} == {"reader", "loader", "ops"}
        assert "store_bytes" in admin.info() and "store_bytes" not in read.info()
        with pytest.raises(redis.AuthenticationError):
            client("reader", "l").ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=server.port).ping()
        # The same users over HTTP.
        def status(path, header=None):
            connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=10)
            connection.request("GET", path, headers={"Authorization": header} if header else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        assert status("/healthz")[0] == 200 and status("/readyz")[0] == 200
        assert status("/features")[0] == 401 and "hint" in json.loads(status("/features")[1])
        basic = "Basic " + base64.b64encode(b"reader:r").decode()
        assert status("/features", basic)[0] == 200
        assert status("/metrics", basic)[0] == 403
        assert status("/features", "Bearer loader:l")[0] == 403
        assert status("/metrics", "Bearer ops:o")[0] == 200
        # A file that is no good changes nothing, and the log says so; a good one counts without a restart.
        write("reader write nothing\n")
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert read.ping() and admin.acl_whoami() == "ops"
        write(f"reader read,admin {reader}\nloader push {hashed('l2')}\n")
        wait_for(lambda: client("loader", "l2").ping(), 20)
        with pytest.raises(redis.AuthenticationError):
            client("loader", "l").ping()
        wait_for(lambda: {entry["user"] for entry in read.client_list()} <= {"reader", "loader"}, 10)
        server.stop()
        log = server.process.stderr.read()
        assert "unknown right 'write'" in log and "users was read again" in log
        assert "scrypt" not in log and row["household"] + "\n" not in log


# TLS


def openssl(*arguments, **options):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, **options)


def make_certificate(folder, name, authority=None):
    """A key and a certificate for localhost; signed by an authority, or by itself and one."""
    folder.mkdir(exist_ok=True)
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    subject = ["-subj", f"/CN={name}"]
    if authority is None:
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2, "-keyout", key, "-out", certificate, *subject)
    else:
        (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", folder / "request", *subject)
        openssl("x509", "-req", "-in", folder / "request", "-CA", authority[1], "-CAkey", authority[0], "-CAcreateserial", "-days", 2,
                "-extfile", folder / "names", "-out", certificate)
    return key, certificate


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    authority = make_certificate(folder, "authority")
    other = make_certificate(folder, "other-authority")
    return {"authority": authority, "other": other, "first": make_certificate(folder, "first", authority),
            "second": make_certificate(folder, "second", authority), "client": make_certificate(folder, "client", authority),
            "stranger": make_certificate(folder, "stranger", other)}


def shown_name(port, authority) -> str:
    context = ssl.create_default_context(cafile=str(authority))
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain, server_hostname="localhost") as encrypted:
        return dict(pair[0] for pair in encrypted.getpeercert()["subject"])["commonName"]


def install(pair, folder):
    for source, name in zip(pair, ["key.pem", "certificate.pem"]):
        shutil.copy(source, folder / "new")
        os.replace(folder / "new", folder / name)


def test_tls_on_both_ports(data, certificates, tmp_path):
    authority = certificates["authority"][1]
    install(certificates["first"], tmp_path)
    (tmp_path / "password").write_text("s\n")
    with Server(data, "--tls-certificate", tmp_path / "certificate.pem", "--tls-key", tmp_path / "key.pem", "--password-file", tmp_path / "password") as server:
        for protocol in (2, 3):
            client = redis.Redis(host="localhost", port=server.port, protocol=protocol, ssl=True, ssl_ca_certs=str(authority), password="s")
            assert client.ping()
            with client.pipeline(transaction=False) as pipeline:
                for number in range(2_000):
                    pipeline.echo("x" * (number % 500))
                assert [len(text) for text in pipeline.execute()] == [number % 500 for number in range(2_000)]
            assert len(client.echo("y" * 5_000_000)) == 5_000_000
            assert client.info("server")["tls"] == "yes"
        shell = subprocess.run(["redis-cli", "-h", "localhost", "-p", str(server.port), "--tls", "--cacert", str(authority), "-a", "s", "--no-auth-warning", "PING"],
                               capture_output=True, text=True)
        assert shell.stdout == "PONG\n", shell
        connection = http.client.HTTPSConnection("localhost", server.http, timeout=10, context=ssl.create_default_context(cafile=str(authority)))
        for _ in range(2):
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"ok\n")
        # Plain bytes, old versions and strangers' certificates get nowhere, and hurt nobody.
        for port in (server.port, server.http):
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                plain.sendall(b"*1\r\n$4\r\nPING\r\n")
                with_reset = b""
                try:
                    with_reset = plain.recv(100)
                except ConnectionResetError:
                    pass
                assert b"PONG" not in with_reset
            old = ssl.create_default_context(cafile=str(authority))
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
            old.set_ciphers("DEFAULT:@SECLEVEL=0")
            with socket.create_connection(("127.0.0.1", port), 10) as plain, pytest.raises((ssl.SSLError, OSError)):
                old.wrap_socket(plain, server_hostname="localhost")
        with pytest.raises(redis.ConnectionError):
            redis.Redis(host="localhost", port=server.port, ssl=True, ssl_ca_certs=str(certificates["other"][1])).ping()
        # What was sent before a client closed its side is answered.
        context = ssl.create_default_context(cafile=str(authority))
        with socket.create_connection(("localhost", server.port), 10) as plain, context.wrap_socket(plain, server_hostname="localhost") as encrypted:
            encrypted.sendall(b"AUTH s\r\n" + b"PING\r\n" * 1_000 + b"QUIT\r\n")
            received = b""
            while part := encrypted.recv(65_536):
                received += part
            assert received == b"+OK\r\n" + b"+PONG\r\n" * 1_000 + b"+OK\r\n"
        assert client.ping()


def test_certificates_are_replaced(data, certificates, tmp_path):
    authority = certificates["authority"][1]
    install(certificates["first"], tmp_path)
    with Server(data, "--tls-certificate", tmp_path / "certificate.pem", "--tls-key", tmp_path / "key.pem") as server:
        old = redis.Redis(host="localhost", port=server.port, ssl=True, ssl_ca_certs=str(authority))
        assert old.ping()
        assert shown_name(server.port, authority) == shown_name(server.http, authority) == "first"
        # Seen by itself, within seconds.
        install(certificates["second"], tmp_path)
        wait_for(lambda: shown_name(server.port, authority) == "second", 20)
        assert shown_name(server.http, authority) == "second"
        # Files that are no good: rubbish, and a key of another certificate.
        (tmp_path / "certificate.pem").write_text("-----BEGIN CERTIFICATE-----\nrubbish\n")
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert shown_name(server.port, authority) == "second"
        shutil.copy(certificates["first"][1], tmp_path / "certificate.pem")
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert shown_name(server.port, authority) == shown_name(server.http, authority) == "second"
        # By signal at once.
        install(certificates["first"], tmp_path)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: shown_name(server.port, authority) == "first", 1.5)
        assert old.ping()
        server.stop()
        log = server.process.stderr.read()
        assert "holds no certificate in PEM" in log and "is not the key of the certificate" in log and "stays as it was" in log


def test_clients_show_certificates(data, certificates, tmp_path):
    authority = certificates["authority"][1]
    key, certificate = certificates["first"]
    with Server(data, "--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", authority) as server:
        def client(name):
            pair = dict(ssl_keyfile=str(certificates[name][0]), ssl_certfile=str(certificates[name][1])) if name else {}
            return redis.Redis(host="localhost", port=server.port, ssl=True, ssl_ca_certs=str(authority), **pair)
        assert client("client").ping()
        for name in ["stranger", None]:
            with pytest.raises(redis.ConnectionError):
                client(name).ping()
        context = ssl.create_default_context(cafile=str(authority))
        connection = http.client.HTTPSConnection("localhost", server.http, timeout=10, context=context)
        with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
            connection.request("GET", "/healthz")
            connection.getresponse()
        context.load_cert_chain(certificates["client"][1], certificates["client"][0])
        connection = http.client.HTTPSConnection("localhost", server.http, timeout=10, context=context)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200


def test_tls_options_are_checked(data, certificates, tmp_path):
    key, certificate = certificates["first"]
    assert "belong together" in refused_start(data, "--tls-key", key)
    assert "needs --tls-certificate" in refused_start(data, "--tls-client-ca", certificate)
    assert str(tmp_path / "none") in refused_start(data, "--tls-certificate", tmp_path / "none", "--tls-key", key)
    assert "is not the key" in refused_start(data, "--tls-certificate", certificate, "--tls-key", certificates["second"][0])
    assert "holds no certificate" in refused_start(data, "--tls-certificate", key, "--tls-key", key)
