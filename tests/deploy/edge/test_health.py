"""When a server counts as healthy."""

import socket
import threading

from rsd_edge.model import Model


def test_health_means_this_very_release_is_served(shared, releases):
    from rsd_edge.health import ready_at
    from rsd_edge.live import LiveModel

    from tests.deploy.edge.serving import served as serving

    releases.install(shared.first, shared.keys)
    releases.activate(shared.keys)
    live = LiveModel(releases.current, lambda folder: Model.open(folder))
    live.refresh()
    with serving(live) as address:
        assert ready_at(f"http://{address}")("tiny-1")
        assert not ready_at(f"http://{address}")("tiny-2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not ready_at(f"http://127.0.0.1:{taken.getsockname()[1]}")("tiny-1")


def test_health_ignores_proxies_and_rejects_nonsense(monkeypatch):
    from rsd_edge.health import ready_at

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer(content):
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                client.sendall(content)

        healthy = ready_at(f"http://127.0.0.1:{listener.getsockname()[1]}")
        for content, expected in (
            (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True),
            (b"nonsense\r\n\r\n", False),
        ):
            thread = threading.Thread(target=answer, args=(content,))
            thread.start()
            assert healthy("tiny-1") == expected
            thread.join()
