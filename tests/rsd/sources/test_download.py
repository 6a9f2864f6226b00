import hashlib
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from threading import Thread

import pytest

from rsd.machine.errors import UserError
from rsd.sources.download import download


def md5(content):
    return hashlib.md5(content).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def url(tmp_path):
    """The address of a file that a server on this machine serves; its content is b"content"."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.gz").write_bytes(b"content")
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}/file.gz"
        server.shutdown()


def test_what_is_fetched_is_what_is_served(tmp_path, url):
    download(url, tmp_path / "new" / "file.gz", md5=md5(b"content"))
    assert (tmp_path / "new" / "file.gz").read_bytes() == b"content"


def test_other_content_is_refused_and_leaves_nothing(tmp_path, url):
    with pytest.raises(UserError, match="found: File not found or corrupted.; without a network .* as file.gz"):
        download(url, tmp_path / "new" / "file.gz", md5=md5(b"other"))
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("nowhere", ["https://127.0.0.1:9/file.gz", "http://name.invalid/file.gz"])
def test_no_network_is_one_sentence(tmp_path, nowhere):
    with pytest.raises(UserError, match="put it there as file.gz, and set data.download to false"):
        download(nowhere, tmp_path / "file.gz", md5="0")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_rights_is_one_sentence(tmp_path, url):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(UserError, match="expected to download"):
        download(url, tmp_path / "taken" / "file.gz", md5=md5(b"content"))
    assert (tmp_path / "taken").is_file()
