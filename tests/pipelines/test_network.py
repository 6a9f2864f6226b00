"""A second try is for networks, and for nothing that it cannot mend."""

import pytest

from pipelines.network import NetworkError, failure


@pytest.mark.parametrize(
    "output",
    [
        ["fatal: Not possible to fast-forward, aborting."],
        [" ! [rejected]        main -> main (fetch first)", "error: failed to push some refs to 'hub'"],
        [" ! [remote rejected] main -> main (protected branch hook declined)"],
        ["error: Your local changes to the following files would be overwritten by merge:", "\tdvc.lock"],
        ["fatal: Authentication failed for 'https://example.org/it'"],
        ["fatal: could not read Username for 'https://example.org': terminal prompts disabled"],
        ["me@example.org: Permission denied (publickey).", "fatal: Could not read from remote repository."],
        ["fatal: repository 'https://example.org/it/' not found"],
        ["ERROR: failed to pull data from the cloud - Checkout failed for following targets:"],
        ["ERROR: unexpected error - Forbidden: An error occurred (403) when calling the HeadObject operation"],
        ["OSError: [Errno 28] No space left on device"],
    ],
)
def test_a_lasting_cause_is_not_tried_again(output: list[str]) -> None:
    assert not isinstance(failure("it failed", output), NetworkError)


@pytest.mark.parametrize(
    "output",
    [
        [
            "ssh: connect to host example.org port 22: Connection timed out",
            "fatal: Could not read from remote repository.",
        ],
        ["fatal: unable to access 'https://example.org/it/': Could not resolve host: example.org"],
        ['ERROR: unexpected error - Could not connect to the endpoint URL: "http://127.0.0.1:9/store"'],
        ["fatal: the remote end hung up unexpectedly"],
    ],
)
def test_what_may_pass_is_tried_again(output: list[str]) -> None:
    assert isinstance(failure("it failed", output), NetworkError)
