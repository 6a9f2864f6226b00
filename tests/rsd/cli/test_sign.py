"""What the commands print; what they refuse is tested in tests/rsd/release."""

from tests.bundles import Workshop
from tests.command import rsd


def test_a_key_is_made_and_a_bundle_verified(tmp_path, capsys):
    workshop = Workshop(tmp_path)
    signed = workshop.sign(workshop.unsigned())
    assert not rsd("sign", "verify", str(signed), "--key", str(workshop.public))
    assert capsys.readouterr().out == f"{signed}: signed by {workshop.public}\n"

    assert not rsd("sign", "key", str(tmp_path / "keys" / "other"))
    private, public = (tmp_path / "keys" / f"other.{suffix}" for suffix in ("pem", "pub"))
    assert capsys.readouterr().out == f"{private}: keep it secret and safe\n{public}: pin it on the devices\n"
    assert rsd("sign", "verify", str(signed), "--key", str(public)).endswith("do not ship it")
